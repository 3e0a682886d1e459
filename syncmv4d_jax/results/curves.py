"""metrics.jsonl: one line a logged step, written and read here."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syncmv4d_jax import disk

log = logging.getLogger(__name__)


class Jsonl:
    """metrics.jsonl: one JSON object a logged step, steps strictly ascending across restarts.

    Args:
      path: made if missing. Lines of steps after `last_step` (written by a run that died before it
        saved them) are removed, so that they are written again.
      last_step: the step that training goes on from.
    """

    def __init__(self, path: str | Path, *, last_step: int) -> None:
        self.path = Path(path)
        kept = [row for row in read(self.path) if row["step"] <= last_step]
        with disk.whole(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file, self._pending = self.path.open("ab", buffering=0), b""

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one line; floats that JSON lacks become strings ("nan", "inf").

        What a full disk refuses is kept and written with the next line, or at the end.
        """
        clean = {
            key: str(x) if isinstance(x, float) and not math.isfinite(x) else x
            for key, x in row.items()
        }
        self._pending += json.dumps(clean).encode() + b"\n"
        if reason := self._flush():
            log.warning("%s: %s; training goes on", self.path, reason)

    def _flush(self) -> str:
        """Writes what is pending; returns why it could not, "" where it did."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as error:
            return error.strerror or type(error).__name__
        return ""

    def close(self) -> None:
        """Writes what is left; what cannot be written is told."""
        if reason := self._flush():
            rows = self._pending.count(b"\n")
            log.error("%s: %s; its last %d rows are lost", self.path, reason, rows)
        self._file.close()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; a last line cut short by a crash is left out."""
    rows = []
    if Path(path).exists():
        for line in Path(path).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows
