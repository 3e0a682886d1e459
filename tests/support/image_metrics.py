"""PSNR, SSIM and GMSD written down plainly, whole clips at once: what metrics/frames.py must equal.

Other libraries' values hold these (tests/metrics/test_video_metrics.py).
"""

import numpy as np
from scipy import ndimage

from syncmv4d_jax.metrics import video


def psnr(pred: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """PSNR of each frame, dB.

    Args:
      pred, true: [... h w 3] uint8 (or float in 0..255).
      mask: [... h w] bool: only these pixels count; None for all.

    Returns:
      [...] float64; 100 where identical, NaN where the mask is empty: see `mean`.
    """
    square = (np.asarray(pred, np.float64) - np.asarray(true, np.float64)) ** 2
    square = square.mean(-1)
    if mask is None:
        error = square.mean((-1, -2))
    else:
        mask = np.broadcast_to(mask, square.shape)
        count = mask.sum((-1, -2))
        error = np.where(mask, square, 0).sum((-1, -2)) / np.maximum(count, 1)
        error = np.where(count > 0, error, np.nan)
    with np.errstate(divide="ignore"):
        return np.minimum(20 * np.log10(255) - 10 * np.log10(error), video.PSNR_CAP)


def ssim(
    pred: np.ndarray, true: np.ndarray, *, gaussian: bool = True, mirror: bool = False
) -> np.ndarray:
    """Structural similarity of each frame (Wang et al. 2004), mean over channels.

    Args:
      pred, true: [... h w c], 0..255, h and w at least 11.
      gaussian: an 11 x 11 Gaussian window of sigma 1.5; else a uniform 7 x 7 one with the sample
        covariance.
      mirror: count the windows that leave the image, mirrored, too.

    Returns:
      [...] float64, at most 1.

    Raises:
      ValueError: an image smaller than the window.
    """
    size = 11 if gaussian else 7
    if min(pred.shape[-3:-1]) < size:
        raise ValueError(f"SSIM needs images of at least {size} x {size}, got {pred.shape[-3:-1]}")
    lead = pred.shape[:-3]
    flat = [np.asarray(x, np.float64).reshape(-1, *x.shape[-3:]) for x in (pred, true)]
    cut = slice(None) if mirror else slice(size // 2, -(size // 2))

    def window(z):
        if gaussian:
            return ndimage.gaussian_filter(z, (1.5, 1.5, 0), truncate=3.5, mode="mirror")
        return ndimage.uniform_filter(z, (7, 7, 1), mode="mirror")

    unbiased = 1.0 if gaussian else 49 / 48
    found = [
        _similarity(x, y, window, unbiased)[cut, cut].mean() for x, y in zip(*flat, strict=True)
    ]
    return np.array(found).reshape(lead)


def _similarity(x: np.ndarray, y: np.ndarray, window, unbiased: float) -> np.ndarray:
    """The similarity of each window of two images or clips; Wang et al., Eq. 13."""
    mx, my = window(x), window(y)
    vx = unbiased * (window(x * x) - mx * mx)
    vy = unbiased * (window(y * y) - my * my)
    vxy = unbiased * (window(x * y) - mx * my)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def gmsd(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Gradient magnitude similarity deviation of each frame (Xue et al. 2014); 0 is identical.

    Args:
      pred, true: [... h w 3], 0..255. Luma, 2 x 2 means, Prewitt / 3, c = 170 / 255^2.

    Returns:
      [...] float64.
    """
    x, y = (video.gradient(video.luma(z) / 255) for z in (pred, true))
    c = 170 / 255**2
    return ((2 * x * y + c) / (x * x + y * y + c)).std((-1, -2))
