"""Jobs on disk: a folder each, there whole before anybody is told of it.

    jobs/<id>/job.json      what was asked for: number in the queue, parameters, names of cameras
    jobs/<id>/inputs/       000.png, ...: the pictures, decoded and written anew; cameras.json
    jobs/<id>/state.json    queued, running, done, failed or cancelled; attempts, times, the error
    jobs/<id>/previews/     what is to be seen while it runs
    jobs/<id>/result/       what was made; it gets this name when it is whole

A job is done where its result is, whatever else the folder says: the process that made it gives it
its name in one step, so that a server which dies between the two neither loses it nor makes it
again. What runs when a server dies is queued again, MOST times in all. Ids are drawn, 128 bits, and
nothing that a request says becomes a name.
"""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from syncmv4d_jax import disk, recipe

STATES = ("queued", "running", "done", "failed", "cancelled")
ENDED = ("done", "failed", "cancelled")
MOST = 3  # times that a job is begun: one that takes the machine down with it is not begun for ever
ID = re.compile(r"[0-9a-f]{32}")


@dataclasses.dataclass(frozen=True)
class Job:
    """One job, a value: `Store.change` makes the next one.

    Attributes:
      id: its folder.  number: place in the order of arrival.  created: seconds since 1970.
      request: parameters as they were checked.  cameras: names of the views.
      state: of STATES.  attempts: how often it was begun.  started, ended: seconds, 0 before.
      error: {code, message, where} of a failed one, else {}.
    """

    id: str
    number: int
    created: float
    request: Mapping[str, Any]
    cameras: tuple[str, ...]
    state: str = "queued"
    attempts: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: Mapping[str, str] = dataclasses.field(default_factory=dict)


ASKED = ("number", "created", "request", "cameras")
STATE = ("state", "attempts", "started", "ended", "error")


class Store:
    """All jobs of a folder, in memory and on disk. One process has it; its threads share it."""

    def __init__(self, root: str | Path) -> None:
        """Reads what is there; what a killed process began and did not end is removed."""
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        for folder in sorted(self.root.iterdir()):
            if ID.fullmatch(folder.name) and (job := _read(folder)) is not None:
                self._jobs[job.id] = job
            elif folder.is_dir() and folder.name[0] == ".":
                shutil.rmtree(folder, ignore_errors=True)
        self._next = max((job.number for job in self._jobs.values()), default=0) + 1

    def folder(self, job: Job) -> Path:
        """Where a job lies."""
        return self.root / job.id

    def add(
        self,
        requests: Sequence[Mapping[str, Any]],
        cameras: tuple[str, ...],
        inputs: Path,
        *,
        most: int,
    ) -> list[Job]:
        """Puts jobs of the same inputs behind the others; they are on disk when this returns.

        Args:
          inputs: a folder on the same file system, which becomes the last job's.
          most: jobs that may wait; [] is returned where they would be more.
        """
        with self._lock:
            if len(self.waiting()) + len(requests) > most:
                return []
            found = []
            for request in requests[:-1]:
                copied = self.root / f".copied-{secrets.token_hex(8)}"
                shutil.copytree(inputs, copied, copy_function=os.link)  # no file of it changes
                found.append(self._add(request, cameras, copied))
            return [*found, self._add(requests[-1], cameras, inputs)]

    def _add(self, request: Mapping[str, Any], cameras: tuple[str, ...], inputs: Path) -> Job:
        with self._lock:
            job = Job(secrets.token_hex(16), self._next, time.time(), dict(request), cameras)
            self._next += 1
            partial = self.root / f".{job.id}"
            partial.mkdir()
            inputs.rename(partial / "inputs")
            asked = {key: getattr(job, key) for key in ASKED}
            (partial / "job.json").write_text(json.dumps(asked), encoding="utf-8")
            _write_state(partial, job)
            for path in sorted(partial.rglob("*")):
                _sync(path)
            partial.rename(self.folder(job))
            _sync(self.root)
            self._jobs[job.id] = job
            return job

    def get(self, name: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(name)

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    def waiting(self) -> list[Job]:
        """What is queued, the next one first."""
        with self._lock:
            found = [job for job in self._jobs.values() if job.state == "queued"]
            return sorted(found, key=lambda job: job.number)

    def position(self, job: Job) -> int:
        """How many go before it, and itself; 0 where it does not wait."""
        return sum(other.number <= job.number for other in self.waiting()) * (job.state == "queued")

    def change(self, job: Job, **values: Any) -> Job:
        """Writes a new state and returns the job that has it; a job that was removed stays so."""
        with self._lock:
            now = dataclasses.replace(self._jobs.get(job.id, job), **values)
            if job.id in self._jobs:
                self._jobs[job.id] = now
                _write_state(self.folder(job), now)
            return now

    def remove(self, job: Job) -> None:
        """Removes a job and all that it has."""
        with self._lock:
            self._jobs.pop(job.id, None)
            gone = self.root / f".{job.id}.gone"
            if self.folder(job).is_dir():
                self.folder(job).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def recover(self) -> None:
        """Queues again what ran when the last server ended, and counts as done what was made."""
        for job in self.all():
            if job.state in ENDED:
                continue
            if (self.folder(job) / "result").is_dir():
                self.change(job, state="done", ended=job.ended or time.time())
            elif job.state == "running" and job.attempts >= MOST:
                words = f"the server ended {job.attempts} times while it made this: not begun again"
                error = {"code": "internal", "message": words, "where": ""}
                self.change(job, state="failed", ended=time.time(), error=error)
            elif job.state == "running":
                self.change(job, state="queued", started=0.0)

    def expire(self, seconds: float) -> None:
        """Removes jobs that ended longer ago than this."""
        for job in self.all():
            if job.state in ENDED and job.ended < time.time() - seconds:
                self.remove(job)

    def files(self, job: Job) -> dict[str, Path]:
        """{name: file} of all that a job gives out; a name that is not here is not given."""
        return dict(_files(self.folder(job)))

    def sizes(self, job: Job) -> dict[str, int]:
        """Bytes of `files`; a preview that is replaced meanwhile is left out."""
        found = {}
        for name, path in self.files(job).items():
            with contextlib.suppress(OSError):
                found[name] = path.stat().st_size
        return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, prefix in (("inputs", "input_"), ("previews", "preview_"), ("result", "")):
        for path in sorted((folder / place).glob("*")):
            if path.is_file() and path.name[0] != ".":
                yield (path.name if path.name == "cameras.json" else f"{prefix}{path.name}"), path


def _read(folder: Path) -> Job | None:
    asked, state = recipe.read(folder / "job.json"), recipe.read(folder / "state.json")
    if asked is None or state is None or state.get("state") not in STATES:
        return None
    asked["cameras"] = tuple(asked["cameras"])
    return Job(folder.name, **asked, **{key: state[key] for key in STATE})


def _write_state(folder: Path, job: Job) -> None:
    with disk.whole(folder / "state.json") as partial:
        partial.write_text(json.dumps({key: getattr(job, key) for key in STATE}), encoding="utf-8")


def _sync(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
