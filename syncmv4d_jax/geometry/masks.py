"""Masks of video frames as shares of latent cells."""

from typing import Any

import einops
import numpy as np

Array = Any  # numpy.ndarray or jax.Array


def to_cells(mask: Array, latent: tuple[int, int, int]) -> Array:
    """The share of each latent cell that a mask covers, the largest of its frames, pixel by pixel.

    A latent frame stands for several video frames, the first for frame 0 alone.

    Args:
      mask: [... n h w], bool or 0 and 1.
      latent: (f, hl, wl); n = step (f - 1) + 1.

    Returns:
      [... f hl wl 1] float32.

    Raises:
      ValueError: sizes that do not divide.
    """
    f, h, w = latent
    n, high, wide = mask.shape[-3:]
    step = 1 if f == 1 else (n - 1) // (f - 1)
    if n != step * (f - 1) + 1 or high % h or wide % w:
        raise ValueError(
            f"mask: wanted [n h w] of {f} latent frames of {h} x {w} cells, got {(n, high, wide)}"
        )
    frames = np.concatenate([np.zeros(step - 1, int), np.arange(n)])  # frame 0 fills its own
    seen = mask[..., frames, :, :].astype("float32")
    union = einops.reduce(seen, "... (f t) h w -> ... f h w", "max", t=step)
    return einops.reduce(union, "... f (h y) (w x) -> ... f h w 1", "mean", h=h, w=w)


def of_frames(trust: Array, step: int, stride: int) -> Array:
    """The mean of each latent cell, of each of its video frames.

    Args:
      trust: [... n h w] of 0 to 1; frame 0 counts for all frames of the first latent frame.
      step: video frames of a latent frame. stride: pixels of a cell.

    Returns:
      [... f hl wl step] float32.
    """
    share = einops.reduce(
        trust.astype("float32"), "... (h y) (w x) -> ... h w", "mean", y=stride, x=stride
    )
    frames = np.concatenate([np.zeros(step - 1, int), np.arange(trust.shape[-3])])
    return einops.rearrange(share[..., frames, :, :], "... (f m) h w -> ... f h w m", m=step)
