"""The second run of every command: what happens, found out by doing it.

    python tests/support/again.py        writes the table of docs/again.md anew

A command runs once in a folder, then again under a condition; the outcome is a word of WORDS, read
off its error and what lies in the folder then. tests/test_again.py compares with the table.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in (HERE, ROOT, ROOT / "data_prep"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import again_commands  # noqa: E402
import again_imports  # noqa: E402

from syncmv4d_jax import recipe  # noqa: E402

DOCUMENT = ROOT / "docs/again.md"
START, END = "<!-- table -->\n", "\n<!-- end -->"
COMMANDS = again_commands.COMMANDS | again_imports.COMMANDS
CONDITIONS = (
    "same", "other seed", "other prompt", "other weights", "other records", "other size",
    "killed midway", "folder read-only", "disk full", "running twice",
)  # fmt: skip
NOTHING, BESIDE, GOES_ON, ANEW, REFUSED, NONE = WORDS = (
    "left alone", "new, former kept", "goes on", "made anew", "refused", "–",
)  # fmt: skip


class Killed(BaseException):
    """As if the process had died: no handler of errors sees it."""


def refused(error: BaseException | int | str | None) -> str:
    """REFUSED for an error that ends with one sentence; raises any other."""
    if isinstance(error, SystemExit):
        error = error.code
    assert error not in (None, 0), "status 0"
    text = str(error)
    assert isinstance(error, ValueError | OSError | str), repr(error)
    assert len(text) > 20 and "Traceback" not in text, text
    return REFUSED


def second(command, out: Path, **change) -> str:
    """Runs once more, and says what came of what was there."""
    before, made = command.results(out), command.made
    try:
        command.run(out, **change)
    except (ValueError, OSError, SystemExit) as error:
        assert command.results(out) == before, "refused, and changed something"
        return refused(error)
    after = command.results(out)
    if command.made == made and set(before.items()) <= set(after.items()):
        return NOTHING
    if set(before.values()) <= set(after.values()) and len(after) > len(before):
        return BESIDE
    return ANEW


def killed(command, out: Path, whole: Path) -> str:
    """Dies in the middle of the work; the same command then must end as one that lived."""
    with command.dying(Killed), contextlib.suppress(Killed):
        command.run(out)
        raise AssertionError("was not killed")
    command.settle(out)
    plant(command, out)
    at = command.made
    command.run(out)
    redone = command.made - at
    command.run(whole)
    assert command.results(out) == command.results(whole), (
        command.results(out).keys() ^ command.results(whole).keys()
    )
    return GOES_ON if redone < command.made - at - redone else ANEW


def plant(command, out: Path) -> None:
    """Leaves the lock of a process that is gone."""
    if command.lock:
        process = subprocess.Popen(["true"])
        process.wait()
        lock = recipe.Lock(out / command.root, command.lock)
        lock.path.write_text(json.dumps(lock._mine | {"process": process.pid, "started": "1"}))


@contextlib.contextmanager
def mounted(place: Path, size: str):
    """A small file system of its own at `place`."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("wants root and mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def read_only(command, out: Path) -> str:
    with mounted(out, "64m"):
        command.run(out)
        subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
        return second(command, out, **command.more)


def full(command, out: Path) -> str:
    with mounted(out, "64m"):
        command.run(out)
        with contextlib.suppress(OSError), (out / "ballast.tells").open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        return second(command, out, **command.more)


def twice(command, out: Path) -> str:
    if not command.lock:
        return NONE
    command.run(out)
    with recipe.Lock(out / command.root, command.lock):
        return second(command, out, **command.more)


def outcome(command, condition: str, home: Path) -> str:
    """The word of one cell; `home` is an empty folder."""
    out = home / "out"
    special = {"folder read-only": read_only, "disk full": full, "running twice": twice}
    if condition in special:
        return special[condition](command, out)
    if condition == "killed midway":
        return killed(command, out, home / "whole") if command.dying else NONE
    change = {} if condition == "same" else command.changes.get(condition)
    if change is None:
        return NONE
    command.run(out)
    return second(command, out, **change)


def row(make, base: Path) -> dict[str, str]:
    """{condition: outcome} of a command; `make`: a class of again_commands."""
    found = {}
    for condition in CONDITIONS:
        home = base / condition.replace(" ", "_")
        home.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            found[condition] = outcome(make(home, patch), condition, home)
        shutil.rmtree(home, ignore_errors=True)
    return found


def line(name: str, found: dict[str, str]) -> str:
    return f"| `{name}` | {' | '.join(found[condition] for condition in CONDITIONS)} |"


def table() -> dict[str, dict[str, str]]:
    """The rows that the document has."""
    text = DOCUMENT.read_text().split(START)[1].split(END)[0]
    rows = re.findall(r"^\| `(.+?)` \| (.*) \|$", text, re.M)
    return {name: dict(zip(CONDITIONS, cells.split(" | "), strict=True)) for name, cells in rows}


def main() -> None:
    text = DOCUMENT.read_text()
    head = f"| command | {' | '.join(CONDITIONS)} |\n|{' --- |' * (len(CONDITIONS) + 1)}"
    with tempfile.TemporaryDirectory() as base:
        lines = [
            line(name, row(make, Path(base) / str(i)))
            for i, (name, make) in enumerate(COMMANDS.items())
        ]
    made = "\n".join([head, *lines])
    before, rest = text.split(START)
    DOCUMENT.write_text(before + START + made + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
