"""The queue: one job at a time to the worker, and what the worker says to everybody who asks.

A thread of the server. It starts the worker, hands it the job that waits longest, keeps its
progress, and ends it where it must: a job that is cancelled is asked to stop between two steps,
and the process is killed where it has not GRACE seconds later or where the job's time is over. A
worker that dies takes its job with it, as failed; the next one starts.
"""

import collections
import dataclasses
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from syncmv4d_jax.serve import jobs, worker

GRACE = 10.0  # seconds from asking a job to stop to killing it
BEAT = 0.05  # seconds between two looks at the worker
EXPIRY = 60.0  # seconds between two looks for jobs that have expired
DEATHS = 3  # of workers in a row, none of which was ever ready: no other is started


@dataclasses.dataclass
class Now:
    """What runs: job id, phase, steps, when it began and when its first steps were done."""

    name: str
    phase: str = "starting"
    done: int = 0
    steps: int = 0
    began: float = 0.0
    first: tuple[int, float] = (0, 0.0)
    last: float = 0.0
    asked: float = 0.0  # to stop
    compiles: float | None = None  # seconds that it took the last time

    def eta(self) -> float | None:
        """Seconds that its steps will take, None before two runs of steps are done.

        The first one has the compiling in it and does not count.
        """
        done, at = self.first
        if self.done <= done or not self.steps:
            return None
        return (self.steps - self.done) * (self.last - at) / (self.done - done)


