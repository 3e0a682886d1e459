"""Predictors that a model has to beat, by what they know.

Trivial ones, of the model's own output or of the given frames:

    frame_0          the given first frame of each view, repeated; no tracks
    frame_0_blurred  the same blurred, with the one sigma of SIGMAS that is best over all scenes
    time_mean        the model's own videos and tracks, averaged over time
    held             the model's own frame 0 (video) and frame-0 points, held still

A blurred frame is the bar for PSNR: where the model does not know, the mean is the best guess, and
blur is a mean (3 dB above the sharp frame on moving pixels).

Equal information, tracks only: the points of frame 0 as the model has them, moved by what is known
of training scenes and of the given frames (`metrics.priors`):

    mean_path        the mean path of the training scenes with the same words
    crop_ridge       a ridge regression on where the foreground lies in the crops of frame 0
    nearest          the path of the training scene whose first frames look most alike

The model's parts, from the coarse tracks that its own motion decodes to:

    coarse           the views' confidence-weighted mean
    robust           a robust fit of each view, then moved onto the rays of the query pixels
    closed_form      the aligner without its network
    network          the aligner with it

Oracles know true points: `true_held` frame 0's, `true_velocity` those of frames 0 and 1.
"""

import numpy as np
from scipy import ndimage

BASELINES = ("frame_0", "frame_0_blurred", "time_mean", "held")
PRIORS = ("mean_path", "crop_ridge", "nearest")
FUSIONS = ("coarse", "robust", "closed_form")
NETWORK = "network"
ORACLES = ("true_held", "true_velocity")
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


def constant_velocity(tracks: np.ndarray) -> np.ndarray:
    """Returns tracks [n k 3] that go on as from frame 0 to 1 of [n k 3]; one frame stands."""
    if len(tracks) < 2:
        return tracks
    return tracks[0] + np.arange(len(tracks))[:, None, None] * (tracks[1] - tracks[0])
