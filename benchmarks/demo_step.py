"""The whole training step of the demo beside what this machine can multiply.

    python benchmarks/demo_step.py [--rounds 3] [--parts]

The step of configs/demo.py (loss, gradients, optimiser; random weights and data), with the closed
loop in every step and without it. Prints `name ours peer ratio`: ours TFLOP/s of the step by the
formulas that training logs use (tasks/syncmv4d/cost.py, nothing counted twice), peer TFLOP/s of a
large matrix product timed in turn with it; the ratio is the utilisation. `--parts` times pieces of
the step: where the rest goes.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

import inputs  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402

from configs import demo  # noqa: E402
from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.run import (  # noqa: E402
    assembly,
    optim,
    update,  # noqa: E402
)

MATRIX = 1536


def program(probability: float) -> tuple[Any, tuple[Any, ...]]:
    """Returns (the jitted step, its arguments), the loop closed so often."""
    config = demo.get_config()
    config.task.cycle = {**config.task.cycle, "probability": probability}
    task = assembly.task(config)
    trainable, frozen = tree.split(inputs.weights_of(task), task.trainable)
    settings = assembly.read(config).optim
    state, batch = optim.init(settings, trainable), inputs.batch_of(task)
    return jax.jit(update.make_update(task, settings)), (state, frozen, batch, jax.random.key(1))


def step(probability: float) -> tuple[float, Callable[[], Any]]:
    """Returns (FLOPs of a step, the step), the loop closed so often."""
    config = demo.get_config()
    config.task.cycle = {**config.task.cycle, "probability": probability}
    batch = {"text": np.ones(1), "video_latents": np.ones(1)}
    function, arguments = program(probability)
    return assembly.task(config).cost(batch)["flops"], functools.partial(function, *arguments)


def parts(rounds: int) -> None:
    """Forward of the loss, loss with gradients, the whole step; with and without the loop."""
    config = demo.get_config()
    for probability in (1.0, 0.0):
        config.task.cycle = {**config.task.cycle, "probability": probability}
        task = assembly.task(config)
        params = inputs.weights_of(task)
        trainable, frozen = tree.split(params, task.trainable)
        batch, key = inputs.batch_of(task), jax.random.key(1)
        latents = jnp.ones((1, *task.latent_shape))
        loss, grad = jax.jit(task.loss), jax.jit(jax.value_and_grad(task.loss, has_aux=True))
        decode = jax.jit(task.loop.vae.decode)
        given = (trainable, frozen, batch, key)
        pieces = {
            "loss": functools.partial(loss, *given),
            "loss_and_gradients": functools.partial(grad, *given),
            "step": step(probability)[1],
            "decode": functools.partial(decode, params, latents),
        }
        for name, times in timing.interleaved(pieces, rounds).items():
            print(f"# loop {probability:.0%} {name}: {times.best:.3f} s, spread {times.spread:.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    product, flops = timing.matrix_product(MATRIX, "float32")
    for name, probability in (("closed", 1.0), ("open", 0.0)):
        cost, run = step(probability)
        times = timing.interleaved({"step": run, "matrix": product}, args.rounds, steady=True)
        rates = [cost / times["step"].best / 1e12, flops / times["matrix"].best / 1e12]
        timing.row(f"demo_step_{name}_tflops", *rates)
        print(f"# {times['step'].best:.3f} s a step, spread {times['step'].spread:.0%}")
    if args.parts:
        parts(args.rounds)


if __name__ == "__main__":
    main()
