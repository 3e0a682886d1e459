"""Where the pixels of frame 0 go, in records: flow, its validity and frame 0's depth of a view.

A ray through every pixel of frame 0 meets a surface, which is then followed (surfaces.cast). What
nothing is known of:

    embedded scenes    forearms and table are surfaces too: every pixel that meets one is known
    TACO               arms, clothes and table are not. The table is a plane through the lowest
                       object vertices and stands still; a pixel without a surface that changes
                       (luma by more than 24 over the clip, grown by two pixels) is not known

Depth files (DIR/<sequence>/<camera>.npz, depth [h w] in metres up to scale and shift, of the whole
image) take the plane's place: they are fitted to the surfaces' depth where both are known.

In an example the flow is float16 and, of large images, of every second pixel; validity is packed
bits. `unpack` brings them to the image's size: inside validity and away from edges of depth
linearly, else by the nearest pixel.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import reading, surfaces
from syncmv4d_jax.geometry import cameras, flow_map

LARGE = 240  # rows from which on every second pixel is kept
LUMA, GROWN = 24, 2  # of pixels that change without a surface
EDGE = 0.05  # relative jump of depth
ROUNDING = 1e-6  # of F: what stands still has no more


def of_view(
    found: Sequence[surfaces.Surface],
    frames: Sequence[int],
    video: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    *,
    depth: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The fields of a view.

    Args:
      found: surfaces of the recording; frames: the clip's, of the recording.
      video: [n h w 3] uint8, of the view.
      intrinsics: [3 3] px of the crop. extrinsics: [3 4] of frame 0.
      depth: [h w] metres of the crop, 0 unknown: where no surface is met.

    Returns:
      flow [n h w 3] float32, flow_valid [h w] bool, depth0 [h w] float32.
    """
    height, width = video.shape[1:3]
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    met = surfaces.cast(found, pixels, intrinsics, extrinsics, frame=frames[0])
    tracks = met.positions(found, frames)
    known = np.isfinite(tracks).all((0, 2))
    start = cameras.to_camera(np.where(known[:, None], tracks[0], 0.0), extrinsics)[:, 2]
    depth0 = np.where(known, start, 0.0).reshape(height, width).astype(np.float32)
    known = known.reshape(height, width)
    if not any(s.kind == surfaces.OCCLUDER for s in found):
        beyond = _plane(found, frames[0], intrinsics, extrinsics, (height, width))
        beyond = beyond if depth is None else _fitted(depth, depth0, known)
        depth0 = np.where(known, depth0, beyond).astype(np.float32)
        still = ~known & (depth0 > 0) & ~_changes(video, known)
    else:
        still = np.zeros_like(known)
    view = flow_map.Camera(depth0, intrinsics.astype(np.float32), extrinsics.astype(np.float32))
    world = tracks.reshape(len(frames), height, width, 3)
    flow = flow_map.forward(np.where(known[..., None], world, 0.0), view)
    flow = np.where(known[..., None] & (np.abs(flow) > ROUNDING), flow, 0.0)
    return {
        "flow": flow.astype(np.float32),
        "flow_valid": known | still,
        "depth0": depth0,
    }


