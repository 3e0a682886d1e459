"""One scene's scores: the model's sample, the trivial baselines and the oracle against the truth.

`score` gives {row: {metric: value}} of one scene; None where a metric is not defined for it. The
rows are those of baselines.py, the metrics those of definitions.py.
"""

import itertools
import os
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import baselines, frames, motion, multiview, summary, video

MOVED = 0.02  # metres: a point that gets further from its place in frame 0 has moved
ROWS = ("model", *baselines.BASELINES, baselines.ORACLE, "truth")
Scores = dict[str, dict[str, float | None]]


def score(
    sample: Mapping[str, Any], truth: Mapping[str, Any], name: str
) -> tuple[Scores, dict[float, dict[str, float | None]]]:
    """Scores one sample and its baselines.

    Args:
      sample: of `read`. truth: an example of schema.BATCH, unbatched, with video.

    Returns:
      {row: {metric: value}}, and the blurred baseline's video scores {sigma: {metric: value}}.

    Raises:
      ValueError: sizes that do not fit; names the sample.
    """
    truth = {k: np.asarray(x) for k, x in truth.items()}
    if sample["video"].shape != truth["video"].shape:
        raise ValueError(
            f"sample {name}: wanted video [v n h w 3] {truth['video'].shape} as in the record, got "
            f"{sample['video'].shape}: was it sampled with another size or number of views?"
        )
    valid = truth.get("frame_valid", np.ones(truth["video"].shape[1], bool))
    n = int(valid.sum())
    rows, blurred = video_rows(sample["video"][:, :n], truth["video"][:, :n])
    found: Scores = {}
    if "tracks_per_view" in sample and "tracks" in truth:
        if sample["tracks"].shape != truth["tracks"].shape and _same_points(sample):
            raise ValueError(
                f"sample {name}: wanted tracks [n k 3] {truth['tracks'].shape} as in the record, "
                f"got {sample['tracks'].shape}"
            )
        found = track_rows(sample, truth, n)
    return {row: rows.get(row, {}) | found.get(row, {}) for row in ROWS}, blurred


def video_rows(pred: np.ndarray, true: np.ndarray) -> tuple[Scores, dict]:
    """Scores of videos [v n h w 3] uint8: the rows', and those of each blur of frame 0.

    The given frame 0 does not count. Frames are scored in threads.
    """
    n, region, first = true.shape[1] - 1, video.moving_region(true), true[:, 0]
    clips = {
        "model": pred[:, 1:],
        "frame_0": baselines.repeat(first, n),
        "time_mean": baselines.time_mean(pred)[:, 1:],
        "held": baselines.held(pred)[:, 1:],
    }
    blurs = {sigma: baselines.blur(first, sigma) for sigma in baselines.SIGMAS}
    true = true[:, 1:]
    views = [frames.View({row: clip[v] for row, clip in clips.items()}, true[v], region[v])
             if n else None for v in range(len(true))]  # fmt: skip

    def one(place):
        v, i = place
        guesses = {s: frames.psnr(b[v], true[v, i], region[v]) for s, b in blurs.items()}
        return views[v].score(i), guesses

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and scipy let go
        done = list(pool.map(one, itertools.product(range(len(true)), range(n))))
    found = {
        row: {m: video.mean([d[0][row][m] for d in done]) for m in frames.SCORES} for row in clips
    }
    for row, clip in clips.items():
        values = video.temporal(clip, true, region)
        found[row] |= dict(zip(("temporal_correlation", "temporal_std_ratio"), values, strict=True))
    blurred = {
        s: {m: video.mean([d[1][s][m] for d in done]) for m in ("psnr", "psnr_moving")}
        for s in blurs
    }
    return found, blurred


def best_blur(scores: Mapping[str, Scores], blurred: Mapping[str, dict]) -> float:
    """Fills the row frame_0_blurred with the one sigma that is best over all scenes; returns it."""

    def total(sigma):
        values = {name: one[sigma]["psnr_moving"] for name, one in blurred.items()}
        value = summary.mean(values)["value"]
        return -np.inf if value is None else value

    sigma = max(baselines.SIGMAS, key=total)
    for name, one in blurred.items():
        scores[name]["frame_0_blurred"] |= one[sigma]
    return sigma


