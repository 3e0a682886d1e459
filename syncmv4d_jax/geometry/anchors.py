"""Query pixels of frame 0: where they are, which of them are valid, how they are sampled."""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras, matching


class Anchors(NamedTuple):
    """Query points of frame 0: pixels [v k 2], valid [v k] bool, points [k 3] metres, world."""

    pixels: jax.Array
    valid: jax.Array
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


def _foreground_points(points, mask, budget):
    """Evenly takes `budget` of the points [s 3] where mask [s]; repeats when there are fewer."""
    rank = jnp.cumsum(mask.astype(jnp.int32))
    count = rank[-1]
    wanted = (jnp.arange(budget, dtype=jnp.float32) + 0.5) / budget * count
    index = jnp.searchsorted(rank, jnp.floor(wanted).astype(jnp.int32) + 1)
    return points[jnp.minimum(index, points.shape[0] - 1)], count


def _voxel_keys(points, size):
    grid = jnp.clip(points / size, 0, 1023).astype(jnp.uint32)
    return (grid[:, 0] << 20) | (grid[:, 1] << 10) | grid[:, 2]


def voxel_sample(points: jax.Array, count: int) -> jax.Array:
    """Thins points [s 3] to exactly `count`, one a voxel.

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
    kept, _ = _foreground_points(points[order], first, count)
    return kept


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

    The foreground of all views is unprojected, thinned to `count` points by voxels, and projected
    into every view; a point is valid in a view that shows a surface within `settings.agree` of its
    depth.

    Args:
      frames0: [v h w 3] in [0, 1].
      scale: [v 2], metres.
      intrinsics: [v 3 3].
      extrinsics: [v 3 4], world to camera.
      count: k.
      budget: foreground pixels used at most, evenly taken.
    """
    sizes = einops.parse_shape(frames0, "v h w c")
    height, width = sizes["h"], sizes["w"]
    depth, mask = jax.vmap(lambda f, s: matching.frame_depth(f, s, settings=settings)[:2])(
        frames0, scale
    )
    pixels = jnp.broadcast_to(matching.pixel_grid(height, width)[None], (*mask.shape, 2))
    world = cameras.unproject(pixels, depth, intrinsics, extrinsics)
    world, total = _foreground_points(
        einops.rearrange(world, "v h w c -> (v h w) c"), mask.ravel(), max(budget, count)
    )
    points = voxel_sample(world, count)
    views = jnp.broadcast_to(points[None], (sizes["v"], count, 3))
    at, seen = cameras.project(views, intrinsics, extrinsics)
    near = jnp.round(at).astype(jnp.int32)
    inside = jnp.all((near >= 0) & (near < jnp.array([[[width, height]]])), axis=-1)
    x, y = jnp.clip(near[..., 0], 0, width - 1), jnp.clip(near[..., 1], 0, height - 1)
    read = jax.vmap(lambda image, j, i: image[j, i])
    agrees = jnp.abs(read(depth, y, x) - seen) < settings.agree
    return Anchors(at, inside & agrees & read(mask, y, x) & (total > 0), points)
