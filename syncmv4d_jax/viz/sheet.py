"""Small pictures for a README: views side by side, as a moving GIF or a PNG of a few frames."""

from collections.abc import Sequence
from pathlib import Path

import einops
import numpy as np
from PIL import Image

GAP = 4  # pixels between tiles


def tile(rows: Sequence[np.ndarray], *, height: int) -> list[Image.Image]:
    """Returns a picture a frame: views next to each other, one line for each of `rows`.

    Args:
      rows: clips [v n h w 3] uint8 of equal v and n, e.g. generated, true.
      height: of one view in the picture, pixels.

    Raises:
      ValueError: no rows, or rows of different shapes.
    """
    if not rows or any(np.shape(row) != np.shape(rows[0]) for row in rows):
        raise ValueError(
            f"wanted clips of one shape [v n h w 3], got {[np.shape(r) for r in rows]}"
        )
    views, _, h, w = np.shape(rows[0])[:4]
    factor = height / h
    gap = max(1, round(GAP / factor))
    pad = ((0, 0), (0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    clips = np.pad(np.stack(rows), pad, constant_values=255)
    pictures = einops.rearrange(clips, "r v n h w c -> n (r h) (v w) c")[:, :-gap, :-gap]
    size = (round(pictures.shape[2] * factor), round(pictures.shape[1] * factor))
    return [Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in pictures]


def gif(path: str | Path, rows: Sequence[np.ndarray], *, fps: float, height: int = 120) -> None:
    """Writes a looping GIF of `rows` (see `tile`)."""
    pictures = tile(rows, height=height)
    palette = pictures[len(pictures) // 2].quantize(192)
    frames = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    frames[0].save(
        path,
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 / fps),
        loop=0,
        optimize=True,
    )


def png(path: str | Path, rows: Sequence[np.ndarray], *, frames: int = 4, height: int = 96) -> None:
    """Writes a PNG: the tiles of a few frames, first to last, one under another."""
    pictures = tile(rows, height=height)
    keep = np.unique(np.linspace(0, len(pictures) - 1, frames).round().astype(int))
    stack = [np.asarray(pictures[i]) for i in keep]
    rule = np.full((GAP, *stack[0].shape[1:]), 255, np.uint8)
    parts = [part for picture in stack for part in (picture, rule)][:-1]
    Image.fromarray(np.concatenate(parts)).save(path, optimize=True)
