"""Voxels of static capacity and their neighbour tables, for one cloud; callers vmap over clouds.

A cell (x, y, z) has the int32 key (x+2) << 20 | (y+2) << 10 | (z+2): ten bits an axis with a
guard of two cells, so that a neighbour of a 3- or 5-wide kernel never wraps into another row.
Voxels are the sorted unique keys. There are never more voxels than points, so a capacity of p
rows cannot overflow; rows beyond the last voxel hold the key `EMPTY`.

A neighbour table names, for each voxel and each offset of a k-wide kernel (C order of dx, dy,
dz), the row of the neighbour, or p where there is none. Three ways compute the same table: `sort`
(searches in the sorted keys; the default), `hash` (open addressing) and `dense` (a look-up
volume, for small grids).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GUARD = 2
CELLS = 1024 - 2 * GUARD  # cells an axis
EMPTY = np.int32(2**31 - 1)
CHUNK = 16384  # queries at once in larger clouds


class Voxels(NamedTuple):
    """Which points share a cell. `sorted` means in the order of keys; p marks "none".

    keys: [p] int32, ascending, unique, then EMPTY.  counts: [p] int32 points in each voxel.
    row: [p] int32 voxel of each point, p for points that are not valid.
    order, inverse: [p] int32, sorted = x[order], x = sorted[inverse].  sorted_row: [p] row[order].
    end: [p] int32 place, in sorted order, of each voxel's last point (0 in empty rows).
    """

    keys: jax.Array
    counts: jax.Array
    row: jax.Array
    order: jax.Array
    inverse: jax.Array
    sorted_row: jax.Array
    end: jax.Array


def quantise(
    points: jax.Array,
    valid: jax.Array,
    *,
    cell: float,
    origin: jax.Array | float = 0.0,
    cells: int = CELLS,
) -> tuple[jax.Array, jax.Array]:
    """Returns the cell of each point: floor((x - origin) / cell), clipped to the grid.

    Args:
      points: [... 3] float.  valid: [...] bool.  cell: edge length, in the unit of points.
      origin: the grid's low corner, a scalar or [... 3].  cells: cells an axis.

    Returns:
      (grid [... 3] int32, valid [...] bool): points that are not finite are no longer valid.
    """
    if valid.shape != points.shape[:-1]:
        raise ValueError(
            f"valid: wanted shape {points.shape[:-1]} of the points, got {valid.shape}"
        )
    finite = jnp.all(jnp.isfinite(points), axis=-1)
    place = jnp.floor((jnp.where(finite[..., None], points, 0.0) - origin) / cell)
    return jnp.clip(place, 0, cells - 1).astype(jnp.int32), valid & finite


def pack(grid: jax.Array) -> jax.Array:
    """Returns the keys [...] int32 of cells [... 3] in [0, CELLS)."""
    return ((grid[..., 0] + GUARD) << 20) | ((grid[..., 1] + GUARD) << 10) | (grid[..., 2] + GUARD)


def unpack(keys: jax.Array) -> jax.Array:
    """Returns the cells [... 3] int32 of keys; zeros for EMPTY."""
    cells = jnp.stack([(keys >> shift) & 1023 for shift in (20, 10, 0)], axis=-1) - GUARD
    return jnp.where((keys == EMPTY)[..., None], 0, cells)


def voxelise(grid: jax.Array, valid: jax.Array) -> Voxels:
    """Groups points by cell.

    Args:
      grid: [p 3] int32 cells in [0, CELLS).  valid: [p] bool.

    Raises:
      ValueError: mismatched shapes, or (outside of jit) cells outside of the key range.
    """
    if grid.ndim != 2 or grid.shape[1] != 3 or valid.shape != grid.shape[:1]:
        raise ValueError(f"wanted grid [p 3] and valid [p], got {grid.shape} and {valid.shape}")
    if not isinstance(grid, jax.core.Tracer) and not isinstance(valid, jax.core.Tracer):
        _check_range(np.asarray(grid), np.asarray(valid))
    size = grid.shape[0]
    index = jnp.arange(size, dtype=jnp.int32)
    keys, order = lax.sort((jnp.where(valid, pack(grid), EMPTY), index), num_keys=1, is_stable=True)
    present = keys != EMPTY
    first = present & jnp.concatenate([jnp.ones(1, bool), keys[1:] != keys[:-1]])
    rank = jnp.cumsum(first, dtype=jnp.int32) - 1
    sorted_row = jnp.where(present, rank, size)
    slot = jnp.where(first, rank, size)
    start = jnp.full(size + 1, jnp.sum(present), jnp.int32).at[slot].set(index, mode="drop")
    total = jnp.sum(present).astype(jnp.int32)
    start = jnp.where(jnp.arange(size + 1) <= rank[-1], start, total)
    inverse = jnp.zeros(size, jnp.int32).at[order].set(index, unique_indices=True)
    return Voxels(
        keys=jnp.full(size, EMPTY).at[slot].set(keys, mode="drop"),
        counts=start[1:] - start[:-1],
        row=sorted_row[inverse],
        order=order,
        inverse=inverse,
        sorted_row=sorted_row,
        end=jnp.maximum(start[1:] - 1, 0),
    )


def offsets(kernel: int) -> np.ndarray:
    """Returns the offsets [kernel**3 3] of a kernel in C order of (dx, dy, dz)."""
    if kernel not in (1, 3, 5):
        raise ValueError(
            f"kernel: wanted 1, 3 or 5 (the keys' guard is {GUARD} cells), got {kernel}"
        )
    line = np.arange(-(kernel // 2), kernel // 2 + 1)
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)


def neighbours(
    keys: jax.Array, *, kernel: int = 3, method: str = "sort", cells: int | None = None
) -> jax.Array:
    """Returns the neighbour table of voxels.

    Args:
      keys: [p] int32 ascending unique keys, then EMPTY.
      kernel: width, 1, 3 or 5.
      method: "sort", "hash" or "dense"; the tables are equal.
      cells: cells an axis of the look-up volume, for "dense".

    Returns:
      [p kernel**3] int32 rows, p where no voxel is; rows of EMPTY keys are all p. The table is
      symmetric: table[a, j] == b exactly when table[b, kernel**3 - 1 - j] == a.
    """
    size, shifts = keys.shape[0], offsets(kernel) @ np.array([1 << 20, 1 << 10, 1])
    if method == "sort":
        return _sort_table(keys, shifts.reshape(-1, kernel))
    if method == "hash":
        look_up = _hash_lookup(keys)
    elif method == "dense":
        if cells is None or not 1 <= cells <= 256:
            raise ValueError(f"method 'dense': wanted cells in 1..256, got {cells}")
        look_up = _dense_lookup(keys, cells)
    else:
        raise ValueError(f"method: wanted 'sort', 'hash' or 'dense', got {method!r}")

    def column(shift: jax.Array) -> jax.Array:
        return jnp.where(
            keys == EMPTY, size, look_up(jnp.where(keys == EMPTY, EMPTY, keys + shift))
        )

    return lax.map(column, jnp.asarray(shifts, jnp.int32)).T


def _sort_table(keys, shifts):
    """One search for each run of z-neighbours (consecutive keys); shifts [kernel**2 kernel]."""
    size, kernel = keys.shape[0], shifts.shape[1]

    def row(first):
        query = jnp.where(keys == EMPTY, EMPTY, keys + first)
        place = _search(keys, query)
        columns = []
        for j in range(kernel):
            there = jnp.minimum(place, size - 1)
            hit = (keys[there] == query + j) & (place < size) & (keys != EMPTY)
            columns.append(jnp.where(hit, place, size))
            place = place + hit
        return jnp.stack(columns)

    table = lax.map(row, jnp.asarray(shifts[:, 0], jnp.int32))
    return table.reshape(-1, size).T


def _search(keys, query):
    """searchsorted, `CHUNK` queries at once: each touches few of the keys, as both ascend."""

    def part(query):
        return jnp.searchsorted(keys, query, method="scan_unrolled").astype(jnp.int32)

    size = query.shape[0]
    if size <= CHUNK:
        return part(query)
    padded = jnp.pad(query, (0, -size % CHUNK), constant_values=EMPTY)
    return lax.map(part, padded.reshape(-1, CHUNK)).reshape(-1)[:size]


def _hash_lookup(keys):
    """Open addressing with linear probing at a load of at most one half: insertion always ends."""
    size = keys.shape[0]
    bits = max(3, int(np.ceil(np.log2(2 * size))))
    slots, mask = 1 << bits, (1 << bits) - 1

    def home(key):  # multiplicative hashing (Knuth): the top bits of key * 2**32 / phi
        return ((key.astype(jnp.uint32) * jnp.uint32(2654435761)) >> (32 - bits)).astype(jnp.int32)

    def insert(carry):
        table, place, pending, rounds = carry
        probe = (home(keys) + rounds) & mask
        claim = pending & (table[probe] == EMPTY)
        table = table.at[probe].min(jnp.where(claim, keys, EMPTY))
        won = claim & (table[probe] == keys)
        return table, jnp.where(won, probe, place), pending & ~won, rounds + 1

    start = (jnp.full(slots, EMPTY), jnp.zeros(size, jnp.int32), keys != EMPTY, jnp.int32(0))
    table, place, _, rounds = lax.while_loop(lambda carry: carry[2].any(), insert, start)
    index = jnp.where(keys == EMPTY, slots, place)
    rows = (
        jnp.full(slots, size, jnp.int32)
        .at[index]
        .set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    )

    def look_up(query):
        def probe(i, found):
            slot = (home(query) + i) & mask
            return jnp.where(table[slot] == query, rows[slot], found)

        return lax.fori_loop(0, rounds, probe, jnp.full(size, size, jnp.int32))

    return look_up


def _dense_lookup(keys, cells):
    size, width = keys.shape[0], cells + 2 * GUARD

    def place(key):
        axes = [(key >> shift) & 1023 for shift in (20, 10, 0)]
        inside = jnp.stack([axis < width for axis in axes]).all(axis=0) & (key != EMPTY)
        return jnp.where(inside, (axes[0] * width + axes[1]) * width + axes[2], width**3)

    volume = jnp.full(width**3 + 1, size, jnp.int32)
    volume = volume.at[place(keys)].set(jnp.arange(size, dtype=jnp.int32)).at[-1].set(size)
    return lambda query: volume[place(query)]


def _check_range(grid: np.ndarray, valid: np.ndarray) -> None:
    cells = grid[valid]
    if cells.size and (cells.min() < 0 or cells.max() >= CELLS):
        raise ValueError(
            f"grid: wanted cells in [0, {CELLS}), got [{cells.min()}, {cells.max()}] "
            f"in {len(cells)} points"
        )
