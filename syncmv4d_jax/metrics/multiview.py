"""Relative point error and inliers over several views (the paper's "multi-view reprojection").

Each view v predicts its own copy of the points, X^_v (world frame). Three readings:

    (A) world           X^_v against X, relative to |X|, from the world's origin
    (B) cross vs truth  E_j X^_i against E_j X, relative to |E_j X|, over pairs i != j
    (C) cross           E_j X^_i against E_j X^_j, relative to |E_j X^_j|, over pairs i != j

A is the paper's primary number as far as it can be told, and depends on where the world's origin
is; B and C do not. C holds no truth: it measures how far the views agree, and points that stand
still may agree perfectly. Frames in which no point is seen (B, C:
by both views) are dropped.
"""

import itertools

import numpy as np

from syncmv4d_jax import cameras
from syncmv4d_jax.metrics import motion

Pair = tuple[float | None, float | None]


def _check(per_view: np.ndarray, true: np.ndarray, visible: np.ndarray) -> None:
    wanted = (len(per_view), *true.shape)
    if per_view.shape != wanted or visible.shape != wanted[:3]:
        raise ValueError(
            f"wanted points [v n k 3] {wanted} and visibility {wanted[:3]} for tracks "
            f"{true.shape}, got {per_view.shape} and {visible.shape}"
        )


def single(
    per_view: np.ndarray, true: np.ndarray, visible: np.ndarray, extrinsics: np.ndarray
) -> Pair:
    """(RPE, PI), per cent, in each view's own camera frame, mean over views and frames.

    Args:
      per_view: [v n k 3], predicted, metres, world frame.
      true: [n k 3], metres, world frame.
      visible: [v n k] bool.
      extrinsics: [v 3 4], world to camera.
    """
    _check(per_view, true, visible)
    extrinsics = np.asarray(extrinsics, np.float64)
    pred = cameras.to_camera(np.asarray(per_view, np.float64), extrinsics)
    truth = np.broadcast_to(np.asarray(true, np.float64), per_view.shape)
    return _over_views(pred, cameras.to_camera(truth, extrinsics), visible)


def world(per_view: np.ndarray, true: np.ndarray, visible: np.ndarray) -> Pair:
    """(RPE, PI), per cent, reading A: in the world frame; arguments as `single`."""
    _check(per_view, true, visible)
    return _over_views(per_view, np.broadcast_to(true, per_view.shape), visible)


def cross_pairs(
    per_view: np.ndarray,
    true: np.ndarray | None,
    visible: np.ndarray,
    extrinsics: np.ndarray,
) -> list[Pair]:
    """(RPE, PI) of each ordered pair of views (i, j), i != j: C, or B where `true` is given.

    Args:
      per_view: [v n k 3], metres, world frame.
      true: [n k 3], or None: view j's own points are the reference.
      visible: [v n k] bool; a pair's mask is what both views see.
      extrinsics: [v 3 4], world to camera.
    """
    extrinsics, points = np.asarray(extrinsics, np.float64), np.asarray(per_view, np.float64)
    found = []
    for i, j in itertools.permutations(range(len(points)), 2):
        pose = extrinsics[j]
        reference = points[j] if true is None else np.asarray(true, np.float64)
        seen = visible[i] & visible[j]
        if true is None:  # a reference that is not finite cannot be one
            seen = seen & np.isfinite(reference).all(-1)
        found.append(
            motion.rpe_pi(
                cameras.to_camera(points[i], pose), cameras.to_camera(reference, pose), seen
            )
        )
    return found


def cross(
    per_view: np.ndarray,
    true: np.ndarray | None,
    visible: np.ndarray,
    extrinsics: np.ndarray,
) -> Pair:
    """Mean over the pairs of `cross_pairs` that see common points; (None, None) without one."""
    pairs = [p for p in cross_pairs(per_view, true, visible, extrinsics) if p[0] is not None]
    if not pairs:
        return None, None
    rpe, pi = np.mean(np.array(pairs, np.float64), axis=0)
    return float(rpe), float(pi)


def joint_scale(
    per_view: np.ndarray, true: np.ndarray, visible: np.ndarray, extrinsics: np.ndarray
) -> float:
    """One scale for all views, about their cameras (Eq. 4 of motion.py), arguments as `single`."""
    extrinsics = np.asarray(extrinsics, np.float64)
    truth = np.broadcast_to(np.asarray(true, np.float64), per_view.shape)
    return motion.scale(
        np.concatenate(cameras.to_camera(np.asarray(per_view, np.float64), extrinsics)),
        np.concatenate(cameras.to_camera(truth, extrinsics)),
        np.concatenate(visible),
    )


def rescale(per_view: np.ndarray, extrinsics: np.ndarray, factor: float) -> np.ndarray:
    """Scales each view's points [v n k 3] about its own camera's centre."""
    extrinsics = np.asarray(extrinsics, np.float64)
    local = cameras.to_camera(np.asarray(per_view, np.float64), extrinsics)
    return cameras.to_world(factor * local, extrinsics)


def _over_views(pred: np.ndarray, true: np.ndarray, visible: np.ndarray) -> Pair:
    """Frames of all views are one list of frames, as frames without points are dropped from it."""
    return motion.rpe_pi(np.concatenate(pred), np.concatenate(true), np.concatenate(visible))
