"""Runs tests against a copy of the code with one line wrong, and says which errors they let pass.

A mutant is killed when the test it names fails on the copy; a survivor is an error that nothing
would notice. The tests are first run on the copy as it is: one that fails by itself kills nothing.
Exit status 0: all killed. 1: survivors. 2: the table is not true of the code, or a run went wrong.
"""

import argparse
import ast
import hashlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 300.0  # seconds a mutant
MARKED = re.compile(r"pytest\.mark\.(?!parametrize|usefixtures)")  # not in the unmarked suite
VERDICTS = {0: "SURVIVED", 1: "killed"}  # by pytest's exit status; anything else is an error


class Mutant(NamedTuple):
    """One error: `old` -> `new` in `file`, which `test` (path::function) must notice.

    rows: of docs/paper.md ("12", "A6", "line 8") or other subjects that it holds, with blanks
    between. says: what the wrong program does.
    """

    rows: str
    says: str
    file: str
    old: str
    new: str
    test: str


def of(file: str, tests: str, *mutants: tuple[str, str, str, str, str]) -> list[Mutant]:
    """Mutants (rows, says, old, new, test) of one file; tests that name no file are in `tests`."""
    return [
        Mutant(rows, says, file, old, new, test if "::" in test else f"{tests}::{test}")
        for rows, says, old, new, test in mutants
    ]


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {x.name: x for x in ast.parse(path.read_text()).body if isinstance(x, ast.FunctionDef)}


def faults(table: list[Mutant], root: Path = ROOT) -> list[str]:
    """Says what in the table is not true of the code: texts not there once, tests not there."""
    found, seen = [], set()
    for mutant in table:
        where = f"{mutant.file} ({mutant.says})"
        text = (root / mutant.file).read_text() if (root / mutant.file).is_file() else None
        if mutant.says in seen:
            found.append(f"{where}: said twice")
        seen.add(mutant.says)
        count = 0 if text is None else text.count(mutant.old)
        if count != 1 or mutant.old == mutant.new:
            found.append(f"{where}: wanted once {mutant.old!r}, found {count}")
        elif mutant.file.endswith(".py"):
            try:
                ast.parse(text.replace(mutant.old, mutant.new))
            except SyntaxError as error:
                found.append(f"{where}: the mutant is no Python: {error}")
        file, _, name = mutant.test.partition("::")
        test = functions(root / file).get(name.split("[")[0]) if (root / file).is_file() else None
        if test is None:
            found.append(f"{where}: no test {mutant.test}")
        elif any(MARKED.match(ast.unparse(mark)) for mark in test.decorator_list):
            found.append(f"{where}: {mutant.test} is not in the unmarked suite")
    return found


def copy(root: Path, into: Path) -> None:
    """Copies what git knows or would add; without git everything that is not hidden."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        shutil.copytree(root, into, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        return
    for name in listed.stdout.split("\0"):
        if name and (root / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, into / name)


def pytest(tree: Path, *arguments: str, limit: float | None) -> tuple[int | None, str]:
    """Runs pytest in a tree; (exit status, None after `limit` seconds; output)."""
    # No bytecode: a file changed within a second and to the same size would be taken for the old.
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "--tb=line", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [*command, *arguments], cwd=tree, env=environment, stdout=output, text=True,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return status, output.read()


def judge(mutant: Mutant, tree: Path, limit: float) -> tuple[str, str]:
    """Runs one mutant in a copy and puts the copy right again: (verdict, output)."""
    path = tree / mutant.file
    right = path.read_text()
    path.write_text(right.replace(mutant.old, mutant.new))
    try:
        status, output = pytest(tree, "-n", "0", mutant.test, limit=limit)
    finally:
        path.write_text(right)
    if status is None:
        return f"no verdict in {limit:.0f} s", output
    return VERDICTS.get(status, f"pytest ended in {status}"), output


def chosen(table: list[Mutant], args: argparse.Namespace) -> list[Mutant]:
    """The mutants that the command line asks for."""
    if args.only:
        words = [(m, f"{m.rows} {m.says} {m.file} {m.test}") for m in table]
        table = [m for m, text in words if any(only in text for only in args.only)]
    if args.chosen_by:
        mark = lambda m: hashlib.sha256(f"{args.chosen_by} {m.says}".encode()).digest()  # noqa: E731
        table = sorted(table, key=mark)[: args.count]
    return table


def run(table: list[Mutant], workers: int, limit: float) -> dict[str, str]:
    """Runs mutants, each in its own process, in `workers` copies; {says: verdict}."""
    waiting, verdicts = queue.SimpleQueue(), {}
    # Neighbours in a test file follow each other: what they read from the disk is at hand.
    for mutant in sorted(table, key=lambda m: m.test):
        waiting.put(mutant)

    def work(tree: Path) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            start = time.monotonic()
            verdict, output = judge(mutant, tree, limit)
            verdicts[mutant.says] = verdict
            text = f"{verdict:9s} {time.monotonic() - start:4.0f} s  {mutant.rows}: {mutant.says}"
            print(text if verdict == "killed" else f"{text}\n{output}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [Path(folder) / str(i) for i in range(workers)]
        for tree in trees:
            copy(ROOT, tree)
        tests = sorted({m.test for m in table})
        status, output = pytest(trees[0], "-n", str(workers), *tests, limit=None)
        if status:
            sys.exit(f"{output}\nThese tests fail without a mutant: nothing can be said.")
        threads = [threading.Thread(target=work, args=[tree]) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return verdicts


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", help="words of row, sentence, file or test")
    parser.add_argument("--chosen-by", metavar="HASH", help="take --count of them by this text")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds a mutant")
    return parser.parse_args(words)


def main(table: list[Mutant]) -> int:
    """Runs what the command line asks for; returns the exit status."""
    args = arguments(sys.argv[1:])
    if found := faults(table):
        print("\n".join(found))
        return 2
    start, table = time.monotonic(), chosen(table, args)
    if not table:
        print("no mutant has these words")
        return 2
    verdicts = run(table, args.workers, args.limit)
    survivors = [says for says, verdict in verdicts.items() if verdict == "SURVIVED"]
    odd = [f"{says}: {v}" for says, v in verdicts.items() if v not in VERDICTS.values()]
    killed = len(table) - len(survivors) - len(odd)
    minutes = (time.monotonic() - start) / 60
    print(f"{killed} of {len(table)} mutants killed in {minutes:.1f} min")
    print("".join(f"survived: {says}\n" for says in survivors) + "\n".join(odd))
    return 2 if odd else int(bool(survivors))
