"""Simulated coarse motion: true tracks, spoiled as a decoded pseudo video spoils them (A11, `sim`).

Each view v of a sample measures, with o_v its camera centre,

    c = o_v + (1 + e_v) (x - o_v) + d_v + jitter        e_v: depth scale, d_v: a rigid offset

A share of the points are outliers, some more are missing, singly or over a run of frames; points
the view does not see are missing too. In frame 0 pixels are given (the anchors): only depth is
spoiled there. Confidence is a noisy hint: lower for outliers on average, 0 for what is missing.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Ranges; a pair is drawn from uniformly per sample, lengths in metres.

    Attributes:
      jitter: deviation at t = 0 and t = 1.  outliers: share.  outlier_size: deviation.
      dropped: share of single points.  gaps: share of tracks that miss a run of frames.
      offset: largest rigid offset of a view.  depth: largest relative scale error.
      views: factor on offset and depth, per sample.
    """

    jitter: tuple[float, float] = (0.003, 0.015)
    outliers: tuple[float, float] = (0.05, 0.2)
    outlier_size: tuple[float, float] = (0.03, 0.15)
    dropped: tuple[float, float] = (0.0, 0.15)
    gaps: tuple[float, float] = (0.0, 0.2)
    offset: float = 0.05
    depth: float = 0.05
    views: tuple[float, float] = (1.0, 1.0)


SIM = Corruption()


def corrupt(
    tracks: jax.Array,
    extrinsics: jax.Array,
    seen: jax.Array,
    t: jax.Array,
    rng: jax.Array,
    *,
    corruption: Corruption = SIM,
) -> tuple[jax.Array, jax.Array]:
    """Returns what the views would measure.

    Args:
      tracks: [b v n k 3] metres, world frame.
      extrinsics: [b v 3 4] world to camera, metres; [b v n 3 4] of cameras that move.
      seen: [b v k] or [b v n k] bool, points (of frames) that a view can measure.
      t: [b] in 0..1, the level: jitter grows with it.
      rng: key.

    Returns:
      (coarse [b v n k 3] metres, confidence [b v n k] in 0..1); zeros where nothing is measured.

    Raises:
      ValueError: shapes that do not fit.
    """
    b, v, n, k = _check(tracks, extrinsics, seen, t)
    names = (
        "jitter",
        "outlier",
        "size",
        "which",
        "drop",
        "gap",
        "offset",
        "depth",
        "hint",
        "views",
    )
    keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
    draw = lambda key, low, high: jax.random.uniform(  # noqa: E731
        keys[key], (b, 1, 1, 1), minval=low, maxval=high
    )
    centre = -jnp.einsum("... i j, ... i -> ... j", extrinsics[..., :3], extrinsics[..., 3])
    centre = centre[:, :, None, None] if centre.ndim == 3 else centre[:, :, :, None]
    error = jax.random.uniform(
        keys["depth"], (b, v, 1, 1, 1), minval=-corruption.depth, maxval=corruption.depth
    )
    strength = draw("views", *corruption.views)[..., None]
    coarse = centre + (1 + strength * error) * (tracks - centre)
    coarse = coarse + strength * _offset(keys["offset"], (b, v, 1, 1, 3), corruption.offset)

    low, high = corruption.jitter
    sigma = (low + (high - low) * t)[:, None, None, None, None]
    coarse = coarse + sigma * jax.random.normal(keys["jitter"], coarse.shape)

    rate, size = draw("which", *corruption.outliers), draw("size", *corruption.outlier_size)
    first, second = jax.random.split(keys["outlier"])
    outlier = jax.random.uniform(first, (b, v, n, k)) < rate
    far = size[..., None] * jax.random.normal(second, coarse.shape)
    coarse = jnp.where(outlier[..., None], coarse + far, coarse)

    coarse = coarse.at[:, :, 0].set(_on_rays(coarse[:, :, 0], tracks[:, :, 0], centre[:, :, 0]))

    seen = seen[:, :, None] if seen.ndim == 3 else seen
    seen = seen & ~_missing(keys["drop"], (b, v, n, k), draw("drop", *corruption.dropped))
    seen = seen & ~_gaps(keys["gap"], (b, v, n, k), draw("gap", *corruption.gaps))
    hint = jax.random.uniform(keys["hint"], (b, v, n, k), minval=0.5)
    confidence = jnp.where(seen, jnp.where(outlier, hint - 0.4, hint), 0.0)
    return jnp.where(seen[..., None], coarse, 0.0), confidence


def _on_rays(points, tracks, centre):
    """The nearest points on the rays from centre [b v 1 3] through tracks [b v k 3]."""
    ray = tracks - centre
    ray = ray / jnp.maximum(jnp.linalg.norm(ray, axis=-1, keepdims=True), 1e-6)
    return centre + jnp.sum((points - centre) * ray, axis=-1, keepdims=True) * ray


def _offset(rng, shape, largest):
    """A vector of random direction, its length uniform up to `largest`."""
    direction, length = jax.random.split(rng)
    x = jax.random.normal(direction, shape)
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
    return x * jax.random.uniform(length, (*shape[:-1], 1), maxval=largest)


def _missing(rng, shape, rate):
    return jax.random.uniform(jax.random.fold_in(rng, 1), shape) < rate


def _gaps(rng, shape, rate):
    """Tracks that miss one run of up to half of the frames: [b v n k] bool."""
    b, v, n, k = shape
    which, start, length = jax.random.split(jax.random.fold_in(rng, 1), 3)
    hit = jax.random.uniform(which, (b, v, 1, k)) < rate
    start = jax.random.randint(start, (b, v, 1, k), 0, n)
    length = jax.random.randint(length, (b, v, 1, k), 1, max(2, n // 2 + 1))
    frame = jnp.arange(n)[None, None, :, None]
    return hit & (frame >= start) & (frame < start + length)


def _check(tracks, extrinsics, seen, t):
    lead = tracks.shape[:-1]
    fits = tracks.ndim == 5 and tracks.shape[-1] == 3 and t.shape == lead[:1]
    fits = fits and extrinsics.shape in ((*lead[:2], 3, 4), (*lead[:3], 3, 4))
    if not fits or seen.shape not in (lead, (*lead[:2], lead[3])):
        raise ValueError(
            "wanted tracks [b v n k 3], extrinsics [b v 3 4] or [b v n 3 4], seen [b v k] or "
            "[b v n k], t [b]; "
            f"got {tracks.shape}, {extrinsics.shape}, {seen.shape}, {t.shape}"
        )
    return lead
