"""Smooth motion in closed form: tracks that move together smooth one another.

A track k with mean place m_k has the displacement D_k(n) = x_k(n) - m_k. Around each (k, n) the
displacements of near tracks and frames are fitted, in weighted least squares, by

    D_j(n') ~ a + A (m_j - m_k) + v (n' - n)          weight: w_j(n') G_kj T(n' - n)

which a rigid part moving steadily obeys exactly; the smoothed point is m_k + a. G_kj falls with
the distance of m_j from m_k and with the mean square difference of the two displacements, so that
parts that move differently do not mix; T is a window over frames. Frames of a track that nothing
measured take the motion of its neighbours.

Everything is products of [k k] and [n n] matrices with moments, and 5 x 5 systems: no search, no
scatter, equivariant to permutations of points.
"""

import einops
import jax
import jax.numpy as jnp

NEAR = 0.12  # normalised units (3 cm at 0.25 m): deviation of G over places
ALIKE = 0.1  # of G over displacements
WINDOW = 1.2  # frames: deviation of T
RIDGE = (1e-6, 0.03, 0.03, 0.03, 0.2)  # on a, A, v, in summed weights
ROUNDS = 2
_TINY = 1e-9


def smooth(points: jax.Array, weight: jax.Array, *, ordered: bool = True) -> jax.Array:
    """Returns smoothed tracks.

    Args:
      points: [b n k 3], normalised units, finite.
      weight: [b n k], 0 = not measured.
      ordered: frames have an order; else only points of one frame smooth each other.

    Returns:
      [b n k 3]; tracks that no frame measured are at the mean of the others' points.
    """
    window = _window(points.shape[1], ordered)
    ever = jnp.sum(weight, axis=1) > 0
    frames = jnp.any(weight > 0, axis=2, keepdims=True).astype(points.dtype)  # not padding

    def step(known, _):
        # Where nothing was measured the model stands in, or still tracks would lose those frames.
        place = _mean(points - known, weight) + _mean(known, frames)
        moved = points - place[:, None]
        near = _affinity(place, moved, weight)
        return place[:, None] + _fit(place, moved, weight, near, window), None

    known = jnp.broadcast_to(_mean(points, weight)[:, None], points.shape)
    known, _ = jax.lax.scan(step, known, length=ROUNDS)
    count = jnp.maximum(jnp.sum(ever, axis=1), 1)[:, None, None]
    middle = jnp.sum(jnp.where(ever[:, None, :, None], known, 0.0), axis=2) / count
    return jnp.where(ever[:, None, :, None], known, middle[:, :, None])


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves small symmetric positive definite systems, elementwise over the leading axes.

    Args:
      matrix: [... m m].  right: [... m c].

    Returns:
      [... m c].
    """
    size = matrix.shape[-1]
    rows = jnp.concatenate([matrix, right], axis=-1)
    for i in range(size):  # Gauss-Jordan; a positive definite matrix needs no pivoting
        pivot = rows[..., i : i + 1, :]
        pivot = pivot / jnp.maximum(pivot[..., i : i + 1], _TINY)
        here = (jnp.arange(size) == i)[(None,) * (rows.ndim - 2) + (slice(None), None)]
        rows = jnp.where(here, pivot, rows - rows[..., i : i + 1] * pivot)
    return rows[..., size:]


def _window(frames: int, ordered: bool) -> jax.Array:
    """Returns T times the powers 0, 1, 2 of n' - n: [3 n n']."""
    frame = jnp.arange(frames, dtype=jnp.float32)
    gap = frame[None, :] - frame[:, None]
    if not ordered:
        base = jnp.eye(frames) + 1e-4
        return jnp.stack([base, jnp.zeros_like(base), jnp.zeros_like(base)])
    base = jnp.exp(-0.5 * jnp.square(gap / WINDOW)) + 1e-4 / (1 + jnp.square(gap))
    return jnp.stack([base, base * gap, base * jnp.square(gap)])


def _mean(x, weight):
    """Weighted mean over frames: [b n k 3] -> [b k 3]."""
    total = jnp.maximum(jnp.sum(weight, axis=1), _TINY)[..., None]
    return jnp.sum(x * weight[..., None], axis=1) / total


def _affinity(place, moved, weight):
    """Returns G [b k j]; 0 for tracks that nothing measured."""
    far = jnp.sum(jnp.square(place[:, :, None] - place[:, None, :]), axis=-1)
    scaled = weight[..., None] * moved
    square = weight * jnp.sum(jnp.square(moved), axis=-1)
    apart = jnp.einsum("b n k, b n j -> b k j", square, weight)
    apart = apart + einops.rearrange(apart, "b k j -> b j k")
    apart = apart - 2 * jnp.einsum("b n k c, b n j c -> b k j", scaled, scaled)
    both = jnp.einsum("b n k, b n j -> b k j", weight, weight)
    apart = jnp.maximum(apart, 0.0) / jnp.maximum(both, _TINY)
    ever = (jnp.sum(weight, axis=1) > 0).astype(weight.dtype)
    near = jnp.exp(-0.5 * (far / NEAR**2 + apart / ALIKE**2))
    return near * ever[:, :, None] * ever[:, None, :]


def _fit(place, moved, weight, near, window):
    """Returns a [b n k 3] of the local fits."""
    place = jnp.broadcast_to(place[:, None], moved.shape)

    def outer(x, y):
        return einops.rearrange(x[..., :, None] * y[..., None, :], "... i j -> ... (i j)")

    def pool(values, power):
        values = weight[..., None] * values
        values = jnp.einsum("n m, b m j c -> b n j c", window[power], values)
        return jnp.einsum("b k j, b n j c -> b n k c", near, values)

    one = jnp.ones_like(weight)[..., None]
    values = jnp.concatenate([one, place, outer(place, place), moved, outer(place, moved)], -1)
    sums = jnp.split(pool(values, 0), (1, 4, 13, 16), axis=-1)
    later = jnp.split(pool(jnp.concatenate([one, place, moved], -1), 1), (1, 4), axis=-1)
    count, first, second, right, mixed = sums
    square = lambda x: einops.rearrange(x, "... (i j) -> ... i j", j=3)  # noqa: E731
    second, mixed = square(second), square(mixed)
    # Moments about the point itself instead of about the origin.
    cross = first[..., :, None] * place[..., None, :]
    second = second - cross - jnp.swapaxes(cross, -1, -2)
    second = second + count[..., None] * place[..., :, None] * place[..., None, :]
    mixed = mixed - place[..., :, None] * right[..., None, :]
    first, slope = first - count * place, later[1] - later[0] * place
    rows = [
        jnp.concatenate([count, first, later[0]], -1)[..., None, :],
        jnp.concatenate([first[..., None], second, slope[..., None]], -1),
        jnp.concatenate([later[0], slope, pool(one, 2)], -1)[..., None, :],
    ]
    matrix = jnp.concatenate(rows, -2)
    matrix = matrix + jnp.diag(jnp.array(RIDGE))[(None,) * (matrix.ndim - 2)]
    right = jnp.concatenate([right[..., None, :], mixed, later[2][..., None, :]], -2)
    return solve(matrix, right)[..., 0, :]
