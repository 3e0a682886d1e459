"""What is answered of a request's meshes and depth: points for the page, or what is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np

from syncmv4d_jax.results.web import tracks


class Wrong(ValueError):
    """What cannot be used; `where` is the field."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


def packed(moved: np.ndarray) -> dict[str, Any]:
    """Points as the page reads them.

    Args:
      moved: [n k 3] metres.
    """
    centre, radius = tracks.extent(moved)
    unit = radius / 8000
    return {"centre": centre.tolist(), "radius": radius, "unit": unit, "frames": len(moved),
            "generated": tracks.pack(moved, centre, unit)}  # fmt: skip


def answered(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a reading gives, or {"error", "where"}."""
    try:
        return read()
    except Wrong as error:
        return {"error": str(error), "where": error.where}
    except MemoryError:
        return {"error": "takes more memory than it may", "where": ""}
