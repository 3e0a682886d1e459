"""Wan's transformer on a CPU against diffusers' module: forward, and forward with backward.

    python benchmarks/wan_dit_cpu.py [--rounds 5] [--frames 4]

Both are float32 on the same random weights and inputs: width 512, 4 heads, 8 layers, FFN 2304, grid
4 x 16 x 16, text 512 x 4096, one timestep a token (t = 0 on the first latent frame). The runs
alternate; the minimum over rounds counts. Prints `name ours peer ratio`, seconds.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import wan_reference as reference  # noqa: E402

from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.models.nn import module  # noqa: E402
from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import dit

CONFIG = wan_config.DiTConfig(dim=512, ffn_dim=2304, heads=4, layers=8, dtype="float32")


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(2)

    oracle = reference.build(CONFIG, seed=0)
    params = tree.unflatten(reference.from_diffusers(reference.arrays(oracle)))
    params = jax.tree.map(jnp.asarray, params)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, args.frames, 32, 32, 48), np.float32)
    context = rng.standard_normal((1, 512, 4096), np.float32)
    t = np.array([500.0], np.float32)
    tokens = np.full((1, args.frames * 256), 500, np.float32)
    tokens[:, :256] = 0

    @jax.jit
    def forward(params):
        return module.bind(dit.DiT, CONFIG, params)(latents, t, context, first_frame=True)

    backward = jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(forward(params)))))

    def peer_forward():
        with torch.no_grad():
            return reference.run(oracle, latents, tokens, context)

    def peer_backward():
        oracle.zero_grad()
        torch.square(reference.run(oracle, latents, tokens, context)).sum().backward()

    error = np.abs(np.asarray(forward(params)) - peer_forward().numpy()).max()
    print(f"# max difference {error:.1e}", file=sys.stderr)
    pairs = {
        "wan_dit_forward": (lambda: jax.block_until_ready(forward(params)), peer_forward),
        "wan_dit_forward_backward": (
            lambda: jax.block_until_ready(backward(params)),
            peer_backward,
        ),
    }
    for name, runs in pairs.items():
        for run in runs:
            run()
        times = [[seconds(run) for run in runs] for _ in range(args.rounds)]
        ours, peer = np.min(times, axis=0)
        print(f"{name} {ours:.3f} {peer:.3f} {ours / peer:.2f}", flush=True)


if __name__ == "__main__":
    main()
