"""Metrics of pretrained networks over samples: whatever weights are there, and what is missing.

`config.evaluate.features` is a folder of published weight files (feature_weights.NETWORKS). Each
network that is there is compiled once for a batch size and a frame size and runs over all local
devices; FID, CLIP-FID and FVD keep sums over all samples, everything else keeps a value a sample.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
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
    evaluators: list[Any] = [EVALUATORS[name](name, one) for name, one in loaded.items()]
    evaluators += [Matching(match)] if match is not None else []
    bar = tqdm(pairs, total=count, unit="sample", desc="networks", disable=not evaluators)
    scores = _scores(evaluators, bar)
    computed = {
        name: {"files": one.files, "layout": one.layout, "source": one.network.source}
        for name, one in loaded.items()
    }
    if match is not None:
        computed["matcher"] = {
            "files": dict(match.files), "layout": "", "source": match.name,
            "threshold": match.threshold,
        }  # fmt: skip
    rows = _rows(scores, computed)
    for evaluator in evaluators:
        for metric, cell in evaluator.total().items():
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


def _scores(evaluators: list[Any], pairs: Iterable[Pair]) -> dict[str, Values]:
    """Every sample's values; reads no sample where there is no evaluator."""
    scores: dict[str, Values] = {}
    for pair in pairs if evaluators else ():
        found: Values = {"model": {}, "truth": {}}
        for evaluator in evaluators:
            for row, values in evaluator.add(pair).items():
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
    zeroed = tuple(video.zero_background(x, inside) for x in (pred, true))
    return {"": (pred, true)} | ({"_moving": zeroed} if inside.any() else {})


class SubjectConsistency:
    """DINO: subject consistency of the model's views and of the true ones."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._features = batched(name, loaded, lambda net, x: net(vit.dino_pixels(x)))

    def add(self, pair: Pair) -> Values:
        """One sample's values."""
        found = {}
        for row, clip in (("model", pair.pred), ("truth", pair.true)):
            features = self._features(flat(clip)).reshape(*clip.shape[:2], -1)
            values = [formulas.subject_consistency(view) for view in features]
            found[row] = {"subject_consistency": None if None in values else np.mean(values).item()}
        return found

    def total(self) -> dict[str, Any]:
        """Values of the whole set: none."""
        return {}


class Dynamics:
    """RAFT: dynamic degree and flow score of the model's views and of the true ones."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._flow = batched(name, loaded, lambda net, a, b: net(raft.padded(a), raft.padded(b)))

    def add(self, pair: Pair) -> Values:
        """One sample's values; None below two frames or below 121 pixels a side."""
        return {"model": self._of(pair.pred, pair.fps), "truth": self._of(pair.true, pair.fps)}

    def _of(self, clip: np.ndarray, fps: float) -> dict[str, float | None]:
        clip = clip[:, :: formulas.flow_stride(fps)]
        height, width = clip.shape[2:4]
        if clip.shape[1] < 2 or min(height, width) + 7 < raft.SMALLEST:
            return {"dynamic_degree": None, "flow_score": None}
        dynamic, means = [], []
        for view in clip:
            scores = formulas.flow_scores(self._flow(view[:-1], view[1:]))
            dynamic.append(formulas.dynamic(scores, height=height, width=width))
            means.append(scores.mean())
        return {
            "dynamic_degree": float(np.mean(dynamic)),
            "flow_score": float(np.mean(means)),
        }

    def total(self) -> dict[str, Any]:
        """Values of the whole set: none."""
        return {}


class Frechet:
    """Sums of features of predicted and true frames, whole and in the moving region."""

    def __init__(self, metric: str):
        self._metric = metric
        self._sums: dict[str, list[formulas.Moments]] = {}

    def add(self, region: str, pred: np.ndarray, true: np.ndarray) -> None:
        """Adds features [n d] of both sides."""
        if not len(pred):
            return
        new = [formulas.moments(x) for x in (pred, true)]
        old = self._sums.get(region)
        self._sums[region] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]

    def total(self) -> dict[str, Any]:
        """The distances: value and n, of features."""
        found = {}
        for region, (pred, true) in self._sums.items():
            value = formulas.frechet(pred, true)
            found[self._metric + region] = {
                "value": value, "se": None, "n": pred.count, "undefined": int(value is None),
                "per_sample": {},
            }  # fmt: skip
        return found


