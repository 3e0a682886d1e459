"""What a result was made from, and who is making it now.

A recipe is what of the settings and the inputs decides a result, as plain JSON: settings as they
are, inputs by a mark of their content, `code`, which is raised where the same settings begin to
give something else. It lies beside the result: as `recipe.json` in a folder, as an entry of a
file's own JSON. Where the same recipe is found, work goes on; where another one is, the work gets a
name of its own, or is refused with every difference, as `key: was X, is Y`.

A `Lock` keeps two processes from filling one folder. It is a hidden file with the host, the process
and when both began, touched while its owner lives. A process of the same machine is asked for; of
another machine, the file is watched for a beat: clocks are not compared. What a killed process left
is taken over, and told.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from syncmv4d_jax import disk

log = logging.getLogger(__name__)
CODE = 1  # see the module docstring
WHOLE = 16 * 2**20  # bytes of a file up to which its mark reads all of it
PIECE = 2**16  # of a larger one, which is not JSON: so much at its start, middle and end
SHOWN = 90  # characters of a value in a message
BEAT, SILENT = 5.0, 20.0  # seconds: a lock is touched, a lock without a beat is given up


class Other(ValueError):
    """A result that was made from something else."""


class Held(ValueError):
    """Another process writes there."""


def of(**parts: Any) -> dict[str, Any]:
    """Returns the recipe of these settings and marks, in its canonical form."""
    return {"code": CODE, **plain(parts)}


def plain(value: Any) -> Any:
    """Returns a value as JSON that is the same for the same content.

    Dataclasses and configurations become dicts, tuples lists, paths texts, whole floats integers,
    arrays marks of their shape, dtype and bytes; numbers that JSON lacks become texts.

    Raises:
      TypeError: something else, which has no content to compare.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "to_dict"):  # a ConfigDict
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(x) for key, x in value.items()}
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):  # numpy's; it is not loaded for this
        if value.ndim == 0:
            return plain(value.item())
        head = f"{value.dtype.name}{value.shape}".encode()
        return _short(hashlib.sha256(head + value.tobytes()))
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(x) for x in value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"recipe: wanted JSON values, arrays or settings, got {type(value).__name__}")


def mark(value: Any) -> str:
    """Returns a short hash of `plain(value)`; the order of keys does not count."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return _short(hashlib.sha256(text.encode()))


def content(path: str | Path) -> str:
    """Returns a short hash of a file's bytes, or of a folder's names and their files' bytes.

    Of a file beyond WHOLE bytes, a video mostly, its length and three pieces count; of JSON, as an
    index is, every byte. "" where nothing is, and of "".
    """
    if not str(path):  # not the working directory
        return ""
    path = Path(path)
    if path.is_dir():
        found = (p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith("."))
        return mark({p.relative_to(path).as_posix(): content(p) for p in found})
    if not path.is_file():
        return ""
    size = path.stat().st_size
    if size <= WHOLE or path.suffix == ".json":
        return _short(hashlib.sha256(path.read_bytes()))
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in (0, (size - PIECE) // 2, size - PIECE):
            file.seek(start)
            digest.update(file.read(PIECE))
    return _short(digest)


def _short(digest: Any) -> str:
    return digest.hexdigest()[:16]


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns every difference of two recipes as "key: was X, is Y"; [] where they are equal."""
    before, after = dict(_leaves(plain(was))), dict(_leaves(plain(now)))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: was {_show(before, key)}, is {_show(after, key)}"
        for key in keys
        if key not in before or key not in after or before[key] != after[key]
    ]


