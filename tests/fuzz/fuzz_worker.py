"""Tries cases one by one, each asked for by a line on stdin; dies of what goes beyond its limits.

    python fuzz_worker.py TEMPLATE SCRATCH      (started by fuzz.py)

A line `{"seed": 1, "number": 7}` is answered by one line of JSON with the outcome: "equal",
"refused", "different", or "fault" with the reason. A case may use PROCESSOR seconds and MEMORY
bytes more than the worker has; the first kills it, and whoever started it knows by what case.
"""

import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import fuzz_doors
import fuzz_mutations
import fuzz_sources
import numpy as np

TABLE = [*fuzz_doors.TABLE, *fuzz_sources.TABLE]
PROCESSOR = 10  # seconds of a case
MEMORY = 4 * 2**30  # bytes beyond what the worker has when it starts
NAMED = (ValueError, FileNotFoundError, FileExistsError)


def chosen(seed: int, number: int, only: str = ""):
    """The door and the generator of a case: kinds take turns, doors of a kind are drawn."""
    rng = np.random.default_rng([seed, number])
    kinds = list(dict.fromkeys(door.kind for door in TABLE))
    kind = only or kinds[number % len(kinds)]
    doors = [door for door in TABLE if door.kind == kind]
    return doors[int(rng.integers(len(doors)))], rng


def is_named(error: Exception, path: Path) -> bool:
    """Whether a refusal is one: of a kind that says wanted and got, with the file or its folder."""
    own = type(error).__module__.startswith("syncmv4d_jax") or type(error) in NAMED
    text = str(error)
    names = (path.name, path.parent.name, path.stem.split("_")[-1], str(path.parent.parent))
    return (own or type(error).__name__ == "Refusal") and any(name in text for name in names)


class Worker:
    """Holds what the unchanged files read as, by door."""

    def __init__(self, template: Path, scratch: Path):
        self.template, self.scratch = template, scratch
        self._truth: dict[str, fuzz_doors.Values] = {}

    def root(self) -> Path:
        """A fresh copy of all inputs, by links."""
        root = self.scratch / "inputs"
        shutil.rmtree(self.scratch, ignore_errors=True)
        shutil.copytree(self.template, root, copy_function=os.link)
        return root

    def read(self, door: fuzz_doors.Door, root: Path) -> fuzz_doors.Values:
        file = min(root.glob(door.file))
        found = door.read(root, file, self.scratch / "out" / "result")
        fuzz_doors.check(found)
        fuzz_doors.check_surfaces(found)
        return found

    def truth(self, door: fuzz_doors.Door) -> fuzz_doors.Values:
        """What the door reads of its unchanged file; it must."""
        if door.name + door.kind not in self._truth:
            self._truth[door.name + door.kind] = self.read(door, self.root())
        return self._truth[door.name + door.kind]

    def case(self, seed: int, number: int, only: str = "") -> dict[str, str]:
        """Tries one case."""
        door, rng = chosen(seed, number, only)
        truth = self.truth(door)
        root = self.root()
        file = min(root.glob(door.file))
        data = file.read_bytes()
        mutant = fuzz_mutations.mutate(door.kind, data, rng)
        file.unlink()
        file.write_bytes(mutant.data)
        files = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
        said = {"door": f"{door.kind}: {door.name}", "words": mutant.words, "file": str(file)}
        limit()
        try:
            found = self.read(door, root)
            outcome = "equal" if fuzz_doors.same(found, truth) else "different"
            why = self.wrong(outcome, mutant, data)
        except Exception as error:
            outcome, why = "refused", self.wrong_refusal(error, file, mutant)
            said["message"] = str(error)[:300]
        why = why or self.left(door, outcome, root, files)
        return said | ({"outcome": "fault", "why": why} if why else {"outcome": outcome})

    def wrong(self, outcome: str, mutant: fuzz_mutations.Mutant, data: bytes) -> str:
        """Why what was read is not what must come of the mutation; "" where it is."""
        if mutant.wanted == fuzz_mutations.REFUSED and mutant.data != data:
            return f"wanted a refusal, it was read ({outcome})"
        if mutant.wanted == fuzz_mutations.EQUAL and outcome != "equal":
            return "wanted an equal reading, got another"
        return ""

    def wrong_refusal(self, error: Exception, file: Path, mutant: fuzz_mutations.Mutant) -> str:
        if mutant.wanted == fuzz_mutations.EQUAL:
            return f"wanted an equal reading, it was refused: {error}"
        if not is_named(error, file):
            return f"no refusal by name: {''.join(traceback.format_exception(error))[-1500:]}"
        return ""

    def left(self, door, outcome: str, root: Path, files: dict[Path, int]) -> str:
        """Why what lies there afterwards is wrong; "" where it is not."""
        now = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}
        if now != files:
            return f"files beside the input were written: {sorted(now.keys() ^ files.keys())[:3]}"
        out = self.scratch / "out"
        there = sorted(out.iterdir()) if out.is_dir() else []
        names = [str(p.relative_to(out)) for p in out.rglob("*")] if out.is_dir() else []
        if any(name.endswith(".partial") for name in names):
            return f"half written: {names[:5]}"
        # A folder of records and a folder of recordings hold others, too: they stay.
        kept = door.read in (fuzz_doors.to_records,)
        if outcome == "refused" and there and not kept:
            return f"refused, but written: {names[:5]}"
        return ""


def limit() -> None:
    """Sets the limits of the next case."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + PROCESSOR + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def main(template: str, scratch: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    warnings.simplefilter("ignore")
    worker = Worker(Path(template), Path(scratch))
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(worker.case(**json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
