"""Query pixels of frame 0: where they are, which of them are valid, how they are sampled."""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras, matching

# A pixel that one view was asked at is exact. Where another view shows the same point follows from
# the depth read there, tens of millimetres off: such a ray tells little, and says so.
DERIVED = 0.03


class Anchors(NamedTuple):
    """Query points of frame 0, each chosen as a pixel of one view.

    pixels: [v k 2]. valid: [v k] bool, the view shows the point. confidence: [v k] in 0..1, weight
    of the ray through the pixel: 1 in the view that was asked, at most DERIVED in the others, 0
    where not valid. view: [k], the view that was asked. points: [k 3] metres, world.
    """

    pixels: jax.Array
    valid: jax.Array
    confidence: jax.Array
    view: jax.Array
    points: jax.Array


def check_anchors(
    anchors: cameras.Array, valid: cameras.Array, *, size: tuple[int, int], where: str
) -> None:
    """Checks on the host that every view sees some anchor: anchors [... k 2] px, valid [... k].

    Raises:
      ValueError: not finite, or a view whose valid anchors all lie outside of (height, width).
    """
    anchors, valid = np.asarray(anchors), np.asarray(valid)
    if not np.isfinite(anchors[valid]).all():
        raise ValueError(f"{where}: anchors wanted finite pixels where valid")
    limit = np.array([size[1], size[0]]) - 0.5
    inside = valid & ((anchors >= -0.5) & (anchors <= limit)).all(-1)
    blind = np.argwhere(~inside.any(-1))
    if blind.size or not inside.any():
        raise ValueError(
            f"{where}: view {blind[0].tolist() if inside.ndim > 1 else ''} sees none of its "
            f"{inside.shape[-1]} anchors in {size[0]} x {size[1]} pixels; do the cameras and the "
            "anchors belong together?"
        )


def check_confidence(confidence: np.ndarray, *, where: str) -> None:
    """Checks on the host that every view is sure of some query pixel: confidence [v k].

    Raises:
      ValueError: a view is sure of none; says which.
    """
    confidence = np.asarray(confidence)
    blind = np.flatnonzero(~(confidence > 0).any(-1))
    if blind.size:
        raise ValueError(
            f"{where}: view {blind.tolist()} sees none of its {confidence.shape[-1]} query pixels: "
            "nothing is painted in frame 0 of its generated motion, or no other view's points are "
            "in sight; do the cameras belong to the images?"
        )


def _evenly(mask, budget):
    """Indices of `budget` of the places where mask [s], evenly taken, repeated when there are
    fewer; and the number of places."""
    rank = jnp.cumsum(mask.astype(jnp.int32))
    count = rank[-1]
    wanted = (jnp.arange(budget, dtype=jnp.float32) + 0.5) / budget * count
    index = jnp.searchsorted(rank, jnp.floor(wanted).astype(jnp.int32) + 1)
    return jnp.minimum(index, mask.shape[0] - 1), count


def _voxel_keys(points, size):
    grid = jnp.clip(points / size, 0, 1023).astype(jnp.uint32)
    return (grid[:, 0] << 20) | (grid[:, 1] << 10) | grid[:, 2]


def voxel_sample(points: jax.Array, count: int) -> jax.Array:
    """Returns the indices [count] of points [s 3] that thin them to one a voxel.

    The voxel is the largest, by bisection, that leaves at least `count`; the rest is dropped
    evenly. With fewer than `count` distinct voxels points are repeated.
    """
    points_0 = points - jnp.min(points, axis=0, keepdims=True)
    extent = jnp.maximum(jnp.max(points_0), 1e-6)

    def occupied(size):
        keys = jnp.sort(_voxel_keys(points_0, size))
        return 1 + jnp.sum(keys[1:] != keys[:-1])

    def halve(_, bounds):
        low, high = bounds
        size = jnp.sqrt(low * high)
        enough = occupied(size) >= count
        return jnp.where(enough, size, low), jnp.where(enough, high, size)

    size, _ = jax.lax.fori_loop(0, 16, halve, (extent / 1000, extent))
    offset = points_0 / size - jnp.floor(points_0 / size) - 0.5
    off_centre = jnp.sum(offset * offset, axis=-1)
    order = jnp.arange(points.shape[0], dtype=jnp.int32)
    keys, _, order = jax.lax.sort((_voxel_keys(points_0, size), off_centre, order), num_keys=2)
    first = jnp.concatenate([jnp.ones(1, bool), keys[1:] != keys[:-1]])
    return order[_evenly(first, count)[0]]


