"""What the closed loop costs: MJD, autoencoder, aligner, matching, painting per step.

    python benchmarks/cycle.py             # demo size: TFLOP and seconds measured here
    python benchmarks/cycle.py --full      # 3 views, 49 x 480 x 704, K = 1600: TFLOP from shapes
    python benchmarks/cycle.py --config configs/readings/few_steps.py:taco --full

First the parts, one forward each for one sample of all views; then a training step and a sampling
run. TFLOP are matrix products and convolutions from the traced program (flop_count), of MJD by
models/flops.py; matching and painting have none, there elementwise operations are counted. The
last lines are `name ours peer ratio`: what everything but MJD costs over MJD alone, peer 0.25, the
aim with the faithful autoencoder.
"""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.mjd import mjd, warm_start
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import syncmv4d
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost
from syncmv4d_jax.tasks.syncmv4d import loop as loops

ROOT = Path(__file__).resolve().parent.parent
AIM = 0.25


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", default="", help="default: configs/demo.py, taco.py with --full"
    )
    parser.add_argument("--full", action="store_true", help="shapes only, nothing runs")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def load(name: str) -> Any:
    """Returns the configuration that `file.py:variant` names."""
    sys.path.insert(0, str(ROOT))  # for `from configs import ...`
    path, _, variant = name.partition(":")
    spec = importlib.util.spec_from_file_location("config", ROOT / path)
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    return file.get_config(*[variant] * bool(variant))


def functions(loop: loops.Loop) -> dict[str, tuple[Callable, tuple]]:
    """Returns {part: (function of parameters and arrays, shapes)}: one forward, one sample."""
    o, (v, f, h, w, c) = loop.options, loop.latent_shape
    shape = lambda *s: jax.ShapeDtypeStruct((1, *s), jnp.float32)  # noqa: E731
    latents, cameras = shape(v, f, h, w, c), (shape(v, 3, 3), shape(v, 3, 4))
    anchors = (shape(v, o.points, 2), jax.ShapeDtypeStruct((1, v, o.points), bool))
    text, motion = shape(loop.mjd_config.text_len, loop.mjd_config.text_dim), loop.motion

    def denoise(params, x, t, text, intrinsics, extrinsics):
        model = module.bind(mjd.MJD, loop.mjd_config, params["dit"])
        own = mjd.Inputs(x, x, t, x, intrinsics=intrinsics, extrinsics=extrinsics)
        return model(own, mjd.Text(text))

    def context(anchors, valid, intrinsics, extrinsics):
        return {
            "anchors": anchors, "anchor_valid": valid, "intrinsics": intrinsics,
            "extrinsics": extrinsics,
        }  # fmt: skip

    def match(params, pseudo, scale, *rest):
        return motion.match(pseudo, scale, context(*rest)).tracks

    def warp(params, frame0, scale, *rest):
        return motion.warp(frame0, scale, context(*rest))

    def paint(params, tracks, warp, scale, *rest):
        return motion.paint(tracks, scale, warp, context(*rest))

    frame0, scale = shape(v, *motion.maps.size, 3), shape(v, 2)
    rest = (*anchors, *cameras)
    warped = jax.eval_shape(lambda *x: warp(None, *x), frame0, scale, *rest)
    pseudo = shape(v, o.frames, *motion.maps.size, 3)
    return {
        "mjd": (denoise, (latents, shape(), text, *cameras)),
        "encode": (motion.maps.encode, (pseudo,)),
        "decode": (motion.maps.decode, (latents, shape(v, 1, h, w, c))),
        "match": (match, (pseudo, scale, *rest)),
        "warp": (warp, (frame0, scale, *rest)),
        "paint": (paint, (shape(v, o.frames, o.points, 3), warped, scale, *rest)),
    }


def arrays(shapes: Any) -> Any:
    """Random arrays of the shapes: cameras, anchors and scales that make sense are not needed."""
    rng = np.random.default_rng(0)

    def make(s):
        if s.dtype == jnp.float32:
            return jnp.asarray(rng.uniform(0.5, 1.0, s.shape), s.dtype)
        return jnp.ones(s.shape, s.dtype)

    return jax.tree.map(make, shapes)


def seconds(function: Callable, *args: Any, repeats: int) -> float:
    """Returns the best time of a compiled call."""
    run = functools.partial(jax.jit(function), *args)
    return timing.interleaved({"run": run}, repeats)["run"].best


def main() -> None:
    args = parse()
    config = load(args.config or ("configs/taco.py" if args.full else "configs/demo.py"))
    task = syncmv4d.make(config)
    each, parts = syncmv4d_cost.parts(task.loop), functions(task.loop)
    took = {}
    if not args.full:
        params = {
            "dit": jax.jit(lambda key: warm_start.init(task.mjd_config, key))(jax.random.key(0)),
            "vae": module.init(vae.VAE, task.vae_config, jax.random.key(1)),
        }
        if task.codec_config:
            params["codec"] = module.init(motion_codec.Codec, task.codec_config, jax.random.key(2))
        for name, (function, shapes) in parts.items():
            took[name] = seconds(function, params, *arrays(shapes), repeats=args.repeats)
            print(f"{name}: {took[name]:.3f} s", flush=True)
    print(f"{'part':10} {'TFLOP':>10} {'seconds':>9}")
    for name in [*each, *(n for n in parts if n not in each)]:
        if name in each:
            count = each[name]
        else:
            function, shapes = parts[name]
            count = flops.count(functools.partial(function, {}), *shapes, elementwise=True)
        print(f"{name:10} {count / 1e12:10.4f} {took.get(name, float('nan')):9.3f}")
    steps = {"training": syncmv4d_cost.training(task.loop, each)}
    steps["sampling"] = syncmv4d_cost.sampling(task.loop, each)
    for name, cost in steps.items():
        print(name, " ".join(f"{part} {x / 1e12:.4g}" for part, x in cost.items()), "TFLOP")
        extra = sum(cost.values()) / cost["mjd"] - 1
        print(f"loop_{name}_over_mjd {extra:.3f} {AIM} {extra / AIM:.2f}")


if __name__ == "__main__":
    main()
