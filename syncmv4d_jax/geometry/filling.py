"""Colours where a picture has none, from what is known around: a pyramid of means.

    F(c, w) = w c + (1 - w) up(F(down(c, w)))                                              (1)

`down` takes the mean of 2 x 2 pixels by their weights, and their weights' sum, 1 at most; `up` is
bilinear. What is near counts where anything is near, what is far where nothing is: "pull-push" of
Gortler et al., The Lumigraph, SIGGRAPH 1996. It has no size to choose, where a blur has a sigma.
"""

import functools

import einops
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
    pooled = functools.partial(
        einops.reduce, pattern="... (h y) (w x) c -> ... h w c", reduction="sum", y=2, x=2
    )
    total = pooled(jnp.pad(known, even))
    coarse = pooled(jnp.pad(colours * known, even)) / jnp.maximum(total, 1e-6)
    coarse = filled(coarse, jnp.minimum(total, 1.0)[..., 0])
    *rest, high, wide, channels = coarse.shape
    rough = jax.image.resize(coarse, (*rest, 2 * high, 2 * wide, channels), "linear")
    return known * colours + (1 - known) * rough[..., :height, :width, :]
