"""Small pictures: views side by side as a GIF or a PNG, and a sample's grid for TensorBoard."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import einops
import numpy as np
from PIL import Image, ImageDraw

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import clouds

GAP = 4  # pixels between tiles
DRAWN = 240  # pixels: the height at which tracks are drawn, before tiles get their size
POINTS, TRAIL = 120, 5  # drawn points, and the frames that their trails reach back


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


def grid(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any] | None = None,
    *,
    frames: int = 4,
    height: int = 128,
) -> np.ndarray:
    """One picture of a sample: a line a view, a column a frame, the tracks drawn on it.

    Args:
      sample: video [v n h w 3] uint8 and, where there are, tracks [n k 3] or tracks_per_view
        [v n k 3] metres with intrinsics [v 3 3] and extrinsics [v 3 4], or [v n 3 4].
      truth: the same of the ground truth, drawn in a line under each view; None for none.
      frames: columns, first to last frame.
      height: of one tile, pixels.

    Returns:
      [h w 3] uint8, of one size whatever the sample, for TensorBoard's image page.
    """
    rows = [_drawn(x) for x in (sample, truth) if x is not None]
    columns = np.unique(np.linspace(0, rows[0].shape[1] - 1, frames).round().astype(int))
    h, w = rows[0].shape[2:4]
    size = (round(w * height / h), height)
    lines = []
    for view in range(len(rows[0])):
        for row in rows:
            tiles = [np.asarray(Image.fromarray(row[view, n]).resize(size)) for n in columns]
            padded = [np.pad(t, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for t in tiles]
            lines.append(np.concatenate(padded, axis=1))
    return np.concatenate(lines)[:-GAP, :-GAP]


def _drawn(sample: Mapping[str, Any]) -> np.ndarray:
    """The sample's video [v n h w 3], enlarged to DRAWN rows, with points and trails."""
    video = np.asarray(sample["video"])
    tracks = sample.get("tracks_per_view", sample.get("tracks"))
    if tracks is None or "extrinsics" not in sample:
        return video
    h, w = video.shape[2:4]
    factor = max(1, round(DRAWN / h))
    tracks = np.broadcast_to(tracks, (len(video), *np.shape(tracks)[-3:]))
    keep = clouds.chosen(tracks.shape[2], POINTS)
    inks = [tuple(map(int, c)) for c in clouds.colours(tracks[0])[keep]]
    found = np.empty((*video.shape[:2], h * factor, w * factor, 3), np.uint8)
    for v, clip in enumerate(video):
        places, depth = cameras.project(
            np.float64(tracks[v][:, keep]),
            *(np.float64(sample[key][v]) for key in ("intrinsics", "extrinsics")),
        )
        places = np.where((depth > 0.01)[..., None], factor * (places + 0.5), np.nan)
        for n, frame in enumerate(clip):
            picture = Image.fromarray(frame).resize((w * factor, h * factor), Image.Resampling.BOX)
            _draw(ImageDraw.Draw(picture), places[max(0, n - TRAIL) : n + 1], inks)
            found[v, n] = np.asarray(picture)
    return found


def _draw(ink: ImageDraw.ImageDraw, places: np.ndarray, inks: Sequence[tuple]) -> None:
    """Draws trails of places [n k 2] and dots at the last of them."""
    for k, colour in enumerate(inks):
        trail = places[:, k]
        shown = np.isfinite(trail).all(-1) & (np.abs(trail) < 1e5).all(-1)
        path = [(float(x), float(y)) for x, y in trail[shown]]
        if len(path) > 1:
            ink.line(path, fill=colour, width=1)
        if path and np.isfinite(places[-1, k]).all():
            x, y = path[-1]
            ink.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour, outline=(0, 0, 0))
