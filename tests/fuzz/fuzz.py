"""Mutates valid inputs of every reader and tells what comes of each.

    python tests/fuzz/fuzz.py                          1,000 cases (make fuzz)
    python tests/fuzz/fuzz.py --seconds 60 --seed 12   until the time is over
    python tests/fuzz/fuzz.py --seed 12 --number 345   one case again, its input kept

Every outcome is an equal reading, a refusal that names the file, or a difference that the reading
tells. A fault is all else: a traceback, a reading of what nobody can mean, more than 10 seconds of
a processor, more than 4 GB, something half written. Cases run in a process that is started again
when one of them kills it (fuzz_worker.py); the input of a fault is kept in .cache/fuzz.
"""

import argparse
import collections
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".cache" / "fuzz"
PATHS = (HERE, ROOT, ROOT / "tests/support", ROOT / "data_prep")
WALL = 150.0  # seconds without an answer: it waits for something


class Runner:
    """A worker that is started when there is none; context manager."""

    def __init__(self, folder: Path, command: tuple[str, ...] = ()):
        self.folder, self._process = folder, None
        template = folder / "template"
        self._command = command or (
            *(sys.executable, str(HERE / "fuzz_worker.py"), str(template), str(folder / "work")),
        )

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen:
        process = subprocess.Popen(
            self._command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "said.txt").open("wb"),
        )
        answer(process, 300.0)
        return process

    def case(self, **asked) -> dict[str, str]:
        """Tries one case; asked: seed, number, only."""
        self._process = process = self._process or self._start()
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        line = answer(process, WALL)
        if line:
            return json.loads(line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)  # it ends by itself, or it waits for something
        process.kill()
        status = process.wait()
        self._process = None
        said = (self.folder / "said.txt").read_text(errors="replace")[-1500:]
        why = {-24: "hangs: more than 10 s of a processor", -9: f"no answer for {WALL:.0f} s"}
        why = why.get(status, f"the process ended with status {status}: {said}")
        return {"outcome": "fault", "why": why, "door": "?", "words": "?"}


def environment() -> dict[str, str]:
    path = os.pathsep.join(map(str, PATHS))
    return {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}


def answer(process: subprocess.Popen, seconds: float) -> str:
    """The next line of a process, "" where it ended or waits."""
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline().decode() if ready else ""


def template(folder: Path) -> None:
    """Makes the valid inputs in a process of its own."""
    code = """import sys, pathlib, fuzz_inputs, fuzz_sources
root = pathlib.Path(sys.argv[1])
fuzz_inputs.make(root)
fuzz_sources.make(root)"""
    command = [sys.executable, "-c", code, str(folder / "template")]
    subprocess.run(command, env=environment(), check=True)


def keep(folder: Path, asked: dict, said: dict) -> Path:
    """Keeps the input of a fault with what was said of it; returns its place."""
    name = f"{asked['seed']}-{asked['number']}"
    KEPT.mkdir(parents=True, exist_ok=True)
    if "file" in said and Path(said["file"]).is_file():
        shutil.copyfile(said["file"], KEPT / f"{name}{Path(said['file']).suffix}")
    (KEPT / f"{name}.json").write_text(json.dumps(said, indent=1))
    return KEPT / f"{name}.json"


def run(args: argparse.Namespace, folder: Path) -> int:
    """Tries the cases of the flags; returns the number of faults."""
    template(folder)
    end, number, faults = time.monotonic() + args.seconds, args.number or 0, 0
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    last = number + (1 if args.number is not None else args.count)
    with Runner(folder) as runner:
        while number < last and time.monotonic() < end:
            asked = {"seed": args.seed, "number": number, "only": args.only}
            said = runner.case(**asked)
            counts[said["door"]][said["outcome"]] += 1
            if args.number is not None:
                print(json.dumps(said, indent=1))
            if said["outcome"] == "fault":
                faults += 1
                print(
                    f"FAULT {args.seed}-{number} {said['door']}: {said['words']}\n  {said['why']}"
                )
                print(f"  {keep(folder, asked, said)}", flush=True)
            number += 1
    total = sum(counts.values(), collections.Counter())
    for door in sorted(counts):
        print(f"{door:45}{dict(counts[door])}")
    first = args.number or 0
    print(f"seed {args.seed}: {number - first} cases, {dict(total)}")
    return faults


def seed(text: str) -> int:
    """A number, or a number from a text such as a commit's hash."""
    return int(text) if text.isdigit() else zlib.crc32(text.encode())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=seed, default=int(time.time()), help="a number, or a hash")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--number", type=int, help="one case alone")
    parser.add_argument("--only", default="", help="one kind of files alone")
    args = parser.parse_args(argv)
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        return 1 if run(args, Path(folder)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
