"""Chamfer distance between point sets: squared, symmetric, masked, with an O(p) backward pass.

    D(A, B) = mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2

Nearest points are found under stop_gradient, block by block (differences, not the expansion of the
square: millimetres in a scene of metres would cancel); only then is |a - b|^2 computed again at the
found pairs, so that neither pass keeps a distance matrix.
"""

import einops
import jax
import jax.numpy as jnp
from jax import lax

_BLOCK = 1024


@jax.checkpoint
def frame(sets: tuple[jax.Array, ...]) -> jax.Array:
    """The distance of one frame's sets (a [p 3], b [q 3], a_valid [p], b_valid [q]): []."""
    a, b, a_valid, b_valid = sets
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    both = jnp.any(a_valid) & jnp.any(b_valid)
    one = _mean(a, b, nearest(a, b, b_valid), a_valid)
    two = _mean(b, a, nearest(b, a, a_valid), b_valid)
    return jnp.where(both, one + two, 0.0)


def nearest(a: jax.Array, b: jax.Array, b_valid: jax.Array) -> jax.Array:
    """Returns, for each point of a [p 3], the index [p] int32 of the nearest valid point of b
    [q 3].
    """
    a, b = lax.stop_gradient((a, b))

    def block(rows):
        square = sum(jnp.square(rows[:, i, None] - b[None, :, i]) for i in range(3))
        return jnp.argmin(jnp.where(b_valid[None, :], square, jnp.inf), axis=1).astype(jnp.int32)

    size = min(_BLOCK, a.shape[0])
    padded = jnp.pad(a, ((0, -a.shape[0] % size), (0, 0)))
    found = lax.map(block, einops.rearrange(padded, "(m p) x -> m p x", p=size))
    return found.reshape(-1)[: a.shape[0]]


def _mean(a, b, index, valid):
    square = jnp.sum(jnp.square(a - b[index]), axis=-1)
    return jnp.sum(jnp.where(valid, square, 0.0)) / jnp.maximum(jnp.sum(valid), 1)
