"""Says which process of a run stopped, and ends the others so that the launcher starts anew.

A collective waits for ever for a process that is gone. So each process writes a heartbeat, one file
each in a folder that all see, from a thread of its own, and reads those of the others:

    silent    no beat for `silent` seconds: killed, or its host lost   -> the others leave, REQUEUE
    failed    it left with an error of its own and wrote it down       -> the others leave, FAILED
    stalled   all beat, but no step was begun for `stalled` seconds    -> all leave, REQUEUE

jax ends a process by abort() the moment the first process, which coordinates, is gone; the abort is
held back until the beats have shown who it was.

Each names the process, its host and its last step. Ages are measured on the reader's clock, from
the last change that it saw, so the hosts' clocks need not agree; a file that has not changed since
the reader started (an earlier attempt's) says nothing. A beat overwrites a block that the file has,
so that a full disk silences nobody.
"""

import ctypes
import dataclasses
import json
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger(__name__)
REQUEUE, FAILED = 143, 1  # exit statuses: start again; look first
SIZE = 1024  # bytes of a heartbeat


@dataclasses.dataclass
class _Peer:
    """What this process knows of another: its last words and when they changed."""

    words: dict[str, Any]
    changed: float | None = None  # time.monotonic() of the last change seen here


class Watchdog:
    """A context manager around a run of several processes; does nothing for a single one.

    Args:
      directory: of the heartbeats, one every process can write; made if missing.
      index, count: this process and their number; None asks jax.
      beat, silent, stalled: seconds between beats, until a process counts as gone, and until a run
        without progress is ended.
      leave: ends the process at once with a status; tests replace it.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        index: int | None = None,
        count: int | None = None,
        beat: float = 2.0,
        silent: float = 20.0,
        stalled: float = 1800.0,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self.directory = Path(directory)
        self.index = jax.process_index() if index is None else index
        self.count = jax.process_count() if count is None else count
        self.beat, self.silent, self.stalled, self._leave = beat, silent, stalled, leave
        self._peers = {i: _Peer({}) for i in range(self.count) if i != self.index}
        self._step, self._begun, self._beats = 0, time.monotonic(), 0
        self._stop = threading.Event()

    def __enter__(self) -> "Watchdog":
        if self.count > 1:
            self.directory.mkdir(parents=True, exist_ok=True)
            for index, peer in self._peers.items():
                peer.words = self._read(index)
            self._write("running")
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
            self._hold_aborts()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if self.count == 1:
            return
        failed = isinstance(error, Exception)
        if error is not None and _of_the_runtime(error):
            self._blame_another()
        self._stop.set()
        self._thread.join()
        self._write(f"failed: {type(error).__name__}: {str(error)[:150]}" if failed else "done")

    def step(self, step: int) -> None:
        """Notes that `step` begins (of the whole run or of a stage)."""
        self._step, self._begun = step, time.monotonic()

    def _blame_another(self) -> None:
        """Waits while a process may be found silent: its end is what broke the collective here.

        Where one is, the thread ends this process; where all others beat on, the error is ours.
        """
        log.error("a collective failed; waiting up to %.0f s for the others' beats", self.silent)
        end = time.monotonic() + self.silent + 2 * self.beat
        while time.monotonic() < end and not self._stop.wait(self.beat / 4):
            known = [p for p in self._peers.values() if p.words.get("state", "") != "running"]
            if len(known) == len(self._peers):
                return

    def _hold_aborts(self) -> None:
        # A C handler: abort() comes from a thread of C++, where Python's handlers never run.
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
        library = ctypes.CDLL(None)
        library.signal.restype, library.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, handler)

        def hold(_: int) -> None:
            if not self._stop.is_set():
                time.sleep(self.silent + 2 * self.beat)  # the thread may end the process

        self._handler = handler(hold)  # kept: C holds the pointer
        library.signal(signal.SIGABRT, self._handler)

    def _path(self, index: int) -> Path:
        return self.directory / f"{index}.json"

    def _read(self, index: int) -> dict[str, Any]:
        try:
            return json.loads(self._path(index).read_text())
        except (OSError, ValueError):  # not there yet, or being written
            return {}

    def _write(self, state: str) -> None:
        self._beats += 1
        words = {
            "state": state,
            "step": self._step,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beat": self._beats,
        }
        path = self._path(self.index)
        try:
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(json.dumps(words)[:SIZE].ljust(SIZE).encode())
        except OSError as error:
            log.warning("heartbeat: %s (%s)", path, error.strerror)

    def _run(self) -> None:
        while not self._stop.wait(self.beat):
            self._write("running")
            if verdict := self._judge(time.monotonic()):
                status, message = verdict
                log.error(message)
                logging.shutdown()
                self._stop.set()
                self._leave(status)
                return

    def _judge(self, now: float) -> tuple[int, str] | None:
        """Returns (exit status, what happened), None while all is well."""
        for index, peer in self._peers.items():
            words = self._read(index)
            if words and words != peer.words:
                peer.words, peer.changed = words, now
            if peer.changed is None or peer.words["state"] == "done":
                continue
            name = "process {} (host {host}, pid {pid}, step {step})".format(index, **peer.words)
            if peer.words["state"].startswith("failed"):
                return FAILED, f"{name} {peer.words['state']}; this process stops too"
            if now - peer.changed > self.silent:
                age = now - peer.changed
                return REQUEUE, (
                    f"{name} stopped: no heartbeat for {age:.0f} s; this process (step "
                    f"{self._step}) stops too, to be started again from the last checkpoint"
                )
        return self._judge_progress(now)

    def _judge_progress(self, now: float) -> tuple[int, str] | None:
        if now - self._begun <= self.stalled:
            return None
        steps = {self.index: self._step}
        steps |= {i: p.words["step"] for i, p in self._peers.items() if p.changed is not None}
        behind = [i for i, step in steps.items() if step == min(steps.values())]
        who = f"behind is process {behind}" if len(behind) < len(steps) else "all are at one step"
        return REQUEUE, f"no step was begun for {now - self._begun:.0f} s, steps {steps}: {who}"


def _of_the_runtime(error: BaseException) -> bool:
    """Whether XLA raised it.

    What fails while a call is dispatched comes as a ValueError that begins with a status, such as
    "UNKNOWN: Gloo AllGather failed: ...".
    """
    status = isinstance(error, ValueError) and re.match(r"[A-Z_]{5,}: ", str(error))
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(status)
