"""Painting a pseudo video on the device: the dense warp of frame 0.

The closed loop turns refined tracks back into a dense pseudo video (Alg. 1, line 8). There is no
mesh inside the loop: every foreground pixel p of the decoded frame 0, unprojected to X_p, moves
with the 8 nearest anchors i, whose frame-0 points are A_i:

    (1)  X_p(n) = sum_i a_i X_i(n) + (X_p - sum_i a_i A_i),    sum_i a_i = 1

a_i are inverse-distance weights with a moving-least-squares correction, so that locally affine
motion, rotation above all, is exact where the anchors span it; the ridge returns to plain inverse
distances where they do not. `warp_weights` depends on frame 0 alone: compute it once a sample.
X_p(n) is then projected and painted, nearest first, with the colour (x_p / W, y_p / H, depth
code). Pin-holes are closed; other uncovered pixels stay black.

One scatter-min of 32-bit keys (depth code, source index) is both the z-buffer and its payload.
"""

import functools
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras, matching

NEIGHBOURS = 8
EMPTY = np.uint32(0xFFFFFFFF)


class Warp(NamedTuple):
    """How frame-0 pixels (s = h w) move: which anchor [s 8], weight [s 8], rest [s 3] metres (the
    bracket of Eq. 1), source [s] bool (foreground that has anchors)."""

    anchor: jax.Array
    weight: jax.Array
    rest: jax.Array
    source: jax.Array


def pack(code: jax.Array, valid: jax.Array, count: int) -> jax.Array:
    """Packs depth codes [... s] in [0, 1] and the index s into sortable 32-bit keys."""
    bits = max(1, (count - 1).bit_length())
    levels = float(2 ** (32 - bits) - 256)  # float32 rounds up near 2^32: stay clear of EMPTY
    deep = (jnp.clip(code, 0, 1) * levels).astype(jnp.uint32)
    index = jnp.arange(count, dtype=jnp.uint32)
    index = index.reshape((1,) * (code.ndim - 1) + (count,))
    return jnp.where(valid, (deep << bits) | index, EMPTY)


def winners(canvas: jax.Array, count: int) -> jax.Array:
    """The index s of the least key of each pixel [...] int32; any where a pixel is EMPTY."""
    index = canvas & jnp.uint32(2 ** max(1, (count - 1).bit_length()) - 1)
    return jnp.minimum(index, count - 1).astype(jnp.int32)


def _zbuffer(x, y, keys, colours, size):
    """Paints colours [s 3] at pixels x, y [... s] int32 with keys [... s]; returns [h w 3]."""
    height, width = size
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    where = jnp.where(inside, y * width + x, height * width)
    canvas = jnp.full(height * width, EMPTY, jnp.uint32)
    canvas = canvas.at[where.ravel()].min(keys.ravel(), mode="drop")
    image = colours[winners(canvas, colours.shape[0])]
    image = jnp.where((canvas != EMPTY)[:, None], image, 0.0)
    return einops.rearrange(image, "(h w) c -> h w c", h=height)


def _inverse_times(matrix, vector):
    """Returns matrix^-1 vector for symmetric positive 3 x 3 matrices of [s] arrays."""
    (a, b, c), (_, d, e), (_, _, f) = matrix
    x, y, z = vector
    ca, cb, cc = d * f - e * e, c * e - b * f, b * e - c * d
    cd, ce, cf = a * f - c * c, b * c - a * e, a * d - b * b
    determinant = a * ca + b * cb + c * cc
    u, v, w = ca * x + cb * y + cc * z, cb * x + cd * y + ce * z, cc * x + ce * y + cf * z
    return [component / determinant for component in (u, v, w)]


def _blend(point, near, distance):
    """Weights a_i [s 8] of Eq. 1: points [s 3], neighbours [s 8 3], squared distances [s 8]."""
    ok = jnp.isfinite(distance)
    weight = jnp.where(ok, 1 / (jnp.where(ok, distance, 1) + 4e-6) ** 2, 0)  # 2 mm floor
    weight = weight / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1e-30)
    offset = (near - point[:, None, :]) * 100.0  # centimetres: keeps the determinant in range
    mean = jnp.sum(weight[..., None] * offset, axis=1)
    spread = offset - mean[:, None, :]
    outer = [
        [jnp.sum(weight * spread[..., i] * spread[..., j], axis=1) for j in range(3)]
        for i in range(3)
    ]
    ridge = 0.1 * (outer[0][0] + outer[1][1] + outer[2][2]) + 1e-3
    for i in range(3):
        outer[i][i] = outer[i][i] + ridge
    slope = jnp.stack(_inverse_times(outer, [-mean[:, i] for i in range(3)]), axis=-1)
    tilt = jnp.sum(spread * slope[:, None, :], axis=-1)
    tilt = tilt - jnp.sum(weight * tilt, axis=1, keepdims=True)  # zero but for rounding
    return weight * (1 + tilt)


