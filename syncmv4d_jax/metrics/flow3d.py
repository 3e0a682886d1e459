"""Where pixels go in three dimensions, against the truth: the metrics and rows of flow maps.

With P a pixel's true point in the frame of camera 0, p the predicted one (geometry/flow_map.py),
over pixels whose truth is known:

    (1)  error = mean |p_n - P_n|, n >= 1    of pixels that do not stand still: max |P_n - P_0| > s
    (2)  drift = mean |p_n - P_0|, n >= 1    of pixels that do
    (3)  apd3d = mean_d share of (1)'s below d (W / 256) Z / f,   d = 1, 2, 4, 8, 16 pixels

with s = 1 mm; and (1) of pixels that get more than 2 cm away, and of these from frame 6 on.
Rows, of one frame 0:

    held           nothing moves
    mean_path, crop_ridge, nearest
                   the paths that training scenes teach (priors.py); they are told which pixels do
                   not stand still, which no model is: that can only help them
    true_velocity  an oracle: goes on as the truth does from frame 0 to 1
    codec          an oracle: the truth, after its own latents
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.metrics import baselines, motion, summary, video

STILL = 1e-3  # metres
MOVED = 0.02  # metres
LATE = 6  # frames
PIXELS, WIDTH = (1, 2, 4, 8, 16), 256  # of Eq. 3
LEAST = 16  # pixels of a surface in a view
CODEC = "codec"
ROWS = ("model", "held", *baselines.PRIORS, "true_velocity", CODEC)
CODEC_MM, HELD_SHARE, CENTROID, DRIFT_MM = 15.0, 0.75, 0.8, 2.0  # docs/more4d.md
Scores = dict[str, dict[str, float | None]]


class View(NamedTuple):
    """A view's pixels whose truth is known.

    true: [n k 3] metres, frame of camera 0. limit: [n k] metres of one pixel of Eq. 3. moves,
    still: [k] bool. group: [k] the surface, -1 none.
    """

    true: np.ndarray
    limit: np.ndarray
    moves: np.ndarray
    still: np.ndarray
    group: np.ndarray


def score(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    name: str,
    *,
    paths: Mapping[str, np.ndarray] | None = None,
    rebuilt: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Scores:
    """Scores a sample that says where every pixel goes, and its rivals.

    Args:
      sample: flow [v n h w 3], depth0 [v h w] metres, intrinsics [v 3 3], extrinsics [v 3 4].
      truth: of schema.BATCH, unbatched: flow, flow_valid, depth0, frame_valid, cameras.
      paths: {row: path [n 3] metres, world}, of priors.py.
      rebuilt: [v n h w 3], the true flow after its own latents.
      groups: [v h w] int, the surface that a pixel shows in frame 0, -1 none; None: all that moves
        is one.

    Returns:
      {row: {metric: value}}.

    Raises:
      ValueError: a flow of another size than the record's; names the sample.
    """
    if sample["flow"].shape != truth["flow"].shape:
        raise ValueError(
            f"sample {name}: wanted flow [v n h w 3] {truth['flow'].shape} as in the record, got "
            f"{sample['flow'].shape}: was it sampled with another size or number of views?"
        )
    n = int(np.sum(truth.get("frame_valid", np.ones(truth["flow"].shape[1], bool))))
    parts: dict[str, list[dict[str, list[np.ndarray]]]] = {}
    for v in range(len(truth["flow"])):
        known = np.asarray(truth["flow_valid"][v]) & (np.asarray(truth["depth0"][v]) > 0)
        camera = _camera(truth, v)
        one = _view(truth["flow"][v, :n], camera, known, None if groups is None else groups[v])
        rows = {
            "model": _points(sample["flow"][v, :n], _camera(sample, v), known),
            "held": np.broadcast_to(one.true[:1], one.true.shape),
            "true_velocity": baselines.constant_velocity(one.true),
        }
        for row, path in (paths or {}).items():
            way = np.asarray(path[:n], np.float64) @ np.asarray(camera.extrinsics)[:, :3].T
            rows[row] = one.true[:1] + way[:, None] * ~one.still[None, :, None]
        if rebuilt is not None:
            rows[CODEC] = _points(rebuilt[v, :n], camera, known)
        for row, points in rows.items():
            parts.setdefault(row, []).append(_parts(points, one))
    return {row: _joined(parts[row]) for row in ROWS if row in parts}


def _camera(arrays: Mapping[str, Any], v: int) -> flow_map.Camera:
    pose = np.asarray(arrays["extrinsics"][v], np.float64)
    pose = pose if pose.ndim == 2 else pose[0]
    lens = np.asarray(arrays["intrinsics"][v], np.float64)
    return flow_map.Camera(np.asarray(arrays["depth0"][v], np.float64), lens, pose)


def _points(flow: np.ndarray, camera: flow_map.Camera, known: np.ndarray) -> np.ndarray:
    """[n k 3] metres in the frame of camera 0, of the pixels `known` [h w] of flow [n h w 3]."""
    unit, start = flow_map.units(camera)[known], flow_map.start(camera)[known]
    return start[None] + np.asarray(flow)[:, known].astype(np.float64) * unit


def _view(flow, camera: flow_map.Camera, known: np.ndarray, groups: np.ndarray | None) -> View:
    true = _points(flow, camera, known)
    far = motion.length(true - true[:1]).max(0)
    pixel = flow.shape[2] / WIDTH / camera.intrinsics[0, 0]
    moves = far > MOVED
    group = moves.astype(int) - 1 if groups is None else np.where(moves, groups[known], -1)
    return View(true, pixel * np.maximum(true[..., 2], 0.0), moves, far <= STILL, group)


def _parts(points: np.ndarray, one: View) -> dict[str, list[np.ndarray]]:
    """A row's distances in a view, by metric, still to be averaged over views."""
    away = motion.length(points - one.true)[1:]
    rests = ~one.still
    near = [away[:, rests] < d * one.limit[1:, rests] for d in PIXELS]
    steps = np.diff(points[:, rests] - one.true[:, rests], n=2, axis=0)
    return {
        "flow_epe_mm": [1e3 * away[:, rests]],
        "flow_epe_moving_mm": [1e3 * away[:, one.moves]],
        "flow_epe_late_mm": [1e3 * away[LATE - 1 :, one.moves]],
        "apd3d": [100.0 * x for x in near],
        "flow_accel": [motion.length(steps)],
        "background_drift_mm": [1e3 * motion.length(points - one.true[:1])[1:, one.still]],
        "flow_centroid": _centroids(points, one),
    }


