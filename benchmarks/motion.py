"""Time and FLOPs of the pseudo-video codec: decode, warp weights, render.

    python benchmarks/motion.py            # demo size (3 views, 13 frames, 64 x 96, 256 points)
    python benchmarks/motion.py --full     # and one view at 480 x 704, 1600 points

Prints `name ours peer ratio`. At demo size ours is seconds for the three views and peer the budget
of 0.15 s a closed-loop pass (decode + render, warp weights included). At full size ours is the
TFLOP of one view and 49 frames by XLA's own count, peer 5% of one MJD forward of a view (129.5
TFLOP); seconds beside.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras, matching, painting, pseudo_video

MJD_FORWARD_PER_VIEW = 129.5  # TFLOP at 49 x 480 x 704, two modalities


def drifting_disc(frames: int, height: int, width: int, points: int):
    """A bent surface over a third of the frame that drifts and recedes: inputs of `decode`."""
    grid = np.asarray(matching.pixel_grid(height, width))
    middle = np.array([width / 2, height / 2])
    radius = 0.33 * height
    scale = np.array([0.6, 0.9], np.float32)
    focal = 800 * width / 704
    intrinsics = np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1]], np.float32)
    extrinsics = np.eye(4, dtype=np.float32)[:3]
    origins, depths, masks = [], [], []
    for frame in range(frames):
        origin = grid - np.array([0.3, 0.1]) * frame * width / 704
        off = np.sum((origin - middle) ** 2, -1) / radius**2
        origins.append(origin)
        depths.append(0.65 + 0.05 * off + 0.15 * frame / max(frames - 1, 1))
        masks.append(off < 1)
    pseudo = pseudo_video.paint_surface(np.stack(origins), np.stack(depths), np.stack(masks), scale)
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, points)
    reach = radius * 0.95 * np.sqrt(np.random.default_rng(1).uniform(size=points))
    anchors = middle + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    view = (anchors.astype(np.float32), np.ones(points, bool), scale, intrinsics, extrinsics)
    return pseudo.astype(np.float32), view


def timed(function, *args, repeats: int) -> tuple[float, float, object]:
    """Returns (best seconds, TFLOP by XLA's count, result) of a compiled call."""
    compiled = jax.jit(function).lower(*args).compile()
    result = jax.block_until_ready(compiled(*args))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*args))
        best = min(best, time.perf_counter() - start)
    cost = compiled.cost_analysis() or {}
    return best, cost.get("flops", float("nan")) / 1e12, result


def row(name: str, ours: float, peer: float) -> None:
    print(f"{name} {ours:.4g} {peer:.4g} {ours / peer:.3g}", flush=True)


def demo(views: int = 3) -> None:
    height, width, frames, points = 64, 96, 13, 256
    pseudo, view = drifting_disc(frames, height, width, points)
    settings = matching.settings_for(height, width)
    stack = [jnp.stack([x] * views) for x in (pseudo, *view)]
    decode = jax.vmap(functools.partial(pseudo_video.decode, settings=settings))
    weigh = jax.vmap(functools.partial(painting.warp_weights, settings=settings))
    paint = jax.vmap(lambda t, f, w, *v: painting.render(t, f, *v, settings=settings, warp=w))
    seconds, _, decoded = timed(decode, *stack, repeats=10)
    tracks, frame0 = decoded.tracks, stack[0][:, 0]
    warping, _, warp = timed(weigh, frame0, *stack[1:], repeats=10)
    rendering, _, _ = timed(paint, tracks, frame0, warp, *stack[1:], repeats=10)
    truth, _ = cameras.project(tracks, stack[4], stack[5])
    assert np.isfinite(truth).all()
    for name, value in (("decode", seconds), ("warp_weights", warping), ("render", rendering)):
        row(f"motion/demo/{name}_seconds", value, 0.15)
    row("motion/demo/all_seconds", seconds + warping + rendering, 0.15)


def full(frames: int = 5) -> None:
    """One view; `frames` are run and the cost is scaled to 49 (the only loop is over frames)."""
    height, width, points = 480, 704, 1600
    pseudo, view = drifting_disc(frames, height, width, points)
    settings = matching.settings_for(height, width)
    decode = functools.partial(pseudo_video.decode, settings=settings)
    weigh = functools.partial(painting.warp_weights, settings=settings)
    seconds, decode_flops, decoded = timed(decode, pseudo, *view, repeats=2)
    frame0 = pseudo[0]
    warping, warp_flops, warp = timed(weigh, frame0, *view, repeats=1)
    rendering, paint_flops, _ = timed(
        lambda t, f, w, *v: painting.render(t, f, *v, settings=settings, warp=w),
        *(decoded.tracks, frame0, warp, *view),
        repeats=2,
    )
    # XLA counts the body of a loop once: frames in chunks, rows of the warp one at a time.
    bound = 0.05 * MJD_FORWARD_PER_VIEW
    row("motion/full/decode_tflop", decode_flops * 49 / min(frames, settings.chunk), bound)
    row("motion/full/render_tflop", paint_flops * 49 / min(frames, settings.chunk), bound)
    row("motion/full/warp_tflop", warp_flops * height, bound)
    print(f"# {jax.devices()[0].device_kind}: seconds a frame: decode {seconds / frames:.3f},")
    print(f"# render {rendering / frames:.3f}; warp weights once a sample {warping:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="480 x 704 as well")
    args = parser.parse_args()
    demo()
    if args.full:
        full()


if __name__ == "__main__":
    main()