class Dispatcher:
    """Runs the jobs of a store; `broken` is a sentence where no worker can."""

    def __init__(
        self,
        store: jobs.Store,
        load: Callable[[], worker.Maker],
        *,
        seconds: float,
        keep: float,
        grace: float = GRACE,
    ) -> None:
        """Args: seconds: of a job, at most. keep: after its end, before a job is removed."""
        self.store, self.broken, self.ready = store, "", False
        self.counts: collections.Counter[str] = collections.Counter()
        self.busy = 0.0  # seconds spent on jobs that ended
        self._load, self._seconds, self._keep, self._grace = load, seconds, keep, grace
        self._now: Now | None = None
        self._version: collections.Counter[str] = collections.Counter()
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Any = None
        self._deaths = 0

    def start(self) -> None:
        """Waits for a former worker's end, looks at what it left, and begins."""
        with worker.alone(self.store.root):
            self.store.recover()
        self._thread.start()

    def stop(self) -> None:
        """Ends the worker; what it was making is queued when the next server starts."""
        self._stop.set()
        self._thread.join()
        self._end()

    def cancel(self, job: jobs.Job) -> jobs.Job:
        """Takes a job out of the queue, or asks the worker to stop it."""
        with self._lock:
            job = self.store.get(job.id) or job
            if job.state == "queued":
                job = self._ended(job, "cancelled")
            elif job.state == "running" and self._now is not None and self._now.name == job.id:
                self._now.asked = self._now.asked or time.monotonic()
                self._now.phase = "stopping"
                self._say(job.id)
                if self._pipe is not None:
                    self._send("cancel", job.id, None)
            return job

    def remove(self, job: jobs.Job) -> None:
        """Cancels a job if it is wanted no more, and removes it; one that runs is killed."""
        with self._lock:
            job = self.store.get(job.id) or job
            if job.state == "running" and self._now is not None and self._now.name == job.id:
                self._end()
                self._ended(job, "cancelled")
            elif job.state == "queued":
                self._ended(job, "cancelled")
            self.store.remove(job)
            self._version.pop(job.id, None)

    def version(self, name: str) -> int:
        """A number that grows with everything that happens to a job."""
        return self._version[name]

    def progress(self, name: str) -> dict[str, Any]:
        """Phase, steps done, steps and seconds left of the job that runs, and the seconds that its
        programs took to compile the last time; {} of another."""
        now = self._now
        if now is None or now.name != name:
            return {}
        eta = now.eta()
        return {
            "phase": now.phase,
            "done": now.done,
            "steps": now.steps,
            "seconds": round(time.monotonic() - now.began, 1),
            "eta_seconds": None if eta is None else round(eta, 1),
            "compile_seconds": now.compiles,
        }

    def running(self) -> int:
        """How many jobs run: one or none."""
        return int(self._now is not None)

    def _run(self) -> None:
        # The worker, which this thread starts, inherits it: a terminal's Ctrl-C is for the server,
        # and would end a worker that still imports with a traceback. The tracker's start unblocks.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        checked = 0.0
        while not self._stop.wait(BEAT):
            with self._lock:
                if not self.broken:
                    self._listen()
                    self._limits()
                    self._next()
            if time.monotonic() - checked > EXPIRY:
                checked = time.monotonic()
                self.store.expire(self._keep)

    def _listen(self) -> None:
        """Starts a worker where there is none, and takes what it says."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=worker.main, args=(theirs, self.store.root, self._load), daemon=True
            )
            self._process.start()
            theirs.close()
        try:
            while self._pipe.poll():
                self._heard(*self._pipe.recv())
        except (EOFError, OSError):
            self._died()

    def _heard(self, word: str, name: str, values: dict[str, Any]) -> None:
        if word == "broken":
            self.broken = values["message"]
        elif word == "ready":
            self.ready, self._deaths = True, 0
        now = self._now
        job = self.store.get(name)
        if now is None or job is None or now.name != name:
            return
        if word == "progress":
            now.phase = now.phase if now.asked else values.get("phase", now.phase)
            now.steps = values.get("steps", now.steps)
            now.compiles = values.get("compile_seconds", now.compiles)
            if values.get("done", 0) > now.done:
                now.done, now.last = values["done"], time.monotonic()
                now.first = now.first if now.first[0] else (now.done, now.last)
            self._say(name)
        elif word == "preview":
            self._say(name)
        elif word == "made":
            self._ended(job, "done")
        elif word == "cancelled":
            self._ended(job, "cancelled")
        elif word == "failed":
            self._ended(job, "failed", {**values, "where": ""})

    def _died(self) -> None:
        """The worker ended by itself."""
        process, self._process, self._pipe = self._process, None, None
        assert process is not None  # whose pipe has ended
        process.join(self._grace)
        self._deaths += not self.ready
        self.ready = False
        if self._now is not None and (job := self.store.get(self._now.name)) is not None:
            words = f"the process that made it ended with status {process.exitcode}"
            self._ended(job, "failed", {"code": "internal", "message": words, "where": ""})
        if self._deaths >= DEATHS:
            self.broken = f"the worker ended {DEATHS} times before it was ready, see its output"

    def _limits(self) -> None:
        now = self._now
        if now is None or (job := self.store.get(now.name)) is None:
            return
        at = time.monotonic()
        if now.asked and at - now.asked > self._grace:
            self._end()
            self._ended(job, "cancelled")
        elif at - now.began > self._seconds:
            self._end()
            words = f"took longer than {self._seconds:g} s, which a job may here: fewer steps?"
            self._ended(job, "failed", {"code": "timeout", "message": words, "where": ""})

    def _next(self) -> None:
        if not self.ready or self._now is not None or not (waiting := self.store.waiting()):
            return
        job = waiting[0]
        job = self.store.change(
            job, state="running", attempts=job.attempts + 1, started=time.time()
        )
        self._now = Now(job.id, began=time.monotonic())
        self._say(job.id)
        self._send("make", job.id, dict(job.request))

    def _send(self, *message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            self._died()

    def _ended(self, job: jobs.Job, state: str, error: dict[str, str] | None = None) -> jobs.Job:
        if self._now is not None and self._now.name == job.id:
            self.busy += time.monotonic() - self._now.began
            self._now = None
        if (self.store.folder(job) / "result").is_dir():  # it was made all the same
            state, error = "done", None
        else:
            shutil.rmtree(self.store.folder(job) / ".result", ignore_errors=True)
        job = self.store.change(job, state=state, ended=time.time(), error=error or {})
        self.counts[state] += 1
        self._say(job.id)
        return job

    def _say(self, name: str) -> None:
        self._version[name] += 1

    def _end(self) -> None:
        """Kills the worker; the next round starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
        self._process, self._pipe, self.ready = None, None, False
