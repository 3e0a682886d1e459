"""What frame 0 tells the aligner: each track starts on the rays through its query pixels.

The anchors of the views are pixels of frame 0 that show the same surface point (A23), so there the
measured rays are exact and only depth is not. Where several views see a point its place in frame 0
is known; what the fused tracks are off by there, they are mostly off by at all times (a scale that
the views share, a code decoded at a wrong place of the surface).

With P_v = I - r_v r_v^T across the ray r_v of view v and f_k the fused place in frame 0, the shift
d_k of track k is the mean of a Gaussian model, in normalised units:

    P_v (f_k + d_k - o_v) ~ N(0, RAY^2)        d_k ~ N(d, OWN^2)        d ~ N(0, COMMON^2)

Rays that do not meet the others weigh less (Cauchy).
"""

import jax
import jax.numpy as jnp

from syncmv4d_jax.models.dpa import smoothing

RAY, OWN, COMMON = 0.01, 0.08, 0.3  # 2.5 mm, 2 cm, 7.5 cm
OUTLIER = 0.04  # 1 cm
ROUNDS = 2


def shift(points: jax.Array, confidence: jax.Array, rays: jax.Array) -> jax.Array:
    """Returns what is to be added to each track.

    Args:
      points: [b k 3], the fused tracks in frame 0, normalised units.
      confidence: [b v k] of the measurements in frame 0; 0 = not measured, its ray is unknown.
      rays: [b v k 6] Pluecker coordinates of the rays through the query pixels, world axes.

    Returns:
      [b k 3]; the common shift for tracks that no view sees in frame 0, zeros if none is seen.
    """
    direction, moment = rays[..., :3], rays[..., 3:]
    eye = jnp.eye(3)[None, None, None]
    across = eye - direction[..., :, None] * direction[..., None, :]
    foot = jnp.cross(direction, moment)  # of the ray, nearest to the origin

    def gap(moved):
        """Vectors from the moved points to the rays, [b v k 3]."""
        return foot - jnp.einsum("b v k i j, b k j -> b v k i", across, moved)

    def step(found, _):
        off = jnp.sum(jnp.square(gap(points + found)), axis=-1)
        weight = jax.lax.stop_gradient(confidence / (1 + off / OUTLIER**2)) / RAY**2
        information = jnp.einsum("b v k, b v k i j -> b k i j", weight, across)
        asked = jnp.einsum("b v k, b v k i -> b k i", weight, gap(points))
        return _solve(information, asked), None

    # Before the first estimate all rays are far: none is judged.
    start = _solve(
        jnp.einsum("b v k, b v k i j -> b k i j", confidence / RAY**2, across),
        jnp.einsum("b v k, b v k i -> b k i", confidence / RAY**2, gap(points)),
    )
    return jax.lax.scan(step, start, length=ROUNDS)[0]


def _solve(information, asked):
    """The mean shifts [b k 3] from each track's information [b k 3 3] and asked = information d."""
    eye = jnp.eye(3)[None, None]
    # What a track says of the common shift: its information, spread by OWN.
    spread = eye + OWN**2 * information
    share = smoothing.solve(spread, jnp.concatenate([information, asked[..., None]], axis=-1))
    total = jnp.sum(share, axis=1)
    common = smoothing.solve(total[..., :3] + jnp.eye(3)[None] / COMMON**2, total[..., 3:])
    common = common[:, None, :, 0]
    rest = asked - jnp.einsum(
        "b k i j, b k j -> b k i", information, jnp.broadcast_to(common, asked.shape)
    )
    own = smoothing.solve(information + eye / OWN**2, rest[..., None])[..., 0]
    return common + own
