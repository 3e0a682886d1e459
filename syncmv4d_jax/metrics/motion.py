"""Metrics of point tracks: relative error, inliers, alignment, Chamfer distance, smoothness.

With predicted points p and true points g in one frame of reference, metres:

    (1)  e = |p - g| / max(|g|, 0.01)
    (2)  RPE = 100 mean_n mean_k e            over valid points, frames without one dropped
    (3)  PI  = 100 mean_n mean_k [e < 0.25]
    (4)  s   = sum w^2 p.g / sum w^2 p.p      one scale per clip (or one for all its views)
    (5)  CD  = mean_n (mean_a min_b |a-b|^2 + mean_b min_a |a-b|^2)
    (6)  smoothness = mean |x_{n+1} - 2 x_n + x_{n-1}|
    (7)  stretch = mean_{n>0} mean_ij | |x_i - x_j|(n) - |x_i - x_j|(0) |,  |x_i - x_j|(0) < 2 cm

The paper gives no formulas; (1)-(4) follow GeometryCrafter's published evaluation, (5) to (7) are
choices (docs/metrics.md). A result that is not defined (no valid point, too few frames) is None,
never NaN. A predicted point that is not finite counts as the origin: 100% error, no inlier.
"""

import numpy as np
from scipy import spatial

from syncmv4d_jax.models.points import graphs

FLOOR = 0.01  # metres: lower bound of the norm that errors are relative to
INLIER = 0.25
NEAR, NEIGHBOURS = 0.02, 8  # metres, and at most so many: whose distances a stretch is of
Pair = tuple[float | None, float | None]


def mean_over_frames(values: np.ndarray, mask: np.ndarray) -> float | None:
    """Returns mean_n mean_k of values [n k] over mask [n k]; None without any valid value."""
    count = mask.sum(-1)
    kept = count > 0
    if not kept.any():
        return None
    sums = np.where(mask, values, 0.0).sum(-1)
    return float((sums[kept] / count[kept]).mean())


def length(vectors: np.ndarray) -> np.ndarray:
    """Returns |x| [...] of vectors [... 3]."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.sqrt(x * x + y * y + z * z)


def pair(distance: np.ndarray, size: np.ndarray, mask: np.ndarray) -> Pair:
    """(RPE, PI), per cent, of distances |p - g| and sizes |g| [n k], metres, over mask [n k].

    A distance that is not finite counts as |g|.
    """
    error = np.where(np.isfinite(distance), distance, size) / np.maximum(size, FLOOR)
    rpe, pi = mean_over_frames(error, mask), mean_over_frames(error < INLIER, mask)
    return (None, None) if rpe is None or pi is None else (100 * rpe, 100 * pi)


def chamfer(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Chamfer distances of each frame's two point sets.

    Args:
      a: [n p 3], b: [n q 3], metres. Points that are not finite are left out.

    Returns:
      squared [n], m^2 (Eq. 5 of a frame); linear [n], metres, the mean of both directions' mean
      distances; ab and ba [n], metres, the directions. NaN in frames where a set is empty: see
      `chamfer_means`.
    """
    rows = []
    for x, y in zip(np.asarray(a, np.float64), np.asarray(b, np.float64), strict=True):
        x, y = x[np.isfinite(x).all(-1)], y[np.isfinite(y).all(-1)]
        if not (len(x) and len(y)):
            rows.append([np.nan] * 4)
            continue
        there = spatial.cKDTree(y).query(x)[0]
        back = spatial.cKDTree(x).query(y)[0]
        square = (there**2).mean() + (back**2).mean()
        rows.append([square, (there.mean() + back.mean()) / 2, there.mean(), back.mean()])
    return dict(zip(("squared", "linear", "ab", "ba"), np.array(rows).T, strict=True))


def chamfer_means(pred: np.ndarray, true: np.ndarray) -> tuple[float | None, float | None]:
    """(squared, m^2; linear, mm): means over the frames where both sets have points, else None."""
    found = chamfer(pred, true)
    kept = np.isfinite(found["squared"])
    if not kept.any():
        return None, None
    return float(found["squared"][kept].mean()), float(1000 * found["linear"][kept].mean())


def smoothness(tracks: np.ndarray, *, order: int = 2) -> float | None:
    """Mean length of the tracks' `order`-th difference over time, metres a frame^order (Eq. 6).

    Args:
      tracks: [n k 3], metres. order: 2 acceleration, 3 jerk.

    Returns:
      None with fewer than order + 1 frames; points that are not finite are left out.
    """
    if len(tracks) <= order:
        return None
    with np.errstate(invalid="ignore"):  # inf - inf
        found = length(np.diff(np.asarray(tracks, np.float64), n=order, axis=0))
    kept = np.isfinite(found)
    return float(found[kept].mean()) if kept.any() else None


def stretch(tracks: np.ndarray) -> float | None:
    """How much neighbours' distances change over time, millimetres (Eq. 7): 0 for rigid motion.

    Args:
      tracks: [n k 3], metres; neighbours are those of frame 0.

    Returns:
      None with one frame, or where no point has a neighbour.
    """
    n, k, _ = tracks.shape
    if n < 2 or k < 2:
        return None
    few = min(NEIGHBOURS, k - 1)
    change, near = graphs.stretch(np.asarray(tracks, np.float32), radius=NEAR, max_neighbours=few)
    change, near = np.asarray(change), np.asarray(near)
    return float(1000 * change[1:, near].mean()) if near.any() else None


def acceleration_error(pred: np.ndarray, true: np.ndarray) -> float | None:
    """Mean length of the difference of the accelerations of tracks [n k 3], metres a frame^2."""
    with np.errstate(invalid="ignore"):  # inf - inf
        return smoothness(np.asarray(pred, np.float64) - np.asarray(true, np.float64), order=2)


def path_correlation(pred: np.ndarray, true: np.ndarray) -> float | None:
    """Correlation over time of two paths [n 3], centred, pooled over the axes.

    Returns:
      In -1..1; 0 for a predicted path that stands still, None for a true one that does.
    """
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    true = true - true.mean(0)
    if (true**2).sum() <= 1e-12 * len(true):
        return None
    if not np.isfinite(pred).all():
        return 0.0
    pred = pred - pred.mean(0)
    if (pred**2).sum() <= 1e-12 * len(true):
        return 0.0
    return float((pred * true).sum() / np.sqrt((pred**2).sum() * (true**2).sum()))
