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
    """Seconds of one function.

    best: of the fastest run by the clock; spread: how much longer the median took, as a share.
    processor: of the run that took the least of all cores, which what others run hardly changes.
    """

    best: float
    spread: float
    processor: float


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, *, steady: bool = False
) -> dict[str, Times]:
    """Runs every function once, then all of them `rounds` times in turn.

    Args:
      functions: name -> function without arguments; its result is waited for.
      rounds: how often each is timed.
      steady: in its turn a function runs twice, and the second run is timed: a step that follows
        its like, as in training. After another library's turn the first one finds its memory given
        back and its caches cold, which costs one library more than the other.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            if steady:
                jax.block_until_ready(function())
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(function())
            end = time.perf_counter(), time.process_time()
            times[name].append((end[0] - start[0], end[1] - start[1]))
    found = {}
    for name, runs in times.items():
        clock, processor = np.array(runs).T
        best = float(clock.min())
        found[name] = Times(best, float(np.median(clock)) / best - 1, float(processor.min()))
    return found


def row(name: str, ours: float, peer: float) -> None:
    """Prints `name ours peer ratio`."""
    print(f"{name} {ours:.4g} {peer:.4g} {ours / peer:.3g}", flush=True)


def seconds(name: str, ours: Times, peer: Times) -> None:
    """Prints a row of seconds by the clock and, as a comment, the ratio of processor time."""
    row(name, ours.best, peer.best)
    share = ours.processor / peer.processor
    print(f"# {name}: {share:.3g} of its processor time", flush=True)


def cores() -> int:
    """Returns how many cores this process may use, e.g. one under `taskset -c 0`."""
    found = getattr(os, "sched_getaffinity", None)
    return len(found(0)) if found else os.cpu_count() or 1


def processor() -> str:
    """Returns what this machine's processor calls itself, its family and model, and its cores."""
    file, used = Path("/proc/cpuinfo"), cores()
    text = file.read_text() if file.is_file() else ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in found:
        return f"{platform.processor() or platform.machine()}, {used} cores"
    kind = f"family {found.get('cpu family')} model {found.get('model')}"
    return f"{found['model name']} ({kind}), {used} cores"


def matrix_product(size: int, dtype: str) -> tuple[Callable[[], object], float]:
    """Returns (a square matrix product on the default device, its FLOPs): what a chip can do.

    Summed in float32 and rounded once: a CPU's own bfloat16 products want to be asked so.
    """
    a = jnp.ones((size, size), dtype)
    multiply = functools.partial(jnp.matmul, precision="default", preferred_element_type="float32")
    product = jax.jit(lambda a, b: multiply(a, b).astype(dtype))
    return lambda: product(a, a), 2.0 * size**3
