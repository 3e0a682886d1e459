"""Frames of a recording's videos: sought, decoded, cut and resized one at a time."""

from pathlib import Path

import av
import numpy as np

from syncmv4d_jax import cameras
from syncmv4d_jax.data import taco, transforms


def video_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) of a video.

    Raises:
      taco.BadSequence: not a video.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.height, stream.width
    except (av.error.FFmpegError, IndexError) as error:
        raise taco.BadSequence(f"{path}: cannot be read as a video ({error})") from error


def fit_intrinsics(camera: taco.Camera, size: tuple[int, int], where: str) -> np.ndarray:
    """Intrinsics [3 3] of a camera whose video was stored at another size (h, w), row by row.

    Raises:
      taco.BadSequence: another aspect: not a resized copy.
    """
    ratio = np.array(size) / np.array(camera.size)
    if not 0.97 < ratio[0] / ratio[1] < 1.03:
        raise taco.BadSequence(
            f"{where}: the video is {size[1]} x {size[0]}, its camera {camera.size[1]} x "
            f"{camera.size[0]}"
        )
    height, width = camera.size
    return cameras.crop_resize_intrinsics(camera.intrinsics, (0, 0, width, height), size)


def read_clip(
    path: Path, index: np.ndarray, box: transforms.Box, size: tuple[int, int]
) -> np.ndarray:
    """Decodes the frames `index` [n] (not decreasing), cut to `box`, resized to `size`.

    Decoding starts at the key frame before the first one and ends at the last one.

    Returns:
      [n h w 3] uint8.

    Raises:
      taco.BadSequence: not a video, damaged, or without some of the frames.
    """
    wanted, found = sorted({int(i) for i in index}), {}
    try:
        with av.open(str(path)) as container:
            for number, frame in _frames(container, wanted[0]):
                if number in wanted:
                    image, corner = _cut(frame, box)
                    local = (box[0] - corner[0], box[1] - corner[1])
                    local += (box[2] - corner[0], box[3] - corner[1])
                    found[number] = transforms.crop_resize(image, local, size)
                if number >= wanted[-1]:
                    break
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise taco.BadSequence(f"{path}: cannot be read as a video ({error})") from error
    if missing := [i for i in wanted if i not in found]:
        raise taco.BadSequence(
            f"{path}: wanted frames {wanted[0]}..{wanted[-1]}, {len(missing)} of them are not "
            f"there, the first is {missing[0]}"
        )
    return np.stack([found[int(i)] for i in index])


def _frames(container: av.container.InputContainer, first: int):
    """Yields (frame number from the start of the video, frame), from a little before `first`."""
    stream = container.streams.video[0]
    start, unit = stream.start_time or 0, stream.time_base
    rate = stream.average_rate
    if first > 0:
        container.seek(start + int(first / rate / unit), stream=stream, backward=True)
    for frame in container.decode(stream):
        if frame.pts is None:
            raise ValueError("a frame without a time stamp")
        yield round((frame.pts - start) * unit * rate), frame


def _cut(frame: av.VideoFrame, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple]:
    """Returns the part of a frame that a box needs, [h w 3] uint8, and its corner (x, y).

    A 12-megapixel frame is cut before its colours are converted, which is most of the conversion's
    time. Even bounds and a margin keep the chroma of the part as it is in the whole.
    """
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        return frame.to_ndarray(format="rgb24"), (0, 0)
    limit = (frame.width // 2 * 2, frame.height // 2 * 2)
    if limit != (frame.width, frame.height):
        return frame.to_ndarray(format="rgb24"), (0, 0)
    x0, y0 = (min(max(box[i] - 8, 0), limit[i] - 16) // 2 * 2 for i in (0, 1))
    x1, y1 = (min(max(box[2 + i] + 8, (x0, y0)[i] + 16), limit[i]) for i in (0, 1))
    x1, y1 = x1 + x1 % 2, y1 + y1 % 2
    parts = []
    for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        parts.append(rows[y0 // step : y1 // step, x0 // step : x1 // step])
    flat = np.concatenate([np.ascontiguousarray(part).ravel() for part in parts])
    small = av.VideoFrame.from_ndarray(flat.reshape(-1, x1 - x0), format=frame.format.name)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    return small.to_ndarray(format="rgb24"), (x0, y0)
