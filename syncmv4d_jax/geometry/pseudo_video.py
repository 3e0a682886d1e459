"""Tracks <-> pseudo video, the paper's image-like form of 4D motion (Sec. 3.3, Eq. of M_pv).

Point k at frame n is (u0, v0, d_n): its pixel in frame 0, and its camera depth now, painted where
it is now. As a colour:

    (1)  (r, g, b) = (u0 / W, v0 / H, (d_n - d_min) / (d_max - d_min)),    scale s = (d_min, d_max)

The surface is painted densely (sparse splats do not survive a video VAE); `painting` has the
painting that runs on the device. The alternative `das_tracking` freezes the third channel at frame
0. Decoding finds every anchor (u0, v0) in every frame (`matching`) and unprojects it.
Everything is for one view: vmap over views. Pixel centres are integers. A scale without extent
cannot be inverted: `check_scale` refuses it on the host; under jit all depths become d_min.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras, matching

REPRESENTATIONS = ("point_tracks", "das_tracking")
WARPED = "warped_image"  # frame 0's own colours at today's places: to be followed, not generated


class Decoded(NamedTuple):
    """What `decode` found. A point not found has confidence 0 and is interpolated over time.

    tracks [n k 3] metres, world; pixels [n k 2]; depth [n k] metres, camera z; confidence [n k] in
    [0, 1]; visible [n k] bool.
    """

    tracks: jax.Array
    pixels: jax.Array
    depth: jax.Array
    confidence: jax.Array
    visible: jax.Array


def check_scale(scale: cameras.Array, *, where: str) -> None:
    """Checks scale [... 2] = (min, max) depth on the host.

    Raises:
      ValueError: not finite, not in front of the camera, or without extent.
    """
    scale = np.asarray(scale)
    if scale.shape[-1:] != (2,):
        raise ValueError(f"{where}: scale wanted [... 2] (min, max) metres, got {scale.shape}")
    low, high = scale[..., 0], scale[..., 1]
    bad = ~(np.isfinite(scale).all(-1) & (low > 0) & (high - low > 1e-6))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{where}: scale wanted 0 < min < max metres, got {scale[index].tolist()} at {index}"
        )


def depth_scale(depth: cameras.Array, valid: cameras.Array) -> cameras.Array:
    """Returns (min, max) [2] metres of depth [n k] over the points where valid [n k]."""
    xp = jnp if isinstance(depth, jax.Array) else np
    low = xp.min(xp.where(valid, depth, xp.inf))
    return xp.stack([low, xp.max(xp.where(valid, depth, -xp.inf))])


def encode_colours(
    anchors: cameras.Array, depth: cameras.Array, scale: cameras.Array, *, size: tuple[int, int]
) -> cameras.Array:
    """Colours of Eq. 1; numpy in, numpy out.

    Args:
      anchors: [... 2], pixels (u0, v0) of frame 0.
      depth: [...], metres: of the current frame, or of frame 0 for `das_tracking`.
      scale: [2], metres.
      size: (height, width) of frame 0.

    Returns:
      [... 3], clipped to [0, 1].
    """
    xp = jnp if isinstance(depth, jax.Array) or isinstance(anchors, jax.Array) else np
    code = (depth - scale[0]) / matching.extent(scale)
    colour = [anchors[..., 0] / size[1], anchors[..., 1] / size[0], code]
    return xp.clip(xp.stack(colour, axis=-1), 0, 1)


def paint_surface(
    origin: cameras.Array, depth: cameras.Array, mask: cameras.Array, scale: cameras.Array
) -> cameras.Array:
    """The dense pseudo video of a rasterised surface; numpy in, numpy out.

    Args:
      origin: [n h w 2], frame-0 pixel of the surface point seen at each pixel.
      depth: [n h w], metres: its depth now, or in frame 0 for `das_tracking`.
      mask: [n h w] bool, where a surface is seen; the rest may hold anything.
      scale: [2], metres.

    Returns:
      [n h w 3] in [0, 1], black where nothing is seen.
    """
    xp = jnp if isinstance(depth, jax.Array) else np
    sizes = einops.parse_shape(depth, "n h w")
    colour = encode_colours(origin, depth, scale, size=(sizes["h"], sizes["w"]))
    return xp.where(mask[..., None], colour, xp.zeros((1, 1, 1, 1), colour.dtype))


def _fill_over_time(value: jax.Array, found: jax.Array) -> jax.Array:
    """Linear interpolation of value [n k] over frames where not found [n k]; ends are held."""
    frames = jnp.arange(found.shape[0])[:, None]
    before = jax.lax.cummax(jnp.where(found, frames, -1), axis=0)
    after = jax.lax.cummin(jnp.where(found, frames, found.shape[0]), axis=0, reverse=True)
    before, after = (
        jnp.where(before < 0, after, before),
        jnp.where(after >= found.shape[0], before, after),
    )
    before, after = (jnp.clip(i, 0, found.shape[0] - 1) for i in (before, after))
    span = jnp.maximum(after - before, 1)
    part = ((frames - before) / span).astype(value.dtype)
    first = jnp.take_along_axis(value, before, axis=0)
    return first + part * (jnp.take_along_axis(value, after, axis=0) - first)


def decode(
    pseudo: jax.Array,
    anchors: jax.Array,
    anchor_valid: jax.Array,
    scale: jax.Array,
    intrinsics: jax.Array,
    extrinsics: jax.Array,
    *,
    settings: matching.MatchSettings,
) -> Decoded:
    """World tracks of the anchors from a pseudo video.

    Args:
      pseudo: [n h w 3] in [0, 1], not rounded to 8 bit.
      anchors: [k 2], pixels of frame 0.
      anchor_valid: [k] bool; invalid anchors come back with confidence 0.
      scale: [2], metres. Depth is linear in it, and carries its gradient.
      intrinsics: [3 3], pixels.
      extrinsics: [3 4], world to camera, metres; of a camera that moves [n 3 4].

    Returns:
      Decoded. Finite for any input that is finite; a frame without foreground has confidence 0.
      In a `das_tracking` video the third channel is frame 0's: pixels are right, depth is not.
    """
    einops.parse_shape(pseudo, "n h w c"), einops.parse_shape(anchor_valid, "k")
    pseudo = pseudo.astype(jnp.float32)
    extent = matching.extent(scale)
    middle = jnp.maximum(jnp.mean(scale), 1e-3)
    unit = jax.lax.stop_gradient(intrinsics[0, 0] * extent / middle)
    unit = jnp.maximum(unit, 1e-3)
    pixels, code, confidence, found = jax.lax.map(
        lambda frame: matching.match_frame(frame, anchors, settings=settings, depth_unit=unit),
        pseudo,
        batch_size=settings.chunk,
    )
    # Where an anchor is in frame 0 is given, not searched for; its depth is read there.
    here, known = matching.read_depth(pseudo[0], anchors, settings=settings)
    pixels = pixels.at[0].set(jnp.where(known[:, None], anchors, pixels[0]))
    code = code.at[0].set(jnp.where(known, here, code[0]))
    confidence = confidence.at[0].set(jnp.where(known, 1.0, confidence[0]))
    found = found.at[0].set(found[0] | known) & anchor_valid[None, :]
    confidence = jnp.where(found, confidence, 0.0)
    ever = jnp.any(found, axis=0)
    total = jnp.sum(found)
    mean_code = jnp.where(
        total > 0, jnp.sum(jnp.where(found, code, 0)) / jnp.maximum(total, 1), 0.5
    )

    def fill(value, default):
        value = _fill_over_time(jnp.where(found, value, 0), found)
        return jnp.where(ever[None, :], value, default)

    pixels = jnp.stack([fill(pixels[..., i], anchors[None, :, i]) for i in (0, 1)], axis=-1)
    depth = scale[0] + fill(jnp.clip(code, -0.1, 1.1), mean_code) * extent
    tracks = cameras.unproject(pixels, depth, intrinsics, extrinsics)
    return Decoded(tracks, pixels, depth, confidence, found & (confidence >= settings.visible))
