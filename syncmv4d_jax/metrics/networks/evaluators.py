"""Metrics of pretrained networks over samples: whatever weights are there, and what is missing.

`config.evaluate.features` is a folder of published weight files (weights.NETWORKS). Each
network that is there is compiled once for a batch size and a frame size and runs over all local
devices. An evaluator is a function of one sample; FID, CLIP-FID and FVD, which are of all samples
together, add their features to one `Frechet`.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from syncmv4d_jax import configuration
from syncmv4d_jax.metrics import summary, video
from syncmv4d_jax.metrics.networks import definitions, formulas, weights
from syncmv4d_jax.metrics.networks.features import batches, i3d, matcher, raft, vit, xfeat

BATCH = {"dino": 16, "clip": 32, "raft": 2, "inception": 16, "i3d": 1, "lpips_alex": 8,
         "lpips_vgg": 2}  # a device  # fmt: skip
MATCHERS = {"gim_dkm": "syncmv4d_jax.metrics.networks.features.matcher:gim_dkm", "xfeat": ""}
Values = dict[str, dict[str, float | None]]  # row -> metric -> value


class Pair(NamedTuple):
    """A sample and its truth: videos [v n h w 3] uint8 of one shape, frames a second."""

    name: str
    pred: np.ndarray
    true: np.ndarray
    fps: float


def run(
    pairs: Iterable[Pair], *, count: int, features: str = "", matcher: str = ""
) -> dict[str, Any]:
    """Computes what the given weights allow.

    Args:
      pairs: samples; not read where there is no network.
      count: of samples, for the progress bar.
      features: a folder of weights, "" for none.
      matcher: as config.evaluate.matcher, "" for none.

    Returns:
      {"rows": {row: {metric: cell}}, "networks": {"computed": {name: files, layout, source},
      "missing": {name: where to get it}}, "definitions": {metric: ...}}.

    Raises:
      FileNotFoundError: the folder is not there.
      ValueError: weights that do not fit their network, or a matcher that is none.
    """
    loaded, missing = _load(features)
    match = _matcher(matcher, features)
    if match is None:
        missing["matcher"] = "config.evaluate.matcher: 'gim_dkm', 'xfeat' or 'module:function'"
    evaluators = [EVALUATORS[name](name, one) for name, one in loaded.items()]
    evaluators += [matching(match)] if match is not None else []
    sums = Frechet()
    bar = tqdm(pairs, total=count, unit="sample", desc="networks", disable=not evaluators)
    scores = _scores(evaluators, bar, sums)
    computed: dict[str, dict[str, Any]] = {
        name: {"files": one.files, "layout": one.layout, "source": one.network.source}
        for name, one in loaded.items()
    }
    if match is not None:
        computed["matcher"] = {
            "files": dict(match.files), "layout": "", "source": match.name,
            "threshold": match.threshold,
        }  # fmt: skip
    rows = _rows(scores, computed)
    for metric, cell in sums.distances().items():
        rows.setdefault("model", {})[metric] = cell | _identity(metric, computed)
    used = {metric for cells in rows.values() for metric in cells}
    return {
        "rows": rows,
        "networks": {"computed": computed, "missing": missing},
        "definitions": {
            metric: vars(d) | {"preprocessing": definitions.NEEDS[metric][1]}
            for metric, d in definitions.DEFINITIONS.items()
            if metric in used
        },
    }


def _scores(
    evaluators: Sequence["Evaluator"], pairs: Iterable[Pair], sums: "Frechet"
) -> dict[str, Values]:
    """Every sample's values; reads no sample where there is no evaluator."""
    scores: dict[str, Values] = {}
    for pair in pairs if evaluators else ():
        found: Values = {"model": {}, "truth": {}}
        for evaluator in evaluators:
            for row, values in evaluator(pair, sums).items():
                found[row] |= values
        scores[pair.name] = found
    return scores


def _load(folder: str) -> tuple[dict[str, weights.Loaded], dict[str, str]]:
    loaded, missing = {}, {}
    for name in EVALUATORS:
        network = weights.NETWORKS[name]
        if folder and weights.find(name, weights.existing(folder)):
            loaded[name] = weights.load(name, folder)
        else:
            missing[name] = network.source
    return loaded, missing


