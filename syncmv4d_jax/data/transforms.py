"""Rules that turn a recording into clips: time, views, crops, points (no disk, no decoding).

    (1)  source frame of clip frame i:  start + floor(i source_fps / fps + 0.5)   (30 -> 8: 3.75)
    (2)  one box per view and clip: bounds of the projected vertices (of the first frame or of all),
         times a margin, widened to the output's aspect, shifted into the image, else padded by its
         edge
    (3)  track identity is one choice for all frames and views: in the first frame all vertices are
         thinned by voxels, whose size is found by bisection, one vertex a voxel

A box that does not move keeps the camera one pinhole: K' = cameras.crop_resize_intrinsics(K, box).
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from syncmv4d_jax.geometry import cameras

TEMPORAL_STRIDE = 4  # of the video autoencoder: n = 4 (f - 1) + 1
Box = tuple[int, int, int, int]  # x0, y0, x1, y1: first kept column and row, first ones beyond


def seeded(seed: int, *names: object) -> np.random.Generator:
    """A generator that depends on the seed and names only, not on the order of work."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


def frame_index(
    length: int, *, source_fps: float, fps: float, frames: int, start: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Which frames of a recording make a clip (Eq. 1).

    Args:
      length: frames of the recording.
      frames: n, of the clip.
      start: first frame.

    Returns:
      index [n] int64, the last frame repeated beyond the end; valid [n] bool, False there.

    Raises:
      ValueError: a start outside of the recording, or a rate above the recording's.
    """
    if frames < 1 or not 0 <= start < length:
        raise ValueError(f"wanted 0 <= start < {length} frames and n >= 1, got {start}, {frames}")
    if not 0 < fps <= source_fps:
        raise ValueError(f"wanted 0 < fps <= {source_fps}, the recording's rate, got {fps}")
    index = start + np.floor(np.arange(frames) * (source_fps / fps) + 0.5).astype(np.int64)
    return np.minimum(index, length - 1), index < length


def latent_valid(frame_valid: np.ndarray) -> np.ndarray:
    """Returns [f] bool of frame_valid [n], n = 4 (f - 1) + 1: valid when all its frames are.

    Raises:
      ValueError: another n.
    """
    if len(frame_valid) % TEMPORAL_STRIDE != 1:
        raise ValueError(f"wanted n = 4 (f - 1) + 1 frames, got {len(frame_valid)}")
    rest = frame_valid[1:].reshape(-1, TEMPORAL_STRIDE).all(axis=1)
    return np.concatenate([frame_valid[:1], rest])


def view_clusters(
    extrinsics: np.ndarray, count: int, *, moving: np.ndarray | None = None
) -> np.ndarray:
    """Assigns cameras to `count` clusters, 0 on the left of who looks at the actor.

    Cameras are sorted by the x of their centre, descending (the actor looks toward +y), and cut
    into parts that differ by one camera at most.

    Args:
      extrinsics: [c 3 4], world to camera, metres.
      moving: [c] bool: cameras that come behind all others, as where they are changes.

    Returns:
      [c] int.

    Raises:
      ValueError: fewer cameras than clusters.
    """
    if len(extrinsics) < count or count < 1:
        raise ValueError(f"wanted at least {count} cameras, got {len(extrinsics)}")
    away = -cameras.camera_centre(extrinsics)[:, 0]
    order = np.lexsort((away, np.zeros(len(away), bool) if moving is None else moving))
    result = np.empty(len(extrinsics), int)
    for cluster, part in enumerate(np.array_split(order, count)):
        result[part] = cluster
    return result


def projected_bounds(
    clouds: Sequence[np.ndarray], intrinsics: np.ndarray, extrinsics: np.ndarray
) -> tuple[float, float, float, float]:
    """Bounds (x0, y0, x1, y1), pixels, of world points [p 3]; those behind the camera are ignored.

    Raises:
      ValueError: everything is behind the camera.
    """
    matrix = intrinsics @ extrinsics
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for cloud in clouds:
        ray = matrix[:, :3] @ cloud.T + matrix[:, 3:]
        ray = ray if ray[2].min() > 1e-3 else ray[:, ray[2] > 1e-3]
        if ray.shape[1]:
            pixels = ray[:2] / ray[2]
            low, high = np.minimum(low, pixels.min(1)), np.maximum(high, pixels.max(1))
    if not np.isfinite(low).all():
        raise ValueError("calibration: every point is behind the camera")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def crop_box(
    bounds: tuple[float, float, float, float],
    image: tuple[int, int],
    size: tuple[int, int],
    *,
    margin: float = 1.2,
    least: float | None = None,
    zoom: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Box:
    """The static crop of a clip (Eq. 2), whole pixels.

    Args:
      bounds: of the projected surfaces, pixels; what lies beyond a quarter outside of the image is
        not kept.
      image: (height, width) of the video.
      size: (height, width) of the output, for its aspect.
      margin: of the box around the bounds.
      least: the margin that a box may be made smaller to so that the image has room for it.
      zoom, shift: jitter: a factor of the box, and a move in parts of it.

    Returns:
      The box; it leaves the image only where that is too small for it.
    """
    limit = np.array([image[1], image[0]], float)
    low = np.clip(np.array(bounds[:2]) - 0.5, -limit / 4, limit * 1.25)
    high = np.clip(np.array(bounds[2:]) + 1.5, -limit / 4, limit * 1.25)
    aspect = size[1] / size[0]

    def around(by: float) -> np.ndarray:
        extent = np.maximum((high - low) * by, 16)
        return np.array([max(extent[0], extent[1] * aspect), max(extent[1], extent[0] / aspect)])

    box = around(margin * zoom)
    if least is not None and (box > limit).any():
        room = np.floor(box * (limit / box).min())
        box = np.maximum(room, around(min(least, margin * zoom)))
    start = (low + high) / 2 + np.array(shift) * box - box / 2
    inside = np.clip(start, 0, np.maximum(limit - box, 0))
    start = np.where(box <= limit, inside, start)
    corner, extent = np.round(start).astype(int), np.round(box).astype(int)
    corner = np.where(extent <= limit, np.minimum(corner, limit.astype(int) - extent), corner)
    return int(corner[0]), int(corner[1]), int(corner[0] + extent[0]), int(corner[1] + extent[1])


def crop_resize(
    image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray:
    """Cuts and resizes an image with antialiasing; the edge's value is repeated outside.

    Args:
      image: [h w 3] or [h w] uint8.
      box: x0, y0, x1, y1; parts of pixels are allowed.
      size: (height, width).
    """
    height, width = image.shape[:2]
    x0, y0 = int(np.floor(box[0])), int(np.floor(box[1]))
    x1, y1 = int(np.ceil(box[2])), int(np.ceil(box[3]))
    part = image[max(y0, 0) : max(min(y1, height), 1), max(x0, 0) : max(min(x1, width), 1)]
    pads = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0))
    if any(any(pad) for pad in pads):
        part = np.pad(part, pads[: image.ndim], mode="edge")
    local = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
    picture = Image.fromarray(np.ascontiguousarray(part))
    filtered = Image.Resampling.BILINEAR
    resized = picture.resize((size[1], size[0]), filtered, box=local, reducing_gap=2.0)
    return np.asarray(resized)


class Points(NamedTuple):
    """Points fixed to surfaces: mesh [k] index, vertices [k 3] of a face, weights [k 3]."""

    mesh: np.ndarray
    vertices: np.ndarray
    weights: np.ndarray

    def positions(self, surfaces: Sequence[np.ndarray]) -> np.ndarray:
        """World points [k 3], metres, on surfaces given by their vertices [p 3]."""
        result = np.empty((len(self.mesh), 3))
        for index, vertices in enumerate(surfaces):
            here = self.mesh == index
            corners = vertices[self.vertices[here]]
            result[here] = np.sum(corners * self.weights[here][..., None], axis=1)
        return result

    def normals(self, surfaces: Sequence[np.ndarray]) -> np.ndarray:
        """Unit normals [k 3] of their faces, zero where a face has no area."""
        result = np.zeros((len(self.mesh), 3))
        for index, vertices in enumerate(surfaces):
            here = self.mesh == index
            a, b, c = np.moveaxis(vertices[self.vertices[here]], 1, 0)
            across = np.cross(b - a, c - a)
            length = np.linalg.norm(across, axis=1, keepdims=True)
            result[here] = across / np.maximum(length, 1e-12)
        return result


def select_points(
    surfaces: Sequence[np.ndarray],
    faces: Sequence[np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> Points:
    """Chooses exactly `count` points of surfaces (vertices [p 3], faces [q 3]) (Eq. 3).

    The vertex of a voxel is the one nearest to their mean; the surplus is dropped at random. With
    fewer than `count` distinct vertices, points are drawn by area.

    Raises:
      ValueError: surfaces without extent.
    """
    cloud = np.concatenate(surfaces)
    cloud = cloud - cloud.min(axis=0)
    extent = float(cloud.max(initial=0.0))
    if not (np.isfinite(extent) and extent > 0):
        raise ValueError(f"wanted surfaces with a finite extent, got {extent} m")
    low, high = extent / 2000, extent
    if len(np.unique(_voxels(cloud, low))) < count:
        return by_area(surfaces, faces, count, rng)
    for _ in range(20):
        middle = np.sqrt(low * high)
        enough = len(np.unique(_voxels(cloud, middle))) >= count
        low, high = (middle, high) if enough else (low, middle)
    group = np.unique(_voxels(cloud, low), return_inverse=True)[1]
    members = np.bincount(group)
    mean = np.stack([np.bincount(group, cloud[:, i]) / members for i in range(3)], axis=1)
    order = np.lexsort((np.sum((cloud - mean[group]) ** 2, axis=1), group))
    first = order[np.concatenate([[True], np.diff(group[order]) > 0])]
    chosen = np.sort(rng.choice(first, count, replace=False))
    mesh = np.repeat(np.arange(len(surfaces)), [len(v) for v in surfaces])[chosen]
    local = np.concatenate([np.arange(len(v)) for v in surfaces])[chosen]
    weights = np.tile(np.array([1.0, 0.0, 0.0]), (count, 1))
    return Points(mesh, np.repeat(local[:, None], 3, axis=1), weights)


def _voxels(cloud: np.ndarray, size: float) -> np.ndarray:
    grid = (cloud / size).astype(np.int64)
    return (grid[:, 0] << 42) | (grid[:, 1] << 21) | grid[:, 2]


def by_area(
    surfaces: Sequence[np.ndarray],
    faces: Sequence[np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> Points:
    """Draws `count` points of surfaces, as many a square metre everywhere."""
    corners = [vertices[face] for vertices, face in zip(surfaces, faces, strict=True)]
    area = [np.linalg.norm(np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]), axis=1) for c in corners]
    flat, mesh = np.concatenate(area), np.repeat(np.arange(len(area)), [len(a) for a in area])
    chosen = np.sort(rng.choice(len(flat), count, p=flat / flat.sum()))
    root, part = np.sqrt(rng.uniform(size=count)), rng.uniform(size=count)
    weights = np.stack([1 - root, root * (1 - part), root * part], axis=1)
    return Points(mesh[chosen], np.concatenate(faces)[chosen], weights)


def rotate_world(
    tracks: np.ndarray, extrinsics: np.ndarray, angle: float, centre: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Turns the world about the vertical through `centre`; what the cameras see stays the same.

    Args:
      tracks: [n k 3], metres. extrinsics: [v 3 4] or [v n 3 4], world to camera. angle: radians.
      centre: [3], metres.

    Returns:
      (tracks, extrinsics) in the turned world, dtypes kept.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    middle = np.asarray(centre, np.float64)
    turned = (tracks - middle) @ turn.T + middle
    rotation = extrinsics[..., :3] @ turn.T
    shift = extrinsics[..., 3] + extrinsics[..., :3] @ middle - rotation @ middle
    moved = np.concatenate([rotation, shift[..., None]], axis=-1)
    return turned.astype(tracks.dtype), moved.astype(extrinsics.dtype)


def recolour(video: np.ndarray, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """Scales gain, contrast and saturation by factors in 1 +- jitter, the same in all views.

    Args:
      video: [v n h w 3] uint8. The pseudo video is not touched: its colours are coordinates.

    Returns:
      [v n h w 3] uint8.
    """
    gain, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3).astype(np.float32)
    result = np.empty_like(video)
    for view, clip in enumerate(video):  # one view at a time, for memory
        colour = clip.astype(np.float32) * gain
        colour = (colour - colour.mean()) * contrast + colour.mean()
        grey = colour.mean(axis=-1, keepdims=True)
        result[view] = np.clip(np.rint((colour - grey) * saturation + grey), 0, 255)
    return result
