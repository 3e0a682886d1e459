"""Colours where a picture has none, from what is known around: a pyramid of means.

    F(c, w) = w c + (1 - w) up(F(down(c, w)))                                              (1)

`down` takes the mean of 2 x 2 pixels by their weights, and their weights' sum, 1 at most; `up` is
bilinear. What is near counts where anything is near, what is far where nothing is: "pull-push" of
Gortler et al., The Lumigraph, SIGGRAPH 1996. It has no size to choose, where a blur has a sigma.
"""

import jax
import jax.numpy as jnp

Array = jax.Array
DOUBT = 0.1  # weight of a pixel that points cover, but not surely


def weight(covered: Array, sure: Array) -> Array:
    """Weights of the pixels of a `splat.Picture`, covered and sure [...] bool: 0, DOUBT or 1."""
    return jnp.where(sure, 1.0, jnp.where(covered, DOUBT, 0.0))


def filled(colours: Array, known: Array) -> Array:
    """Eq. 1.

    Args:
      colours: [... h w c] float; what has no weight may have any finite value.
      known: [... h w] weights of 0..1.

    Returns:
      [... h w c]; 0 where a picture has no weight at all.
    """
    height, width = known.shape[-2:]
    known = known[..., None]
    if height == width == 1:
        return jnp.where(known > 0, colours, 0.0)
    even = [(0, 0)] * (known.ndim - 3) + [(0, height % 2), (0, width % 2), (0, 0)]
    total = _pooled(jnp.pad(known, even))
    coarse = _pooled(jnp.pad(colours * known, even)) / jnp.maximum(total, 1e-6)
    coarse = filled(coarse, jnp.minimum(total, 1.0)[..., 0])
    rough = _doubled(_doubled(coarse, -3), -2)[..., :height, :width, :]
    return known * colours + (1 - known) * rough


def _pooled(x: Array) -> Array:
    """The sum of 2 x 2 pixels."""
    return x[..., ::2, ::2, :] + x[..., 1::2, ::2, :] + x[..., ::2, 1::2, :] + x[..., 1::2, 1::2, :]


def _doubled(x: Array, axis: int) -> Array:
    """Twice as many pixels along an axis, linear between their centres."""
    count = x.shape[axis]
    at = jnp.arange(count)
    before = jnp.take(x, jnp.maximum(at - 1, 0), axis)
    after = jnp.take(x, jnp.minimum(at + 1, count - 1), axis)
    pair = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=x.ndim + axis + 1)
    return pair.reshape(*x.shape[:axis], 2 * count, *x.shape[axis + 1 :])
