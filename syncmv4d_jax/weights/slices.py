"""Parameters at rest, read slice by slice into the shards of this process's devices.

A host never holds a leaf as a whole: a device's shard is filled in pieces of PIECE bytes, handed
over and forgotten, and all shards under way at once stay within STAGING bytes (or are one). Of a
leaf that several devices hold alike one copy is read.
"""

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np

PIECE = 64 * 2**20
STAGING = 512 * 2**20
READERS = 2
Index = tuple[slice, ...]


class Leaf(NamedTuple):
    """An array at rest: `read` gives the part that `Index` names, in `dtype`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]


class Source(Protocol):
    """Parameters at rest, by path.

    Attributes:
      where: what to call it in an error.
      beside: {part: mark} of the parts that these belong to, see checkpoint.part_marks.
    """

    where: str

    @property
    def beside(self) -> Mapping[str, str]: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """{path: shape}."""
        ...

    def load(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Returns the leaves that are wanted, cast and placed.

        Args:
          wanted: {path: dtype and sharding}; without a sharding a leaf goes to the default device.
        """
        ...


class Files:
    """A `Source` of leaves in files."""

    def __init__(
        self, where: str, leaves: Mapping[str, Leaf], beside: Mapping[str, str] | None = None
    ) -> None:
        self.where, self.leaves, self.beside = where, leaves, dict(beside or {})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{path: shape}."""
        return {name: leaf.shape for name, leaf in self.leaves.items()}

    def load(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """As `Source.load`."""
        room = _Room(STAGING)

        def one(name: str) -> jax.Array:
            return place(self.leaves[name], wanted[name], room)

        with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
            return dict(zip(wanted, pool.map(one, wanted), strict=True))


class _Room:
    """Bytes of host memory that threads share; one that wants more than all gets all."""

    def __init__(self, size: int) -> None:
        self.size, self._free, self._changed = size, size, threading.Condition()

    @contextlib.contextmanager
    def take(self, wanted: int) -> Iterator[None]:
        """Waits until there is room for `wanted` bytes and holds it."""
        wanted = min(wanted, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def place(leaf: Leaf, wanted: jax.ShapeDtypeStruct, room: _Room) -> jax.Array:
    """Reads a leaf into its shards, cast to the dtype that is wanted."""
    sharding = wanted.sharding
    if sharding is None:
        with room.take(math.prod(leaf.shape) * np.dtype(wanted.dtype).itemsize):
            whole = (slice(None),) * len(leaf.shape)
            return jax.block_until_ready(jax.device_put(_filled(leaf, whole, wanted.dtype)))
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    shards = []
    for bounds, devices in holders.items():
        size = math.prod(b - a for a, b in bounds) * np.dtype(wanted.dtype).itemsize
        with room.take(size):
            shard = _filled(leaf, tuple(slice(*b) for b in bounds), wanted.dtype)
            shards += jax.block_until_ready([jax.device_put(shard, d) for d in devices])
            del shard
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _filled(leaf: Leaf, index: Index, dtype: np.dtype) -> np.ndarray:
    """Returns a part of a leaf, read in pieces."""
    bounds = [s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True)]
    out = _aligned(tuple(b - a for a, b in bounds), np.dtype(dtype))
    for piece in pieces(out.shape, leaf.dtype.itemsize):
        there = tuple(
            slice(a + s.start, a + s.stop) for (a, _), s in zip(bounds, piece, strict=True)
        )
        out[piece] = leaf.read(there).astype(dtype, copy=False)
    return out


def pieces(shape: tuple[int, ...], itemsize: int) -> Iterator[Index]:
    """Yields slices that cover an array, each of at most PIECE bytes (or one row of each axis)."""
    steps, rest = [1] * len(shape), PIECE // itemsize
    for axis in reversed(range(len(shape))):  # whole trailing axes, as many as there is room for
        steps[axis] = max(1, min(shape[axis], rest))
        rest //= max(shape[axis], 1)
    grid = [range(0, n, step) for n, step in zip(shape, steps, strict=True)]
    for starts in np.ndindex(*(len(r) for r in grid)):
        begin = [r[i] for r, i in zip(grid, starts, strict=True)]
        ends = [min(b + s, n) for b, s, n in zip(begin, steps, shape, strict=True)]
        yield tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that a CPU device takes over without a copy: it begins at 64 bytes."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
