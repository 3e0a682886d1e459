"""Metrics on the features of pretrained networks (metrics/networks/features): formulas only, numpy.

With unit features c of view i and frame n:

    (1)  subject consistency = mean_{n>=1} [max(0, <c_{n-1}, c_n>) + max(0, <c_0, c_n>)] / 2
    (2)  CLIP-V = 100 mean_n mean_{i<j} <c_{i,n}, c_{j,n}>
    (3)  dynamic degree: a pair of frames scores the mean of the longest 5% of its flow vectors; a
         video is dynamic when at least round(F / 4) of its scores exceed 6 min(h, w) / 256
    (4)  Frechet distance = |m_a - m_b|^2 + tr S_a + tr S_b - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2

(1) and (3): VBench (vbench/subject_consistency.py, dynamic_degree.py); (4): Heusel et al. 2017, in
float64. Undefined values are None. A feature that is zero or not finite resembles nothing (0).
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

FLOW_SHARE, FLOW_LENGTH, FLOW_FRAMES = 0.05, 6.0 / 256, 4.0 / 16
FLOW_FPS = 8  # frames a second that dynamic degree looks at


def unit(features: np.ndarray) -> np.ndarray:
    """Scales vectors [... d] to length 1, float64; zero where they are zero or not finite."""
    x = np.asarray(features, np.float64)
    fine = np.isfinite(x).all(-1, keepdims=True)
    x = np.where(fine, x, 0)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(length > 0, x / np.maximum(length, 1e-300), 0)


def subject_consistency(features: np.ndarray) -> float | None:
    """Eq. 1 of one video [n d]; None below two frames."""
    c = unit(features)
    if len(c) < 2:
        return None
    before = np.maximum(0, (c[:-1] * c[1:]).sum(-1))
    first = np.maximum(0, c[1:] @ c[0])
    return float(((before + first) / 2).mean())


def clip_views(features: np.ndarray) -> float | None:
    """Eq. 2 of features [v n d], -100..100; None for one view or no frame."""
    pairs = clip_pairs(features)
    return float(pairs.mean()) if pairs.size else None


def clip_pairs(features: np.ndarray) -> np.ndarray:
    """Eq. 2 for each pair of views, (0, 1), (0, 2), (1, 2), ...: [v n d] -> [pairs]."""
    c = unit(features)
    if not c.shape[1]:
        return np.zeros(0)
    pairs = itertools.combinations(range(len(c)), 2)
    return np.array([100 * (c[i] * c[j]).sum(-1).mean() for i, j in pairs])


def similarity(pred: np.ndarray, true: np.ndarray) -> float | None:
    """Mean cosine of features [... d] of frames and of their true frames; None without frames."""
    found = (unit(pred) * unit(true)).sum(-1)
    return float(found.mean()) if found.size else None


def flow_stride(fps: float) -> int:
    """Every how many frames dynamic degree looks at, for a video of `fps` frames a second."""
    return max(1, round(fps / FLOW_FPS))


def flow_scores(flow: np.ndarray) -> np.ndarray:
    """Mean length, in pixels, of the longest 5% of vectors of flow [n h w 2] -> [n].

    At least one vector counts; one that is not finite has length 0.
    """
    length = np.hypot(*np.moveaxis(np.asarray(flow, np.float64), -1, 0)).reshape(len(flow), -1)
    length = np.where(np.isfinite(length), length, 0)
    count = max(1, int(length.shape[1] * FLOW_SHARE))
    return np.partition(length, -count, axis=1)[:, -count:].mean(-1)


def flow_bounds(height: int, width: int, frames: int) -> tuple[float, int]:
    """The score that a pair must exceed, and how many pairs must, for `frames` frames."""
    return FLOW_LENGTH * min(height, width), round(FLOW_FRAMES * frames)


def dynamic(scores: np.ndarray, *, height: int, width: int) -> bool | None:
    """Eq. 3 for the scores [n - 1] of a video of n frames; None below two frames.

    NOTE(parity): a video of two frames is always dynamic, since round(2 / 4) = 0 (VBench).
    """
    if not len(scores):
        return None
    bound, wanted = flow_bounds(height, width, len(scores) + 1)
    return bool((np.asarray(scores) > bound).sum() >= wanted)


@dataclasses.dataclass
class Moments:
    """Count, mean [d] and sum of squared deviations [d d] of features, float64.

    Moments of parts add up to those of the whole, so each process keeps its own.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        if not count:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        outer = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + outer)


def moments(features: np.ndarray) -> Moments:
    """Moments of features [n d]; n may be 0.

    Raises:
      ValueError: features that are not finite: broken weights, never a video's fault.
    """
    x = np.asarray(features, np.float64)
    if bad := int((~np.isfinite(x)).any(-1).sum()):
        raise ValueError(f"moments: {bad} of {len(x)} feature vectors are not finite")
    mean = x.mean(0) if len(x) else np.zeros(x.shape[-1])
    return Moments(len(x), mean, (x - mean).T @ (x - mean))


def frechet(a: Moments, b: Moments) -> float | None:
    """Eq. 4, at least 0; None below two samples on a side.

    With Q of S_a = Q Q^T (by eigh) the last trace is the sum of the square roots of the eigenvalues
    of Q^T S_b Q, symmetric and of the rank of S_a: no square root of noise where samples are fewer
    than dimensions.

    Raises:
      ValueError: features of different width.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(f"frechet: features of {len(a.mean)} and of {len(b.mean)} numbers")
    if min(a.count, b.count) < 2:
        return None
    sa, sb = a.scatter / (a.count - 1), b.scatter / (b.count - 1)
    values, vectors = np.linalg.eigh(sa)
    kept = values > values.max(initial=0) * len(values) * np.finfo(np.float64).eps
    root = vectors[:, kept] * np.sqrt(values[kept])
    inner = np.linalg.eigvalsh(root.T @ sb @ root) if kept.any() else np.zeros(0)
    inner = inner[inner > inner.max(initial=0) * max(len(inner), 1) * np.finfo(np.float64).eps]
    trace = np.trace(sa) + np.trace(sb) - 2 * np.sqrt(inner).sum()
    return float(max(0.0, np.square(a.mean - b.mean).sum() + trace))


def matching_pixels(confidences: Sequence[np.ndarray], *, threshold: float) -> dict:
    """Counts matches of confidence above a threshold.

    Args:
      confidences: of each frame pair, [matches].

    Returns:
      {"mean": per frame pair, "thousands": sum over the clip / 1000}, None without a pair.
    """
    counts = [int((np.asarray(x) > threshold).sum()) for x in confidences]
    if not counts:
        return {"mean": None, "thousands": None}
    return {"mean": float(np.mean(counts)), "thousands": sum(counts) / 1000}
