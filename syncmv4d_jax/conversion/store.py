"""Parameters on disk: one zarr3 array per path, chunked by layer, not compressed.

Any slice of an array can be read alone, so that a part restores onto any sharding.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

CHUNK_BYTES = 64 * 2**20  # of an array, within a layer


def _spec(folder: Path, path: str) -> dict[str, Any]:
    place = folder / "arrays" / path.replace("/", ".")
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place)}}


def open_array(folder: Path, path: str) -> ts.TensorStore:
    """Opens the array of a parameter; slices of it are read by `[...].read().result()`.

    Raises:
      FileNotFoundError: it is not there.
    """
    try:
        return ts.open(_spec(folder, path), open=True).result()
    except ValueError as error:
        raise FileNotFoundError(f"{folder}: no array of {path}: {error}") from error


def chunk_shape(shape: tuple[int, ...], *, stacked: bool, itemsize: int) -> list[int]:
    """One layer to a chunk, and parts of the layer's first axis where that is large."""
    chunk = [1, *shape[1:]] if stacked else list(shape)
    axis = int(stacked)
    if len(shape) > axis:
        row = math.prod(chunk[axis + 1 :]) * itemsize
        chunk[axis] = max(1, min(chunk[axis], CHUNK_BYTES // max(row, 1)))
    return chunk


def write_array(
    folder: Path,
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    layers: Sequence[int | None],
    read: Callable[[int | None], np.ndarray],
    progress: Callable[[int], Any],
) -> None:
    """Writes a parameter layer by layer.

    Args:
      folder, path: where.
      shape, dtype: of the whole array, layers stacked.
      layers: indices to ask `read` for; (None,) if the parameter is not stacked.
      read: layer -> array, cast to `dtype` here.
      progress: called with the bytes of every layer written.
    """
    chunk = chunk_shape(shape, stacked=layers[0] is not None, itemsize=dtype.itemsize)
    metadata = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    store = ts.open(
        _spec(folder, path) | {"metadata": metadata},
        dtype=ts.dtype(dtype.name),
        shape=shape,
        create=True,
    ).result()
    for layer in layers:
        array = np.ascontiguousarray(read(layer).astype(dtype, copy=False))
        store[... if layer is None else layer].write(array).result()
        progress(array.nbytes)
