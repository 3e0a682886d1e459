"""Samples on disk against ground truth -> eval.json, eval.md, eval.tex and report.html.

Rows: the model, the trivial baselines and the oracle of metrics/baselines.py, and the truth's own
smoothness. Each number carries its definition's id, its standard error over scenes and every
scene's value; `paired` holds the differences against each baseline, `checks` the goal's criteria.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from syncmv4d_jax import writers
from syncmv4d_jax.metrics import (
    baselines,
    definitions,
    motion,
    multiview,
    summary,
    tables,
    video,
)
from syncmv4d_jax.viz import report
from syncmv4d_jax.viz import video as files

log = logging.getLogger(__name__)
VERSION = 1
MOVED = 0.02  # metres: a point that gets further from its place in frame 0 has moved
Examples = Callable[[Any, str], Iterator[tuple[str, dict[str, Any]]]]
Scores = dict[str, dict[str, float | None]]


def run(config: Any, workdir: str | Path, *, examples: Examples | None = None) -> None:
    """Evaluates DIR/samples (or `config.evaluate.samples`) and writes the results to DIR.

    Args:
      config: reads `config.evaluate` and what `examples` reads.
      examples: (config, split) -> iterator of (id, unbatched example of schema.BATCH with video);
        None for the records.

    Raises:
      FileNotFoundError: no samples, or a damaged one.
      ValueError: no sample has a ground truth, or one does not fit its own.
    """
    if examples is None:
        from syncmv4d_jax.data import pipeline

        examples = pipeline.examples
    workdir = Path(workdir)
    folder = Path(config.evaluate.samples or workdir / "samples")
    found = _found(folder)
    scores, sharpness, facts = {}, {}, {}
    for name, truth in _matched(config, examples, found, quiet=False):
        sample = read(found[name])
        scores[name], sharpness[name] = score(sample, truth, name)
        facts = facts or _facts(sample, truth)
    if not scores:
        raise ValueError(
            f"{folder} has {len(found)} samples ({', '.join(sorted(found)[:3])}, ...), none "
            f"of the split {config.evaluate.split!r} of the records: set config.evaluate.split, "
            "or sample from these records (config.mode=sample)"
        )
    sigma = best_blur(scores, sharpness)
    evaluation = assemble(scores) | facts | {
        "samples": os.path.relpath(folder, workdir),
        "split": config.evaluate.split,
        "best_blur_sigma": sigma,
        "not_evaluated": sorted(found.keys() - scores.keys()),
        "command": command(),
    }  # fmt: skip
    _write(workdir / "eval.json", json.dumps(evaluation, indent=1, allow_nan=False))
    _write(workdir / "eval.md", tables.markdown(evaluation))
    _write(workdir / "eval.tex", tables.latex(evaluation))
    report.write(
        workdir / "report.html",
        (page_sample(found[n], t, n) for n, t in _matched(config, examples, found, quiet=True)),
        evaluation,
        writers.read(workdir / "metrics.jsonl"),
        config_text(config),
        command(),
    )
    log.info("%s\n%s", workdir / "eval.json", tables.markdown(evaluation))


def command() -> str:
    """The command line of this process, without machine paths before the program's name."""
    return " ".join(["python -m syncmv4d_jax.main", *sys.argv[1:]])


def config_text(config: Any) -> str:
    """The configuration as indented JSON."""
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return json.dumps(plain, indent=1, default=str)


def _found(folder: Path) -> dict[str, Path]:
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/meta.json"))}
    if not found:
        raise FileNotFoundError(
            f"{folder}: no finished samples (<id>/meta.json); --config.mode=sample makes them"
        )
    return found


