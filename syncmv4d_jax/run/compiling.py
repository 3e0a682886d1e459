"""What is told while programs compile: how long it took the last time, never a bare 0 %.

`Times` keeps the seconds from a sample's start to the end of its first steps, where these had to be
compiled, by all that decides the programs (`key`): compiled.json in a folder. What the persistent
cache of JAX has is ready sooner, and the next time is told so.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import disk, recipe
from syncmv4d_jax.run import sections
from syncmv4d_jax.tasks import base

log = logging.getLogger(__name__)
FILE = "compiled.json"
KEPT = 200  # entries, the latest
Told = Callable[[float | None], Any]


def key(own: sections.Sections, task: base.Sampled, arrays: Mapping[str, Any]) -> str:
    """A mark of all that decides which programs a sample of these inputs runs."""
    shapes = {
        name: [*np.shape(x), str(np.asarray(x).dtype)]
        for name, x in arrays.items()
        if not isinstance(x, str)
    }
    device = jax.devices()[0]
    where = {"kind": device.device_kind, "count": jax.device_count(), "jax": jax.__version__}
    how = {"task": own.task, "mesh": own.mesh, "precision": own.sample.precision}
    return recipe.mark({**how, "sampling": task.sampling._asdict(), "shapes": shapes, **where})


def words(seconds: float | None) -> str:
    """What is told: of a time that is known, or of none."""
    known = "not timed before" if seconds is None else f"about {max(1, round(seconds))} s"
    return f"compiling ({known})"


class Times:
    """Seconds that programs took to be ready, and which of this process's are."""

    def __init__(self, workdir: str | Path = "") -> None:
        """Args: workdir: has the file; "": beside JAX's persistent cache, or nothing is kept."""
        cached = getattr(jax.config, "jax_compilation_cache_dir", None)
        place = str(workdir or cached or "")
        self._file = Path(place) / FILE if place and "://" not in place else None
        self.ready: set[str] = set()

    def about(self, name: str) -> float | None:
        """Seconds that it took the last time, None where nobody knows."""
        found = self._read().get(name)
        return float(found) if isinstance(found, int | float) else None

    def note(self, name: str, seconds: float) -> None:
        """Keeps what it took now."""
        self.ready.add(name)
        if self._file is None:
            return
        rows = {k: x for k, x in self._read().items() if k != name} | {name: round(seconds, 1)}
        try:
            with disk.whole(self._file) as partial:
                partial.write_text(json.dumps(dict(list(rows.items())[-KEPT:])), encoding="utf-8")
        except OSError as error:  # the next time is not told how long it takes, and that is all
            log.info("%s: not written (%s)", self._file, error.strerror)

    def _read(self) -> dict[str, Any]:
        return (recipe.read(self._file) or {}) if self._file is not None else {}


class Progress:
    """Steps of samples on the terminal: `start` each sample, then `advance`."""

    def __init__(self, steps: int, times: Times, told: Told | None = None) -> None:
        """Args: told: called with `Times.about` before a sample that compiles."""
        self._bar = tqdm(total=steps, unit="step", bar_format="{desc}")
        self._times, self._told = times, told
        self._key, self._name, self._before, self._since = "", "", 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def start(self, name: str, programs: str) -> None:
        """A sample begins.

        Args:
          programs: what it runs, by `key`.
        """
        self._name, self._key, self._before = name, programs, self._bar.n
        self._since = time.perf_counter()
        if programs in self._times.ready:
            self._bar.bar_format = None
            self._bar.set_description(name)
            return
        seconds = self._times.about(programs)
        self._bar.bar_format = "{desc}"
        self._bar.set_description_str(f"{name}: {words(seconds)}")
        if self._told is not None:
            self._told(seconds)

    def advance(self, done: int) -> None:
        """So many of the sample's steps are done."""
        if self._key not in self._times.ready:
            self._times.note(self._key, time.perf_counter() - self._since)
            self._bar.bar_format = None
            self._bar.set_description(self._name, refresh=False)
        self._bar.update(self._before + done - self._bar.n)

    def skip(self, steps: int) -> None:
        """So many steps need not be made."""
        self._bar.bar_format = None
        self._bar.update(steps)
