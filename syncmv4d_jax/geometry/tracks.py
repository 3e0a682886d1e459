"""World tracks as arrays: normalised units, rays of query pixels, fusing views, disagreement."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from syncmv4d_jax.geometry import cameras

UNIT = 0.25  # metres


def normalise(tracks: jax.Array, centre: jax.Array, *, unit: float = UNIT) -> jax.Array:
    """Metres, world frame -> normalised units. tracks: [b ... 3]; centre: [b 3] metres."""
    return (tracks - like(centre, tracks)) / unit


def denormalise(tracks: jax.Array, centre: jax.Array, *, unit: float = UNIT) -> jax.Array:
    """Normalised units -> metres, world frame; the inverse of `normalise`."""
    return tracks * unit + like(centre, tracks)


def point_rays(
    tracks: jax.Array, extrinsics: jax.Array, centre: jax.Array, *, unit: float = UNIT
) -> jax.Array:
    """Returns the rays from each view's camera through its points.

    Args:
      tracks: [b v n k 3] normalised.  extrinsics: [b v 3 4] world to camera, metres; [b v n 3 4]
        of cameras that move.
      centre: [b 3] metres.  unit: metres.

    Returns:
      [b v n k 6] Pluecker coordinates in normalised units: unit direction, moment o x direction.
    """
    eye = cameras.camera_centre(extrinsics)
    origin = (eye - like(centre, eye)) / unit
    origin = origin[:, :, None, None] if origin.ndim == 3 else origin[:, :, :, None]
    origin = jnp.broadcast_to(origin, tracks.shape)
    ray = jnp.where(jnp.isfinite(tracks), tracks, 0.0) - origin
    ray = ray / jnp.maximum(jnp.linalg.norm(ray, axis=-1, keepdims=True), 1e-6)
    return jnp.concatenate([ray, jnp.cross(origin, ray)], axis=-1)


def like(x, other):
    """Spreads x [b] over [b ...], or x [b 3] over [b ... 3]."""
    lead = x.shape[:1] + (1,) * (other.ndim - 1 - (x.ndim - 1)) + x.shape[1:]
    return x.reshape(lead)


def disagreement(tracks: np.ndarray, confidence: np.ndarray) -> float:
    """Mean distance of views' tracks from their confidence-weighted mean, metres.

    Args:
      tracks: [... v n k 3] metres, world frame.
      confidence: [... v n k]; points that one view or none is confident of do not count.

    Returns:
      The mean over views, frames and points, weighted by confidence; inf where nothing counts.
    """
    weight = np.where((confidence > 0).sum(-3, keepdims=True) > 1, confidence, 0.0)
    total = np.maximum(weight.sum(-3), 1e-9)[..., None]
    mean = (weight[..., None] * tracks).sum(-4) / total
    gap = np.linalg.norm(tracks - np.expand_dims(mean, -4), axis=-1)
    return float((weight * gap).sum() / weight.sum()) if weight.sum() > 0 else float("inf")


def fuse(tracks: ArrayLike, confidence: ArrayLike) -> jax.Array:
    """Confidence-weighted mean over views: tracks [... v n k 3] -> [... n k 3].

    confidence: [... v n k]. Points that no view is confident of get the plain mean.
    """
    weight = (jnp.asarray(confidence) + 1e-3)[..., None]
    return jnp.sum(weight * jnp.asarray(tracks), axis=-4) / jnp.sum(weight, axis=-4)