def frame0_anchors(
    frames0: jax.Array,
    scale: jax.Array,
    intrinsics: jax.Array,
    extrinsics: jax.Array,
    *,
    count: int,
    settings: matching.MatchSettings,
    budget: int = 32768,
) -> Anchors:
    """Query points from the decoded frame 0 of all views, for inputs without a record (A23).

    The foreground of all views is unprojected and thinned to `count` points by voxels: each is a
    pixel of one view. Where the others show it is where its point projects to, if the depth there
    agrees.

    Args:
      frames0: [v h w 3] in [0, 1].
      scale: [v 2], metres.
      intrinsics: [v 3 3].
      extrinsics: [v 3 4], world to camera, of frame 0.
      count: k.
      budget: foreground pixels used at most, evenly taken.
    """
    sizes = einops.parse_shape(frames0, "v h w c")
    depth, mask = _depths(frames0, scale, settings)
    grid = jnp.broadcast_to(matching.pixel_grid(sizes["h"], sizes["w"])[None], (*mask.shape, 2))
    world = cameras.unproject(grid, depth, intrinsics, extrinsics)
    world, grid = (einops.rearrange(x, "v h w c -> (v h w) c") for x in (world, grid))
    places, total = _evenly(mask.ravel(), max(budget, count))
    chosen = places[voxel_sample(world[places], count)]
    view = chosen // (sizes["h"] * sizes["w"])
    found = _shown(grid[chosen], view, world[chosen], depth, mask, intrinsics, extrinsics, settings)
    some = total > 0
    return found._replace(
        valid=found.valid & some, confidence=jnp.where(some, found.confidence, 0.0)
    )


def relocate(
    known: Anchors,
    points: jax.Array,
    frames0: jax.Array,
    scale: jax.Array,
    intrinsics: jax.Array,
    extrinsics: jax.Array,
    *,
    settings: matching.MatchSettings,
) -> Anchors:
    """The same query pixels with a better idea of where the other views show them.

    Args:
      known: of `frame0_anchors`; its pixels in the views that were asked stay.
      points: [k 3] metres, world: where the points are thought to be in frame 0. Moved onto the ray
        of their query pixel.
      frames0, scale, intrinsics, extrinsics, settings: as `frame0_anchors`, of now.
    """
    depth, mask = _depths(frames0, scale, settings)
    each = jnp.arange(known.view.shape[0])
    asked = known.pixels[known.view, each]
    pose = extrinsics[known.view]
    eye = cameras.camera_centre(pose)
    ray = cameras.unproject(asked, jnp.ones(each.shape), intrinsics[known.view], pose) - eye
    far = jnp.sum((points - eye) * ray, axis=-1) / jnp.sum(ray * ray, axis=-1)
    on_ray = eye + jnp.maximum(far, 1e-3)[:, None] * ray
    return _shown(asked, known.view, on_ray, depth, mask, intrinsics, extrinsics, settings)


def _depths(frames0, scale, settings):
    """(depth, mask) [v h w] of frames 0 [v h w 3] in [0, 1]."""
    return jax.vmap(lambda f, s: matching.frame_depth(f, s, settings=settings)[:2])(frames0, scale)


def _shown(asked, view, points, depth, mask, intrinsics, extrinsics, settings) -> Anchors:
    """Anchors of points [k 3] that view [k] shows at pixels asked [k 2]: where do others?"""
    v, height, width = mask.shape
    at, far = cameras.project(
        jnp.broadcast_to(points[None], (v, *points.shape)), intrinsics, extrinsics
    )
    own = view[None, :] == jnp.arange(v)[:, None]
    at = jnp.where(own[..., None], asked[None], at)
    near = jnp.round(at).astype(jnp.int32)
    inside = jnp.all((near >= 0) & (near < jnp.array([[[width, height]]])), axis=-1)
    x, y = jnp.clip(near[..., 0], 0, width - 1), jnp.clip(near[..., 1], 0, height - 1)
    read = jax.vmap(lambda image, j, i: image[j, i])
    gap = jnp.abs(read(depth, y, x) - far) / settings.agree
    valid = inside & read(mask, y, x) & (own | (gap < 1))
    confidence = jnp.where(own, 1.0, DERIVED * jnp.exp(-0.5 * gap * gap))
    return Anchors(at, valid, jnp.where(valid, confidence, 0.0), view, points)
