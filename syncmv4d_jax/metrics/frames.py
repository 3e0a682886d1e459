"""PSNR, SSIM and GMSD of several rows of predictions against one video, frame by frame.

PSNR is 20 log10 255 - 10 log10 of the mean squared error; SSIM that of Wang et al. 2004, with an
11 x 11 Gaussian window of sigma 1.5 and no border; GMSD that of Xue et al. 2014: luma, 2 x 2 means,
Prewitt / 3, c = 170 / 255^2. A frame at a time, so that full-size clips fit in memory, and with
shared work: the truth's window means are computed once a
frame for all rows, those of a row that stands still (a broadcast frame) once a clip. Outside of the
moving region both pictures are zero and their similarity is 1, so that windows are computed
around the region only.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from syncmv4d_jax.metrics import video

RADIUS = 5  # of SSIM's window
SCORES = ("psnr", "psnr_moving", "ssim", "ssim_moving", "gmsd")


class Moments(NamedTuple):
    """A picture [h w 3] float64; its windows' means, squared means and variances."""

    picture: np.ndarray
    mean: np.ndarray
    squared: np.ndarray
    variance: np.ndarray


def window(picture: np.ndarray) -> np.ndarray:
    """SSIM's Gaussian mean (11 x 11, sigma 1.5) of [h w c]."""
    return ndimage.gaussian_filter(picture, (1.5, 1.5, 0), truncate=3.5, mode="mirror")


def moments(picture: np.ndarray) -> Moments:
    """Moments of [h w 3], 0..255."""
    picture = picture.astype(np.float64)
    mean, variance = window(picture), window(picture * picture)
    squared = mean * mean
    variance -= squared
    return Moments(picture, mean, squared, variance)


def similarity(x: Moments, y: Moments) -> np.ndarray:
    """SSIM of each window [h w 3], in place where it can be: fresh memory costs more than sums."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = x.mean * y.mean
    covariance = window(x.picture * y.picture)
    covariance -= found
    for values, c in ((found, c1), (covariance, c2)):
        values *= 2
        values += c
    found *= covariance
    below = np.add(x.squared, y.squared, out=covariance)
    below += c1
    found /= below
    below = np.add(x.variance, y.variance, out=below)
    below += c2
    found /= below
    return found


class View:
    """Scores one view's frames.

    Args:
      rows: name -> predictions [n h w 3] uint8; a broadcast frame is read once.
      true: [n h w 3] uint8.
      region: [h w] bool, the moving region.
    """

    def __init__(
        self, rows: Mapping[str, np.ndarray], true: np.ndarray, region: np.ndarray
    ) -> None:
        self.rows, self.true, self.region = rows, true, region
        self.large = min(true.shape[1:3]) > 2 * RADIUS
        self.box = _box(region) if self.large and region.any() else None
        self.still = {
            name: self._moments(clip[0]) for name, clip in rows.items() if clip.strides[0] == 0
        }

    def score(self, n: int) -> dict[str, dict[str, float]]:
        """Returns {row: {one of SCORES: value}} of frame n; NaN where undefined."""
        true = self.true[n]
        known = self._moments(true)
        edges = gradient(true)
        found = {}
        for name, clip in self.rows.items():
            own = self.still.get(name) or self._moments(clip[n])
            found[name] = psnr(clip[n], true, self.region) | {
                "ssim": self._ssim(own[0], known[0]),
                "ssim_moving": self._moving(own[1], known[1]),
                "gmsd": float(deviation(gradient(clip[n]), edges)),
            }
        return found

    def _moments(self, frame: np.ndarray) -> tuple[Moments | None, Moments | None]:
        """Moments of a frame, and of the part around the region with zeros outside of it."""
        whole = moments(frame) if self.large else None
        if self.box is None:
            return whole, None
        inside = frame[self.box] * self.region[self.box][..., None]
        return whole, moments(inside)

    def _ssim(self, x: Moments | None, y: Moments | None) -> float:
        if x is None or y is None:
            return np.nan
        inner = slice(RADIUS, -RADIUS)
        return float(similarity(x, y)[inner, inner].mean())

    def _moving(self, x: Moments | None, y: Moments | None) -> float:
        if x is None or y is None:
            return np.nan
        h, w = self.region.shape
        place = np.zeros((h, w), bool)
        place[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
        place = place[self.box]
        counted = place.sum()
        total = (h - 2 * RADIUS) * (w - 2 * RADIUS)
        inside = similarity(x, y)[place].mean(-1).sum()
        return float((inside + total - counted) / total)


def _box(region: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns whose windows reach the region, and those that these windows see."""
    found = []
    for axis in (1, 0):
        at = np.flatnonzero(region.any(axis))
        low, high = at[0] - 2 * RADIUS, at[-1] + 2 * RADIUS + 1
        found.append(slice(max(low, 0), min(high, region.shape[1 - axis])))
    return found[0], found[1]


def psnr(pred: np.ndarray, true: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """The first two of SCORES of one frame [h w 3] uint8, dB; NaN for an empty region [h w]."""
    difference = pred.astype(np.int32) - true
    square = (difference * difference).sum(-1)
    count = int(region.sum())
    inside = square[region].sum() / (3 * count) if count else np.nan
    return {"psnr": _decibel(square.sum() / true.size), "psnr_moving": _decibel(inside)}


def _decibel(error: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.minimum(20 * np.log10(255) - 10 * np.log10(error), video.PSNR_CAP))


def gradient(frame: np.ndarray) -> np.ndarray:
    """The gradient magnitude that GMSD compares, of a frame [h w 3], 0..255."""
    return video.gradient(video.luma(frame) / 255)


def deviation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """GMSD of two gradient magnitudes [... h w]."""
    c = 170 / 255**2
    return ((2 * x * y + c) / (x * x + y * y + c)).std((-1, -2))
