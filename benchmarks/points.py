"""Point primitives: convolution, tables, block, aligner; time, memory and growth.

    python benchmarks/points.py            # minutes on two cores
    python benchmarks/points.py --full     # and the whole aligner at 49 frames x 4800 points

Prints `name ours peer ratio` (ratio = peer / ours: larger is better for us). Seconds are the best
of several interleaved calls, memory is XLA's temporary buffer. Peers: the official style, a
gather of all 27 neighbours and one einsum, differentiated by autodiff, in JAX and in torch on the
same arrays.
"""

import argparse
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.points import sparse_conv, voxel_hash
from syncmv4d_jax.models.ptv3 import layers

POINTS = 4800


def surface(points: int, seed: int = 0) -> np.ndarray:
    """Distinct cells [points 3] of two crossing sheets, as dense as a scanned surface."""
    side = int(np.ceil(np.sqrt(points / 2))) + 1
    u, v = (x.ravel() for x in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    bend = (4 * np.sin(u / 11.0) + 4 * np.cos(v / 7.0)).astype(int) + 200
    cells = np.concatenate([np.stack([u, v, bend], 1), np.stack([u, bend + 40, v], 1)])
    cells = np.unique(cells, axis=0)
    return np.random.default_rng(seed).permutation(cells)[:points].astype(np.int32)


def best(functions: dict, repeats: int = 7) -> dict[str, float]:
    """Best seconds of each function, calls interleaved so that a busy machine hits all alike."""
    seconds = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def cpu_seconds(function) -> float:
    """Processor time of one call, all threads: on a busy machine steadier than the clock."""
    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start


def compiled(function, *args):
    """Returns (callable without arguments, temporary megabytes)."""
    program = jax.jit(function).lower(*args).compile()
    program(*args)
    return lambda: program(*args), program.memory_analysis().temp_size_in_bytes / 1e6


def report(name: str, ours: float, peer: float) -> None:
    print(f"{name} {ours:.4g} {peer:.4g} {peer / ours:.2f}", flush=True)


def gather_einsum(x, table, weight):
    padded = jnp.concatenate([x, jnp.zeros_like(x[:1])])
    return jnp.einsum("p j c, j c d -> p d", padded[table], weight)


def torch_step(x, table, weight):
    """The peer in torch: gather, einsum, autograd; [] if torch is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    x, weight = (torch.tensor(np.asarray(a), requires_grad=True) for a in (x, weight))
    table = torch.tensor(np.asarray(table), dtype=torch.long)

    def step():
        x.grad = weight.grad = None
        padded = torch.cat([x, torch.zeros_like(x[:1])])
        torch.einsum("pjc,jcd->pd", padded[table], weight).square().sum().backward()
        return np.zeros(())

    return step


def convolution(channels: int) -> None:
    """Forward and backward of one frame."""
    cells = surface(POINTS)
    keys = voxel_hash.voxelise(cells, np.ones(len(cells), bool)).keys
    table = voxel_hash.neighbours(keys)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(len(cells), channels)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(27, channels, channels)) * 0.05, jnp.float32)

    def step(convolve):
        return jax.value_and_grad(
            lambda x, w: jnp.sum(jnp.square(convolve(x, table, w))), argnums=(0, 1)
        )

    ours, ours_mb = compiled(step(sparse_conv.subm_conv), x, weight)
    peer, peer_mb = compiled(step(gather_einsum), x, weight)
    functions = {"ours": ours, "peer": peer}
    if torch := torch_step(x, table, weight):
        functions["torch"] = torch
    seconds = best(functions)
    report(f"conv{channels}_fwd_bwd_s", seconds["ours"], seconds["peer"])
    report(f"conv{channels}_temp_MB", ours_mb, peer_mb)
    if "torch" in seconds:
        report(f"conv{channels}_vs_torch_s", seconds["ours"], seconds["torch"])


def tables() -> None:
    """The three ways to one table; the peer is the default."""
    cells = surface(POINTS)
    keys = voxel_hash.voxelise(cells, np.ones(len(cells), bool)).keys
    cells = int(cells.max()) + 1
    methods = {"sort": {}, "hash": {}, "dense": {"cells": min(cells, 256)}}
    functions = {
        name: compiled(lambda k, n=name, o=o: voxel_hash.neighbours(k, method=n, **o), keys)[0]
        for name, o in methods.items()
    }
    seconds = best(functions)
    for name in methods:
        report(f"table_{name}_s", seconds[name], seconds["sort"])


def growth() -> None:
    """Exponent of voxels, table, convolution (16 channels, both ways), 10^4 to 10^6 points."""
    sizes, seconds = [10_000, 100_000, 1_000_000], []
    for size in sizes:
        cells = jnp.asarray(surface(size))
        x = jnp.ones((len(cells), 16))
        weight = jnp.ones((27, 16, 16))

        def step(cells, x, weight):
            voxels = voxel_hash.voxelise(cells, jnp.ones(len(cells), bool))
            table = voxel_hash.neighbours(voxels.keys)
            y, pull = jax.vjp(lambda x, w: sparse_conv.subm_conv(x, table, w), x, weight)
            return pull(y)

        function, _ = compiled(step, cells, x, weight)
        seconds.append(min(cpu_seconds(function) for _ in range(4 if size < 10**6 else 2)))
        print(f"growth_{len(cells)}_cpu_s {seconds[-1]:.4g} - -", flush=True)
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    report("growth_exponent", slope, 1.1)


def block() -> None:
    """One PTv3 block, 64 channels, forward and backward, beside the same on torch formulas."""
    cells = surface(POINTS)[None]
    valid = np.ones(cells.shape[:2], bool)
    geometry = layers.build(jnp.asarray(cells), jnp.asarray(valid), depth=10).along(0)
    config = (64, 4)

    class Block(layers.Block):
        def __init__(self, config, *, rngs):
            super().__init__(*config, patch=256, rngs=rngs)

    params = module.init(Block, config, jax.random.key(0))
    x = jnp.ones((*cells.shape[:2], 64))
    step = jax.value_and_grad(lambda p, x: jnp.sum(module.bind(Block, config, p)(x, geometry) ** 2))
    function, megabytes = compiled(step, params, x)
    print(f"block64_fwd_bwd_s {best({'block': function})['block']:.4g} - -")
    print(f"block64_temp_MB {megabytes:.4g} - -", flush=True)


def whole(
    config: dpa_config.AlignerConfig, views: int, frames: int, points: int, name: str
) -> None:
    """Forward and backward of the aligner's loss."""
    shape = (1, views, frames, points)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32)
    rays = jnp.asarray(rng.normal(size=(*shape, 6)), jnp.float32)
    rays = rays / jnp.linalg.norm(rays[..., :3], axis=-1, keepdims=True)
    t, one = jnp.full(1, 0.5), jnp.ones(shape)
    params = jax.jit(lambda key: module.init(aligner.Aligner, config, key))(jax.random.key(0))

    def loss(params, x, rays):
        velocity = module.bind(aligner.Aligner, config, params)(
            x, x, t, confidence=one, valid=one > 0, rays=rays
        )
        given = dict(target=x, tracks_t=x, tracks=x[:, 0], t=t, valid=one > 0)
        return aligner.loss(velocity, **given)[0]

    for kind, function in (("fwd", loss), ("fwd_bwd", jax.value_and_grad(loss))):
        run, megabytes = compiled(function, params, x, rays)
        print(f"{name}_{kind}_temp_MB {megabytes:.4g} - -", flush=True)
        if megabytes > 1e-6 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"):
            print(f"{name}_{kind}_s: more than this machine's free memory")
            continue
        seconds = best({"run": run}, repeats=3 if points < 1000 else 1)["run"]
        print(f"{name}_{kind}_s {seconds:.4g} - -", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole aligner at true size")
    arguments = parser.parse_args()
    print("name ours peer ratio")
    for channels in (64, 128):
        convolution(channels)
    tables()
    block()
    growth()
    whole(dpa_config.DEMO, 3, 13, 256, "aligner_demo")
    if arguments.full:
        whole(dpa_config.BASE, 3, 49, 1600, "aligner_base")


if __name__ == "__main__":
    main()
