"""The process that makes samples: one a set of devices, apart from the one that answers.

It loads the weights once and then makes one job after another; what it says of them goes through a
pipe as (word, id, {...}). It can be killed at any time: what a job makes is written under a hidden
name and gets its own, `result`, when it is whole. It ends when the process that started it is gone,
and holds a lock of its own until then, which the next server waits for: of one folder never two
workers make samples.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, process
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

Tell = Callable[..., None]


class Cancelled(Exception):
    """The job at hand is not wanted any more."""


class Maker(Protocol):
    """What makes a sample; it is made in the worker."""

    def __call__(self, request: dict[str, Any], folder: Path, target: Path, tell: Tell, /) -> None:
        """Makes one.

        Args:
          request: of the job, as serve/requests.py checked it.
          folder: of the job, with inputs; previews may be put there.
          target: an empty folder for what is made.
          tell: called as tell(word, **values) on the way; raises Cancelled where it is to stop.

        Raises:
          ValueError, OSError: the inputs will not do; its sentence is told.
        """
        ...


def main(pipe: connection.Connection, root: Path, load: Callable[[], Maker]) -> None:
    """Loads, then makes what it is told until the pipe ends.

    Args:
      root: of the jobs.
      load: makes the maker; it comes through a pickle.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The bar's own lock would be one of all processes: whoever kills this one is told of a leak.
    tqdm.set_lock(threading.RLock())
    with alone(root):
        try:
            make = load()
        except (ValueError, KeyError, OSError, ImportError) as error:
            pipe.send(("broken", "", {"message": f"{type(error).__name__}: {error}"}))
            return
        pipe.send(("ready", "", {}))
        while True:
            try:
                word, name, request = pipe.recv()
            except EOFError:
                return
            if word == "make":
                _job(pipe, root / name, request, make)


def _job(pipe: connection.Connection, folder: Path, request: dict[str, Any], make: Maker) -> None:
    def tell(word: str, **values: Any) -> None:
        while pipe.poll():
            said, name, _ = pipe.recv()
            if said == "cancel" and name == folder.name:
                raise Cancelled
        pipe.send((word, folder.name, values))

    partial = folder / ".result"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(request, folder, partial, tell)
        tell("progress", phase="done")  # the last moment to be cancelled
        partial.rename(folder / "result")
    except Cancelled:
        shutil.rmtree(partial, ignore_errors=True)
        pipe.send(("cancelled", folder.name, {}))
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        known = isinstance(error, ValueError | KeyError | OSError)
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        values = {
            "code": "bad_input" if known else "internal",
            "message": message if known else f"{type(error).__name__}: {message}",
        }
        pipe.send(("failed", folder.name, values))
    else:
        pipe.send(("made", folder.name, {}))


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Holds the right to make samples of this folder; waits while another process has it.

    The system gives it back when its holder dies, however that came.
    """
    handle = os.open(root / ".worker", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _end_with_parent() -> None:
    parent = process.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
