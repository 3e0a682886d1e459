"""Metrics of videos against true ones: PSNR, SSIM, GMSD, and whether the motion is the scene's.

Moving region of a view, where I_n is the luma 0..255, box-filtered 3 x 3 (renders and codecs
flicker by a few levels):

    (1)  R = dilate([max_n I_n - min_n I_n > 24], radius max(1, h / 64))

so R [h w] holds every pixel that the motion passes at any time, over the whole clip. With the
luma g of the generated and y of the true video and ' for a pixel's deviation from its time-mean:

    (2)  correlation = sum g'y' / sqrt(sum g'^2  sum y'^2)     sums over R, time and views
    (3)  ratio of standard deviations = sqrt(sum g'^2 / sum y'^2)

    (4)  gradient energy = sum |grad p| / sum |grad t|          RGB, sums over R, time and views

with |grad| the mean over colours of the absolute differences to the pixels on the right and below.
A frozen video has correlation and ratio 0. What the truth leaves undefined (nothing moves) is None.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

LUMA = np.array([0.299, 0.587, 0.114])
MOVES = 24.0  # luma levels of 0..255
PSNR_CAP = 100.0  # dB, of identical images


def luma(video: np.ndarray) -> np.ndarray:
    """Returns the luma [...] float64, 0..255, of uint8 RGB [... 3]."""
    return np.asarray(video, np.float64) @ LUMA


def moving_region(video: np.ndarray, *, threshold: float = MOVES) -> np.ndarray:
    """Returns the moving region (Eq. 1) [v h w] bool of true videos [v n h w 3] uint8."""
    moves = np.stack([_range(view) > threshold for view in video])
    radius = max(1, round(video.shape[2] / 64))
    size = 2 * radius + 1
    return ndimage.binary_dilation(moves, structure=np.ones((1, size, size), bool))


def _range(view: np.ndarray) -> np.ndarray:
    """max - min over time [h w] of the smoothed luma of [n h w 3], a frame at a time."""
    low, high = np.inf, -np.inf
    for frame in view:
        smooth = ndimage.uniform_filter(luma(frame), size=3, mode="nearest")
        low, high = np.minimum(low, smooth), np.maximum(high, smooth)
    return np.asarray(high - low)


def mean(values: ArrayLike) -> float | None:
    """Mean of the defined (finite) values; None where there is none."""
    found = np.asarray(values, np.float64)
    kept = np.isfinite(found)
    return float(found[kept].mean()) if kept.any() else None


def zero_background(video: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns video [... h w 3], zero outside of mask [... h w]: what SSIM of a region is of."""
    return video * np.asarray(mask, bool)[..., None].astype(video.dtype)


def gradient(image: np.ndarray) -> np.ndarray:
    """Prewitt's gradient magnitude of the halved image [... h w]; zeros beyond the border."""
    pad = [(0, 0)] * (image.ndim - 2) + [(0, image.shape[-2] % 2), (0, image.shape[-1] % 2)]
    image = np.pad(image, pad, mode="edge")
    half = sum(image[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    one = np.ones(3) / 3
    step = np.array([1.0, 0.0, -1.0])

    def both(first, second):
        out = ndimage.correlate1d(half, first, axis=-1, mode="constant")
        return ndimage.correlate1d(out, second, axis=-2, mode="constant")

    return np.hypot(both(step, one), both(one, step))


def gradient_energy(pred: np.ndarray, true: np.ndarray, region: np.ndarray) -> float | None:
    """How sharp a video is in the moving region, relative to the truth (Eq. 4).

    What raises PSNR by blurring lowers this, so the two are read together.

    Args:
      pred, true: [v n h w 3] uint8; leave the given frame 0 out.
      region: [v h w] bool.

    Returns:
      None where the truth has no gradient.
    """
    sums = [0.0, 0.0]
    for i, clips in enumerate((pred, true)):
        for clip, inside in zip(clips, region, strict=True):
            where = inside[:-1, :-1]
            for frame in clip:
                image = frame.astype(np.int32)
                right = np.abs(np.diff(image, axis=1))[:-1][where].sum()
                below = np.abs(np.diff(image, axis=0))[:, :-1][where].sum()
                sums[i] += float(right + below)
    return sums[0] / sums[1] if sums[1] else None


def temporal(
    pred: np.ndarray, true: np.ndarray, region: np.ndarray
) -> tuple[float | None, float | None]:
    """(correlation, ratio of standard deviations) over time in the moving region (Eq. 2, 3).

    Args:
      pred, true: [v n h w 3] uint8; leave the given frame 0 out.
      region: [v h w] bool.

    Returns:
      (None, None) where the truth does not move: an empty region, or fewer than 2 frames.
    """
    gg = yy = gy = 0.0
    count = 0
    for p, t, inside in zip(pred, true, region, strict=True):
        if len(t) < 2:
            return None, None
        g, y = (np.stack([luma(frame[inside]) for frame in x]) for x in (p, t))  # [n pixels]
        g, y = g - g.mean(0), y - y.mean(0)
        gg, yy, gy = gg + (g * g).sum(), yy + (y * y).sum(), gy + (g * y).sum()
        count += y.size
    if yy <= 1e-9 * max(count, 1):
        return None, None
    if gg <= 1e-9 * count:
        return 0.0, 0.0
    return float(gy / np.sqrt(gg * yy)), float(np.sqrt(gg / yy))
