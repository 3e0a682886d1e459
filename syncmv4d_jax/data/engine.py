"""Who runs a preparation: a pool of processes on this machine, or Apache Beam (extra `beam`).

Either calls one function of (source, root, settings) for every source, which writes that source's
files and nothing else; so the bytes do not depend on who ran it. A Beam worker's answer goes
through the folder as well, not through the runner: any runner does, if its workers see the folder.
"""

import argparse
import concurrent.futures
import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from syncmv4d_jax.data import records

DIED = {"error": "the process that prepared it died"}
LOST = 86  # exit status of a pipeline's process whose worker died
IDLE = 2  # pipelines one after the other whose worker died before anything was answered
Answer = dict[str, Any]


class Source(Protocol):
    """What is prepared as a whole; its file of records has its name."""

    @property
    def id(self) -> str: ...


class Work(Protocol):
    """Prepares one source: its part of the index, or {"error": reason}; raises nothing."""

    def __call__(self, source: Any, root: Path, settings: Any, /) -> Answer: ...


def pool(
    todo: Sequence[Source], root: Path, settings: Any, *, jobs: int, work: Work
) -> Iterator[tuple[str, Answer]]:
    """Yields (id, answer) of every source; a worker that dies costs its own source only."""
    if jobs <= 1:
        for source in todo:
            yield source.id, work(source, root, settings)
        return
    left = {source.id: source for source in todo}
    while left:
        for name, result in _pool(list(left.values()), root, settings, jobs, work):
            del left[name]
            yield name, result
        # A worker died and took the pool with it: those it may have been at, one by one.
        for source in list(left.values())[: 2 * jobs + 1]:
            answer = dict(_pool([source], root, settings, 1, work))
            del left[source.id]
            yield source.id, answer.get(source.id, DIED)


def _pool(todo, root, settings, jobs, work) -> Iterator[tuple[str, Answer]]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as executor:
        try:
            futures = {executor.submit(work, source, root, settings): source.id for source in todo}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            return


def beam(
    todo: Sequence[Source], root: Path, settings: Any, *, options: Sequence[str], work: Work
) -> Iterator[tuple[str, Answer]]:
    """Yields (id, answer) of every source, once a pipeline is done.

    It runs in a process of its own: Beam's local runner waits for ever where a worker of it was
    killed, or fails by what it no longer hears of it. What has no answer then is given to another
    pipeline, as long as that gets on: not after IDLE that answered nothing, where workers died,
    or one that failed.

    Args:
      options: of the pipeline, as on Beam's command lines: "--runner=DirectRunner" and so on.

    Raises:
      ImportError: Beam is not installed; names the extra.
      ChildProcessError: the pipeline failed and answered nothing; what it says stands above.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise ImportError(
            "--beam needs Apache Beam: pip install 'syncmv4d_jax[beam]' (or leave it out: a pool "
            "of processes runs the same functions)"
        )
    answers = root / "answers"
    left = {source.id: source for source in todo}
    for source in todo:
        _answer(answers, source).unlink(missing_ok=True)
    status, idle = LOST, 0
    while left and status:
        status = _watched(list(left.values()), _Step(work, root, settings, answers), options)
        paths = {name: _answer(answers, source) for name, source in left.items()}
        found = [name for name, path in paths.items() if path.is_file()]
        for name in found:
            del left[name]
            yield name, json.loads(paths[name].read_text())
            paths[name].unlink()
        idle = 0 if found else idle + 1
        if idle == IDLE or (idle and status != LOST):
            break
    if answers.is_dir() and not any(answers.iterdir()):
        answers.rmdir()
    if left and status not in (0, LOST):
        raise ChildProcessError(f"the pipeline of {list(options)} ended with status {status}")
    for name in left:
        yield name, DIED


def _watched(todo: Sequence[Source], step: "_Step", options: Sequence[str]) -> int:
    """Runs a pipeline in a process of its own; its exit status, LOST where a worker died."""
    arguments = (list(todo), step, list(options))
    child = multiprocessing.get_context("spawn").Process(target=_pipeline, args=arguments)
    child.start()
    assert child.pid is not None
    try:
        child.join()
    finally:
        child.terminate()
        # Its workers outlive it, and one may still be at a source that another pipeline is given.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    status = child.exitcode
    return LOST if status is None or status < 0 else status


def _pipeline(todo: list[Source], step: "_Step", options: list[str]) -> None:
    os.setpgid(0, 0)  # its workers are ended with it
    import apache_beam
    from apache_beam.options import pipeline_options

    def noticed(args: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(args)
        if "Worker subprocess exited" in str(args.exc_value):
            os._exit(LOST)  # nothing would end this process else

    threading.excepthook = noticed
    made = pipeline_options.PipelineOptions(options)
    with apache_beam.Pipeline(options=made) as pipeline:
        spread = pipeline | apache_beam.Create(todo) | apache_beam.Reshuffle()
        spread | apache_beam.Map(step)


class _Step:
    """`work` as Beam maps it: picklable, its answer a file."""

    def __init__(self, work: Work, root: Path, settings: Any, answers: Path):
        self.work, self.root, self.settings, self.answers = work, root, settings, answers

    def __call__(self, source):  # Beam would check a type that is said here while it runs
        answer = self.work(source, self.root, self.settings)
        records.write_json(_answer(self.answers, source), answer)
        return source.id


def _answer(folder: Path, source: Source) -> Path:
    return folder / f"{source.id}.json"


def part(text: str) -> tuple[int, int]:
    """Reads "i/n", this process's part of n, from 0.

    Raises:
      argparse.ArgumentTypeError: not such a text, or no such part.
    """
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or int(index) >= int(count):
        raise argparse.ArgumentTypeError(f"wanted i/n with 0 <= i < n, got {text!r}")
    return int(index), int(count)
