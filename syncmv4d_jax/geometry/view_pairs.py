"""Training pairs of view synthesis: points of some views drawn for the camera of another.

For each sample a target view and a source are drawn, the source often the same view; more sources
than one may show the scene. What a user's depth and tracks are like is imitated: depth off by a
factor and by a smooth field, points that are missing, ways that are off by millimetres.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax.geometry import cameras, filling, flow_map, splat

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Corruption:
    """How sources are spoilt.

    Attributes:
      scale: deviation of a factor on the depth of a source.
      smooth: deviation of a smooth relative field on it.
      dropped: points are missing in a share up to this.
      flow: metres, deviation of a point's way.
    """

    scale: float = 0.02
    smooth: float = 0.02
    dropped: float = 0.1
    flow: float = 0.005


class Drawn(NamedTuple):
    """target: index of the view; same: it is the only source; render [n h w 3] float32 in the
    colours' range, 0 in holes; covered, sure [n h w] bool (splat.Picture)."""

    target: Array
    same: Array
    render: Array
    covered: Array
    sure: Array


def choose(rng: Array, views: int, *, same: float, sources: int) -> tuple[Array, Array]:
    """Returns the target [] and which views are sources [v] bool.

    Args:
      same: share of targets that are their own, and only, source.
      sources: at most so many others.
    """
    keys = jax.random.split(rng, 4)
    target = jax.random.randint(keys[0], (), 0, views)
    alone = (jax.random.uniform(keys[1]) < same) | (views == 1)
    score = jax.random.uniform(keys[2], (views,))
    score = jnp.where(jnp.arange(views) == target, -1.0, score)  # the last of them
    count = jax.random.randint(keys[3], (), 1, min(sources, max(views - 1, 1)) + 1)
    order = jnp.argsort(-score)
    rank = jnp.zeros((views,), jnp.int32).at[order].set(jnp.arange(views, dtype=jnp.int32))
    own = jnp.arange(views) == target
    return target, jnp.where(alone, own, rank < count)


def spoilt(
    rng: Array, view: flow_map.Camera, tracks: Array, valid: Array, how: Corruption
) -> tuple[flow_map.Camera, Array, Array]:
    """A source as a user has it: its camera, tracks [n h w 3] and valid [h w]."""
    keys = jax.random.split(rng, 5)
    height, width = view.depth.shape
    coarse = jax.random.normal(keys[0], (max(2, height // 16), max(2, width // 16)))
    field = jax.image.resize(coarse, (height, width), "bicubic")
    factor = 1 + how.scale * jax.random.normal(keys[1]) + how.smooth * field
    local = cameras.to_camera(tracks, view.extrinsics)
    local = local * jnp.maximum(factor, 0.5)[None, :, :, None]  # along the ray of each pixel
    off = how.flow * jax.random.normal(keys[2], (1, height, width, 3))
    later = (jnp.arange(len(tracks)) > 0)[:, None, None, None]
    moved = cameras.to_world(local + off * later, view.extrinsics)
    share = how.dropped * jax.random.uniform(keys[3])
    kept = jax.random.uniform(keys[4], (height, width)) >= share
    return view._replace(depth=view.depth * jnp.maximum(factor, 0.5)), moved, valid & kept


def draw(
    rng: Array,
    sample: dict[str, Any],
    *,
    same: float,
    sources: int,
    how: Corruption,
    form: str,
    size: tuple[int, int],
) -> Drawn:
    """Draws one sample's pair.

    Args:
      sample: unbatched: video [v n h w 3], flow, flow_valid, depth0, intrinsics [v 3 3],
        extrinsics [v n? 3 4].
      form: of the flow (flow_map.FORMS).
    """
    v, n = sample["flow"].shape[:2]
    most = min(sources, max(v - 1, 1))
    keys = jax.random.split(rng, 1 + most)
    target, chosen = choose(keys[0], v, same=same, sources=sources)
    poses = jnp.broadcast_to(sample["extrinsics"], (v, n, 3, 4))
    clouds = []
    for key, view in zip(keys[1:], jnp.argsort(~chosen)[:most], strict=True):
        camera = flow_map.Camera(sample["depth0"][view], sample["intrinsics"][view], poses[view, 0])
        tracks = flow_map.inverse(sample["flow"][view].astype(jnp.float32), camera, form=form)
        own = sample["flow_valid"][view] & chosen[view]
        camera, tracks, own = spoilt(key, camera, tracks, own, how)
        colours = sample["video"][view, 0].astype(jnp.float32)
        clouds.append(splat.cloud(tracks, colours, camera, own))
    lenses = jnp.repeat(sample["intrinsics"][target][None], n, 0)
    picture = splat.render(splat.merge(clouds), lenses, poses[target], size=size)
    still = jnp.all(jnp.abs(poses[target] - poses[target, :1]) < 1e-6)
    same_view = chosen[target] & (jnp.sum(chosen) == 1) & still
    return Drawn(target, same_view, *picture)


def shown(render: Array, covered: Array, sure: Array, *, fill: bool) -> Array:
    """What a network is shown of drawn points.

    Args:
      render: [... h w 3] of 0..255; covered, sure: [... h w] bool (splat.Picture).
      fill: whether holes have the colours around them (filling.py), which also stand in for points
        that are not sure; else they are 0.

    Returns:
      [... h w 3] float32 in [-1, 1].
    """
    colours = jnp.where(covered[..., None], render.astype(jnp.float32) / 127.5 - 1, 0.0)
    return filling.filled(colours, filling.weight(covered, sure)) if fill else colours


@jax.jit
def filled(render: Array, covered: Array, sure: Array) -> Array:
    """Drawn points [... h w 3] uint8 with their holes filled, as `shown`, in bytes again."""
    seen = shown(render, covered, sure, fill=True)
    return jnp.round((seen + 1) * 127.5).astype(jnp.uint8)
