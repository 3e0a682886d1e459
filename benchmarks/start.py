"""Seconds of a start: importing the package, `main --help`, the studio's page, beside their bars.

    python benchmarks/start.py [--repeats 5]

Lines are `name seconds bar ratio`, the best of the repeats, each in a fresh interpreter. The page's
are from the command of `make studio` to an answer, which comes while the weights are still loaded.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import serving
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


def page_seconds(repeats: int) -> float:
    """The best time from the studio's command to its page."""
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with serving.studio(folder) as port:
                serving.ask(port, "/")
                found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name, (arguments, bar) in STARTS.items():
        timing.row(name, seconds(arguments, repeats), bar)
    timing.row("start_page", page_seconds(repeats), 20.0)


if __name__ == "__main__":
    main()