def _matched(
    config: Any, examples: Examples, found: Mapping[str, Path], *, quiet: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ground truths that have a sample."""
    with tqdm(total=len(found), unit="sample", desc="evaluate", disable=quiet) as bar:
        for name, truth in examples(config, config.evaluate.split):
            if name in found:
                yield name, truth
                bar.update(1)


def read(path: Path) -> dict[str, Any]:
    """Reads what sample.write wrote: video, motion [v n h w 3] uint8, meta, arrays of tracks.npz.

    Raises:
      FileNotFoundError: a file is missing; names it.
    """
    sample = {"meta": json.loads((path / "meta.json").read_text())}
    for key, prefix in (("video", "view"), ("motion", "motion")):
        clips = [files.read(p) for p in sorted(path.glob(f"{prefix}_*.mp4"), key=_number)]
        if clips:
            sample[key] = np.stack(clips)
    if "video" not in sample or not (path / "tracks.npz").is_file():
        raise FileNotFoundError(f"{path}: wanted view_<v>.mp4 and tracks.npz; sample it again")
    with np.load(path / "tracks.npz") as arrays:
        return sample | {key: arrays[key] for key in arrays}


def _number(path: Path) -> int:
    return int(path.stem.split("_")[-1])


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
    found: Scores = {"model": {}, **{row: {} for row in baselines.BASELINES}}
    found |= {baselines.ORACLE: {}, "truth": {}}
    true = truth["video"][:, :n]
    blurred = _video_rows(found, sample["video"][:, :n], true)
    if "tracks_per_view" in sample:
        if sample["tracks"].shape != truth["tracks"].shape and _same_points(sample):
            raise ValueError(
                f"sample {name}: wanted tracks [n k 3] {truth['tracks'].shape} as in the record, "
                f"got {sample['tracks'].shape}"
            )
        _track_rows(found, sample, truth, n)
    return found, blurred


def _video_rows(found: Scores, pred: np.ndarray, true: np.ndarray) -> dict:
    """Fills the rows' video metrics and returns those of each blur of frame 0."""
    n, region = true.shape[1], video.moving_region(true)
    first = true[:, 0]
    clips = {
        "model": pred,
        "frame_0": baselines.repeat(first, n),
        "time_mean": baselines.time_mean(pred),
        "held": baselines.held(pred),
    }
    for row, clip in clips.items():
        found[row] |= video_scores(clip, true, region)
    blurred = {}
    for sigma in baselines.SIGMAS:
        clip = baselines.repeat(baselines.blur(first, sigma), n)
        blurred[sigma] = psnr_scores(clip[:, 1:], true[:, 1:], region)
    return blurred


def psnr_scores(pred: np.ndarray, true: np.ndarray, region: np.ndarray) -> dict[str, float | None]:
    """PSNR of videos [v n h w 3], whole and in the region [v h w]."""
    return {
        "psnr": video.mean(video.psnr(pred, true)),
        "psnr_moving": video.mean(video.psnr(pred, true, region[:, None])),
    }


def video_scores(pred: np.ndarray, true: np.ndarray, region: np.ndarray) -> dict[str, float | None]:
    """All video metrics of [v n h w 3] uint8, without the given frame 0."""
    pred, true = pred[:, 1:], true[:, 1:]
    correlation, ratio = video.temporal(pred, true, region)
    large = min(true.shape[2:4]) >= 11
    inside = [video.zero_background(x, region[:, None]) for x in (pred, true)]
    return psnr_scores(pred, true, region) | {
        "ssim": video.mean(video.ssim(pred, true)) if large else None,
        "ssim_moving": video.mean(video.ssim(*inside)) if large and region.any() else None,
        "gmsd": video.mean(video.gmsd(pred, true)),
        "temporal_correlation": correlation,
        "temporal_std_ratio": ratio,
    }


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


def _track_rows(found: Scores, sample: Mapping[str, Any], truth: Mapping[str, Any], n: int) -> None:
    """Fills the rows' track metrics; without common points only Chamfer and smoothness."""
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
        found[row] |= cloud_scores(one, true)
        if row == baselines.ORACLE or _same_points(sample):
            found[row] |= track_scores(views, one, truth, n)

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy and the k-d tree let go
        list(pool.map(fill, copies))
    found["truth"] = {
        "smoothness": motion.smoothness(true),
        "jerk": motion.smoothness(true, order=3),
    }


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
    true, seen, pose = truth["tracks"][:n], truth["visibility"][:, :n], truth["extrinsics"]
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


def assemble(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Joins all scenes' scores into rows, paired differences, checks and definitions."""
    table = summary.rows(scores)
    gains = summary.paired(table)
    listed = {m: vars(d) | {"preprocessing": definitions.PREPROCESSING[d.kind]}
              for m, d in definitions.DEFINITIONS.items()}  # fmt: skip
    return {
        "version": VERSION,
        "scenes": len(scores),
        "rows": table,
        "paired": gains,
        "checks": summary.checks(table, gains),
        "definitions": listed,
        "not_computed": definitions.NOT_COMPUTED,
    }


def _facts(sample: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    views, frames, height, width = np.shape(truth["video"])[:4]
    chosen = "object_points of the record" if "object_points" in truth else "points that move"
    return {
        "fps": sample["meta"].get("fps"),
        "resolution": [height, width],
        "frames": frames,
        "views": views,
        "points": int(np.shape(truth["tracks"])[1]),
        "object": chosen if "object_points" in truth else f"{chosen} more than {MOVED} m",
        "sampling": {k: x for k, x in sample["meta"].items() if k not in ("id", "prompt")},
    }


def page_sample(path: Path, truth: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the report shows of one sample."""
    sample = read(path)
    shown = {"id": name, "meta": sample["meta"], "video": sample["video"]}
    shown |= {key: sample[key] for key in ("motion", "tracks", "confidence") if key in sample}
    for key in ("video", "motion", "tracks", "intrinsics", "extrinsics"):
        if key in truth:
            shown[f"true_{key}"] = np.asarray(truth[key])
    return shown


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
