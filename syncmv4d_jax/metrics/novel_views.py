"""What cameras see of drawn points, completed, against what they really see.

A view synthesis gets points drawn for a camera and where they cover nothing. Its video is scored
over whole frames, in the holes, in what is covered and in what is covered surely (where a source
sees all the way to the point: geometry/splat.py), each frame's error pooled over these pixels
(fewer than LEAST do not count), beside rows that have the same drawing:

    splat         the points alone, grey in holes
    fill_nearest  a hole's pixel as the nearest that is covered
    fill_blur     the mean of what is covered around it, with the one sigma of seven that is best
                  over all scenes
    fill_time     as the nearest frame has it where the same pixel is covered, else fill_nearest
    fill_pyramid  what a network with `task.fill` is shown (geometry/filling.py): means of what is
                  known around, near or far, of which what is not surely seen is a small part
    fill_telea    OpenCV's inpainting after Telea, fill_ns after Navier and Stokes, radius 3; these
                  want the extra `eval`
    autoencoder   an oracle: the true video after its own latents

Frame 0 counts: nothing of these cameras is given.
"""

import functools
import importlib.util
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from syncmv4d_jax.geometry import view_pairs
from syncmv4d_jax.metrics import baselines, hoi, summary, video

LEAST = 16  # pixels of a region
RADIUS = 3.0  # pixels, of OpenCV's inpainting
GREY = 128
SPLAT, AUTOENCODER = "splat", "autoencoder"
FILLS = ("fill_nearest", "fill_blur", "fill_time", "fill_pyramid", "fill_telea", "fill_ns")
KEYS = {"psnr_view", "psnr_view_path", "own_view_correlation"}
HOLE_DB, WHOLE_DB, SEEN_DB, CORRELATION = 2.0, 0.5, 1.5, 0.5  # docs/more4d.md
MATCHES = 1e-2, 1e-3  # pixels and parts of a pose: cameras that are one
Scores = dict[str, dict[str, float | None]]


def nearest(clip: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Clip [n h w 3] uint8 whose holes have the nearest covered pixel's colour; grey without any.

    Args:
      covered: [n h w] bool.
    """
    filled = np.where(covered[..., None], clip, GREY).astype(np.uint8)
    for n in np.flatnonzero(covered.any((1, 2)) & ~covered.all((1, 2))):
        y, x = ndimage.distance_transform_edt(
            ~covered[n], return_distances=False, return_indices=True
        )
        filled[n] = clip[n][y, x]
    return filled


def blurred(clip: np.ndarray, covered: np.ndarray, sigma: float) -> np.ndarray:
    """Clip whose holes have the Gaussian mean of what is covered; sigma: in image heights."""
    pixels = sigma * clip.shape[1]
    weight = covered[..., None].astype(np.float32)
    smooth = lambda x: ndimage.gaussian_filter(  # noqa: E731
        x, (0, pixels, pixels, 0), mode="constant", truncate=4.0
    )
    total = smooth(weight)
    mean = smooth(clip * weight) / np.maximum(total, 1e-6)
    far = nearest(clip, covered)  # where no weight reaches
    filled = np.where(total > 1e-4, np.clip(np.round(mean), 0, 255), far)
    return np.where(covered[..., None], clip, filled).astype(np.uint8)


def over_time(clip: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Clip whose holes have the same pixel of the nearest frame where it is covered."""
    filled, order = nearest(clip, covered), np.arange(len(clip))
    for n in order:
        hole = ~covered[n]
        for other in sorted(order, key=lambda m: (abs(m - n), m)):
            here = hole & covered[other]
            filled[n][here] = clip[other][here]
            hole &= ~here
    return filled


def inpainted(clip: np.ndarray, covered: np.ndarray, method: str) -> np.ndarray:
    """Clip whose holes OpenCV fills, frame by frame; method: "telea" or "ns"."""
    import cv2

    flag = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}[method]
    holes = (~covered).astype(np.uint8)
    pairs = zip(np.where(covered[..., None], clip, GREY).astype(np.uint8), holes, strict=True)
    return np.stack([cv2.inpaint(frame, hole, RADIUS, flag) for frame, hole in pairs])


def fills(clip: np.ndarray, covered: np.ndarray, sure: np.ndarray) -> dict[str, np.ndarray]:
    """The rows that fill holes, {row: clip}, of fill_blur one a setting."""
    rows = {
        SPLAT: np.where(covered[..., None], clip, GREY).astype(np.uint8),
        "fill_nearest": nearest(clip, covered),
        "fill_time": over_time(clip, covered),
        "fill_pyramid": np.asarray(view_pairs.filled(*map(jnp.asarray, (clip, covered, sure)))),
    }
    if importlib.util.find_spec("cv2") is not None:
        rows |= {f"fill_{m}": inpainted(clip, covered, m) for m in ("telea", "ns")}
    return rows | {f"fill_blur/{s}": blurred(clip, covered, s) for s in baselines.SIGMAS}


def targets(sample: Mapping[str, Any], truth: Mapping[str, Any]) -> list[int]:
    """Which view of the record each of a sample's cameras is, -1 none.

    Args:
      sample: path_intrinsics [t n 3 3] px, path_extrinsics [t n 3 4]. truth: intrinsics [v 3 3],
        extrinsics [v n? 3 4].
    """
    found = []
    for lens, pose in zip(sample["path_intrinsics"], sample["path_extrinsics"], strict=True):
        same = [
            np.allclose(lens, k, atol=MATCHES[0], rtol=1e-4)
            and np.allclose(pose, e, atol=MATCHES[1])
            for k, e in zip(truth["intrinsics"], truth["extrinsics"], strict=True)
        ]
        found.append(same.index(True) if any(same) else -1)
    return found


