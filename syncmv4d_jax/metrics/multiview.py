"""Relative point error and inliers over several views (the paper's "multi-view reprojection").

Each view v predicts its own copy of the points, X^_v (world frame). Three readings:

    (A) world           X^_v against X, relative to |X|, from the world's origin
    (B) cross vs truth  E_j X^_i against E_j X, relative to |E_j X|, over pairs i != j
    (C) cross           E_j X^_i against E_j X^_j, relative to |E_j X^_j|, over pairs i != j

A is the paper's primary number as far as it can be told, and depends on where the world's origin
is; B and C do not. C holds no truth: it measures how far the views agree, and points that stand
still may agree perfectly. Frames in which no point is seen (B, C: by both views) are dropped.

A camera's pose is rigid, so nothing has to be turned into its frame: with the camera's centre c_v,

    |E_v p - E_v g| = |p - g|      |E_v g| = |g - c_v|      E_v p . E_v g = (p - c_v) . (g - c_v)
"""

import itertools

import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import motion


def _check(per_view: np.ndarray, true: np.ndarray, visible: np.ndarray) -> None:
    wanted = (len(per_view), *true.shape)
    if per_view.shape != wanted or visible.shape != wanted[:3]:
        raise ValueError(
            f"wanted points [v n k 3] {wanted} and visibility {wanted[:3]} for tracks "
            f"{true.shape}, got {per_view.shape} and {visible.shape}"
        )


def single(
    per_view: np.ndarray, true: np.ndarray, visible: np.ndarray, extrinsics: np.ndarray
) -> motion.Pair:
    """(RPE, PI), per cent, in each view's own camera frame, mean over views and frames.

    Args:
      per_view: [v n k 3], predicted, metres, world frame.
      true: [n k 3], metres, world frame.
      visible: [v n k] bool.
      extrinsics: [v 3 4], world to camera; [v n 3 4] of cameras that move, here and below.
    """
    _check(per_view, true, visible)
    true = _truth(true, visible)
    size = motion.length(true - _centres(extrinsics))
    return _over_views(motion.length(per_view - true), size, visible)


def world(per_view: np.ndarray, true: np.ndarray, visible: np.ndarray) -> motion.Pair:
    """(RPE, PI), per cent, reading A: in the world frame; arguments as `single`."""
    _check(per_view, true, visible)
    true = _truth(true, visible)
    size = np.broadcast_to(motion.length(true), visible.shape)
    return _over_views(motion.length(per_view - true), size, visible)


def cross_pairs(
    per_view: np.ndarray,
    true: np.ndarray | None,
    visible: np.ndarray,
    extrinsics: np.ndarray,
) -> list[motion.Pair]:
    """(RPE, PI) of each ordered pair of views (i, j), i != j: C, or B where `true` is given.

    Args:
      per_view: [v n k 3], metres, world frame.
      true: [n k 3], or None: view j's own points are the reference.
      visible: [v n k] bool; a pair's mask is what both views see.
      extrinsics: [v 3 4], world to camera.
    """
    points, visible = np.asarray(per_view, np.float64), np.asarray(visible, bool)
    eyes = _centres(extrinsics)
    distance: dict[int | tuple[int, int], np.ndarray] = {}
    size: dict[int, np.ndarray] = {}
    if true is not None:
        true = _truth(true, visible)
        distance = {i: motion.length(p - true) for i, p in enumerate(points)}
        size = {j: motion.length(true - eye) for j, eye in enumerate(eyes)}
    found = {}
    for i, j in itertools.permutations(range(len(points)), 2):
        seen = visible[i] & visible[j]
        if true is not None:
            found[i, j] = motion.pair(distance[i], size[j], seen)
            continue
        if (j, i) not in distance:
            with np.errstate(invalid="ignore"):  # inf - inf
                distance[i, j] = motion.length(points[i] - points[j])
        if j not in size:
            size[j] = motion.length(points[j] - eyes[j])
        seen = seen & np.isfinite(size[j])  # a reference that is not finite cannot be one
        gap = distance[i, j] if (i, j) in distance else distance[j, i]
        found[i, j] = motion.pair(gap, np.where(seen, size[j], 1.0), seen)
    return list(found.values())


def cross(
    per_view: np.ndarray,
    true: np.ndarray | None,
    visible: np.ndarray,
    extrinsics: np.ndarray,
) -> motion.Pair:
    """Mean over the pairs of `cross_pairs` that see common points; (None, None) without one."""
    pairs = [p for p in cross_pairs(per_view, true, visible, extrinsics) if p[0] is not None]
    if not pairs:
        return None, None
    rpe, pi = np.mean(np.array(pairs, np.float64), axis=0)
    return float(rpe), float(pi)


def joint_scale(
    per_view: np.ndarray, true: np.ndarray, visible: np.ndarray, extrinsics: np.ndarray
) -> float:
    """One scale for all views, about their cameras (Eq. 4), arguments as `single`."""
    per_view, true, seen = np.asarray(per_view, np.float64), _truth(true, visible), visible
    finite = np.isfinite(per_view).all(-1)
    if not finite.all():
        seen = seen & finite
        per_view = np.where(seen[..., None], per_view, 0.0)
    eye = _centres(extrinsics)
    own, wanted = per_view - eye, true - eye
    below = (seen * (own * own).sum(-1)).sum()
    return float((seen * (own * wanted).sum(-1)).sum() / below) if below > 0 else 1.0


def rescale(per_view: np.ndarray, extrinsics: np.ndarray, factor: float) -> np.ndarray:
    """Scales each view's points [v n k 3] about its own camera's centre."""
    eye = _centres(extrinsics)
    return eye + factor * (np.asarray(per_view, np.float64) - eye)


def _centres(extrinsics: np.ndarray) -> np.ndarray:
    """The cameras' centres [v 1 1 3], or [v n 1 3] of those that move; metres, world frame."""
    found = cameras.camera_centre(np.asarray(extrinsics, np.float64))
    return found[:, None, None] if found.ndim == 2 else found[:, :, None]


def _truth(true: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """True points [n k 3] in float64.

    Raises:
      ValueError: one that a view sees is not finite.
    """
    true = np.asarray(true, np.float64)
    finite = np.isfinite(true).all(-1)
    if not finite.all():
        if (visible & ~finite).any():
            count = (visible & ~finite).any(0).sum()
            raise ValueError(f"{count} visible true points are not finite")
        true = np.where(finite[..., None], true, 0.0)
    return true


def _over_views(distance: np.ndarray, size: np.ndarray, visible: np.ndarray) -> motion.Pair:
    """Frames of all views are one list of frames, as frames without points are dropped from it."""
    return motion.pair(*(np.concatenate(x) for x in (distance, size, np.asarray(visible, bool))))
