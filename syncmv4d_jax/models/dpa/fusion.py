"""The aligner's starting point: coarse tracks of several views, fused in closed form.

A view v with camera centre o_v measures, up to noise and outliers, with a depth scale that is off
by e_v and an offset d_v:

    (1)  c_v = x + e_v (x - o_v) + d_v

Three steps alternate `ROUNDS` times:

    fit     e_v, d_v of all views at once, x eliminated from (1): weighted least squares with
            Gaussian priors on e_v, d_v and on the distance of the mean point from the centre. Views
            alone cannot tell a common offset or scale; the priors decide there.
    smooth  x = weighted mean of the corrected views, then models.dpa.smoothing
    weigh   each measurement by its distance from x (Cauchy)

At last the tracks are moved onto the rays of frame 0 (models.dpa.queries), which settles the offset
and scale that the views share. The result is equivariant to permutations of points and views.
Camera centres come from the rays.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from jax import lax

from syncmv4d_jax.models.dpa import queries, smoothing

# Deviations in normalised units of 0.25 m; those of e are pure numbers.
OUTLIER = 0.08  # 2 cm: scale of the Cauchy weights
SCALE, OFFSET, CENTRE = 0.03, 0.08, 0.8  # priors: 3 %, 2 cm, 20 cm (weak: where, not how far)
NOISE, COUNT = 0.04, 300.0  # 1 cm; measurements that count as independent, a view
ROUNDS = 3
FIRST = 0.01  # weight of frame 0 among the others, where its rays are used
_TINY = 1e-9


class Fused(NamedTuple):
    """points: [b n k 3], one a track.  aligned: [b v n k 3], per view, filled.  residual: aligned
    - points.

    weight: [b v n k], 0 where not measured.  total: [b n k], sum of confidence; 0 where filled.
    fit: [b v 4], e_v and d_v taken from each view.  extent: [b 6], mean and lowest corner of the
    measured points.
    """

    points: jax.Array
    aligned: jax.Array
    residual: jax.Array
    weight: jax.Array
    total: jax.Array
    fit: jax.Array
    extent: jax.Array


def fuse(
    coarse: jax.Array,
    confidence: jax.Array,
    rays: jax.Array,
    *,
    ordered: bool = True,
    anchored: bool = True,
) -> Fused:
    """Fuses the views.

    Args:
      coarse: [b v n k 3] normalised units, finite.
      confidence: [b v n k], 0 = not measured.
      rays: [b v n k 6] Pluecker coordinates of the rays through coarse, world axes.
      ordered: frames have an order, so that near frames smooth each other.
      anchored: the rays of frame 0 go through the query pixels and are exact.
    """
    origin = _origins(rays, confidence)
    # Frame 0 is off otherwise than the rest: first the rest, which frame 0 then places.
    used = confidence.at[:, :, 0].multiply(FIRST) if anchored else confidence

    def step(carry, _):
        points, weight, _, _ = carry
        fit = _fit(coarse, weight, points, origin)
        points = _meet(_correct(fit, coarse, points, origin), weight)
        points = smoothing.smooth(*points, ordered=ordered)
        aligned = _correct(fit, coarse, points, origin)
        square = jnp.sum(jnp.square(aligned - points[:, None]), axis=-1)
        weight = lax.stop_gradient(used / (1 + square / OUTLIER**2))
        return (points, weight, fit, aligned), None

    fit = jnp.zeros((*coarse.shape[:2], 4))
    carry = (_meet(coarse, used)[0], used, fit, coarse)
    (points, weight, fit, aligned), _ = lax.scan(step, carry, length=ROUNDS)
    if anchored:
        moved = queries.shift(points[:, 0], confidence[:, :, 0], rays[:, :, 0])[:, None]
        points, aligned = points + moved, aligned + moved[:, None]
    measured = confidence > 0
    aligned = jnp.where(measured[..., None], aligned, points[:, None])
    total = jnp.sum(confidence, axis=1)
    extent = _extent(points, jnp.any(measured, axis=1))
    return Fused(points, aligned, aligned - points[:, None], weight, total, fit, extent)


def _origins(rays, confidence):
    """Camera centres [b v 3]: the least-squares meeting points of the rays [b v n k 6]."""
    weight = (confidence > 0).astype(rays.dtype)
    count = jnp.maximum(jnp.sum(weight, axis=(2, 3)), 1.0)[..., None]
    direction, moment = rays[..., :3], rays[..., 3:]
    right = jnp.einsum("b v n k, b v n k c -> b v c", weight, jnp.cross(direction, moment))
    inner = jnp.einsum("b v n k, b v n k i, b v n k j -> b v i j", weight, direction, direction)
    eye = jnp.eye(3)[None, None]
    matrix = jnp.sum(weight, axis=(2, 3))[..., None, None] * eye - inner
    matrix = matrix / count[..., None] + 1e-6 * eye
    return smoothing.solve(matrix, (right / count)[..., None])[..., 0]


def _meet(points, weight):
    """Weighted mean over views: ([b n k 3], total weight [b n k])."""
    total = jnp.sum(weight, axis=1)
    mean = jnp.sum(points * weight[..., None], axis=1)
    return mean / jnp.maximum(total, _TINY)[..., None], total


def _correct(fit, coarse, points, origin):
    """Takes e_v (x - o_v) + d_v off each view (Eq. 1)."""
    arm = points[:, None] - origin[:, :, None, None]
    scale, offset = fit[:, :, None, None, :1], fit[:, :, None, None, 1:]
    return coarse - scale * arm - offset


def _fit(coarse, weight, points, origin):
    """Returns (e_v, d_v) [b v 4] of all views from their normal equations (Eq. 1).

    With h_v = [x - o_v, I] and y_v = c_v less the views' weighted mean, each point asks for
    h_v f_v - sum_u w_u h_u f_u / sum_u w_u = y_v.
    """
    views = coarse.shape[1]
    arm = points[:, None] - origin[:, :, None, None]
    eye = jnp.broadcast_to(jnp.eye(3)[(None,) * 4], (*arm.shape, 3))
    design = jnp.concatenate([arm[..., None], eye], axis=-1)
    middle, total = _meet(coarse, weight)
    each = jnp.maximum(jnp.sum(weight, axis=(2, 3)), _TINY)
    # Neighbouring measurements err alike: a view counts as at most COUNT independent ones.
    tempered = (
        weight * (jnp.minimum(COUNT / jnp.max(each, axis=1), 1.0) / NOISE**2)[:, None, None, None]
    )
    heavy = tempered[..., None, None] * design
    share = weight / jnp.maximum(total, _TINY)[:, None]
    own = jnp.einsum("b v n k i p, b v n k i q -> b v p q", heavy, design)
    mixed = jnp.einsum(
        "b v n k i p, b u n k i q -> b v p u q", heavy, share[..., None, None] * design
    )
    matrix = jnp.einsum("b v p q, v u -> b v p u q", own, jnp.eye(views)) - mixed
    right = jnp.einsum("b v n k i p, b v n k i -> b v p", heavy, coarse - middle[:, None])
    # The mean point, middle - sum_v h_v f_v weighted, is near the centre, which is 0 here.
    whole = jnp.sum(each, axis=1)
    mean = jnp.einsum("b v n k, b v n k c -> b c", weight, coarse) / whole[:, None]
    lever = jnp.einsum("b v n k, b v n k i p -> b i v p", weight, design)
    lever = lever / whole[:, None, None, None]
    matrix = matrix + jnp.einsum("b i v p, b i u q -> b v p u q", lever, lever) / CENTRE**2
    right = right + jnp.einsum("b i v p, b i -> b v p", lever, mean) / CENTRE**2
    matrix = einops.rearrange(matrix, "b v p u q -> b (v p) (u q)")
    prior = jnp.tile(1 / jnp.array([SCALE, OFFSET, OFFSET, OFFSET]) ** 2, views)
    right = einops.rearrange(right, "b v p -> b (v p) 1")
    found = jnp.linalg.solve(matrix + jnp.diag(prior)[None], right)
    return einops.rearrange(found, "b (v p) 1 -> b v p", v=views)


def _extent(points, measured):
    """Mean and lowest corner of the measured points [b n k 3]: [b 6]; zeros if there are none."""
    known = measured[..., None]
    count = jnp.sum(known, axis=(1, 2))
    mean = jnp.sum(jnp.where(known, points, 0.0), axis=(1, 2)) / jnp.maximum(count, 1)
    low = jnp.min(jnp.where(known, points, jnp.inf), axis=(1, 2))
    return jnp.concatenate([mean, jnp.where(count > 0, low, 0.0)], axis=-1)
