"""The aligner's starting point: coarse tracks of several views fused in closed form, without
parameters.

A view sees where a point is across its ray far better than along it (the depth scale is
regressed), so a measurement c_v with unit ray d_v has the precision

    W_v = w_v (I - (1 - r) d_v d_v^T)          r = DEPTH_TRUST, w_v = confidence

and views meet at x = (sum_v W_v)^-1 sum_v W_v a_v. Each view is brought to the others by a scale
and an offset (an error of depth scale about the camera is one), a_v = c_v - o_v - s_v (c_v - mean
c_v), fitted to c_v - x in least squares; and each measurement is weighted down by its distance
from x (Cauchy). The three steps alternate `ROUNDS` times. A point that no view has measured is
filled from the same track's nearest frames. The result is equivariant to permutations of points
and views.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

DEPTH_TRUST = 0.1
OUTLIER = 0.08  # normalised units: 2 cm at the default unit of 0.25 m
ROUNDS = 3
_TINY = 1e-12


class Fused(NamedTuple):
    """points: [b n k 3], one a track.  aligned: [b v n k 3], per view, filled.  residual: aligned
    - points.

    weight: [b v n k], 0 where not measured.  total: [b n k], sum over views; 0 where filled.
    fit: [b v 4], offset and scale taken from each view.
    """

    points: jax.Array
    aligned: jax.Array
    residual: jax.Array
    weight: jax.Array
    total: jax.Array
    fit: jax.Array


def fuse(
    coarse: jax.Array, confidence: jax.Array, directions: jax.Array, *, ordered: bool = True
) -> Fused:
    """Fuses the views.

    Args:
      coarse: [b v n k 3] normalised units, finite.
      confidence: [b v n k], 0 = not measured.
      directions: [b v n k 3] unit rays, world axes.
      ordered: frames have an order, so that gaps are filled from near frames rather than from all.
    """
    fit = (jnp.zeros((*coarse.shape[:2], 3)), jnp.zeros(coarse.shape[:2]))
    weight = confidence
    for _ in range(ROUNDS):
        aligned = _apply(fit, coarse, confidence)
        points = _meet(aligned, weight, directions)
        fit = _fit(coarse, points[:, None], weight)
        aligned = _apply(fit, coarse, confidence)
        square = jnp.sum(jnp.square(aligned - points[:, None]), axis=-1)
        weight = lax.stop_gradient(confidence / (1 + square / OUTLIER**2))
    points = _meet(aligned, weight, directions)
    total = jnp.sum(confidence, axis=1)
    points = _fill(points, jnp.sum(weight, axis=1), ordered)
    measured = (confidence > 0)[..., None]
    aligned = jnp.where(measured, aligned, points[:, None])
    summary = jnp.concatenate([fit[0], fit[1][..., None]], axis=-1)
    return Fused(points, aligned, aligned - points[:, None], weight, total, summary)


def _mean(x, weight):
    """Weighted mean over frames and points: [b v n k 3] -> [b v 3]."""
    total = jnp.sum(weight, axis=(2, 3))[..., None]
    return jnp.sum(x * weight[..., None], axis=(2, 3)) / jnp.maximum(total, _TINY)


def _fit(coarse, points, weight):
    """Offset [b v 3] and scale [b v] of coarse - points, about the view's weighted mean.

    The arm is that of `points` and the views' mean scale is taken off: outliers, which lengthen
    the arms of `coarse`, would otherwise shrink all views together.
    """
    gap = coarse - points
    offset = _mean(gap, weight)
    arm = jnp.broadcast_to(points, coarse.shape)
    arm = arm - _mean(arm, weight)[:, :, None, None]
    gap = gap - offset[:, :, None, None]
    along = jnp.sum(gap * arm * weight[..., None], axis=(2, 3, 4))
    square = jnp.sum(arm * arm * weight[..., None], axis=(2, 3, 4))
    scale = jnp.clip(along / (square + 1e-3), -0.2, 0.2)
    seen = (square > 0).astype(scale.dtype)
    common = jnp.sum(scale * seen, axis=1, keepdims=True) / jnp.maximum(
        jnp.sum(seen, axis=1, keepdims=True), 1.0
    )
    return offset, (scale - common) * seen


def _apply(fit, coarse, confidence):
    offset, scale = fit
    middle = _mean(coarse, confidence)[:, :, None, None]
    return coarse - offset[:, :, None, None] - scale[..., None, None, None] * (coarse - middle)


def _meet(points, weight, directions):
    """Solves (sum_v W_v) x = sum_v W_v a_v by Cramer's rule; zeros where no view has weight."""
    shared = 1 - DEPTH_TRUST
    scaled = weight[..., None] * directions
    across = jnp.sum(points * directions, axis=-1, keepdims=True)
    right = jnp.sum(weight[..., None] * points - shared * scaled * across, axis=1)
    total = jnp.sum(weight, axis=1)
    matrix = total[..., None, None] * jnp.eye(3)[(None,) * total.ndim]
    matrix = matrix - shared * jnp.sum(scaled[..., :, None] * directions[..., None, :], axis=1)
    rows = jnp.where(total[..., None, None] > 0, matrix, jnp.eye(3)[(None,) * total.ndim])
    rows = rows / jnp.maximum(total, _TINY)[..., None, None] ** (total > 0)[..., None, None]
    right = right / jnp.maximum(total, _TINY)[..., None] ** (total > 0)[..., None]
    columns = [jnp.cross(rows[..., (i + 1) % 3, :], rows[..., (i + 2) % 3, :]) for i in range(3)]
    determinant = jnp.sum(rows[..., 0, :] * columns[0], axis=-1, keepdims=True)
    solved = sum(columns[i] * right[..., i : i + 1] for i in range(3)) / determinant
    return jnp.where(total[..., None] > 0, solved, 0.0)


def _fill(points, total, ordered):
    """Fills unmeasured points of [b n k 3] from the same track's other frames, then from the
    mean.
    """
    frames = points.shape[1]
    gap = jnp.abs(jnp.arange(frames)[:, None] - jnp.arange(frames)[None, :]).astype(jnp.float32)
    near = 1 / jnp.maximum(gap, 1.0) ** 4 if ordered else jnp.ones_like(gap)
    measured = (total > 0).astype(points.dtype)
    known = points * measured[..., None]
    weight = jnp.einsum("n m, b m k -> b n k", near, measured)
    other = jnp.einsum("n m, b m k c -> b n k c", near, known)
    count = jnp.sum(measured, axis=(1, 2), keepdims=True)[..., None]
    mean = jnp.sum(known, axis=(1, 2), keepdims=True) / jnp.maximum(count, 1.0)
    found = (weight > 0)[..., None]
    other = jnp.where(found, other / jnp.maximum(weight, _TINY)[..., None], mean)
    return jnp.where((total > 0)[..., None], points, other)
