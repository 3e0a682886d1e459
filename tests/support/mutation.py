"""Runs tests against a copy of the code with one line wrong, and says which errors they let pass.

A mutant is killed when the test it names fails on the copy; a survivor is an error that nothing
would notice. The tests are first run on the copy as it is: one that fails by itself kills nothing.
Exit status 0: all killed. 1: survivors. 2: the table is not true of the code, or a run went wrong.
"""

import argparse
import ast
import contextlib
import hashlib
import multiprocessing
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

# Mutants are forked from a server that has imported what no mutant touches: half of their time. It
# must not have made a backend of jax, which has threads; tests/conftest.py does so in the fork.
SERVER = multiprocessing.get_context("forkserver")
IMPORTED = [
    "pytest",
    "flax.nnx",
    "optax",
    "orbax.checkpoint",
    "grain.python",
    "scipy.spatial",
    "trimesh",
    "av",
]


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


class Attempt(NamedTuple):
    """One run of pytest: its exit status, None after too long; processor seconds; what it said."""

    status: int | None
    seconds: float
    output: str


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


def fork(
    arguments: list[str], tree: Path, cache: Path | None, whole: bool, said: str, seconds
) -> None:
    """Becomes a pytest of its own in a fork of the server, and ends in its exit status."""
    os.setsid()
    os.dup2(os.open(said, os.O_WRONLY), 1)
    os.dup2(1, 2)
    os.chdir(tree)
    # A file changed within a second and to the same size would be taken for that of the bytecode.
    sys.dont_write_bytecode = not whole
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "" if whole else "1"}
    sys.path.insert(0, str(tree))
    sys.argv = ["pytest", *arguments]
    import pytest

    if cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    status = pytest.main(arguments)
    seconds.value = sum(os.times()[:4])
    sys.exit(status)


def attempt(
    tests: list[str], tree: Path, limit: float | None, *, cache: Path | None, whole: bool = False
) -> Attempt:
    """Runs tests of one file in a fork of the server.

    limit: seconds. cache: of compiled programs. whole: whether the tree is as it was, and may keep
    its bytecode.
    """
    # Programs of several devices must not come from a cache: see tests/conftest.py.
    if "mesh" in (tree / tests[0].partition("::")[0]).read_text():
        cache = None
    arguments = ["-x", "--tb=line", "-p", "no:cacheprovider", "-n", "0", *tests]
    seconds = SERVER.Value("d", lock=False)
    with tempfile.NamedTemporaryFile("r") as output:
        how = (arguments, tree, cache, whole, output.name, seconds)
        process = SERVER.Process(target=fork, args=how)
        process.start()
        process.join(limit)
        status = process.exitcode
        if status is not None and not seconds.value:  # it never came to pytest's verdict
            status = -1
        with contextlib.suppress(ProcessLookupError):  # it and whatever it has started
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        return Attempt(status, seconds.value, output.read())


def judge(
    mutant: Mutant, tree: Path, limit: float, *, cache: Path | None = None
) -> tuple[str, Attempt]:
    """Runs one mutant in a copy and puts the copy right again: (verdict, how it went)."""
    path = tree / mutant.file
    right, times = path.read_text(), path.stat()
    path.write_text(right.replace(mutant.old, mutant.new))
    try:
        done = attempt([mutant.test], tree, limit, cache=cache)
    finally:
        path.write_text(right)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # its bytecode is true again
    if done.status is None:
        return f"no verdict in {limit:.0f} s", done
    return VERDICTS.get(done.status, f"pytest ended in {done.status}"), done


def chosen(table: list[Mutant], args: argparse.Namespace) -> list[Mutant]:
    """The mutants that the command line asks for."""
    if args.only:
        words = [(m, f"{m.rows} {m.says} {m.file} {m.test}") for m in table]
        table = [m for m, text in words if any(only in text for only in args.only)]
    if args.chosen_by:
        mark = lambda m: hashlib.sha256(f"{args.chosen_by} {m.says}".encode()).digest()  # noqa: E731
        table = sorted(table, key=mark)[: args.count]
    return table


def run(
    table: list[Mutant], workers: int, limit: float, root: Path = ROOT
) -> tuple[dict[str, str], float]:
    """Runs mutants, each in its own process, in `workers` copies: ({says: verdict}, seconds)."""
    files, waiting, verdicts, spent = {}, queue.SimpleQueue(), {}, []
    for mutant in table:
        files.setdefault(mutant.test.partition("::")[0], []).append(mutant)
    for group in sorted(files.values(), key=len, reverse=True):
        waiting.put(group)

    def work(tree: Path, cache: Path) -> None:
        copy(root, tree)
        while True:
            try:
                group = waiting.get_nowait()
            except queue.Empty:
                return
            tests = sorted({m.test for m in group})
            right = attempt(tests, tree, None, cache=cache, whole=True)
            spent.append(right.seconds)
            for mutant in group:
                verdict, done = "not tried: its tests fail without it", right
                if right.status == 0:
                    verdict, done = judge(mutant, tree, limit, cache=cache)
                    spent.append(done.seconds)
                verdicts[mutant.says] = verdict
                text = f"{verdict:9s} {done.seconds:4.0f} s  {mutant.rows}: {mutant.says}"
                print(text if verdict == "killed" else f"{text}\n{done.output}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        threads = [
            threading.Thread(target=work, args=[Path(folder) / str(i), Path(folder) / "cache"])
            for i in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return verdicts, sum(spent)


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
    os.environ["JAX_PLATFORMS"] = "cpu"  # what tests/conftest.py says too late for the server
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    SERVER.set_forkserver_preload(IMPORTED)
    verdicts, seconds = run(table, args.workers, args.limit)
    survivors = [says for says, verdict in verdicts.items() if verdict == "SURVIVED"]
    odd = [f"{says}: {v}" for says, v in verdicts.items() if v not in VERDICTS.values()]
    killed = len(table) - len(survivors) - len(odd)
    minutes = (time.monotonic() - start) / 60
    print(
        f"{killed} of {len(table)} mutants killed in {minutes:.1f} min"
        f" ({seconds / 60:.1f} processor minutes)"
    )
    print("".join(f"survived: {says}\n" for says in survivors) + "\n".join(odd))
    return 2 if odd else int(bool(survivors))