def _changes(video: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[h w] bool: luma changes over the clip, where there is no surface, and nearby."""
    luma = video @ np.array([0.299, 0.587, 0.114], np.float32)
    found = (np.ptp(luma, axis=0) > LUMA) & ~known
    padded = np.pad(found, GROWN)
    height, width = found.shape
    steps = range(2 * GROWN + 1)
    return np.any([padded[i : i + height, j : j + width] for i in steps for j in steps], axis=0)


def _plane(found, frame, intrinsics, extrinsics, size) -> np.ndarray:
    """Depth [h w] of a plane through the lowest vertices of the surfaces, 0 where it is behind."""
    vertices = np.concatenate([surface.at(frame) for surface in found])
    low = vertices[vertices[:, 2] <= np.quantile(vertices[:, 2], 0.02)]
    level = float(np.median(low[:, 2]))
    return plane_depth(np.array([0.0, 0, 1, -level]), intrinsics, extrinsics, size)


def plane_depth(
    plane: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Camera depth [h w] metres of a plane (a, b, c, d), a x + b y + c z + d = 0, world; 0 where a
    pixel does not meet it in front of the camera."""
    y, x = np.mgrid[: size[0], : size[1]]
    rays = cameras.bearings(np.stack([x, y], -1).astype(np.float64), intrinsics)
    rays = rays @ extrinsics[:, :3]
    centre = cameras.camera_centre(np.asarray(extrinsics, np.float64))
    slope = rays @ plane[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = -(centre @ plane[:3] + plane[3]) / slope
    return np.where(np.isfinite(depth) & (depth > 0) & (depth < 20), depth, 0.0)


def _fitted(depth: np.ndarray, true: np.ndarray, known: np.ndarray) -> np.ndarray:
    """A depth file [h w] brought to the surfaces' depth by a scale and a shift (least squares)."""
    both = known & (depth > 0)
    if both.sum() < 16:
        return np.zeros_like(depth)
    design = np.stack([depth[both], np.ones(both.sum())], -1)
    (scale, shift), *_ = np.linalg.lstsq(design, true[both], rcond=None)
    return np.where(depth > 0, np.maximum(scale * depth + shift, 0.0), 0.0)


def read_depth(path: Path, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Depth [h w] of a crop, from a file of the whole image.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no array `depth` [h w], or values that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no depth of this view; wanted an npz with depth [h w]")
    depth = reading_depth(path)[box[1] : box[3], box[0] : box[2]]
    y, x = ((np.arange(n) + 0.5) * have / n for n, have in zip(size, depth.shape, strict=True))
    return depth[y.astype(int)[:, None], x.astype(int)[None]]


def reading_depth(path: Path) -> np.ndarray:
    """depth [h w] float32 of an npz."""
    arrays = reading.arrays(path)
    if "depth" not in arrays or arrays["depth"].squeeze().ndim != 2:
        raise ValueError(f"{path}: wanted an array depth [h w], got {sorted(arrays)}")
    depth = arrays["depth"].squeeze().astype(np.float32)
    if not np.isfinite(depth).all():
        raise ValueError(f"{path}: depths that are not finite; 0 says that one is not known")
    return depth


def pack(fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fields as values of a record's example."""
    step = 2 if fields["depth0"].shape[0] >= LARGE else 1
    return {
        "flow": fields["flow"][:, ::step, ::step].astype(np.float16),
        "flow_valid": np.packbits(fields["flow_valid"], axis=-1),
        "depth0": fields["depth0"].astype(np.float32),
    }


def unpack(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fields of `pack` at the image's size; flow is float16."""
    depth = values["depth0"]
    valid = np.unpackbits(values["flow_valid"], axis=-1, count=depth.shape[1]).astype(bool)
    flow = values["flow"]
    if flow.shape[1:3] != depth.shape:
        flow = _enlarged(flow, depth, valid)
    return {"flow": flow, "flow_valid": valid, "depth0": depth}


def _enlarged(flow: np.ndarray, depth: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Flow of every second pixel -> of all: linear where both neighbours are of one surface."""
    for axis in (0, 1):
        near = np.repeat(flow, 2, axis=1 + axis)
        index = [slice(None)] * 3
        index[1 + axis] = slice(1, None, 2)
        size = depth.shape[axis]
        near = np.take(near, range(size), axis=1 + axis)
        # Depth and validity of what this pass writes, on the grid of the pass.
        grid = depth if axis else depth[:, ::2]
        sure = valid if axis else valid[:, ::2]
        first, last = (np.take(grid, range(i, size, 2), axis=axis) for i in (0, 2))
        count = last.shape[axis]
        first = np.take(first, range(count), axis=axis)
        one = np.abs(first - last) <= EDGE * np.minimum(first, last)
        one &= np.take(sure, range(0, 2 * count, 2), axis=axis)
        one &= np.take(sure, range(2, 2 * count + 2, 2), axis=axis)
        low = np.take(flow, range(count), axis=1 + axis).astype(np.float32)
        high = np.take(flow, range(1, count + 1), axis=1 + axis).astype(np.float32)
        middle = np.where(one[None, ..., None], (low + high) / 2, low).astype(flow.dtype)
        index[1 + axis] = slice(1, 2 * count, 2)
        near[tuple(index)] = middle
        flow = near
    return flow