def _matcher(name: str, folder: str) -> matcher.Matcher | None:
    if not name:
        return None
    if name != "xfeat":
        return configuration.load(name, MATCHERS, "config.evaluate.matcher")()
    loaded = weights.load("xfeat", weights.existing(folder))
    network = jax.jit(lambda params, x: loaded.bind(params)(xfeat.prepared(x)))
    return xfeat.Sparse(lambda images: network(loaded.params, images), loaded.files)


def _identity(metric: str, computed: Mapping[str, Any]) -> dict[str, Any]:
    definition = definitions.DEFINITIONS[metric]
    return {
        "definition": definition.id,
        "unit": definition.unit,
        "alignment": definition.alignment,
        "weights": computed[definitions.NEEDS[metric][0]]["files"],
    }


def _rows(scores: Mapping[str, Values], computed: Mapping[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for row in ("model", "truth"):
        for metric in definitions.DEFINITIONS:
            values = {n: one[row][metric] for n, one in scores.items() if metric in one[row]}
            if values:
                cell = summary.mean(values) | _identity(metric, computed)
                rows.setdefault(row, {})[metric] = cell | {"per_sample": values}
    return rows


def batched(
    name: str, loaded: weights.Loaded, function: Callable[..., jax.Array]
) -> batches.Batched:
    """`function(module, *batches)` of a network, in batches of BATCH."""
    return batches.Batched(
        lambda params, *x: function(loaded.bind(params), *x), loaded.params, size=BATCH[name]
    )


def flat(frames: np.ndarray) -> np.ndarray:
    """[v n h w 3] -> [v n, h w 3]."""
    return frames.reshape(-1, *frames.shape[2:])


def regions(pair: Pair) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Frames from 1 on, predicted and true [v n h w 3]: whole (""), and black but what moves."""
    inside = video.moving_region(pair.true)[:, None]
    pred, true = pair.pred[:, 1:], pair.true[:, 1:]
    found = {"": (pred, true)}
    if inside.any():
        black = (video.zero_background(x, inside) for x in (pred, true))
        found["_moving"] = next(black), next(black)
    return found


class Frechet:
    """Sums of features of predicted and true frames, by metric."""

    def __init__(self) -> None:
        self._sums: dict[str, list[formulas.Moments]] = {}

    def add(self, metric: str, pred: np.ndarray, true: np.ndarray) -> None:
        """Adds features [n d] of both sides."""
        if not len(pred):
            return
        new = [formulas.moments(x) for x in (pred, true)]
        old = self._sums.get(metric)
        self._sums[metric] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def distances(self) -> dict[str, dict[str, Any]]:
        """The distance of each metric: value and n, of features."""
        found: dict[str, dict[str, Any]] = {}
        for metric, (pred, true) in self._sums.items():
            value = formulas.frechet(pred, true)
            found[metric] = {
                "value": value, "se": None, "n": pred.count, "undefined": int(value is None),
                "per_sample": {},
            }  # fmt: skip
        return found


Evaluator = Callable[[Pair, Frechet], Values]


def subject_consistency(name: str, loaded: weights.Loaded) -> Evaluator:
    """DINO: subject consistency of the model's views and of the true ones."""
    network = batched(name, loaded, lambda net, x: net(vit.dino_pixels(x)))

    def of(clip: np.ndarray) -> dict[str, float | None]:
        features = network(flat(clip)).reshape(*clip.shape[:2], -1)
        values = [formulas.subject_consistency(view) for view in features]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        return {"subject_consistency": float(np.mean(known)) if whole else None}

    return lambda pair, sums: {"model": of(pair.pred), "truth": of(pair.true)}


def dynamics(name: str, loaded: weights.Loaded) -> Evaluator:
    """RAFT: dynamic degree and flow score of the model's views and of the true ones.

    None below two frames or below 121 pixels a side.
    """
    network = batched(name, loaded, lambda net, a, b: net(raft.padded(a), raft.padded(b)))

    def of(clip: np.ndarray, fps: float) -> dict[str, float | None]:
        clip = clip[:, :: formulas.flow_stride(fps)]
        height, width = clip.shape[2:4]
        if clip.shape[1] < 2 or min(height, width) + 7 < raft.SMALLEST:
            return {"dynamic_degree": None, "flow_score": None}
        scores = [formulas.flow_scores(network(view[:-1], view[1:])) for view in clip]
        degrees = [formulas.dynamic(x, height=height, width=width) for x in scores]
        return {
            "dynamic_degree": float(np.mean(np.asarray(degrees, np.float64))),
            "flow_score": float(np.mean([x.mean() for x in scores])),
        }

    return lambda pair, sums: {"model": of(pair.pred, pair.fps), "truth": of(pair.true, pair.fps)}


def clip(name: str, loaded: weights.Loaded) -> Evaluator:
    """CLIP: agreement of views, agreement with the truth, CLIP-FID."""
    side = loaded.network.config.image
    mean, std = (np.array(x, np.float32).reshape(1, 1, 1, 3) for x in vit.CLIP_PIXELS)
    network = batched(name, loaded, lambda net, x: net((x / 255.0 - mean) / std))

    def features(video: np.ndarray) -> np.ndarray:
        pixels = np.stack([clip_pixels(frame, side) for frame in flat(video)])
        return network(pixels).reshape(*video.shape[:2], -1)

    def score(pair: Pair, sums: Frechet) -> Values:
        pred, true = features(pair.pred), features(pair.true)
        for region, clips in regions(pair).items() if pair.pred.shape[1] > 1 else ():
            both = [features(x) for x in clips] if region else [pred[:, 1:], true[:, 1:]]
            sums.add("clip_fid" + region, *(x.reshape(-1, x.shape[-1]) for x in both))
        return {
            "model": {
                "clip_v": formulas.clip_views(pred),
                "clip_frame": formulas.similarity(pred[:, 1:], true[:, 1:]),
            },
            "truth": {"clip_v": formulas.clip_views(true)},
        }

    return score


def clip_pixels(frame: np.ndarray, side: int) -> np.ndarray:
    """OpenAI's preprocessing of [h w 3] uint8: short side to `side`, bicubic; centre crop."""
    h, w = frame.shape[:2]
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (round((n - side) / 2.0) for n in image.shape[:2])
    return image[top : top + side, left : left + side]


def lpips(name: str, loaded: weights.Loaded) -> Evaluator:
    """LPIPS of frames, whole and in the moving region.

    None for one frame or images that are too small.
    """
    scaled = lambda x: x.astype(jnp.float32) / 127.5 - 1  # noqa: E731
    network = batched(name, loaded, lambda net, a, b: net(scaled(a), scaled(b)))

    def score(pair: Pair, sums: Frechet) -> Values:
        found: dict[str, float | None] = {name: None, f"{name}_moving": None}
        if pair.pred.shape[1] > 1 and min(pair.pred.shape[2:4]) >= loaded.network.config.smallest:
            for region, clips in regions(pair).items():
                found[name + region] = float(network(*map(flat, clips)).mean())
        return {"model": found}

    return score


def fid(name: str, loaded: weights.Loaded) -> Evaluator:
    """Inception: FID of frames."""
    network = batched(name, loaded, lambda net, x: net(x))
    return _summed("fid", lambda video: network(flat(video)))


def fvd(name: str, loaded: weights.Loaded) -> Evaluator:
    """I3D: FVD of windows of 16 frames."""
    network = batched(name, loaded, lambda net, x: net(i3d.clip_pixels(x)))
    return _summed("fvd", lambda video: network(np.concatenate([i3d.windows(v) for v in video])))


def _summed(metric: str, features: Callable[[np.ndarray], np.ndarray]) -> Evaluator:
    """Adds the features [n d] of every region to the sums; a sample alone has no value."""

    def score(pair: Pair, sums: Frechet) -> Values:
        for region, clips in regions(pair).items():
            sums.add(metric + region, *map(features, clips))
        return {}

    return score


def matching(match: matcher.Matcher) -> Evaluator:
    """A matcher: matching pixels of each two views at a time; None for one view."""

    def of(video: np.ndarray) -> dict[str, float | None]:
        confidences = [
            matcher.checked(match(video[i, n], video[j, n]), match.name)
            for n in range(video.shape[1])
            for i, j in itertools.combinations(range(len(video)), 2)
        ]
        found = formulas.matching_pixels(confidences, threshold=match.threshold)
        return {"matching_pixels": found["mean"], "matching_pixels_clip": found["thousands"]}

    return lambda pair, sums: {"model": of(pair.pred), "truth": of(pair.true)}


EVALUATORS: dict[str, Callable[[str, weights.Loaded], Evaluator]] = {
    "dino": subject_consistency, "clip": clip, "raft": dynamics, "inception": fid, "i3d": fvd,
    "lpips_alex": lpips, "lpips_vgg": lpips,
}  # fmt: skip
