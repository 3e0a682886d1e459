"""One scene's scores: the model's sample, its rivals and the oracles against the truth.

`score` gives {row: {metric: value}} of one scene; None where a metric is not defined for it. The
rows are those of baselines.py, the metrics those of definitions.py.

Point errors are of points that at least one view sees in frame 0 (reading A4): the others cannot be
queried, nothing says where they are; they have a metric of their own (`error_hidden_mm`).
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import (
    actions,
    baselines,
    frames,
    hoi,
    motion,
    multiview,
    summary,
    video,
)

MOVED = 0.02  # metres: a point that gets further from its place in frame 0 has moved
INLIERS = {"inliers_2cm": 0.02, "inliers_5cm": 0.05}  # metres
ROWS = (
    "model", *baselines.BASELINES, *baselines.PRIORS, *baselines.FUSIONS, baselines.NETWORK,
    *baselines.ORACLES, "truth",
)  # fmt: skip
HOI = ("mask", "points", "point_valid", "intrinsics")  # of records for control
Scores = dict[str, dict[str, float | None]]


def named(sample: Mapping[str, Any], truth: Mapping[str, Any], namer: actions.Namer) -> Scores:
    """Whether a video's action is named rightly (actions.py), in percent: of the model's, of the
    true one, and of one that stands still; padded frames count as they are.

    Args:
      truth: an example of records with `triplet`.
    """
    clips = {
        "model": sample["video"],
        "held": baselines.held(sample["video"]),
        "truth": np.asarray(truth["video"]),
    }
    action = truth["triplet"][0]
    return {row: {"action_named": 100.0 * (namer.name(x) == action)} for row, x in clips.items()}


def score(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    name: str,
    *,
    points: Mapping[str, Any] | None,
    others: Mapping[str, np.ndarray] | None = None,
    courses: Sequence[tuple[np.ndarray, np.ndarray | None]] = (),
) -> tuple[Scores, dict[float, dict[str, float | None]]]:
    """Scores one sample and its rivals.

    Args:
      sample: of `read`. truth: an example of schema.BATCH, unbatched, with video.
      points: the truth of the sample's own points: tracks [n k 3] metres, NaN where a point is of
        no surface; visibility [v n k]; anchor_valid [v k]; the truth itself where the points are
        the record's. None where nothing is known of them: then only what needs no point is scored.
      others: {row: fused tracks [n k 3]} of the same points, rows of baselines.py; of a row with
        several settings "row/setting".
      courses: videos and masks of what else could have followed the same frame 0; of records
        without masks None, what moves counts then.

    Returns:
      {row: {metric: value}}, in which `best_setting` is to choose, and the blurred baseline's video
      scores {sigma: {metric: value}}.

    Raises:
      ValueError: sizes that do not fit; names the sample.
    """
    needed = ("video", "frame_valid", "tracks", "extrinsics")
    needed = (*needed, *(HOI if "mask" in truth else ()))
    truth = {k: np.asarray(truth[k]) for k in needed if k in truth}
    if sample["video"].shape != truth["video"].shape:
        raise ValueError(
            f"sample {name}: wanted video [v n h w 3] {truth['video'].shape} as in the record, got "
            f"{sample['video'].shape}: was it sampled with another size or number of views?"
        )
    valid = truth.get("frame_valid", np.ones(truth["video"].shape[1], bool))
    n = int(valid.sum())
    rows, blurred = video_rows(sample["video"][:, :n], truth["video"][:, :n])
    if "mask" in truth:
        pairs = [(clip[:, :n], mask[:, :n]) for clip, mask in courses if mask is not None]
        for row, values in hoi_rows(sample["video"][:, :n], truth, n, pairs).items():
            rows[row] |= values
    elif courses:
        clips = [clip[:, :n] for clip, _ in courses]
        for row, margin in swapped(sample["video"][:, :n], truth["video"][:, :n], clips).items():
            rows[row]["swap_margin"] = margin
    found: Scores = {}
    if "tracks_per_view" in sample and "tracks" in truth:
        if points is not None and sample["tracks"].shape != points["tracks"].shape:
            raise ValueError(
                f"sample {name}: wanted tracks [n k 3] {points['tracks'].shape} as their truth, "
                f"got {sample['tracks'].shape}"
            )
        found = track_rows(sample, truth, points, others or {}, n)
    settings = [row for row in others or {} if "/" in row]
    return {row: rows.get(row, {}) | found.get(row, {}) for row in (*ROWS, *settings)}, blurred


def video_rows(pred: np.ndarray, true: np.ndarray) -> tuple[Scores, dict]:
    """Scores of videos [v n h w 3] uint8: the rows', and those of each blur of frame 0.

    The given frame 0 does not count; for `psnr_moving` no frame does whose region is still frame
    0's to the bit, where repeating that would be perfect. Frames are scored in threads.
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
        found = views[v].score(i)
        if not (true[v, i] != first[v])[region[v]].any():
            for values in (*found.values(), *guesses.values()):
                values["psnr_moving"] = np.nan
        return found, guesses

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and scipy let go
        done = list(pool.map(one, itertools.product(range(len(true)), range(n))))
    found = {
        row: {m: video.mean([d[0][row][m] for d in done]) for m in frames.SCORES} for row in clips
    }
    for row, clip in clips.items():
        values = video.temporal(clip, true, region)
        found[row] |= dict(zip(("temporal_correlation", "temporal_std_ratio"), values, strict=True))
        found[row]["gradient_energy"] = video.gradient_energy(clip, true, region)
    blurred = {
        s: {m: video.mean([d[1][s][m] for d in done]) for m in ("psnr", "psnr_moving")}
        for s in blurs
    }
    return found, blurred