class Clip:
    """CLIP: agreement of views, agreement with the truth, CLIP-FID."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._side = loaded.network.config.image
        mean, std = (np.array(x, np.float32).reshape(1, 1, 1, 3) for x in vit.CLIP_PIXELS)
        self._features = batched(name, loaded, lambda net, x: net((x / 255.0 - mean) / std))
        self._frechet = Frechet("clip_fid")

    def _of(self, clip: np.ndarray) -> np.ndarray:
        pixels = np.stack([clip_pixels(frame, self._side) for frame in flat(clip)])
        return self._features(pixels).reshape(*clip.shape[:2], -1)

    def add(self, pair: Pair) -> Values:
        """One sample's values."""
        pred, true = self._of(pair.pred), self._of(pair.true)
        for region, clips in regions(pair).items():
            both = (pred[:, 1:], true[:, 1:]) if not region else map(self._of, clips)
            if pair.pred.shape[1] > 1:
                self._frechet.add(region, *(x.reshape(-1, x.shape[-1]) for x in both))
        return {
            "model": {
                "clip_v": formulas.clip_views(pred),
                "clip_frame": formulas.similarity(pred[:, 1:], true[:, 1:]),
            },
            "truth": {"clip_v": formulas.clip_views(true)},
        }

    def total(self) -> dict[str, Any]:
        """CLIP-FID."""
        return self._frechet.total()


def clip_pixels(frame: np.ndarray, side: int) -> np.ndarray:
    """OpenAI's preprocessing of [h w 3] uint8: short side to `side`, bicubic; centre crop."""
    h, w = frame.shape[:2]
    size = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    image = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = (round((n - side) / 2.0) for n in image.shape[:2])
    return image[top : top + side, left : left + side]


class Lpips:
    """LPIPS of frames, whole and in the moving region."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._name, self._smallest = name, loaded.network.config.smallest
        self._distance = batched(
            name,
            loaded,
            lambda net, a, b: net(*(x.astype(jnp.float32) / 127.5 - 1 for x in (a, b))),
        )

    def add(self, pair: Pair) -> Values:
        """One sample's values; None for one frame or images that are too small."""
        found: dict[str, float | None] = {self._name: None, f"{self._name}_moving": None}
        if pair.pred.shape[1] > 1 and min(pair.pred.shape[2:4]) >= self._smallest:
            for region, clips in regions(pair).items():
                found[self._name + region] = float(self._distance(*map(flat, clips)).mean())
        return {"model": found}

    def total(self) -> dict[str, Any]:
        """Values of the whole set: none."""
        return {}


class Fid:
    """Inception: FID."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._features = batched(name, loaded, lambda net, x: net(x))
        self._frechet = Frechet("fid")

    def add(self, pair: Pair) -> Values:
        """Adds a sample's frames."""
        for region, clips in regions(pair).items():
            self._frechet.add(region, *(self._features(flat(x)) for x in clips))
        return {}

    def total(self) -> dict[str, Any]:
        """FID."""
        return self._frechet.total()


class Fvd:
    """I3D: FVD."""

    def __init__(self, name: str, loaded: weights.Loaded):
        self._logits = batched(name, loaded, lambda net, x: net(i3d.clip_pixels(x)))
        self._frechet = Frechet("fvd")

    def _of(self, clip: np.ndarray) -> np.ndarray:
        return self._logits(np.concatenate([i3d.windows(view) for view in clip]))

    def add(self, pair: Pair) -> Values:
        """Adds a sample's windows of 16 frames."""
        for region, clips in regions(pair).items():
            self._frechet.add(region, *map(self._of, clips))
        return {}

    def total(self) -> dict[str, Any]:
        """FVD."""
        return self._frechet.total()


class Matching:
    """A matcher: matching pixels of each two views at a time."""

    def __init__(self, match: matcher.Matcher):
        self._match = match

    def _of(self, clip: np.ndarray) -> dict[str, float | None]:
        confidences = [
            matcher.checked(self._match(clip[i, n], clip[j, n]), self._match.name)
            for n in range(clip.shape[1])
            for i, j in itertools.combinations(range(len(clip)), 2)
        ]
        found = formulas.matching_pixels(confidences, threshold=self._match.threshold)
        return {"matching_pixels": found["mean"], "matching_pixels_clip": found["thousands"]}

    def add(self, pair: Pair) -> Values:
        """One sample's values; None for one view."""
        return {"model": self._of(pair.pred), "truth": self._of(pair.true)}

    def total(self) -> dict[str, Any]:
        """Values of the whole set: none."""
        return {}


EVALUATORS: dict[str, Callable[..., Any]] = {
    "dino": SubjectConsistency, "clip": Clip, "raft": Dynamics, "inception": Fid, "i3d": Fvd,
    "lpips_alex": Lpips, "lpips_vgg": Lpips,
}  # fmt: skip
