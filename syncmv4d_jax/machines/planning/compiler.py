"""Compiles in a process of its own and stops it once the compiler has assigned the memory.

There a program is accepted or refused, and its collectives are settled; what follows, code for the
kernels and loops, takes most of a compilation at full size (minutes instead of one). XLA writes
what it has found to a folder (`--xla_dump_to`), where it is read from.
"""

import contextlib
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from syncmv4d_jax.machines.planning import hlo

REPORT = "after_optimizations-memory-usage-report.txt"
POLL = 1.0  # seconds
SETTLE = 3.0  # seconds that the files get to be whole


class Assigned(NamedTuple):
    """used: bytes of a device's memory. largest: see hlo.largest. text: of the program."""

    used: int
    largest: list[tuple[float, str, str]]
    text: str


def run(function: Callable[..., Any], *arguments: Any, names: tuple[str, ...]) -> Any:
    """Runs `function(*arguments)`, which compiles, in a new process.

    Args:
      function: importable, of picklable arguments and result; its process loads libtpu, this one
        must not.
      names: of the jitted functions, one of which is the program.

    Returns:
      `Assigned` as soon as the program's memory is, else what the function returned.

    Raises:
      RuntimeError: the process failed; its error.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, _dumping(folder):
        process = context.Process(target=_call, args=(theirs, function, arguments), daemon=True)
        process.start()
        theirs.close()
        try:
            while not ours.poll(POLL):
                if report := _report(folder, names):
                    time.sleep(SETTLE)
                    return read(report)
            done, value = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"the compiling process died ({process.exitcode})") from None
        finally:
            process.kill()
            process.join()
    if not done:
        raise RuntimeError(value)
    return value


def _call(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """A compiler that nobody waits for would keep its memory, and libtpu, for itself."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


@contextlib.contextmanager
def _dumping(folder: str) -> Iterator[None]:
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} --xla_dump_to={folder} --xla_dump_hlo_as_text"
    try:
        yield
    finally:
        del os.environ["XLA_FLAGS"]
        if before is not None:
            os.environ["XLA_FLAGS"] = before


def _report(folder: str, names: tuple[str, ...]) -> Path | None:
    """The program's report; the host's own small programs have "cpu_" in theirs."""
    pattern = re.compile(rf"jit_({'|'.join(names)})\b.*{re.escape(REPORT)}$")
    found = [
        path
        for path in Path(folder).glob(f"*{REPORT}")
        if pattern.search(path.name) and f"cpu_{REPORT}" not in path.name
    ]
    return found[0] if found else None


def read(report: Path) -> Assigned:
    """Reads a report and the program's text beside it.

    Raises:
      ValueError: no total of the main memory in the report.
    """
    total = re.search(r"Memory Space: default.*\nTotal bytes: (\d+)", report.read_text())
    if total is None:
        raise ValueError(f"{report.name}: wanted a total of the default memory space")
    text = report.with_name(report.name.replace("-memory-usage-report", "")).read_text()
    return Assigned(int(total.group(1)), hlo.largest(text), text)
