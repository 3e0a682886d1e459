"""What videos of hands and objects are scored by where these are: HVG-3D's columns, and control.

Videos are [v n h w 3] uint8 without the given frame 0, masks [v n h w] bool of the truth: the
pixels of hands and objects. A frame counts where at least LEAST of its pixels are in the mask.

    psnr_hoi   of the error pooled over a frame's mask
    ssim_hoi   both frames black outside of the mask: most windows are equal, hence values near 1
    follow     correlation over time (video.temporal) in the pixels that the mask ever covers
    swap       the same against what else could have followed frame 0, in the pixels that either
               mask covers; `swap_margin` is the correlation with the own truth, there, less that
    grid       energy of the luma that repeats every 8, 16 and 32 pixels, over the truth's: tokens
               that do not agree at their borders show as a grid
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import frames, paper, summary, video

LEAST = 64  # pixels
PERIODS = (8, 16, 32)
SUFFIX = "_hoi"
# Of networks: on the same videos, black outside of the mask.
NETWORKS = ("lpips_alex", "fid", "clip_fid", "fvd")
Other = tuple[np.ndarray, np.ndarray]  # video and mask of another truth of the same frame 0


def score(
    pred: np.ndarray, true: np.ndarray, mask: np.ndarray, others: Sequence[Other] = ()
) -> dict[str, float | None]:
    """Scores of one row; None where a metric is not defined.

    Args:
      others: what else could have followed.
    """
    counted = [(v, n) for v, n in np.ndindex(mask.shape[:2]) if mask[v, n].sum() >= LEAST]
    found: dict[str, list[float]] = {"psnr_hoi": [], "l1_hoi": [], "ssim_hoi": []}
    for v, n in counted:
        here = mask[v, n]
        error = pred[v, n][here].astype(np.float64) - true[v, n][here]
        with np.errstate(divide="ignore"):
            decibel = 10 * np.log10(255**2 / np.square(error).mean())
        found["psnr_hoi"].append(min(float(decibel), video.PSNR_CAP))
        found["l1_hoi"].append(float(np.abs(error).mean()))
        black = (video.zero_background(x[v, n], here) for x in (pred, true))
        found["ssim_hoi"].append(ssim(*black))
    values: dict[str, float | None] = {name: video.mean(x) for name, x in found.items()}
    values |= over_time(pred, true)
    values["follow"] = video.temporal(pred, true, np.asarray(mask.any(1)))[0]
    regions = [(other, np.asarray((mask | its).any(1))) for other, its in others]
    values["swap_margin"] = swap_margin(pred, true, regions)
    values["grid_index"] = grid_index(pred, true)
    return values


def swap_margin(
    pred: np.ndarray, true: np.ndarray, others: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float | None:
    """How much better a video follows its own truth than another; None where neither is defined.

    Args:
      others: what else could have followed, each with the pixels [v h w] bool that count.
    """
    margins = []
    for other, region in others:
        right, wrong = (video.temporal(pred, x, region)[0] for x in (true, other))
        if right is not None and wrong is not None:
            margins.append(right - wrong)
    return video.mean(margins) if margins else None


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two frames [h w 3] uint8, as `frames` has it; NaN of frames below its window."""
    inner = slice(frames.RADIUS, -frames.RADIUS)
    if min(x.shape[:2]) <= 2 * frames.RADIUS:
        return float("nan")
    return float(frames.similarity(frames.moments(x), frames.moments(y))[inner, inner].mean())


