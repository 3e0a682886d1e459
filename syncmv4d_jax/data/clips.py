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
                    image = frame.to_ndarray(format="rgb24")
                    found[number] = transforms.crop_resize(image, box, size)
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
