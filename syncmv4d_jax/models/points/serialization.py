"""Space-filling curves: integer grid cells -> places on a z-order or Hilbert curve, without
64-bit integers.

A code of depth D has 3 D bits (D <= 16). It is held in two int32 words of 24 bits, code =
hi << 24 | lo, so that sorting by (hi, lo) sorts by code with plain int32 keys. For D <= 10 the
code has at most 30 bits and `join` gives it as one int32 word, which sorts faster.

    z(x, y, z)      bit i of x, y, z -> bits 3i+2, 3i+1, 3i
    hilbert         Skilling, "Programming the Hilbert curve" (2004): per level, exchange or
                    invert the lower bits of the axes; interleave; then Gray code to binary
                    (a prefix xor over the whole word)
    *-trans         the same curve with x and y exchanged

Truncation: code(grid, depth) >> 3 == code(grid >> 1, depth - 1) for all four curves.

Values equal those of Point Transformer V3 (github.com/Pointcept/PointTransformerV3 @3229e9b,
serialization/).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
MAX_DEPTH = 16
WORD_DEPTH = 10  # deepest curve whose code fits one non-negative int32
_LOW = 8  # levels held by the low word


def encode(grid: jax.Array, *, depth: int, order: str) -> tuple[jax.Array, jax.Array]:
    """Returns the place of each cell on a curve.

    Args:
      grid: [... 3] integer cells, each in [0, 2**depth).
      depth: levels of the curve, 1 to 16.
      order: one of `ORDERS`.

    Returns:
      (hi, lo): [...] int32 each, 24 bits a word, code = hi << 24 | lo.

    Raises:
      ValueError: unknown order, depth out of range, not integer cells of three axes, or (outside
        of jit) cells outside of the curve.
    """
    _check(grid, depth, order)
    axes = [grid[..., i].astype(jnp.uint32) for i in range(3)]
    if order.endswith("-trans"):
        axes = [axes[1], axes[0], axes[2]]
    if order.startswith("hilbert"):
        axes = _hilbert_axes(axes, depth)
    high = _interleave([x >> _LOW for x in axes], max(depth - _LOW, 0))
    low = _interleave([x & ((1 << _LOW) - 1) for x in axes], min(depth, _LOW))
    if order.startswith("hilbert"):
        high, low = _gray_to_binary(high), _gray_to_binary(low)
        width = 3 * min(depth, _LOW)
        low = jnp.where((high & 1) == 1, low ^ jnp.uint32((1 << width) - 1), low)
    return high.astype(jnp.int32), low.astype(jnp.int32)


def join(hi: jax.Array, lo: jax.Array, *, depth: int) -> jax.Array:
    """Returns the code as one int32 word; possible for depth <= 10.

    Raises:
      ValueError: the code does not fit.
    """
    if depth > WORD_DEPTH:
        raise ValueError(
            f"a code of depth {depth} has {3 * depth} bits: wanted depth <= {WORD_DEPTH}"
        )
    return (hi << 24) | lo


def permutation(
    grid: jax.Array, valid: jax.Array, *, depth: int, order: str
) -> tuple[jax.Array, jax.Array]:
    """Returns the order of points along a curve: valid points first, ties in index order.

    Args:
      grid: [... p 3] integer cells.
      valid: [... p] bool; rows that are not valid come last.
      depth, order: as in `encode`.

    Returns:
      (order, inverse): [... p] int32, sorted = x[order], x = sorted[inverse].
    """
    if valid.shape != grid.shape[:-1]:
        raise ValueError(f"valid: wanted shape {grid.shape[:-1]} of the grid, got {valid.shape}")
    hi, lo = encode(grid, depth=depth, order=order)
    index = lax.broadcasted_iota(jnp.int32, valid.shape, valid.ndim - 1)
    keys: tuple[jax.Array, ...]
    if depth <= WORD_DEPTH:
        keys = (jnp.where(valid, join(hi, lo, depth=depth), jnp.iinfo(jnp.int32).max),)
    else:
        keys = (jnp.where(valid, hi, 1 << 24), lo)
    *_, forward = lax.sort((*keys, index), dimension=-1, num_keys=len(keys), is_stable=True)
    _, inverse = lax.sort((forward, index), dimension=-1, num_keys=1)
    return forward, inverse


def _check(grid: jax.Array, depth: int, order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"order: wanted one of {ORDERS}, got {order!r}")
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth: wanted 1..{MAX_DEPTH}, got {depth}")
    if grid.shape[-1:] != (3,) or not jnp.issubdtype(grid.dtype, jnp.integer):
        raise ValueError(f"grid: wanted integers [... 3], got {grid.dtype} {grid.shape}")
    if isinstance(grid, jax.core.Tracer) or not grid.size:
        return
    cells = np.asarray(grid)  # inside of jit even a concrete array's own min() would be traced
    low, high = int(cells.min()), int(cells.max())
    if low < 0 or high >= 1 << depth:
        raise ValueError(
            f"grid: wanted cells in [0, {1 << depth}) at depth {depth}, got [{low}, {high}]"
        )


def _interleave(axes: list[jax.Array], bits: int) -> jax.Array:
    word = jnp.zeros_like(axes[0])
    for i in range(bits):
        for place, axis in zip((2, 1, 0), axes, strict=True):
            word |= ((axis >> i) & 1) << (3 * i + place)
    return word


def _hilbert_axes(axes: list[jax.Array], depth: int) -> list[jax.Array]:
    """Turns cell coordinates into the transposed Gray code of their place on the Hilbert curve."""
    axes = list(axes)
    for bit in range(depth - 1, 0, -1):  # the lowest level has no lower bits to change
        below = jnp.uint32((1 << bit) - 1)
        for i in range(3):
            on = ((axes[i] >> bit) & 1) == 1
            swap = (axes[0] ^ axes[i]) & below
            first = jnp.where(on, axes[0] ^ below, axes[0] ^ swap)
            if i:
                axes[i] = jnp.where(on, axes[i], axes[i] ^ swap)
            axes[0] = first
    return axes


def _gray_to_binary(word: jax.Array) -> jax.Array:
    for shift in (1, 2, 4, 8, 16):
        word ^= word >> shift
    return word
