"""Classical ways to align and fuse the coarse tracks of several views: what the aligner must beat.

    rigid      each view is turned and moved onto the views' mean (Kabsch, 1976), then the
               confidence-weighted mean over views
    per_view   each view is freed of a scale about its camera's centre and an offset,
               c_v = x + e_v (x - o_v) + d_v, by least squares with Cauchy weights, then the
               weighted mean over views

Both then fill gaps linearly over time and smooth over time (`smooth`). Views alone cannot tell an
offset or scale that all share: `per_view` takes the smallest errors that explain the data. What the
aligner knows besides, the rays through the query pixels of frame 0, `onto_rays` gives to any row:
rows are compared with equal information. Everything is numpy, one scene at a time.
"""

import numpy as np

from syncmv4d_jax.geometry import cameras

ROUNDS = 10
OUTLIER = 0.02  # metres: scale of the Cauchy weights
SCALE, OFFSET, NOISE = 0.03, 0.02, 0.01  # deviations of e, of d (metres), of a measurement (metres)
WINDOW = 1.0  # frames: deviation of the smoothing window
WINDOWS = (0.5, 0.8, 1.2, 2.0)  # of which a baseline gets the best
RAY, OWN = 0.0025, 0.02  # metres: deviations across a ray, and of a point from where it was


def rigid(coarse: np.ndarray, confidence: np.ndarray, *, window: float = WINDOW) -> np.ndarray:
    """Returns fused tracks [n k 3].

    Args:
      coarse: [v n k 3], metres, world frame; what confidence 0 marks is not looked at.
      confidence: [v n k].
      window: deviation of the smoothing over time, frames.

    Raises:
      ValueError: shapes that do not fit, or nothing measured.
    """
    coarse, weight = _check(coarse, confidence)
    moved = coarse
    for _ in range(ROUNDS):
        mean, total = _mean(moved, weight)
        moved = np.stack(
            [_kabsch(c, mean, w * (total > 0)) for c, w in zip(coarse, weight, strict=True)]
        )
    return smooth(*_mean(moved, weight), window=window)


def per_view(
    coarse: np.ndarray,
    confidence: np.ndarray,
    extrinsics: np.ndarray,
    *,
    window: float = WINDOW,
) -> np.ndarray:
    """Returns fused tracks [n k 3].

    Args:
      coarse, confidence, window: as in `rigid`.
      extrinsics: [v 3 4], world to camera, metres; [v n 3 4] of cameras that move, here and below.

    Raises:
      ValueError: as `rigid`.
    """
    coarse, confidence = _check(coarse, confidence)
    if np.shape(extrinsics) not in ((len(coarse), 3, 4), (*coarse.shape[:2], 3, 4)):
        raise ValueError(
            f"extrinsics: wanted [v 3 4] or [v n 3 4] for {coarse.shape[:2]} views and frames, got "
            f"{np.shape(extrinsics)}"
        )
    centre = cameras.camera_centre(np.asarray(extrinsics, np.float64))
    centre = centre[:, None, None] if centre.ndim == 2 else centre[:, :, None]
    weight, aligned = confidence, coarse
    points = _mean(coarse, weight)[0]
    for _ in range(ROUNDS):
        arm = points - centre  # [v n k 3]
        errors = _view_errors(coarse, weight, arm)
        aligned = coarse - errors[:, None, None, :1] * arm - errors[:, None, None, 1:]
        points, _ = _mean(aligned, weight)
        square = np.sum(np.square(aligned - points), axis=-1)
        weight = confidence / (1 + square / OUTLIER**2)
    return smooth(*_mean(aligned, weight), window=window)


def fusions(
    coarse: np.ndarray,
    confidence: np.ndarray,
    pixels: np.ndarray,
    sure: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
) -> dict[str, np.ndarray]:
    """The rows `coarse` and `robust/<window>` of baselines.py: fused tracks [n k 3].

    Args:
      coarse: [v n k 3] metres, world frame; confidence: [v n k].
      pixels: [v k 2], the query pixels in frame 0; sure: [v k] in 0..1, confidence in them.
      intrinsics: [v 3 3]; extrinsics: [v 3 4].
    """
    rows = {"coarse": smooth(*_mean(*_check(coarse, confidence)), window=0)}
    for window in WINDOWS:
        robust = per_view(coarse, confidence, extrinsics, window=window)
        moved = onto_rays(robust[0], pixels, sure, intrinsics, extrinsics)
        rows[f"robust/{window}"] = robust + (moved - robust[0])
    return rows


