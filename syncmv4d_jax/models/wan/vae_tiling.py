"""Spatial tiling of the Wan2.2 VAE for frames too large to process at once.

Tiles of equal size cover the frame with an overlap; each is processed alone and the results are
averaged with weights that fall linearly to the tile's edges. Tiles run one after the other in a
scan, so memory is that of one tile and the output. Results differ from the untiled ones where a
tile's edge cuts the receptive field (and the middle attention sees a tile only).
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models.wan import vae


def starts(size: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Returns the first positions of tiles that cover 0..size-1; the last one ends at the edge.

    Raises:
      ValueError: unless 0 <= overlap < tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiling: wanted 0 <= overlap < tile, got overlap {overlap}, tile {tile}")
    if size <= tile:
        return (0,)
    return (*range(0, size - tile, tile - overlap), size - tile)


def _ramp(tile: int, overlap: int) -> np.ndarray:
    rise = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1.0
    return np.minimum(rise / (overlap + 1), 1.0).astype(np.float32)


def _blend(
    function: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    grid: tuple[int, int],
    tile: tuple[int, int],
    overlap: int,
    scales: tuple[int, int],
) -> jax.Array:
    """Applies `function` to tiles of x [b n h w c] and blends them.

    `grid`, `tile` and `overlap` are in latents; a latent is scales[0] pixels of x wide and
    scales[1] pixels of the result.
    """
    tile = (min(tile[0], grid[0]), min(tile[1], grid[1]))
    corners = [starts(size, t, min(overlap, t - 1)) for size, t in zip(grid, tile, strict=True)]
    corners = jnp.asarray(list(itertools.product(*corners)), jnp.int32)
    before, after = scales
    window = (*x.shape[:2], tile[0] * before, tile[1] * before, x.shape[-1])
    ramps = [_ramp(t * after, overlap * after) for t in tile]
    weight = jnp.asarray(ramps[0][:, None] * ramps[1])[None, None, :, :, None]
    out = jax.eval_shape(function, jax.ShapeDtypeStruct(window, x.dtype))
    total = jnp.zeros((*out.shape[:2], grid[0] * after, grid[1] * after, out.shape[-1]))

    def add(array, update, corner):
        start = (0, 0, corner[0] * after, corner[1] * after, 0)
        old = jax.lax.dynamic_slice(array, start, (*array.shape[:2], *update.shape[2:]))
        return jax.lax.dynamic_update_slice(array, old + update, start)

    def advance(sums, corner):
        start = (0, 0, corner[0] * before, corner[1] * before, 0)
        y = function(jax.lax.dynamic_slice(x, start, window)).astype(jnp.float32)
        ones = jnp.broadcast_to(weight, (1, 1, *weight.shape[2:]))
        return (add(sums[0], y * weight, corner), add(sums[1], ones, corner)), None

    norm = jnp.zeros((1, 1, *total.shape[2:4], 1))
    (total, norm), _ = jax.lax.scan(advance, (total, norm), corners)
    return (total / norm).astype(out.dtype)


def encode_tiled(
    model: vae.VAE, video: jax.Array, *, tile: tuple[int, int], overlap: int, chunk: int = 0
) -> jax.Array:
    """Encodes a video tile by tile.

    Args:
      model: the autoencoder.
      video: [b n h w 3] in -1..1.
      tile: (height, width) of a tile in latents; at most the whole frame is taken.
      overlap: latents that neighbouring tiles share, at least.
      chunk: latents at a time along the clip, as in `VAE.encode`.

    Returns:
      normalised mean latents [b f h/s w/s z].

    Raises:
      ValueError: sizes that `VAE.encode` refuses, or overlap >= tile.
    """
    _, height, width = vae.check_video(model.config, video.shape)
    space = model.config.stride[1]
    _check(tile, overlap)
    encode = lambda x: model.encode(x, chunk=chunk)  # noqa: E731
    return _blend(encode, video, (height, width), tile, overlap, (space, 1))


def decode_tiled(
    model: vae.VAE, latents: jax.Array, *, tile: tuple[int, int], overlap: int, chunk: int = 0
) -> jax.Array:
    """Decodes latents [b f h w z] tile by tile to a video [b n sh sw 3]; see `encode_tiled`."""
    space = model.config.stride[1]
    _check(tile, overlap)
    decode = lambda x: model.decode(x, chunk=chunk)  # noqa: E731
    return _blend(decode, latents, latents.shape[2:4], tile, overlap, (1, space))


def _check(tile: tuple[int, int], overlap: int) -> None:
    if overlap < 0 or overlap >= min(tile):
        raise ValueError(f"tiling: wanted 0 <= overlap < tile, got overlap {overlap}, tile {tile}")
