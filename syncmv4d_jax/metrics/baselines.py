"""Trivial predictors that a model has to beat, and an oracle that knows frame 0's true points.

    frame_0          the given first frame of each view, repeated; no tracks
    frame_0_blurred  the same blurred, with the one sigma of SIGMAS that is best over all scenes
    time_mean        the model's own videos and tracks, averaged over time
    held             the model's own frame 0 (video) and frame-0 points, held still
    oracle           the true frame-0 points held still, in every view; no video (that is frame_0)

A blurred frame is the bar for PSNR: where the model does not know, the mean is the best guess, and
blur is a mean (3 dB above the sharp frame on moving pixels).
"""

import numpy as np
from scipy import ndimage

BASELINES = ("frame_0", "frame_0_blurred", "time_mean", "held")
ORACLE = "oracle"
SIGMAS = tuple(s / 64 for s in (1, 2, 3, 4, 6, 9, 13))  # of the image's height


def repeat(first: np.ndarray, frames: int) -> np.ndarray:
    """Returns [v n ...] of first [v ...], without copying."""
    return np.broadcast_to(first[:, None], (len(first), frames, *first.shape[1:]))


def blur(first: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs images [v h w 3] uint8 by a Gaussian of `sigma` image heights."""
    pixels = sigma * first.shape[1]
    blurred = ndimage.gaussian_filter(
        first.astype(np.float32), (0, pixels, pixels, 0), mode="nearest"
    )
    return np.clip(np.round(blurred), 0, 255).astype(np.uint8)


def time_mean(video: np.ndarray) -> np.ndarray:
    """Returns the mean over time [v n ...] of [v n ...], repeated, in the dtype of the input."""
    mean = video.mean(1, dtype=np.float64)
    if video.dtype == np.uint8:
        mean = np.clip(np.round(mean), 0, 255)
    return repeat(mean.astype(video.dtype), video.shape[1])


def held(values: np.ndarray) -> np.ndarray:
    """Returns frame 0 of [v n ...], repeated."""
    return repeat(values[:, 0], values.shape[1])
