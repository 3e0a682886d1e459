"""Rotary positions over three axes (latent frame, row, column), Wan's layout.

A head of width d has d / 2 rotated pairs of neighbouring entries (x[2 i], x[2 i + 1]). Of the
pairs, d // 6 go to rows, as many to columns and the rest to frames (d = 128: 22, 21, 21). Pair i
of an axis with m pairs turns by position * theta^(-i / m): every axis has its own exponents. Tables
are made in float64 and stored in float32 (wan/modules/model.py, rope_params and rope_apply).
"""

import functools
from collections.abc import Sequence

import einops
import jax
import jax.numpy as jnp
import numpy as np

MAX_POSITION = 1024
Rotation = tuple[jax.Array, jax.Array]


def split(d_head: int) -> tuple[int, int, int]:
    """Returns the number of rotated pairs for (frame, row, column).

    Raises:
      ValueError: odd width.
    """
    if d_head % 2:
        raise ValueError(f"rope: wanted an even head width, got {d_head}")
    plane = d_head // 6
    return d_head // 2 - 2 * plane, plane, plane


@functools.lru_cache(maxsize=16)
def _angles(d_head: int, theta: float) -> tuple[np.ndarray, ...]:
    positions = np.arange(MAX_POSITION, dtype=np.float64)[:, None]
    return tuple(
        positions * np.power(theta, -np.arange(m, dtype=np.float64) / max(m, 1))[None]
        for m in split(d_head)
    )


def rotations(
    positions: np.ndarray | jax.Array, *, d_head: int, theta: float = 10000.0
) -> Rotation:
    """Returns the cosines and sines that rotate a head at the given positions.

    Args:
      positions: [... s 3] int, (frame, row, column), each in 0..1023. A numpy array is looked up
        while tracing, a jax array inside the program.
      d_head: width of a head.

    Returns:
      (cos, sin), each [... s d_head/2] float32.

    Raises:
      ValueError: last axis is not 3, or a static position is out of range.
    """
    if positions.shape[-1] != 3:
        raise ValueError(f"rope: wanted positions [... s 3], got {positions.shape}")
    static = isinstance(positions, np.ndarray)
    if static and positions.size and not 0 <= positions.min() <= positions.max() < MAX_POSITION:
        raise ValueError(
            f"rope: wanted positions in 0..{MAX_POSITION - 1}, "
            f"got {positions.min()}..{positions.max()}"
        )
    result = []
    for function in (np.cos, np.sin):
        tables = [function(a).astype(np.float32) for a in _angles(d_head, theta)]
        parts = [
            tables[i][positions[..., i]]
            if static
            else jnp.take(jnp.asarray(tables[i]), positions[..., i], axis=0)
            for i in range(3)
        ]
        result.append(np.concatenate(parts, -1) if static else jnp.concatenate(parts, -1))
    return jnp.asarray(result[0]), jnp.asarray(result[1])


def join(frames: Sequence[jax.Array], plane: Sequence[jax.Array], *, d_head: int) -> Rotation:
    """Returns the rotation with the frame's pairs of one and the plane's pairs of another.

    Args:
      frames, plane: (cos, sin), each [... d_head/2], of equal shapes.
      d_head: width of a head.
    """
    first = split(d_head)[0]
    cos, sin = (
        jnp.concatenate([x[..., :first], y[..., first:]], -1)
        for x, y in zip(frames, plane, strict=True)
    )
    return cos, sin


def grid_positions(grid: tuple[int, int, int], *, pad_to: int | None = None) -> np.ndarray:
    """Returns [s 3] int positions of a token grid (f, h, w), w fastest; padding sits at (0, 0, 0).

    Position zero is the identity rotation: padded tokens stay unrotated, as in the reference.

    Raises:
      ValueError: pad_to is smaller than the grid.
    """
    axes = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    positions = einops.rearrange(np.stack(axes, -1), "f h w a -> (f h w) a")
    if pad_to is None:
        return positions
    if pad_to < len(positions):
        raise ValueError(
            f"rope: grid {grid} has {len(positions)} tokens, more than pad_to={pad_to}"
        )
    return np.pad(positions, ((0, pad_to - len(positions)), (0, 0)))


def apply(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotates queries or keys, in float32.

    Args:
      x: [b s heads d_head].
      rotation: (cos, sin), each [s d_head/2] or [b s d_head/2]; nothing is differentiated by them.

    Returns:
      [b s heads d_head], dtype of x.
    """
    cos, sin = (r[None, :, None] if r.ndim == 2 else r[:, :, None] for r in rotation)
    return _turn(x, jnp.repeat(cos, 2, axis=-1), jnp.repeat(sin, 2, axis=-1))


@jax.custom_vjp
def _turn(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x cos + (the other of each pair, signed) sin."""
    # The other comes by a product with a signed permutation, exact in every dtype: on a TPU
    # it fuses with what follows, where shifts along the width, or an axis of size two, write
    # float32 copies of x, padded to whole tiles: they were the largest values of a training step.
    other = jnp.einsum(
        "bshd,de->bshe", x, _swap(x.shape[-1], x.dtype), preferred_element_type=jnp.float32,
        precision=None if x.dtype == jnp.bfloat16 else "highest",
    )  # fmt: skip
    return (x.astype(jnp.float32) * cos + other * sin).astype(x.dtype)


_turn.defvjp(
    lambda x, cos, sin: (_turn(x, cos, sin), (cos, sin)),
    # Turned back: a pair has one angle, so the tables commute with the swap.
    lambda tables, g: (_turn(g, tables[0], -tables[1]), None, None),
)


def _swap(width: int, dtype: jnp.dtype) -> jax.Array:
    """[d e]: entry 2 i + 1 goes to 2 i with its sign turned, entry 2 i to 2 i + 1."""
    index = np.arange(width)
    signs = np.where(index % 2 == 0, 1, -1)
    return jnp.asarray((index[:, None] ^ 1 == index[None]) * signs[:, None], dtype)