def _leaves(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, x in value.items():
        if isinstance(x, Mapping) and x:
            yield from _leaves(x, f"{above}{key}.")
        else:
            yield f"{above}{key}", x


def _show(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not there"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read(path: str | Path) -> dict[str, Any] | None:
    """Returns the JSON object in a file, None where there is none, or none that is whole."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: str | Path, recipe: Mapping[str, Any]) -> None:
    """Writes a recipe beside its result."""
    with disk.whole(path) as partial:
        partial.write_text(json.dumps(plain(recipe), indent=1), encoding="utf-8")


def claim(path: str | Path, recipe: Mapping[str, Any], *, way: str) -> None:
    """Writes the recipe of a folder that is to be filled, or checks that the one there is it.

    Args:
      path: of the file.
      way: what to do where it is another, for the message.

    Raises:
      Other: the folder is of another recipe; names every difference.
    """
    path = Path(path)
    if not path.is_file():
        write(path, recipe)
    elif differ := differences(read(path) or {}, recipe):
        where = path.parent
        raise Other(f"{where} was made from something else ({'; '.join(differ)}); {way}")


class Lock:
    """The right to fill a folder, until the block ends.

    Args:
      folder: made if it is missing.
      name: of the work, "train" for instance; works of other names do not disturb.
      beat, silent: seconds between two touches of the file, and without one until it is given up.

    Raises:
      Held: on entry, where another process does that work there; names it.
    """

    def __init__(
        self, folder: str | Path, name: str, *, beat: float = BEAT, silent: float = SILENT
    ) -> None:
        self.path = Path(folder) / f".{name}.lock"
        self._name, self._beat, self._silent = name, beat, silent
        self._mine = {
            "host": platform.node(),
            "machine": _machine(),
            "process": os.getpid(),
            "started": _started(os.getpid()),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "lock": os.urandom(4).hex(),
        }
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._create():
            there = read(self.path) or {}
            who = (
                f"process {there.get('process', '?')} on {there.get('host', '?')}, since "
                f"{there.get('since', '?')}"
            )
            if self._lives(there):
                raise Held(
                    f"{self.path.parent}: {self._name} is running there already ({who}); wait for "
                    f"it, stop it, or give another folder (its lock is {self.path})"
                )
            if self._remove(there):
                log.warning("%s: taken over from %s, which is gone", self.path, who)
        threading.Thread(target=self._touch, daemon=True, name=f"lock {self._name}").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._remove(self._mine)

    def _create(self) -> bool:
        """Whether the file is ours now: it appears whole, or it is another's."""
        with disk.beside(self.path) as partial:
            partial.write_text(json.dumps(self._mine))
            try:
                os.link(partial, self.path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links, as buckets that are mounted
                return self._create_unlinked()
        return True

    def _create_unlinked(self) -> bool:
        try:
            with self.path.open("x") as file:
                file.write(json.dumps(self._mine))
        except FileExistsError:
            return False
        return True

    def _remove(self, judged: Mapping[str, Any]) -> bool:
        """Removes the lock of which `judged` was read, and no other that came meanwhile."""
        aside = self.path.with_name(f"{self.path.name}-{self._mine['lock']}")
        if (read(self.path) or {}) != dict(judged):
            return False
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return False
        own = (read(aside) or {}) == dict(judged)
        if own:
            aside.unlink()
        else:
            aside.rename(self.path)  # its owner came between the two reads
        return own

    def _lives(self, there: Mapping[str, Any]) -> bool:
        if there.get("machine") == self._mine["machine"]:
            return there.get("started") == _started(there.get("process", 0)) != ""
        end, first = time.monotonic() + self._silent, self._beaten()
        while time.monotonic() < end:
            if self._beaten() != first:
                return self._beaten() != 0
            time.sleep(min(0.2, self._beat))
        return False

    def _beaten(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _touch(self) -> None:
        while not self._stop.wait(self._beat):
            if (read(self.path) or {}) != self._mine:
                log.error("%s: another process has taken over; stop one of the two", self.path)
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _machine() -> str:
    """What tells this machine, its boot and its container's processes from others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    spaces = Path("/proc/self/ns/pid")
    parts = [platform.node(), boot.read_text().strip() if boot.is_file() else ""]
    return mark([*parts, spaces.stat().st_ino if spaces.exists() else 0])


def _started(process: int) -> str:
    """When a process of this machine began, in its own units; "" where it does not run."""
    stat = Path(f"/proc/{process}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists() or not disk.runs(process):
            return ""
        return "runs"  # a system without /proc
    return "" if fields[0] in "ZX" else fields[19]
