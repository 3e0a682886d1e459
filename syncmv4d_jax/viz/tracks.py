"""Tracks and cameras as compact arrays for the report's 3D view."""

import base64
from typing import Any

import numpy as np

from syncmv4d_jax import cameras

POINTS = 320  # drawn points of a sample


def chosen(count: int, limit: int = POINTS) -> np.ndarray:
    """Returns at most `limit` indices spread evenly over `count` points."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


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
) -> dict[str, Any] | None:
    """Returns what the 3D view draws, as plain JSON values.

    Args:
      tracks, true_tracks: [n k 3], metres, world frame, or None.
      intrinsics: [v 3 3], pixels of an image of `size` (height, width).
      extrinsics: [v 3 4], world to camera.

    Returns:
      None without any track. Otherwise centre (metres), unit (metres a step), radius (metres),
      frames, points, generated and true (see `pack`) and cameras: eye and four corners each.
    """
    there = [x for x in (true_tracks, tracks) if x is not None]
    if not there:
        return None
    reference = np.asarray(there[0], np.float64)
    points = reference[np.isfinite(reference).all(-1)]
    if not len(points):
        return None
    centre = np.median(points, axis=0)
    radius = float(max(np.percentile(np.linalg.norm(points - centre, axis=-1), 98), 0.02))
    unit = radius / 8000
    keep = chosen(reference.shape[1])
    packed = {
        name: pack(x[:, keep] if x.shape[1] == reference.shape[1] else x[:, chosen(x.shape[1])],
                   centre, unit)
        for name, x in (("generated", tracks), ("true", true_tracks))
        if x is not None
    }  # fmt: skip
    return packed | {
        "centre": centre.tolist(),
        "unit": unit,
        "radius": radius,
        "frames": len(reference),
        "cameras": frusta(intrinsics, extrinsics, size, depth=0.25 * radius, centre=centre),
    }


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
    for k, pose in zip(np.float64(intrinsics), np.float64(extrinsics), strict=True):
        far = cameras.unproject(corners, np.full(4, depth), k, pose)
        shape = np.concatenate([cameras.camera_centre(pose)[None], far]) - centre
        found.append(np.round(shape, 4).tolist())
    return found