def onto_rays(
    points: np.ndarray,
    pixels: np.ndarray,
    sure: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
) -> np.ndarray:
    """Moves points [k 3] of frame 0 to the rays through their query pixels.

    Least squares: across a ray a point is off by RAY, from where it was by OWN; so a point of one
    ray keeps its depth, and where rays of several views meet that is where it goes.

    Args:
      pixels: [v k 2]; sure: [v k] in 0..1, weight of a ray.
      intrinsics: [v 3 3]; extrinsics: [v 3 4], world to camera, metres.
    """
    pixels, points = np.asarray(pixels, np.float64), np.asarray(points, np.float64)
    pose = cameras.at_first(np.asarray(extrinsics), 1)
    rotation, eye = pose[:, :, :3], cameras.camera_centre(np.asarray(pose, np.float64))
    ray = cameras.bearings(pixels, np.asarray(intrinsics, np.float64))
    ray = np.einsum("vkc,vcd->vkd", ray, rotation)
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    across = np.eye(3) - ray[..., :, None] * ray[..., None, :]
    weight = np.where(np.isfinite(across).all((-1, -2)), sure, 0.0) / RAY**2
    across = np.where(weight[..., None, None] > 0, across, 0.0)
    matrix = np.einsum("vk,vkij->kij", weight, across) + np.eye(3) / OWN**2
    right = np.einsum("vk,vkij,vkj->ki", weight, across, eye[:, None] - points[None])
    return points + np.linalg.solve(matrix, right[..., None])[..., 0]


def smooth(points: np.ndarray, weight: np.ndarray, *, window: float = WINDOW) -> np.ndarray:
    """Fills gaps linearly over time (ends are held), then takes a Gaussian mean over time.

    Args:
      points: [n k 3], metres.
      weight: [n k]; 0 = gap. A track without any frame becomes the mean of all points.
      window: frames; 0 leaves the filled tracks as they are.
    """
    frames, known = np.arange(len(points)), weight > 0
    filled = np.array(points, np.float64)
    middle = points[known].mean(0) if known.any() else np.zeros(3)
    for k in range(points.shape[1]):
        there = np.flatnonzero(known[:, k])
        for axis in range(3):
            filled[:, k, axis] = (
                np.interp(frames, there, points[there, k, axis]) if len(there) else middle[axis]
            )
    if not window:
        return filled
    kernel = np.exp(-0.5 * np.square((frames[:, None] - frames[None]) / window))
    # A filled frame counts a little: it must not outweigh the measurements that filled it.
    heavy = np.where(known, weight, 0.1 * weight[known].mean() if known.any() else 1.0)
    total = np.einsum("nm,mk->nk", kernel, heavy)
    return np.einsum("nm,mk,mkc->nkc", kernel, heavy, filled) / total[..., None]


def _check(coarse, confidence) -> tuple[np.ndarray, np.ndarray]:
    coarse, confidence = np.asarray(coarse, np.float64), np.asarray(confidence, np.float64)
    if coarse.ndim != 4 or coarse.shape[-1] != 3 or confidence.shape != coarse.shape[:3]:
        raise ValueError(
            "wanted coarse [v n k 3] and confidence [v n k], "
            f"got {coarse.shape} and {confidence.shape}"
        )
    weight = np.where(np.isfinite(coarse).all(-1) & (confidence > 0), confidence, 0.0)
    if not weight.any():
        raise ValueError(f"nothing is measured in any of {len(coarse)} views")
    return np.where(weight[..., None] > 0, coarse, 0.0), weight


def _mean(points: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over views: ([n k 3], total weight [n k])."""
    total = weight.sum(0)
    return (points * weight[..., None]).sum(0) / np.maximum(total, 1e-12)[..., None], total


def _kabsch(points: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Turns and moves points [n k 3] onto target [n k 3] in weighted least squares."""
    if not weight.any():
        return points
    share = (weight / weight.sum())[..., None]
    a, b = (points * share).sum((0, 1)), (target * share).sum((0, 1))
    u, _, vt = np.linalg.svd(np.einsum("nki,nkj->ij", (points - a) * share, target - b))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return (points - a) @ (u @ flip @ vt) + b


def _view_errors(coarse: np.ndarray, weight: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """(e_v, d_v) [v 4] of all views at once, the points eliminated, small errors preferred."""
    views = len(coarse)
    eye = np.broadcast_to(np.eye(3), (*arm.shape, 3))
    design = np.concatenate([arm[..., None], eye], axis=-1)  # [v n k 3 4]
    middle, total = _mean(coarse, weight)
    share = weight / np.maximum(total, 1e-12)
    heavy = weight[..., None, None] * design
    flat = [x.reshape(views, -1, 4) for x in (heavy, design, share[..., None, None] * design)]
    own = np.einsum("vmp,vmq->vpq", flat[0], flat[1])
    matrix = -np.einsum("vmp,umq->vpuq", flat[0], flat[2])
    matrix[np.arange(views), :, np.arange(views)] += own
    right = np.einsum("vmp,vm->vp", flat[0], (coarse - middle).reshape(views, -1))
    prior = np.tile(NOISE**2 / np.array([SCALE, OFFSET, OFFSET, OFFSET]) ** 2, views)
    matrix = matrix.reshape(4 * views, 4 * views) + np.diag(prior)
    return np.linalg.solve(matrix, right.ravel()).reshape(views, 4)
