"""Files and folders that are there whole or not at all.

A reader on another process or machine sees the former content of a path or the new one, never half
of one, also when the writer is killed: content is written under a hidden name beside the path,
`.<name>.<machine>-<process>-<thread>.partial`, and takes its own name when it is whole. Processes
and threads that write the same path don't disturb each other: the last one stays. What a killed
process left is removed by the next one that writes the path on that machine.
"""

import argparse
import contextlib
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Gives the name to write a file or folder at; it becomes `path` when the block ends.

    Folders above are made. A file there is replaced in one step, a folder is removed right before.
    After an error nothing new is left, and `path` is as it was.

        with disk.whole(path) as partial:
            partial.write_text(text)
    """
    path = Path(path)
    with beside(path) as partial:
        yield partial
        if partial.is_dir() and path.is_dir():
            shutil.rmtree(path)
        partial.replace(path)


@contextlib.contextmanager
def beside(path: str | Path) -> Iterator[Path]:
    """Gives a free hidden name on the same file system as `path`; what is left there is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{path.name}.{platform.node()}-"
    mine = f"{os.getpid()}-{threading.get_native_id()}"
    for other in path.parent.iterdir():
        name = other.name
        if name.startswith(stem) and name.endswith(".partial"):
            owner = name.removeprefix(stem).removesuffix(".partial")
            process = owner.split("-")[0]
            if process.isdigit() and (owner == mine or not runs(int(process))):
                _remove(other)
    partial = path.with_name(f"{stem}{mine}.partial")
    try:
        yield partial
    finally:
        _remove(partial)


class Remote(ValueError, argparse.ArgumentTypeError):
    """An address where a path of this machine is wanted; argparse shows it as it is."""


def local(path: str | Path, *, where: str = "") -> Path:
    """Returns a path of this machine.

    Everything here is files: checkpoints, records, samples and caches are renamed into place and
    read in pieces. An address like gs://bucket/run would become a folder named "gs:".

    Raises:
      Remote: an address; where names the setting.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", str(path))
    if found:
        tools = {"gs": "gcsfuse", "s3": "mountpoint-s3"}
        tool = tools.get(found[1].lower(), "the storage's own tool")
        raise Remote(
            f"{where}{'=' if where else ''}{path}: wanted a folder or file of this machine, "
            f"{found[1]}:// is not read or written directly; mount it ({tool}) and give the "
            "mounted path, or copy"
        )
    return Path(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def runs(process: int) -> bool:
    """Whether a process of this machine runs, as far as this one may know."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process number, not ours
        return True
    return True