def score(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    views: Sequence[int],
    *,
    rebuilt: np.ndarray | None = None,
) -> Scores:
    """Scores a sample that completes drawn points, and its rivals.

    Args:
      sample: video, drawn [t n h w 3] uint8, covered, sure [t n h w] bool; of its meta own_views
        [t].
      truth: video [v n h w 3] uint8, extrinsics [v n? 3 4], frame_valid [n].
      views: of `targets`; what is -1 is not scored.
      rebuilt: [v n h w 3] uint8, the true videos after their own latents.

    Returns:
      {row: {metric: value}}; of fill_blur a row a setting.

    Raises:
      ValueError: a sample from before it said what is surely seen.
    """
    if "sure" not in sample:
        raise ValueError(
            f"sample {sample['meta'].get('id', '')}: wanted what of its drawn points is surely "
            "seen (sure), it was made before samples had that: sample it anew"
        )
    n = int(np.sum(truth.get("frame_valid", np.ones(truth["video"].shape[1], bool))))
    own = sample["meta"].get("own_views", [False] * len(views))
    found: dict[str, dict[str, list[float | None]]] = {}

    def add(row: str, values: Mapping[str, float | None]) -> None:
        for metric, value in values.items():
            found.setdefault(row, {}).setdefault(metric, []).append(value)

    for t, view in enumerate(views):
        if view < 0:
            continue
        true = np.asarray(truth["video"][view][:n])
        covered, sure = (sample[key][t][:n] for key in ("covered", "sure"))
        clips = {"model": sample["video"][t][:n], **fills(sample["drawn"][t][:n], covered, sure)}
        if rebuilt is not None:
            clips[AUTOENCODER] = rebuilt[view][:n]
        if own[t]:
            for row, clip in clips.items():
                add(row, {"own_view_correlation": _correlation(clip, true)})
            continue
        poses = np.asarray(truth["extrinsics"][view])
        suffix = "_path" if len(poses) > 1 and np.ptp(poses, axis=0).max() > 1e-6 else ""
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            regions = functools.partial(_regions, true=true, covered=covered, sure=sure)
            scores = pool.map(regions, clips.values())
            for row, values in zip(clips, scores, strict=True):
                add(row, {m + suffix: x for m, x in values.items()})
        shares = {"hole_share": 1 - covered.mean(), "sure_share": sure.mean()}
        add("model", {f"{key}{suffix}": float(100 * share) for key, share in shares.items()})
    return {
        row: {
            m: video.mean([np.nan if x is None else x for x in values])
            for m, values in metrics.items()
        }
        for row, metrics in found.items()
    }


def _correlation(clip: np.ndarray, true: np.ndarray) -> float | None:
    region = video.moving_region(true[None])
    return video.temporal(clip[None, 1:], true[None, 1:], region)[0]


def _regions(
    clip: np.ndarray, true: np.ndarray, covered: np.ndarray, sure: np.ndarray
) -> dict[str, float | None]:
    """psnr_view, _hole, _seen, _sure and ssim_view of a camera's clip [n h w 3] uint8."""
    square = np.square(clip.astype(np.float32) - true).mean(-1)
    whole = np.ones_like(covered)
    regions = {"psnr_view": whole, "psnr_hole": ~covered, "psnr_seen": covered}
    regions["psnr_sure"] = sure
    found = {metric: _psnr(square, region) for metric, region in regions.items()}
    return found | {
        "ssim_view": video.mean([hoi.ssim(*pair) for pair in zip(clip, true, strict=True)])
    }


def _psnr(square: np.ndarray, region: np.ndarray) -> float | None:
    """Mean over frames of the PSNR pooled over region [n h w]; None where no frame has any."""
    counts = region.sum((1, 2))
    kept = counts >= LEAST
    if not kept.any():
        return None
    error = (square * region).sum((1, 2))[kept] / counts[kept]
    with np.errstate(divide="ignore"):
        return float(np.minimum(10 * np.log10(255.0**2 / error), video.PSNR_CAP).mean())


def checks(
    table: Mapping[str, Any], clusters: summary.Clusters | None = None
) -> list[dict[str, Any]]:
    """The bars V1 to V4 and E1 (docs/more4d.md), as `summary.checks` has them.

    E1 is of the cameras that the points are from, V4 is V1 and V2 along cameras that move.
    """

    def beats(rows: Sequence[str], metric: str, code: str, by: float = 0.0) -> dict[str, Any]:
        return summary.beats(table, "model", rows, metric, clusters, by=by, whole=True, code=code)

    found = []
    for suffix, first, second in (("", "V1 ", "V2 "), ("_path", "V4 ", "V4 ")):
        found += [
            beats(FILLS, f"psnr_hole{suffix}", first, HOLE_DB),
            beats((SPLAT,), f"psnr_view{suffix}", second),
            beats(FILLS, f"psnr_view{suffix}", second, WHOLE_DB),
        ]
    seen = summary.within(table, AUTOENCODER, SEEN_DB, "psnr_seen", clusters, code="V3 ")
    chain = summary.bound(table["model"], "own_view_correlation", CORRELATION, np.inf, code="E1 ")
    return [*found[:3], seen, *found[3:], chain]


def has_views(metrics: Collection[str]) -> bool:
    """Whether a row with these metrics has any of this module."""
    return not KEYS.isdisjoint(metrics)


def best_by(metrics: Collection[str]) -> str:
    """What the best sigma of fill_blur is the best by: holes of still cameras where there are."""
    return "psnr_hole" if "psnr_hole" in metrics or "psnr_hole_path" not in metrics else (
        "psnr_hole_path")  # fmt: skip
