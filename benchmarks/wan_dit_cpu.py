"""Wan's transformer on a CPU against diffusers' module, as it is and under torch.compile.

    python benchmarks/wan_dit_cpu.py [--rounds 5] [--frames 4] [--dtypes float32 bfloat16] [--small]

The same random weights and inputs: width 512, 4 heads, 8 layers, FFN 2304, grid 4 x 16 x 16, text
512 x 4096, one timestep a token (t = 0 on the first latent frame); forward, and forward with the
gradient of every weight. A matrix product of each library stands beside: what this processor gives
it. The sides take turns of two runs; the best of the second ones counts. Prints `name ours peer
ratio`, seconds, and TFLOP/s for the products. `--small` is two blocks of width 64: the same lines
in a minute.
"""

import argparse
import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
import wan_reference as reference  # noqa: E402

from syncmv4d_jax import tree  # noqa: E402
from syncmv4d_jax.models.nn import module  # noqa: E402
from syncmv4d_jax.models.wan import config as wan_config  # noqa: E402
from syncmv4d_jax.models.wan import dit  # noqa: E402

CONFIG = wan_config.DiTConfig(dim=512, ffn_dim=2304, heads=4, layers=8, dtype="float32")
SMALL = wan_config.DiTConfig(dim=64, ffn_dim=128, heads=2, layers=2, dtype="float32")
DTYPES = ("float32", "bfloat16")
MATRIX = 1536


def inputs(frames: int, grid: int) -> tuple[np.ndarray, ...]:
    """Returns latents, t, the peer's times a token, text."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((1, frames, 2 * grid, 2 * grid, 48), np.float32)
    tokens = np.full((1, frames * grid**2), 500, np.float32)
    tokens[:, : grid**2] = 0
    context = rng.standard_normal((1, 512, 4096), np.float32)
    return latents, np.array([500.0], np.float32), tokens, context


def ours(config: wan_config.DiTConfig, oracle: torch.nn.Module, arrays: tuple) -> dict:
    """Returns {"forward", "forward_backward"}: functions without arguments."""
    latents, t, _, context = arrays
    params = tree.unflatten(reference.from_diffusers(reference.arrays(oracle)))
    params = jax.tree.map(jnp.asarray, params)

    def forward(params):
        return module.bind(dit.DiT, config, params)(latents, t, context, first_frame=True)

    def loss(params):
        return jnp.sum(jnp.square(forward(params)))

    run, backward = jax.jit(forward), jax.jit(jax.grad(loss))
    return {
        "forward": functools.partial(run, params),
        "forward_backward": functools.partial(backward, params),
    }


def peer(model: torch.nn.Module, oracle: torch.nn.Module, arrays: tuple, dtype: str) -> dict:
    """As `ours`; `oracle` holds the weights that `model` runs."""
    latents, _, tokens, context = arrays
    kind = getattr(torch, dtype)
    x = torch.from_numpy(latents).permute(0, 4, 1, 2, 3).to(kind)
    given = x, torch.from_numpy(tokens), torch.from_numpy(context).to(kind)

    def forward():
        with torch.no_grad():
            return model(*given, return_dict=False)[0]

    def backward():
        oracle.zero_grad()
        torch.square(model(*given, return_dict=False)[0].float()).sum().backward()

    return {"forward": forward, "forward_backward": backward}


def products(dtype: str) -> tuple[dict[str, Callable[[], object]], float]:
    """Returns {library: a matrix product}, and its FLOPs."""
    run, flops = timing.matrix_product(MATRIX, dtype)
    a = torch.ones((MATRIX, MATRIX), dtype=getattr(torch, dtype))
    return {"ours": run, "peer": lambda: a @ a}, flops


def compare(config: wan_config.DiTConfig, dtype: str, arrays: tuple, rounds: int) -> None:
    """Prints the rows of one dtype."""
    end = "" if dtype == "float32" else f"_{dtype}"
    run, flops = products(dtype)
    times = timing.interleaved(run, rounds)
    timing.row(f"matrix{end}_tflops", *(flops / times[x].best / 1e12 for x in ("ours", "peer")))
    oracle = reference.build(config, seed=0)
    mine = ours(dataclasses.replace(config, dtype=dtype), oracle, arrays)
    for name, x in oracle.named_parameters():  # as diffusers loads them: norms and times stay
        if not set(name.split(".")) & set(oracle._keep_in_fp32_modules):
            x.data = x.data.to(getattr(torch, dtype))
    peers = {"": peer(oracle, oracle, arrays, dtype)}
    if shutil.which("c++") or shutil.which("g++") or shutil.which("clang++"):
        compiled = torch.compile(oracle, dynamic=False)
        peers["_compiled"] = peer(compiled, oracle, arrays, dtype)
    else:
        print("# torch.compile: wanted a C++ compiler, found none", flush=True)
    wanted = peers[""]["forward"]().float().permute(0, 2, 3, 4, 1).numpy()
    error = np.abs(np.asarray(mine["forward"]()) - wanted).max() / np.abs(wanted).max()
    print(f"# {dtype}: largest difference {error:.1e} of the largest value", flush=True)
    for name in mine:
        sides = {"ours": mine[name], **{f"peer{kind}": p[name] for kind, p in peers.items()}}
        times = timing.interleaved(sides, rounds, steady=True)
        for kind in peers:
            timing.seconds(f"wan_dit_{name}{end}{kind}", times["ours"], times[f"peer{kind}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--small", action="store_true", help="two blocks of width 64")
    args = parser.parse_args()
    torch.set_num_threads(timing.cores())
    arrays = inputs(args.frames, 4 if args.small else 16)
    for dtype in args.dtypes:
        compare(SMALL if args.small else CONFIG, dtype, arrays, args.rounds)


if __name__ == "__main__":
    main()