def hoi_rows(
    pred: np.ndarray, truth: Mapping[str, Any], n: int, courses: Sequence[hoi.Other]
) -> Scores:
    """Scores of hands and objects (hoi.py) of the rows that are videos; n: frames."""
    true, mask = truth["video"][:, :n], truth["mask"][:, :n]
    first, later = true[:, 0], [(x[:, 1:], m[:, 1:]) for x, m in courses]
    clips = {
        "model": pred[:, 1:],
        "frame_0": baselines.repeat(first, n - 1),
        "time_mean": baselines.time_mean(pred)[:, 1:],
        "held": baselines.held(pred)[:, 1:],
    }
    found = {row: hoi.score(x, true[:, 1:], mask[:, 1:], later) for row, x in clips.items()}
    if "points" in truth:
        for row, x in clips.items():
            found[row]["point_ade"] = hoi.point_ade(x, truth, mask[:, 1:], first)
    return found


def swapped(
    pred: np.ndarray, true: np.ndarray, others: Sequence[np.ndarray]
) -> dict[str, float | None]:
    """`hoi.swap_margin` of the rows that are videos [v n h w 3] and change, where anything moves in
    the truth or in the other one."""
    here = video.moving_region(true)
    regions = [(other[:, 1:], here | video.moving_region(other)) for other in others]
    clips = {"model": pred[:, 1:], "frame_0": baselines.repeat(true[:, 0], true.shape[1] - 1)}
    return {row: hoi.swap_margin(x, true[:, 1:], regions) for row, x in clips.items()}


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


def best_setting(
    scores: Mapping[str, Scores], row: str, metric: str = summary.JUDGED
) -> str | None:
    """Fills a row with its one setting that is best over all scenes, an advantage to it.

    The settings' own rows are taken out of `scores`.

    Args:
      metric: that it is the best by.

    Returns:
      The setting; None where no scene has any.
    """
    means = {}
    for name in sorted({r for one in scores.values() for r in one if r.startswith(f"{row}/")}):
        values = {s: one.get(name, {}).get(metric) for s, one in scores.items()}
        means[name] = summary.mean(values)["value"]
    known = {name: x for name, x in means.items() if x is not None}
    gains = {name: summary.gain(metric, x, 0.0) or 0.0 for name, x in known.items()}
    best = max(gains, key=gains.__getitem__) if gains else None
    for one in scores.values():
        settings = {name: one.pop(name) for name in means if name in one}
        if row in one or settings:
            one[row] = one.get(row, {}) | (settings.get(best, {}) if best else {})
    return best and best.split("/")[1]


def track_rows(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    points: Mapping[str, Any] | None,
    others: Mapping[str, np.ndarray],
    n: int,
) -> Scores:
    """The rows' track metrics over n frames; without true points what needs none."""
    per_view, fused = sample["tracks_per_view"][:, :n], sample["tracks"][:n]
    cloud = np.asarray(truth["tracks"][:n])
    pose = cameras.poses(np.asarray(truth["extrinsics"]))
    pose = pose[:, :n] if pose.ndim == 4 else pose
    copies = {
        "model": (per_view, fused),
        "time_mean": (baselines.time_mean(per_view), baselines.time_mean(fused[None])[0]),
        "held": (baselines.held(per_view), baselines.held(fused[None])[0]),
    }
    alone = {row: np.asarray(tracks)[:n] for row, tracks in others.items()}
    if points is not None:
        true = np.asarray(points["tracks"][:n])
        alone["true_held"] = np.broadcast_to(true[:1], true.shape)
        alone["true_velocity"] = baselines.constant_velocity(true)

    def fill(row):
        views, one = copies.get(row, (None, alone.get(row)))
        scores = cloud_scores(one, cloud)
        if points is None:
            return scores
        if views is None:  # one copy for all views
            views = np.broadcast_to(one, (len(pose), *one.shape))
        scores |= point_scores(one, points, n)
        return scores | view_scores(views, points, pose, n)

    rows = [*copies, *alone]
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and the k-d tree let go
        found = dict(zip(rows, pool.map(fill, rows), strict=True))
    if points is not None:
        known = np.isfinite(np.asarray(points["tracks"][:n])).all((0, 2))
        found["model"]["known_points"] = float(100 * known.mean())
    return found | {"truth": _alone(cloud)}


