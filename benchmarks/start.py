"""Seconds of a start: importing the package, and `main --help`, beside their bars (2 s and 3 s).

    python benchmarks/start.py [--repeats 5]

Lines are `name seconds bar ratio`, the best of the repeats, each in a fresh interpreter.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import timing

ROOT = Path(__file__).resolve().parent.parent
STARTS = {
    "start_import": (["-c", "import syncmv4d_jax"], 2.0),
    "start_help": (["-m", "syncmv4d_jax.main", "--help"], 3.0),
}


def seconds(arguments: list[str], repeats: int) -> float:
    """The best time of an interpreter from its start to its end."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name, (arguments, bar) in STARTS.items():
        timing.row(name, seconds(arguments, repeats), bar)


if __name__ == "__main__":
    main()