def masked(frame0: jax.Array, mask: jax.Array, *, settings: matching.MatchSettings) -> jax.Array:
    """Frame 0 of a decoded pseudo video with a silhouette from elsewhere, for `warp_weights`.

    A decoded frame is soft: its own silhouette is a quarter too large, and what is warped beyond
    the true one is painted wrong in every frame. The clean reference image shows where the
    foreground ends.

    Args:
      frame0: [h w 3] in [0, 1].
      mask: [h w] bool, the foreground of the reference image.

    Returns:
      [h w 3]: inside the mask each pixel's own coordinates and the decoded depth code, read in the
      eroded common foreground and carried to the mask's rim; black outside.
    """
    height, width = mask.shape
    inner = mask & matching.foreground(frame0, settings)
    for axis in (-2, -1):  # the rim's codes are mixed with black
        inner = inner & jnp.roll(inner, 1, axis) & jnp.roll(inner, -1, axis)
    value = jnp.where(inner, frame0[..., 2], 0.0)

    def spread(_, known):
        value, there = known
        padded = jnp.pad(jnp.stack([value, there], -1), ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        total = functools.reduce(jnp.add, shifted)
        grown = total[..., 0] / jnp.maximum(total[..., 1], 1.0)
        fresh = (there == 0) & (total[..., 1] > 0) & mask
        return jnp.where(fresh, grown, value), jnp.where(fresh, 1.0, there)

    known = value, inner.astype(frame0.dtype)
    code, there = jax.lax.fori_loop(0, max(4, width // 12), spread, known)
    own = matching.pixel_grid(height, width) / jnp.array([[[width, height]]], jnp.float32)
    own = jnp.maximum(own, 1.01 * settings.foreground)  # else the map's edge is background
    painted = jnp.concatenate([own, code[..., None]], axis=-1)
    return jnp.where((mask & (there > 0))[..., None], painted, 0.0)


def warp_weights(
    frame0: jax.Array,
    anchors: jax.Array,
    anchor_valid: jax.Array,
    scale: jax.Array,
    intrinsics: jax.Array,
    extrinsics: jax.Array,
    *,
    settings: matching.MatchSettings,
) -> Warp:
    """Which anchors move which pixel of frame 0, and by how much (Eq. 1). One view.

    Args:
      frame0: [h w 3] in [0, 1], frame 0 of a decoded pseudo video: its mask and depth are used.
      anchors: [k 2], pixels of frame 0.
      anchor_valid: [k] bool; invalid anchors move nothing.
      scale: [2], metres.
      intrinsics: [3 3].
      extrinsics: [3 4], world to camera; of a camera that moves [n 3 4], the first counts.
    """
    sizes = einops.parse_shape(frame0, "h w c")
    extrinsics = cameras.at_first(extrinsics, 0)
    depth, mask, known = matching.frame_depth(frame0, scale, settings=settings)
    grid = matching.pixel_grid(sizes["h"], sizes["w"])
    world = cameras.unproject(grid, depth, intrinsics, extrinsics)
    world = einops.rearrange(world, "h w c -> (h w) c")
    near = jnp.round(anchors).astype(jnp.int32)
    x, y = jnp.clip(near[:, 0], 0, sizes["w"] - 1), jnp.clip(near[:, 1], 0, sizes["h"] - 1)
    points = cameras.unproject(anchors, depth[y, x], intrinsics, extrinsics)
    usable = anchor_valid & known[y, x]
    neighbours = min(NEIGHBOURS, anchors.shape[0])

    def weigh(point):
        offset = [point[:, None, i] - points[None, :, i] for i in range(3)]
        squared = offset[0] ** 2 + offset[1] ** 2 + offset[2] ** 2
        score, index = jax.lax.top_k(jnp.where(usable[None, :], -squared, -jnp.inf), neighbours)
        close = points[index]
        weight = _blend(point, close, -score)
        return index, weight, point - jnp.sum(weight[..., None] * close, axis=1)

    rows = einops.rearrange(world, "(h w) c -> h w c", h=sizes["h"])
    index, weight, rest = jax.lax.map(weigh, rows)
    index, weight, rest = (einops.rearrange(z, "h w c -> (h w) c") for z in (index, weight, rest))
    return Warp(index, weight, rest, mask.ravel() & jnp.any(usable))


def _close(image: jax.Array) -> jax.Array:
    """Gives black pixels of [h w 3] with at least 5 of 8 painted neighbours their mean colour."""
    painted = jnp.any(image > 0, axis=-1, keepdims=True).astype(image.dtype)
    stack = jnp.concatenate([image, painted], axis=-1)
    padded = jnp.pad(stack, ((1, 1), (1, 1), (0, 0)))
    height, width, _ = image.shape
    shifted = (padded[i : i + height, j : j + width] for i in range(3) for j in range(3))
    around = jnp.asarray(sum(shifted))
    count = around[..., 3:]
    filled = around[..., :3] / jnp.maximum(count, 1)
    return jnp.where((painted == 0) & (count >= 5), filled, image)


def render(
    tracks: jax.Array,
    frame0: jax.Array,
    anchors: jax.Array,
    anchor_valid: jax.Array,
    scale: jax.Array,
    intrinsics: jax.Array,
    extrinsics: jax.Array,
    *,
    settings: matching.MatchSettings,
    warp: Warp | None = None,
) -> jax.Array:
    """The dense pseudo video of tracks, inside jit, with static shapes. One view.

    Args:
      tracks: [n k 3], metres, world frame.
      frame0: [h w 3] in [0, 1], frame 0 of a decoded pseudo video.
      anchors: [k 2], pixels of frame 0; anchor_valid: [k] bool.
      scale: [2], metres: the colours' depth range.
      intrinsics: [3 3]; extrinsics: [3 4], world to camera; of a camera that moves [n 3 4].
      warp: `warp_weights` of the same frame 0 and anchors, to save its cost when rendering again.

    Returns:
      [n h w 3] in [0, 1]; black where nothing is painted, everywhere when no anchor is usable.
    """
    if warp is None:
        warp = warp_weights(
            frame0, anchors, anchor_valid, scale, intrinsics, extrinsics, settings=settings
        )
    height, width = frame0.shape[:2]
    span = matching.extent(scale)
    own = matching.pixel_grid(height, width) / jnp.array([[[width, height]]], jnp.float32)
    own = einops.rearrange(own, "h w c -> (h w) c")
    pixel_size = jnp.mean(scale) / intrinsics[0, 0]  # metres at the surface

    def paint(points, pose):
        world = warp.rest
        for i in range(warp.anchor.shape[1]):
            world = world + warp.weight[:, i : i + 1] * points[warp.anchor[:, i]]
        at, depth = cameras.project(world, intrinsics, pose)
        valid = warp.source & (depth > 1e-3)
        at = jnp.where(valid[:, None], at, -9.0)
        base = jnp.floor(at)
        corners = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]], jnp.float32)
        cell = base[None] + corners[:, None, :]
        gap = jnp.abs(cell - at[None])
        covered = valid[None] & (jnp.max(gap, axis=-1) <= settings.footprint)
        # A sample beside its pixel yields to one at its pixel on the same surface.
        behind = depth[None] + 4 * pixel_size * jnp.sum(gap * gap, axis=-1)
        keys = pack((behind - scale[0] + 0.25 * span) / (1.5 * span), covered, depth.shape[0])
        code = jnp.clip((depth - scale[0]) / span, 0, 1)
        cell = jnp.clip(cell, -9, max(height, width) + 9).astype(jnp.int32)
        colour = jnp.concatenate([own, code[:, None]], axis=-1)
        return _close(_zbuffer(cell[..., 0], cell[..., 1], keys, colour, (height, width)))

    if extrinsics.ndim == 2:
        return jax.lax.map(lambda x: paint(x, extrinsics), tracks, batch_size=settings.chunk)
    return jax.lax.map(lambda x: paint(*x), (tracks, extrinsics), batch_size=settings.chunk)
