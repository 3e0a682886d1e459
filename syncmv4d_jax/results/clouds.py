"""Tracks as point clouds to draw: which points, without gaps, in which colours."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

GAMMA = 2.2  # of a screen: colours are picked by eye, glTF and USD want them linear


def chosen(count: int, limit: int) -> np.ndarray:
    """Returns at most `limit` indices spread evenly over `count` points."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def finite(tracks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns tracks [n k' 3] without points that are never finite, gaps filled, and kept [k].

    A gap takes the last finite place before it, or the first one after it.
    """
    tracks = np.asarray(tracks, np.float64)
    good = np.isfinite(tracks).all(-1)
    kept = good.any(0)
    tracks, good = tracks[:, kept], good[:, kept]
    frames = np.arange(len(tracks))[:, None]
    last = np.maximum.accumulate(np.where(good, frames, -1), axis=0)
    source = np.where(last >= 0, last, good.argmax(0))
    return np.take_along_axis(tracks, source[..., None], axis=0), kept


def drawable(
    path: str | Path, clouds: Mapping[str, np.ndarray], colours: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields (name, points [n k' 3], linear colours [k' 3] in 0..1) of the clouds with points.

    Args:
      path: where they go, for errors.
      clouds: name -> tracks [n k 3], metres, world frame; see `finite`.
      colours: [k 3] uint8 sRGB.

    Raises:
      ValueError: no cloud has a finite point, or colours do not fit.
    """
    empty = True
    for name, tracks in clouds.items():
        points, kept = finite(tracks)
        if len(colours) != len(kept):
            raise ValueError(f"{path}: wanted {len(kept)} colours [k 3], got {np.shape(colours)}")
        if kept.any():
            empty = False
            yield name, points, (np.asarray(colours)[kept] / 255.0) ** GAMMA
    if empty:
        raise ValueError(f"{path}: no finite point in {sorted(clouds)}")


def colours(tracks: np.ndarray) -> np.ndarray:
    """Returns a colour a point [k 3] uint8: hue by its direction in frame 0, lightness by height.

    Args:
      tracks: [n k 3], metres, world frame.
    """
    first, kept = finite(tracks)
    found = np.full((np.shape(tracks)[1], 3), 128, np.uint8)
    if not kept.any():
        return found
    start = first[0] - np.median(first[0], axis=0)
    angle = np.arctan2(start[:, 1], start[:, 0]) / (2 * np.pi)
    height = start[:, 2] / max(np.abs(start[:, 2]).max(), 1e-6)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (angle[:, None] - np.array([0, 1, 2]) / 3))
    light = 0.85 + 0.15 * height[:, None]
    found[kept] = np.round(255 * light * (0.3 + 0.7 * wave)).astype(np.uint8)
    return found


def views(count: int, names: Sequence[str]) -> list[str]:
    """What cameras are called in files for other programs: view_1, ..., and behind it the name that
    the user's camera has, where it is known, in letters that all of them take."""
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII) for name in names]
    told = [f"_{name}" for name in plain] if len(plain) == count else [""] * count
    return [f"view_{v + 1}{name}" for v, name in enumerate(told)]