def over_time(pred: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """Scores of how frames change: st_ssim, ssim_change, gmsd_t."""
    found: dict[str, list[float]] = {"st_ssim": [], "ssim_change": [], "gmsd_t": []}
    for own, theirs in zip(pred, true, strict=True):
        if len(own) < 2:
            continue
        found["st_ssim"].append(ssim3d(video.luma(own), video.luma(theirs)))
        pairs = (
            np.abs(np.diff(x.astype(np.int16), axis=0)).astype(np.uint8) for x in (own, theirs)
        )
        for x, y in zip(*pairs, strict=True):
            found["ssim_change"].append(ssim(x, y))
            found["gmsd_t"].append(float(frames.deviation(frames.gradient(x), frames.gradient(y))))
    return {name: video.mean(x) for name, x in found.items()}


def ssim3d(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of lumas [n h w] in Gaussian windows of sigma 1.5 in space and time."""
    mean = lambda a: ndimage.gaussian_filter(a, 1.5, truncate=3.5, mode="mirror")  # noqa: E731
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a, b = mean(x), mean(y)
    variances = mean(x * x) - a * a, mean(y * y) - b * b
    covariance = mean(x * y) - a * b
    found = (2 * a * b + c1) * (2 * covariance + c2)
    return float((found / ((a * a + b * b + c1) * (sum(variances) + c2))).mean())


def grid_index(pred: np.ndarray, true: np.ndarray) -> float | None:
    """Energy that repeats on the grids of PERIODS, over the truth's; None where that has none."""
    own, theirs = (sum(_periodic(x, p) for p in PERIODS) for x in (pred, true))
    return float(own / theirs) if theirs > 0 else None


def _periodic(clips: np.ndarray, period: int) -> float:
    """Variance of the mean tile of the luma's residual against its smoothed self."""
    height, width = (size // period * period for size in clips.shape[2:4])
    if not height or not width:
        return 0.0
    total = 0.0
    for clip in clips:
        for frame in clip:
            luma = video.luma(frame)
            rest = luma - ndimage.uniform_filter(luma, size=3, mode="nearest")
            tiles = rest[:height, :width].reshape(-1, period, width // period, period)
            total += float(tiles.mean((0, 2)).var())
    return total


def point_ade(
    pred: np.ndarray, truth: Mapping[str, Any], mask: np.ndarray, first: np.ndarray
) -> float | None:
    """Mean distance, pixels, of what moves in a video from the control's points.

    Frame by frame: the centroid of the pixels, where the mask ever is, that differ from frame 0 by
    more than video.MOVES levels, from the mean of the projected points.

    Args:
      pred: without frame 0. truth: points [n p 3], point_valid [n p], cameras, with frame 0.
      mask: of the frames of pred. first: frames 0 [v h w 3].
    """
    points, valid = np.asarray(truth["points"]), np.asarray(truth["point_valid"])
    found = []
    for v, (k, poses) in enumerate(
        zip(np.asarray(truth["intrinsics"]), np.asarray(truth["extrinsics"]), strict=True)
    ):
        start, region = video.luma(first[v]), mask[v].any(0)
        for n in range(len(pred[v])):
            pose = poses[min(n + 1, len(poses) - 1)]
            pixels, depth = cameras.project(points[n + 1], k, pose)
            seen = valid[n + 1] & (depth > 0)
            moved = (np.abs(video.luma(pred[v, n]) - start) > video.MOVES) & region
            if seen.any() and moved.sum() >= LEAST:
                y, x = np.nonzero(moved)
                found.append(np.hypot(*(np.array([x.mean(), y.mean()]) - pixels[seen].mean(0))))
    return video.mean(found) if found else None


def black(clips: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Videos [v n h w 3], black outside of masks [v n h w]: what networks score as `_hoi`."""
    return video.zero_background(clips, mask)


def renamed(result: Mapping[str, Any]) -> dict[str, Any]:
    """Rows and definitions of `evaluators.run` on black videos, under names of their own."""
    rows = {
        row: {f"{m}{SUFFIX}": cell for m, cell in cells.items() if m in NETWORKS}
        for row, cells in result["rows"].items()
    }
    told = {
        f"{m}{SUFFIX}": {**d, "text": f"{d['text']}, both videos black outside of the mask"}
        for m, d in result["definitions"].items()
        if m in NETWORKS
    }
    return {"rows": rows, "definitions": told}


TABLES = (
    paper.Table(
        "HVG-3D, Table 1, full frame",
        ("psnr", "ssim", "lpips_alex", "st_ssim", "fid", "clip_fid", "fvd", "gmsd_t"),
        {
            "DaS (paper)": (24.83, 0.84, 0.191, 0.96, 75.5, 14.6, None, None),
            "InterDyn (paper)": (24.13, 0.82, 0.205, 0.95, 73.3, 17.8, None, None),
            "HVG-3D (paper)": (24.15, 0.81, 0.193, 0.97, 58.2, 14.6, 13.8, 0.40),
        },
    ),
    paper.Table(
        "HVG-3D, Table 1, hands and objects",
        ("psnr_hoi", "ssim_hoi", "lpips_alex_hoi", "fid_hoi", "clip_fid_hoi", "fvd_hoi"),
        {
            "DaS (paper)": (17.41, 0.96, 0.039, 128.0, 16.0, None),
            "InterDyn (paper)": (19.03, 0.96, 0.034, 104.5, 14.5, None),
            "HVG-3D (paper)": (19.08, 0.97, 0.032, 88.5, 13.1, 9.6),
        },
    ),
    paper.Table(
        "HVG-3D, ablations",
        ("psnr", "ssim", "lpips_alex", "st_ssim"),
        {
            "all (paper)": (24.15, 0.81, 0.193, 0.97),
            "no points (paper)": (18.44, 0.37, 0.5957, 0.91),
            "no tracking (paper)": (22.76, 0.75, 0.2054, 0.95),
            "no mask in the loss (paper)": (22.09, 0.80, 0.199, 0.96),
        },
        ours="model",
    ),
)


# A demo's rows and bars. Scores are {row: {scene: {metric: value}}}.
MODEL, NONE, WRONG, WARPED = "full", "no_control", "wrong_control", "warped"
TRIVIAL = ("frame_0", "frame_0_blurred", "time_mean", "held")
Scores = Mapping[str, Mapping[str, Mapping[str, float | None]]]


class Bar(NamedTuple):
    """What a mean over scenes must be at least, or at most; `other`: of differences to that row.

    sure: beyond two standard errors, too. must: the demo has to show it; others are goals.
    """

    name: str
    metric: str
    row: str
    other: str = ""
    least: float | None = None
    most: float | None = None
    sure: bool = True
    must: bool = True


BARS = (
    Bar("B1", "follow", MODEL, least=0.8, sure=False),
    Bar("B2", "psnr_moving", MODEL, NONE, least=2.0),
    *(Bar("B2", "psnr_moving", MODEL, row, least=0.0) for row in (*TRIVIAL, WARPED)),
    Bar("B3", "swap_margin", MODEL, least=0.3, sure=False),
    Bar("B4", "psnr_moving", "points_only", NONE, least=0.0),
    Bar("B4", "psnr_moving", "tracking_only", NONE, least=0.0),
    Bar("B5", "psnr_moving", WRONG, NONE, most=0.0),
    Bar("B6", "grid_index", MODEL, most=1.2, sure=False),
    Bar("noise of 10 mm", "psnr_moving", "noisy_points", NONE, least=0.0),
    Bar("half of the points", "psnr_moving", "half_points", NONE, least=0.0),
    Bar("simulator's road", "follow", "simulated", MODEL, least=-0.02, sure=False),
    Bar("B8", "psnr_hoi", MODEL, "tracking_only", least=0.0, must=False),
    Bar("B9", "psnr_hoi", MODEL, "points_only", least=0.0, must=False),
    Bar("details", "psnr_moving", MODEL, "no_details", least=0.0, must=False),
    Bar("B10", "psnr_hoi", "base", "no_mask_loss", least=0.0, must=False),
    Bar("B11", "psnr_hoi", "base", "point_tokens", least=0.0, must=False),
)


def bars(scores: Scores, layouts: Mapping[str, str]) -> list[dict[str, Any]]:
    """BARS on the rows that there are; differences are paired by scene.

    Args:
      scores: of MODEL and whatever other rows; scenes as in MODEL.
      layouts: {scene: its first frame}; scenes of one are not independent.

    Returns:
      name, wanted, value, se, n, clusters, passed, must of each; passed is None where a row was not
      run, or no scene has the metric.
    """
    found = []
    for bar in BARS:
        against = f" - {bar.other}" if bar.other else ""
        wanted = f">= {bar.least}" if bar.least is not None else f"<= {bar.most}"
        told = {"name": f"{bar.name}: {bar.metric}, {bar.row}{against}", "must": bar.must}
        told["wanted"] = wanted + (", 2 s.e." if bar.sure else "")
        values = {}
        if bar.row in scores and (not bar.other or bar.other in scores):
            for scene, metrics in scores[bar.row].items():
                own = metrics.get(bar.metric)
                less = scores[bar.other].get(scene, {}).get(bar.metric) if bar.other else 0.0
                values[scene] = None if own is None or less is None else own - less
        mean = summary.mean(values, layouts)
        found.append(told | {k: mean[k] for k in ("value", "se", "n", "clusters")})
        found[-1]["passed"] = _passed(bar, mean["value"], mean["se"])
    return found


def checks(
    table: Mapping[str, Any], clusters: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The bars that one run has by itself, as `summary.checks` has them: B1, B2 above the trivial
    rows, B3, B6; the others compare runs (`bars`)."""
    own = (bar for bar in BARS if bar.row == MODEL and not bar.other and bar.must)
    found = [
        summary.bound(
            table["model"],
            bar.metric,
            -np.inf if bar.least is None else bar.least,
            np.inf if bar.most is None else bar.most,
            code=f"{bar.name} ",
        )
        for bar in own
    ]
    beaten = summary.beats(table, "model", TRIVIAL, "psnr_moving", clusters, code="B2 ")
    return [found[0], beaten, *found[1:]]


def _passed(bar: Bar, value: float | None, se: float | None) -> bool | None:
    if value is None:
        return None
    good = (bar.least is None or value >= bar.least) and (bar.most is None or value <= bar.most)
    return good and (not bar.sure or (se is not None and abs(value) > 2 * se))
