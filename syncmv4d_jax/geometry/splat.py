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

A pixel that a point covers need not show it: the side of a thing that no source sees has no points,
and what stands behind is drawn through it. What a source does know is that nothing stands before
its own points. So a pixel is `sure` where no place on the way from the camera to its point lies
behind what a source has there (Eq. 3), unless another source sees the place free:

    (3)  hidden(X) = z_s(X) > (1 + MARGIN) D_s(X),   D_s: the depth of the nearest of s's own points
"""

import functools
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
MARGIN = 0.01  # of Eq. 3: as far as that a surface is thick
PLACES = 48  # on the way to a point


class Sight(NamedTuple):
    """What a source sees of its own points: its camera of frame 0, intrinsics [3 3] px, extrinsics
    [3 4], and depth [n h w] metres of the nearest, infinite where it has none."""

    intrinsics: jax.Array
    extrinsics: jax.Array
    depth: jax.Array


class Cloud(NamedTuple):
    """Points over time.

    Attributes:
      points: [n p 3] metres, world frame.
      colours: [p 3], of frame 0.
      footprint: [p] metres across a source pixel.
      edge: [p] bool, beside an edge of depth.
      valid: [p] bool.
      sights: of the views that they are of.
    """

    points: jax.Array
    colours: jax.Array
    footprint: jax.Array
    edge: jax.Array
    valid: jax.Array
    sights: tuple[Sight, ...] = ()


class Picture(NamedTuple):
    """What a camera sees of a cloud: image [n h w 3] in the colours' dtype, 0 in holes; covered
    [n h w] bool; sure [n h w] bool, covered and seen all the way."""

    image: jax.Array
    covered: jax.Array
    sure: jax.Array


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


@jax.jit
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
    found = Cloud(
        einops.rearrange(tracks, flat),
        einops.rearrange(colours, flat),
        (camera.depth / camera.intrinsics[0, 0]).ravel(),
        edges(camera.depth).ravel(),
        (valid & (camera.depth > 0)).ravel(),
    )
    lens, pose = camera.intrinsics, camera.extrinsics
    near = functools.partial(_winners, lens, pose, found, camera.depth.shape)
    own = lambda points: jnp.where((w := near(points)).there, w.depth, jnp.inf)  # noqa: E731
    depth = jax.lax.map(own, found.points).reshape(len(tracks), *camera.depth.shape)
    return found._replace(sights=(Sight(lens, pose, depth),))


def merge(clouds: Sequence[Cloud]) -> Cloud:
    """One cloud of several views' clouds."""
    points = jnp.concatenate([one.points for one in clouds], axis=1)
    rest = zip(*(one[1:5] for one in clouds), strict=True)
    colours, footprint, edge, valid = (jnp.concatenate(parts) for parts in rest)
    sights = tuple(sight for one in clouds for sight in one.sights)
    return Cloud(points, colours, footprint, edge, valid, sights)


def trust(covered: jax.Array, sure: jax.Array) -> jax.Array:
    """How far a pixel of a `Picture` can be believed: 0 a hole, 1/2 covered, 1 sure; float32."""
    return (covered.astype(jnp.float32) + sure.astype(jnp.float32)) / 2


class _Winners(NamedTuple):
    """Of each pixel [h w], flat: is there a point, which, and its depth, metres."""

    there: jax.Array
    point: jax.Array
    depth: jax.Array


def _winners(intrinsics, extrinsics, source: Cloud, size, points) -> _Winners:
    """The winners of one frame, of points [p 3]."""
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
    winner = painting.winners(canvas, count)
    return _Winners(canvas != painting.EMPTY, winner, depth[winner])


def _hidden(points, centre, sights: Sequence[Sight]):
    """Eq. 3 on the way from a camera's centre [3] to points [p 3]; sights of one frame. [p]."""

    def step(found, share):
        place = centre[None] + share * (points - centre[None])
        known = [_behind(place, sight) for sight in sights]
        free = functools.reduce(jnp.logical_or, (a for a, _ in known))
        behind = functools.reduce(jnp.logical_or, (b for _, b in known))
        return found | (behind & ~free), None

    shares = (jnp.arange(PLACES) + 0.5) / PLACES
    return jax.lax.scan(step, jnp.zeros(len(points), bool), shares)[0]


def _behind(place, sight: Sight):
    """Whether places [p 3] are known to be free, and whether they are hidden."""
    height, width = sight.depth.shape
    at, depth = cameras.project(place, sight.intrinsics, sight.extrinsics)
    wide = jnp.array([[width, height]]) - 0.5
    inside = (depth > NEAREST) & (at > -0.5).all(-1) & (at < wide).all(-1)
    x, y = (jnp.round(jnp.where(inside, at[:, i], 0)).astype(jnp.int32) for i in (0, 1))
    nearest = sight.depth[y, x]
    inside &= jnp.isfinite(nearest)
    behind = depth > (1 + MARGIN) * nearest
    return inside & ~behind, inside & behind


def _frame(points, intrinsics, extrinsics, depths, source: Cloud, size):
    """One frame of a `Picture`; depths: those of the sights."""
    found = _winners(intrinsics, extrinsics, source, size, points)
    image = jnp.where(found.there[:, None], source.colours[found.point], 0)
    sights = [s._replace(depth=d) for s, d in zip(source.sights, depths, strict=True)]
    sure = found.there
    if sights:
        centre = cameras.camera_centre(extrinsics)
        sure &= ~_hidden(points[found.point], centre, sights)
    flat = (image, found.there, sure)
    return Picture(*(x.reshape(*size, *x.shape[1:]) for x in flat))


def render(
    source: Cloud, intrinsics: jax.Array, extrinsics: jax.Array, *, size: tuple[int, int]
) -> Picture:
    """Draws a cloud for one camera, frame by frame; works under jit.

    Args:
      intrinsics: [n 3 3] px. extrinsics: [n 3 4] world to camera, metres: of each frame.
      size: (height, width).

    Raises:
      ValueError: cameras of another number of frames than the points.
    """
    if not len(source.points) == len(intrinsics) == len(extrinsics):
        raise ValueError(
            f"splat: wanted a camera a frame, got points of {len(source.points)} frames, "
            f"{len(intrinsics)} intrinsics, {len(extrinsics)} extrinsics"
        )
    depths = [sight.depth for sight in source.sights]
    one = lambda each: _frame(each[0], each[1], each[2], each[3], source, size)  # noqa: E731
    return jax.lax.map(one, (source.points, intrinsics, extrinsics, depths))