def apart(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    points: Mapping[str, Any] | None,
    view: int,
) -> Scores:
    """Scores of the view whose first frame was not given and of the others, `hidden_view` and
    `shown_views`: of their videos, and of their own copies of the tracks, each against the points
    that it sees in frame 0.

    Args:
      points: see `score`.
    """
    n = int(np.sum(truth["frame_valid"]))
    clips = sample["video"][:, :n], np.asarray(truth["video"])[:, :n]
    every, found = np.arange(len(clips[0])), Scores()
    for row, chosen in (("hidden_view", every == view), ("shown_views", every != view)):
        scores = video_rows(*(clip[chosen] for clip in clips))[0]["model"]
        if points is not None and "tracks_per_view" in sample:
            copies = [
                point_scores(
                    sample["tracks_per_view"][v, :n],
                    {**points, "anchor_valid": points["anchor_valid"][v : v + 1]},
                    n,
                )
                for v in every[chosen]
            ]
            for metric in ("error_mm", "error_moving_mm"):
                values = [copy[metric] for copy in copies]
                scores[metric] = video.mean([np.nan if x is None else x for x in values])
        found[row] = scores
    return found


def _alone(tracks: np.ndarray) -> dict[str, float | None]:
    """What tracks [n k 3] have without a truth to compare with."""
    return {
        "smoothness": motion.smoothness(tracks),
        "jerk": motion.smoothness(tracks, order=3),
        "stretch_mm": motion.stretch(tracks),
    }


def cloud_scores(fused: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """Metrics of tracks [n k 3] that need no point's identity."""
    squared, linear = motion.chamfer_means(fused, true)
    return {"chamfer": squared, "chamfer_mm": linear} | _alone(fused)


def seen_first(points: Mapping[str, Any], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which points count, [k] bool each: seen by a view in frame 0, and hidden from all there."""
    known = np.isfinite(np.asarray(points["tracks"][:n])).all((0, 2))
    seen = np.asarray(points["anchor_valid"], bool).any(0)
    return known & seen, known & ~seen


def point_scores(fused: np.ndarray, points: Mapping[str, Any], n: int) -> dict[str, float | None]:
    """Metrics of fused tracks [n k 3], metres, world frame, against those of the same points."""
    true = np.asarray(points["tracks"][:n], np.float64)
    seen, hidden = seen_first(points, n)
    with np.errstate(invalid="ignore"):  # inf - inf
        far = motion.length(np.asarray(fused, np.float64) - true)
    moves = np.linalg.norm(true - true[:1], axis=-1).max(0) > MOVED

    def millimetres(kind):
        values = far[:, kind]
        return float(1000 * values.mean()) if values.size and np.isfinite(values).all() else None

    def inside(limit):
        values = far[:, seen]
        return float(100 * (values < limit).mean()) if values.size else None

    chosen = _object(points, moves) & seen
    own, wanted = fused[:, chosen], true[:, chosen]
    return {
        "error_mm": millimetres(seen),
        "error_moving_mm": millimetres(seen & moves),
        "error_hidden_mm": millimetres(hidden),
        **{name: inside(limit) for name, limit in INLIERS.items()},
        "acceleration_error": motion.acceleration_error(fused[:, seen], true[:, seen]),
        "object_correlation": motion.path_correlation(own.mean(1), wanted.mean(1))
        if chosen.any()
        else None,
    }


def view_scores(
    per_view: np.ndarray, points: Mapping[str, Any], pose: np.ndarray, n: int
) -> dict[str, float | None]:
    """Relative errors of tracks_per_view [v n k 3], metres, world frame; pose [v 3 4], or
    [v n 3 4] of cameras that move.

    Of what a view sees at a frame, of points that count (`seen_first`).
    """
    true = points["tracks"][:n]
    seen = np.asarray(points["visibility"][:, :n], bool) & seen_first(points, n)[0]
    rpe, pi = multiview.single(per_view, true, seen, pose)
    mv_rpe, mv_pi = multiview.world(per_view, true, seen)
    cross, cross_pi = multiview.cross(per_view, None, seen, pose)
    own = [multiview.joint_scale(per_view[i : i + 1], true, seen[i : i + 1], pose[i : i + 1])
           for i in range(len(pose))]  # fmt: skip
    each = [multiview.rescale(per_view[i : i + 1], pose[i : i + 1], s) for i, s in enumerate(own)]
    joint = multiview.joint_scale(per_view, true, seen, pose)
    joined = multiview.rescale(per_view, pose, joint)
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
    }


def _object(points: Mapping[str, Any], moves: np.ndarray) -> np.ndarray:
    """[k] bool: the object's points, by `object_points` of the record, else those that move."""
    if "object_points" in points:
        return np.asarray(points["object_points"], bool)
    return moves
