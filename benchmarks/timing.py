"""How the benchmarks time: both sides take turns, the best run of each counts.

A machine that others use slows single runs, rarely all of them; the spread says how much.
"""

import functools
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Times(NamedTuple):
    """Seconds of one function: the best run, and how much longer the median took, as a share."""

    best: float
    spread: float


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Runs every function once, then all of them `rounds` times in turn.

    Args:
      functions: name -> function without arguments; its result is waited for.
      rounds: how often each is timed.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return {
        name: Times(min(runs), float(np.median(runs) / min(runs) - 1))
        for name, runs in times.items()
    }


def row(name: str, ours: float, peer: float) -> None:
    """Prints `name ours peer ratio`."""
    print(f"{name} {ours:.4g} {peer:.4g} {ours / peer:.3g}", flush=True)


def processor() -> str:
    """Returns what this machine's processor calls itself, its family and model, and its cores."""
    file, cores = Path("/proc/cpuinfo"), os.cpu_count()
    text = file.read_text() if file.is_file() else ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:
        return f"{platform.processor() or platform.machine()}, {cores} cores"
    kind = f"family {found.get('cpu family')} model {found.get('model')}"
    return f"{found['model name']} ({kind}), {cores} cores"


def matrix_product(size: int, dtype: str) -> tuple[Callable[[], object], float]:
    """Returns (a square matrix product on the default device, its FLOPs): what a chip can do.

    Summed in float32 and rounded once: a CPU's own bfloat16 products want to be asked so.
    """
    a = jnp.ones((size, size), dtype)
    multiply = functools.partial(jnp.matmul, precision="default", preferred_element_type="float32")
    product = jax.jit(lambda a, b: multiply(a, b).astype(dtype))
    return lambda: product(a, a), 2.0 * size**3
