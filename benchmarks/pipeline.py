"""Calls of a pipeline: the first, which compiles, the second, and memory after twenty.

    python benchmarks/pipeline.py [--calls 20]

The closed loop of configs/taco.py:debug with random weights, three views, the Python door from
images to a result. Lines are `name ours peer ratio`: seconds of the second call beside the first;
MiB that this process has after the last call beside after the second; MiB of arrays, numpy's and
JAX's, at the same moments.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

import inputs  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
import timing  # noqa: E402

from configs import taco  # noqa: E402
from syncmv4d_jax import pipeline  # noqa: E402
from syncmv4d_jax.run import assembly, embedded  # noqa: E402
from syncmv4d_jax.weights import exports  # noqa: E402

MIB = 2.0**20


class Memory(NamedTuple):
    """MiB: all that the process has of the machine's, and what Python, numpy and JAX hold."""

    process: float
    held: float


def memory() -> Memory:
    """Returns what is held now, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    arrays = sum(x.nbytes for x in jax.live_arrays())
    own = tracemalloc.get_traced_memory()[0]
    return Memory(pages * os.sysconf("SC_PAGE_SIZE") / MIB, (arrays + own) / MIB)


def load(folder: Path) -> tuple[pipeline.Pipeline, dict[str, Any]]:
    """Returns (pipeline, arguments of a call) of random weights."""
    config = taco.get_config("debug").copy_and_resolve_references().unlock()
    config.task.sample_steps, config.task.guidance, config.data.name = 2, 1.0, "taco"
    config.task.cycle.refine_last = 1
    task = assembly.task(config)
    file = folder / "weights.safetensors"
    params = inputs.weights_of(task)
    exports.write(params, file, dtype="float32", metadata={})
    dit = config.task.dit
    embedded.text_encoder(folder, dim=dit.text_dim, layers=1, seed=0)
    config.text.max_length = dit.text_len
    weights = dict.fromkeys(params, file) | {"umt5": folder}
    rng, size = np.random.default_rng(0), tuple(config.task.size)
    images = list(rng.integers(0, 256, (3, *size, 3), np.uint8))
    call = {"images": images, "cameras": inputs.rig_of(size, 3), "prompt": "A person uses a cup."}
    return pipeline.SyncMV4DPipeline.load(weights, config), call


def measure(calls: int, folder: Path) -> tuple[list[float], Memory, Memory]:
    """Returns seconds of all calls, and the memory after the second and after the last one."""
    tracemalloc.start()
    pipe, call = load(folder)
    seconds, early = [], Memory(0.0, 0.0)
    for number in range(calls):
        begin = time.perf_counter()
        pipe(**call, seed=number)
        seconds.append(time.perf_counter() - begin)
        early = memory() if number == 1 else early
    late = memory()
    tracemalloc.stop()
    return seconds, early, late


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20)
    with tempfile.TemporaryDirectory() as folder:
        seconds, early, late = measure(parser.parse_args().calls, Path(folder))
    timing.row("pipeline_call_s", seconds[1], seconds[0])
    timing.row("pipeline_memory_mib", late.process, early.process)
    timing.row("pipeline_held_mib", late.held, early.held)


if __name__ == "__main__":
    main()