def _same_points(sample: Mapping[str, Any]) -> bool:
    """Whether the sample's points are the record's own, one by one."""
    return sample["meta"].get("anchors", "record") == "record"


def track_rows(sample: Mapping[str, Any], truth: Mapping[str, Any], n: int) -> Scores:
    """The rows' track metrics over n frames; without common points Chamfer and smoothness only."""
    per_view, fused = sample["tracks_per_view"][:, :n], sample["tracks"][:n]
    true = truth["tracks"][:n]
    oracle = np.broadcast_to(true[:1], true.shape)
    copies = {
        "model": (per_view, fused),
        "time_mean": (baselines.time_mean(per_view), baselines.time_mean(fused[None])[0]),
        "held": (baselines.held(per_view), baselines.held(fused[None])[0]),
        baselines.ORACLE: (
            np.broadcast_to(oracle, (len(truth["extrinsics"]), *true.shape)),
            oracle,
        ),
    }

    def fill(row):
        views, one = copies[row]
        common = row == baselines.ORACLE or _same_points(sample)
        return cloud_scores(one, true) | (track_scores(views, one, truth, n) if common else {})

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and the k-d tree let go
        found = dict(zip(copies, pool.map(fill, copies), strict=True))
    alone = {"smoothness": motion.smoothness(true), "jerk": motion.smoothness(true, order=3)}
    return found | {"truth": alone}


def cloud_scores(fused: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """Metrics of tracks [n k 3] that need no point's identity."""
    squared, linear = motion.chamfer_means(fused, true)
    return {
        "chamfer": squared,
        "chamfer_mm": linear,
        "smoothness": motion.smoothness(fused),
        "jerk": motion.smoothness(fused, order=3),
    }


def track_scores(
    per_view: np.ndarray, fused: np.ndarray, truth: Mapping[str, Any], n: int
) -> dict[str, float | None]:
    """Metrics of tracks_per_view [v n k 3] and fused tracks [n k 3], metres, world frame."""
    true, seen = truth["tracks"][:n], truth["visibility"][:, :n]
    pose = cameras.static(truth["extrinsics"], where="track metrics")
    rpe, pi = multiview.single(per_view, true, seen, pose)
    mv_rpe, mv_pi = multiview.world(per_view, true, seen)
    cross, cross_pi = multiview.cross(per_view, None, seen, pose)
    own = [multiview.joint_scale(per_view[i : i + 1], true, seen[i : i + 1], pose[i : i + 1])
           for i in range(len(pose))]  # fmt: skip
    each = [multiview.rescale(per_view[i : i + 1], pose[i : i + 1], s) for i, s in enumerate(own)]
    joint = multiview.joint_scale(per_view, true, seen, pose)
    joined = multiview.rescale(per_view, pose, joint)
    error = np.linalg.norm(fused - true, axis=-1)
    points = _object(truth, true)
    return {
        "rpe": rpe,
        "pi": pi,
        "rpe_aligned": multiview.single(np.concatenate(each), true, seen, pose)[0],
        "mv_rpe": mv_rpe,
        "mv_pi": mv_pi,
        "mv_rpe_aligned": multiview.world(joined, true, seen)[0],
        "mv_rpe_cross_truth": multiview.cross(per_view, true, seen, pose)[0],
        "mv_rpe_cross": cross,
        "mv_pi_cross": cross_pi,
        "error_mm": float(1000 * error.mean()) if np.isfinite(error).all() else None,
        "acceleration_error": motion.acceleration_error(fused, true),
        "object_correlation": motion.path_correlation(
            fused[:, points].mean(1), true[:, points].mean(1)
        )
        if points.any()
        else None,
    }


def _object(truth: Mapping[str, Any], true: np.ndarray) -> np.ndarray:
    """[k] bool: the object's points, by `object_points` of the record, else those that move."""
    if "object_points" in truth:
        return np.asarray(truth["object_points"], bool)
    return np.linalg.norm(true - true[:1], axis=-1).max(0) > MOVED
