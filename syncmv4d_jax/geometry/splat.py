"""Points over time seen by other cameras: discs and a z-buffer, the input of view synthesis.

A point of a source pixel is as large as that pixel: Z0 / f_src metres. In a camera that sees it at
depth Z it is a disc of

    (1)  r = clip(0.75 (Z0 / f_src) / (Z / f), 0.75, 3) pixels,

so that a surface seen from half as far has no holes, and from where it was taken each disc is one
pixel. A point beside an edge of depth keeps r = 0.75: enlarged, it would stand out over the edge.
The nearest disc wins; on one surface the one whose centre is nearer, by

    (2)  behind = Z (1 + d^2 / (r f)),  d pixels from the centre.

As in painting.py one scatter-min of 32-bit keys (code of log depth, index of the point) is z-buffer
and payload; it runs over the 49 offsets of a fixed stencil. No antialiasing, no gradients wanted.
Clouds of several views are one cloud (`merge`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax.geometry import cameras, flow_map, painting

SMALLEST, LARGEST = 0.75, 3.0  # pixels, of Eq. 1
REACH = 3  # of the stencil, pixels
EDGE = 0.05  # relative jump of depth between neighbours
NEAREST = 0.01  # metres in front of a camera


class Cloud(NamedTuple):
    """Points over time.

    Attributes:
      points: [n p 3] metres, world frame.
      colours: [p 3], of frame 0.
      footprint: [p] metres across a source pixel.
      edge: [p] bool, beside an edge of depth.
      valid: [p] bool.
    """

    points: jax.Array
    colours: jax.Array
    footprint: jax.Array
    edge: jax.Array
    valid: jax.Array


def edges(depth: jax.Array) -> jax.Array:
    """Whether a pixel's depth [h w] differs from a neighbour's by more than EDGE; [h w] bool."""
    found = jnp.zeros(depth.shape, bool)
    for axis in (0, 1):
        first = jax.lax.slice_in_dim(depth, 0, -1, axis=axis)
        second = jax.lax.slice_in_dim(depth, 1, None, axis=axis)
        jump = jnp.abs(second - first) > EDGE * jnp.minimum(first, second)
        pad = [(0, 0), (0, 0)]
        for before in (0, 1):
            pad[axis] = (before, 1 - before)
            found = found | jnp.pad(jump, pad)
    return found


def cloud(
    tracks: jax.Array, colours: jax.Array, camera: flow_map.Camera, valid: jax.Array
) -> Cloud:
    """The points of one view's pixels.

    Args:
      tracks: [n h w 3] metres, world frame.
      colours: [h w 3], of frame 0.
      camera: of frame 0.
      valid: [h w] bool; pixels without depth do not count either.
    """
    flat = "... h w c -> ... (h w) c"
    return Cloud(
        einops.rearrange(tracks, flat),
        einops.rearrange(colours, flat),
        (camera.depth / camera.intrinsics[0, 0]).ravel(),
        edges(camera.depth).ravel(),
        (valid & (camera.depth > 0)).ravel(),
    )


def merge(clouds: Sequence[Cloud]) -> Cloud:
    """One cloud of several views' clouds."""
    points = jnp.concatenate([one.points for one in clouds], axis=1)
    rest = zip(*(one[1:] for one in clouds), strict=True)
    return Cloud(points, *(jnp.concatenate(parts) for parts in rest))


def _frame(points, intrinsics, extrinsics, source: Cloud, size):
    """The winners of one frame: points [p 3] -> colours [h w 3], covered [h w]."""
    height, width = size
    count = len(points)
    at, depth = cameras.project(points, intrinsics, extrinsics)
    seen = source.valid & (depth > NEAREST) & jnp.isfinite(points).all(-1)
    at = jnp.where(seen[:, None], at, -9.0)
    depth = jnp.where(seen, depth, 1.0)
    focal = intrinsics[0, 0]
    radius = jnp.clip(SMALLEST * source.footprint * focal / depth, SMALLEST, LARGEST)
    radius = jnp.where(source.edge, SMALLEST, radius)
    middle = jnp.round(jnp.clip(at, -9.0, max(size) + 9.0))
    near = jnp.min(jnp.where(seen, depth, jnp.inf))
    span = jnp.log(1.1 * jnp.max(jnp.where(seen, depth, near)) / near)  # codes are of this frame

    def draw(canvas, offset):
        cell = middle + offset[None]
        gap = jnp.sum(jnp.square(cell - at), axis=-1)
        behind = depth * (1 + gap / (radius * focal))
        keys = painting.pack(
            jnp.log(behind / near) / span, seen & (gap <= jnp.square(radius)), count
        )
        x, y = cell[:, 0].astype(jnp.int32), cell[:, 1].astype(jnp.int32)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        where = jnp.where(inside, y * width + x, height * width)
        return canvas.at[where].min(keys, mode="drop"), None

    steps = jnp.arange(-REACH, REACH + 1.0)
    offsets = jnp.stack(jnp.meshgrid(steps, steps), -1).reshape(-1, 2)
    canvas = jnp.full(height * width, painting.EMPTY, jnp.uint32)
    canvas, _ = jax.lax.scan(draw, canvas, offsets)
    covered = canvas != painting.EMPTY
    image = jnp.where(covered[:, None], source.colours[painting.winners(canvas, count)], 0)
    return image.reshape(height, width, 3), covered.reshape(height, width)


def render(
    source: Cloud, intrinsics: jax.Array, extrinsics: jax.Array, *, size: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Draws a cloud for one camera, frame by frame; works under jit.

    Args:
      intrinsics: [n 3 3] px. extrinsics: [n 3 4] world to camera, metres: of each frame.
      size: (height, width).

    Returns:
      (image [n h w 3] in the colours' dtype, 0 in holes; covered [n h w] bool).

    Raises:
      ValueError: cameras of another number of frames than the points.
    """
    if not len(source.points) == len(intrinsics) == len(extrinsics):
        raise ValueError(
            f"splat: wanted a camera a frame, got points of {len(source.points)} frames, "
            f"{len(intrinsics)} intrinsics, {len(extrinsics)} extrinsics"
        )
    frames = source.points, intrinsics, extrinsics
    return jax.lax.map(lambda each: _frame(each[0], each[1], each[2], source, size), frames)