def _centroids(points: np.ndarray, one: View) -> list[np.ndarray]:
    """The correlation of each surface that moves, [1] each."""
    found = []
    for group in np.unique(one.group[one.group >= 0]):
        here = one.group == group
        if here.sum() >= LEAST:
            value = motion.path_correlation(points[:, here].mean(1), one.true[:, here].mean(1))
            found += [] if value is None else [np.array([value])]
    return found


def _joined(views: list[dict[str, list[np.ndarray]]]) -> dict[str, float | None]:
    """Means over all views' pixels and frames; None where there are none."""
    flat = {m: [np.ravel(x) for view in views for x in view[m]] for m in views[0]}
    return {m: video.mean(np.concatenate(x)) if x else None for m, x in flat.items()}


def checks(
    table: Mapping[str, Any], clusters: summary.Clusters | None = None
) -> list[dict[str, Any]]:
    """The bars C1 and S1 to S4 (docs/more4d.md), as `summary.checks` has them.

    An error or correlation is worth nothing that a path of the action has too: S1 to S3 want to be
    better than the best of these rows besides.
    """
    moving, late, centroid = "flow_epe_moving_mm", "flow_epe_late_mm", "flow_centroid"
    low = -np.inf

    def learned(metric: str, code: str) -> dict[str, Any]:
        return summary.beats(
            table, "model", baselines.PRIORS, metric, clusters, whole=True, code=code
        )

    return [
        summary.bound(table.get(CODEC, {}), moving, low, CODEC_MM, code="C1 codec: "),
        summary.below(table, "held", HELD_SHARE, moving, clusters, code="S1 "),
        learned(moving, "S1 "),
        summary.beats(table, "model", ("true_velocity",), late, clusters, code="S2 "),
        learned(late, "S2 "),
        summary.bound(table["model"], centroid, CENTROID, np.inf, code="S3 "),
        learned(centroid, "S3 "),
        summary.bound(table["model"], "background_drift_mm", low, DRIFT_MM, code="S4 "),
    ]
