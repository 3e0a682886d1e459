"""Tracks and cameras as compact arrays for the report's 3D view."""

import base64
import functools
from typing import Any

import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import clouds

POINTS = 320  # drawn points of a sample
PLACES = 18_000  # of points times frames: long clips get fewer points
EACH = 3  # every third of them in each view's own copy
QUANTILES = (0.05, 0.5, 0.95)


def pack(tracks: np.ndarray, centre: np.ndarray, unit: float) -> str:
    """Returns tracks [n k 3] as base64 of little-endian int16, (x - centre) / unit.

    Points that are not finite become -32768, which is drawn nowhere.
    """
    with np.errstate(invalid="ignore"):
        steps = np.round((np.asarray(tracks, np.float64) - centre) / unit)
    finite = np.isfinite(steps).all(-1, keepdims=True)
    steps = np.where(finite, np.clip(np.nan_to_num(steps), -32767, 32767), -32768)
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()


def scene(
    tracks: np.ndarray | None,
    true_tracks: np.ndarray | None,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    size: tuple[int, int],
    per_view: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """Returns what the 3D view and the overlays draw, as plain JSON values.

    Args:
      tracks, true_tracks: [n k 3], metres, world frame, or None.
      intrinsics: [v 3 3], pixels of an image of `size` (height, width).
      extrinsics: [v 3 4], world to camera; [v n 3 4] of cameras that move.
      per_view: [v n k 3], each view's own copy of `tracks`, or None.

    Returns:
      None without any track. Otherwise centre (metres), unit (metres a step), radius (metres),
      frames, points, generated, true and views (see `pack`; views has every `each`-th of the
      points), cameras (eye and four corners each, for drawing), and for projecting intrinsics,
      extrinsics and size. Of cameras that move these are frame 0's, and `poses` and `moving` are
      the extrinsics and the cameras of every frame.
    """
    there = [np.asarray(x) for x in (true_tracks, tracks) if x is not None]
    if not there or not np.isfinite(there[0]).all(-1).any():
        return None
    reference = there[0]
    centre, radius = extent(reference)
    unit = radius / 8000
    limit = min(POINTS, max(PLACES // len(reference), 32))
    keep = {count: clouds.chosen(count, limit) for count in {x.shape[1] for x in there}}
    packed: dict[str, Any] = {
        name: pack(x[:, keep[x.shape[1]]], centre, unit)
        for name, x in (("generated", tracks), ("true", true_tracks))
        if x is not None
    }
    if per_view is not None and tracks is not None and per_view.shape[1:] == tracks.shape:
        packed["views"] = pack(per_view[:, :, keep[tracks.shape[1]][::EACH]], centre, unit)
    poses = np.asarray(extrinsics, np.float64)
    shape = functools.partial(frusta, intrinsics, size=size, depth=0.25 * radius, centre=centre)
    if poses.ndim == 4:
        every = np.moveaxis(poses, 1, 0)
        packed |= {"poses": every.tolist(), "moving": [shape(pose) for pose in every]}
        poses = poses[:, 0]
    return packed | {
        "centre": centre.tolist(),
        "unit": unit,
        "radius": radius,
        "frames": len(reference),
        "each": EACH,
        "intrinsics": np.asarray(intrinsics, np.float64).tolist(),
        "extrinsics": poses.tolist(),
        "size": [int(x) for x in size],
        "cameras": shape(poses),
    }


def extent(tracks: np.ndarray) -> tuple[np.ndarray, float]:
    """The middle [3] of the finite points and the radius that holds 98% of them, metres."""
    points = np.asarray(tracks, np.float64)[np.isfinite(tracks).all(-1)]
    centre = np.median(points, axis=0)
    far = np.percentile(np.linalg.norm(points - centre, axis=-1), 98)
    return centre, float(max(far, 0.02))


def depths(tracks: np.ndarray, extrinsics: np.ndarray) -> list[list[list[float] | None]]:
    """Returns the quantiles (5%, 50%, 95%) of the points' depths, metres, by view and frame.

    Args:
      tracks: [n k 3] of all views, or [v n k 3], metres, world frame.
      extrinsics: [v 3 4], world to camera; [v n 3 4] of cameras that move.

    Returns:
      [v][n] lists of three; None where no point is finite.
    """
    poses = np.asarray(extrinsics, np.float64)
    tracks = np.broadcast_to(tracks, (len(poses), *np.shape(tracks)[-3:]))
    found = []
    for points, pose in zip(np.asarray(tracks, np.float64), poses, strict=True):
        depth = cameras.to_camera(points, pose)[..., 2]
        rows = [frame[np.isfinite(frame)] for frame in depth]
        found.append([np.quantile(x, QUANTILES).round(4).tolist() if len(x) else None
                      for x in rows])  # fmt: skip
    return found


def frusta(
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    size: tuple[int, int],
    *,
    depth: float,
    centre: np.ndarray,
) -> list[list[list[float]]]:
    """Returns eye and the image's four corners at `depth` of each camera, metres from centre."""
    height, width = size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) - 0.5
    found = []
    both = (np.asarray(x, np.float64) for x in (intrinsics, extrinsics))
    for k, pose in zip(*both, strict=True):
        far = cameras.unproject(corners, np.full(4, depth), k, pose)
        shape = np.concatenate([cameras.camera_centre(pose)[None], far]) - centre
        found.append(np.round(shape, 4).tolist())
    return found
