"""Metrics of point tracks: relative error, inliers, alignment, Chamfer distance, smoothness.

With predicted points p and true points g in one frame of reference, metres:

    (1)  e = |p - g| / max(|g|, 0.01)
    (2)  RPE = 100 mean_n mean_k e            over valid points, frames without one dropped
    (3)  PI  = 100 mean_n mean_k [e < 0.25]
    (4)  s   = sum w^2 p.g / sum w^2 p.p      one scale per clip (or one for all its views)
    (5)  CD  = mean_n (mean_a min_b |a-b|^2 + mean_b min_a |a-b|^2)
    (6)  smoothness = mean |x_{n+1} - 2 x_n + x_{n-1}|

The paper gives no formulas; (1)-(4) follow GeometryCrafter's published evaluation, (5) and (6) are
choices (docs/metrics.md). A result that is not defined (no valid point, too few frames) is None,
never NaN. A predicted point that is not finite counts as the origin: 100% error, no inlier.
"""

import numpy as np
from scipy import spatial

FLOOR = 0.01  # metres: lower bound of the norm that errors are relative to
INLIER = 0.25
Pair = tuple[float | None, float | None]


def mean_over_frames(values: np.ndarray, mask: np.ndarray) -> float | None:
    """Returns mean_n mean_k of values [n k] over mask [n k]; None without any valid value."""
    count = mask.sum(-1)
    kept = count > 0
    if not kept.any():
        return None
    sums = np.where(mask, values, 0.0).sum(-1)
    return float((sums[kept] / count[kept]).mean())


def _points(pred: np.ndarray, true: np.ndarray, mask: np.ndarray | None):
    """Returns float64 pred and true [n k 3], zero where masked out, and mask [n k]."""
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    if pred.shape != true.shape or pred.ndim < 3 or pred.shape[-1] != 3:
        raise ValueError(
            f"wanted predicted and true points [n ... 3], got {pred.shape}, {true.shape}"
        )
    mask = np.ones(true.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != true.shape[:-1]:
        raise ValueError(f"wanted a mask {true.shape[:-1]}, got {mask.shape}")
    n = len(true)
    pred, true, mask = pred.reshape(n, -1, 3), true.reshape(n, -1, 3), mask.reshape(n, -1)
    if not np.isfinite(true[mask]).all():
        raise ValueError(f"{(~np.isfinite(true[mask])).any(-1).sum()} true points are not finite")
    finite = np.isfinite(pred).all(-1, keepdims=True)
    pred = np.where(mask[..., None] & finite, pred, 0.0)
    return pred, np.where(mask[..., None], true, 0.0), mask


def length(vectors: np.ndarray) -> np.ndarray:
    """Returns |x| [...] of vectors [... 3]."""
    x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
    return np.sqrt(x * x + y * y + z * z)


def rpe_pi(pred: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> Pair:
    """Relative point error and point inliers, per cent (Eq. 2, 3).

    Args:
      pred, true: [n ... 3], metres, the same frame of reference (single view: the camera's).
      mask: [n ...] bool, valid points; None for all.

    Returns:
      (RPE, PI), both None where no point is valid.

    Raises:
      ValueError: shapes that do not fit, or a valid true point that is not finite.
    """
    pred, true, mask = _points(pred, true, mask)
    return pair(length(pred - true), length(true), mask)


def pair(distance: np.ndarray, size: np.ndarray, mask: np.ndarray) -> Pair:
    """(RPE, PI), per cent, of distances |p - g| and sizes |g| [n k], metres, over mask [n k].

    A distance that is not finite counts as |g|.
    """
    error = np.where(np.isfinite(distance), distance, size) / np.maximum(size, FLOOR)
    rpe, pi = mean_over_frames(error, mask), mean_over_frames(error < INLIER, mask)
    return (None, None) if rpe is None or pi is None else (100 * rpe, 100 * pi)


def scale(
    pred: np.ndarray,
    true: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    weight: np.ndarray | None = None,
) -> float:
    """The one scale of a clip that brings pred nearest to true (Eq. 4); 1.0 where undefined.

    Args:
      pred, true: [n ... 3]; stack views along n for one joint scale.
      mask: [n ...] bool.
      weight: [n ...], for example 1 / depth; None for 1.
    """
    shape = np.shape(true)[:-1]
    pred, true, mask = _points(pred, true, mask)
    square = np.ones(shape) if weight is None else np.asarray(weight, np.float64) ** 2
    square = np.where(mask, square.reshape(mask.shape), 0.0)[..., None]
    below = (square * pred * pred).sum()
    return float((square * pred * true).sum() / below) if below > 0 else 1.0


def scale_and_depth_shift(
    pred: np.ndarray,
    true: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    weight: np.ndarray | None = None,
) -> tuple[float, float]:
    """Least-squares (scale, shift) with true ~ scale pred + (0, 0, shift): affine baselines.

    Args:
      pred, true: [n ... 3], or [n ... 1] for depth maps alone.
      mask, weight: [n ...].
    """
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    mask = np.ones(true.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    pred, true = pred[mask], true[mask]
    w = np.ones(len(true)) if weight is None else np.asarray(weight, np.float64)[mask]
    w = w[:, None] ** 2
    a, b = (w * pred * pred).sum(), (w[:, 0] * pred[:, -1]).sum()
    x, y = (w * pred * true).sum(), (w[:, 0] * true[:, -1]).sum()
    c = w.sum()
    if len(true) < 2 or a * c - b * b <= 1e-12 * a * c:
        return 1.0, 0.0
    found = np.linalg.solve([[a, b], [b, c]], [x, y])
    return float(found[0]), float(found[1])


def depth_errors(
    pred: np.ndarray, true: np.ndarray, mask: np.ndarray
) -> tuple[float | None, float | None]:
    """Absolute relative error and the share of depth ratios below 1.25, of depths [n ...]."""
    n = len(true)
    mask = np.asarray(mask, bool).reshape(n, -1)
    pred = np.where(mask, np.asarray(pred, np.float64).reshape(n, -1), 1.0)
    true = np.where(mask, np.asarray(true, np.float64).reshape(n, -1), 1.0)
    ratio = np.maximum(
        pred / true, np.divide(true, pred, where=pred > 0, out=np.full_like(pred, 9))
    )
    absrel = mean_over_frames(np.abs(pred - true) / true, mask)
    return absrel, mean_over_frames((ratio < 1.25) & (pred > 0), mask)


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
