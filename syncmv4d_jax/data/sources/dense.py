"""Clips of one camera of which every pixel of frame 0 is tracked, whoever tracked it.

A grid of tracks is read bilinearly at the video's pixels, by the nearest point across edges of
depth. What reads such clips (trajscene.py) gives them this form; one_camera.py makes records.
"""

import dataclasses

import numpy as np

from syncmv4d_jax.geometry import cameras

EDGE = 0.05  # relative jump of depth


class BrokenClip(ValueError):
    """A clip that cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video with its geometry.

    Attributes:
      name, text, fps: of the clip. metric: lengths are metres.
      video: [n h w 3] uint8.
      intrinsics: [3 3] px of the video. extrinsics: [n 3 4] world to camera.
      depth: [h w] of the pixels of frame 0, 0 unknown.
      points: [n (rows columns) 3] world, of a grid of frame 0's pixels; grid: (rows, columns).
    """

    name: str
    text: str
    fps: float
    metric: bool
    video: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    depth: np.ndarray
    points: np.ndarray
    grid: tuple[int, int]


def dense(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Where every pixel of frame 0 is: tracks [n h w 3] world and valid [h w]."""
    height, width = clip.depth.shape
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y], -1).astype(np.float64)
    start = cameras.unproject(pixels, clip.depth, clip.intrinsics, clip.extrinsics[0])
    ways, sure = _of_grid(clip)
    return (start[None] + ways).astype(np.float32), (clip.depth > 0) & sure


def _of_grid(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Ways [n h w 3] of the video's pixels from the grid's, and where they are known."""
    rows, columns = clip.grid
    points = clip.points.reshape(-1, rows, columns, 3).astype(np.float64)
    ways = points - points[:1]
    height, width = clip.depth.shape
    v = np.clip((np.arange(height) + 0.5) * rows / height - 0.5, 0, rows - 1)
    u = np.clip((np.arange(width) + 0.5) * columns / width - 0.5, 0, columns - 1)
    y0 = np.minimum(v.astype(int), max(rows - 2, 0))
    x0 = np.minimum(u.astype(int), max(columns - 2, 0))
    y1, x1 = np.minimum(y0 + 1, rows - 1), np.minimum(x0 + 1, columns - 1)
    b, a = (v - y0)[:, None], (u - x0)[None]
    corners = [(y0, x0, (1 - b) * (1 - a)), (y0, x1, (1 - b) * a), (y1, x0, b * (1 - a)),
               (y1, x1, b * a)]  # fmt: skip
    reach = np.linalg.norm(points[0], axis=-1)
    near = [reach[y[:, None], x[None]] for y, x, _ in corners]
    flat = np.ptp(near, axis=0) <= EDGE * np.min(near, axis=0)
    total = sum(ways[:, y[:, None], x[None]] * w[None, ..., None] for y, x, w in corners)
    closest = ways[:, np.round(v).astype(int)[:, None], np.round(u).astype(int)[None]]
    made = np.where(flat[None, ..., None], total, closest)
    return np.nan_to_num(made), np.asarray(np.isfinite(made).all((0, 3)))
