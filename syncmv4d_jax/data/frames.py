"""Frames of a recording's videos: sought, decoded, cut and resized one at a time."""

from pathlib import Path

import av
import numpy as np

from syncmv4d_jax.data import transforms
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.geometry import cameras

# 4:2:0 -> 4:4:4. Chroma counts as lying between its four pixels, as the converter has it.
PLANAR = {"yuv420p": "yuv444p", "yuvj420p": "yuvj444p"}


class Video:
    """An open video: its path and size (height, width); frames by `read`. A context."""

    def __init__(self, path: Path):
        """Opens it.

        Raises:
          taco.BadSequence: not a video.
        """
        self.path = path
        try:
            self._container = av.open(str(path))
            stream = self._container.streams.video[0]
        except Exception as error:  # a damaged header raises whatever its parser runs into
            raise taco.BadSequence(f"{path}: cannot be read as a video ({error})") from error
        self.size = (stream.height, stream.width)

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def read(self, index: np.ndarray, box: transforms.Box, size: tuple[int, int]) -> np.ndarray:
        """Decodes the frames `index` [n] (not decreasing), cut to `box`, resized to `size`.

        Decoding starts at the key frame before the first one and ends at the last one.

        Returns:
          [n h w 3] uint8.

        Raises:
          taco.BadSequence: a damaged video, or without some of the frames.
        """
        wanted, found = sorted({int(i) for i in index}), {}
        try:
            for number, frame in _frames(self._container, wanted):
                found[number] = _shrink(frame, box, size)
        except Exception as error:  # see __init__
            raise taco.BadSequence(f"{self.path}: cannot be read as a video ({error})") from error
        if missing := [i for i in wanted if i not in found]:
            raise taco.BadSequence(
                f"{self.path}: wanted frames {wanted[0]}..{wanted[-1]}, {len(missing)} of them are "
                f"not there, the first is {missing[0]}"
            )
        return np.stack([found[int(i)] for i in index])


def video_size(path: Path) -> tuple[int, int]:
    """Returns (height, width) of a video; raises as `Video`."""
    with Video(path) as video:
        return video.size


def read_clip(
    path: Path, index: np.ndarray, box: transforms.Box, size: tuple[int, int]
) -> np.ndarray:
    """Returns `Video.read` of a video that is opened for it; raises as both."""
    with Video(path) as video:
        return video.read(index, box, size)


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


def _frames(container: av.container.InputContainer, wanted: list[int]):
    """Yields (frame number from the start of the video, frame) of the `wanted` ones, sorted.

    Frames that no other frame refers to are not decoded unless wanted: the others stay exact.
    """
    stream = container.streams.video[0]
    start, unit, rate = stream.start_time or 0, stream.time_base, stream.average_rate
    if not unit or not rate:
        raise ValueError("a video without a frame rate")
    keep, first = set(wanted), None
    stream.codec_context.thread_count = 1  # sequences are prepared side by side
    if wanted[0] > 0:
        container.seek(start + int(wanted[0] / rate / unit), stream=stream, backward=True)
    for packet in container.demux(stream):
        number = None if packet.pts is None else round((packet.pts - start) * unit * rate)
        first = number if first is None else first  # of the key frame
        skip = number is not None and number not in keep
        stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
        for frame in packet.decode():
            if frame.pts is None:
                raise ValueError("a frame without a time stamp")
            number = round((frame.pts - start) * unit * rate)
            if frame.is_corrupt and number >= (first or 0):  # and what refers to it
                raise ValueError(f"frame {number} is damaged")
            if number in keep:
                yield number, frame
            if number >= wanted[-1]:
                return


def _shrink(frame: av.VideoFrame, box: transforms.Box, size: tuple[int, int]) -> np.ndarray:
    """Returns `box` of a frame at `size`: [h w 3] uint8.

    The planes of a 12-megapixel frame are cut and resized before their colours are converted:
    less time, and nearer to the picture than the converter's own chroma, which is not smoothed.
    """
    if frame.format.name not in PLANAR or frame.width % 2 or frame.height % 2:
        return transforms.crop_resize(frame.to_ndarray(format="rgb24"), box, size)
    planes = []
    for plane, step in zip(frame.planes, (1, 2, 2), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        rows = rows[: frame.height // step, : frame.width // step]
        x0, y0, x1, y1 = (edge / step for edge in box)
        planes.append(transforms.crop_resize(rows, (x0, y0, x1, y1), size))
    full = PLANAR[frame.format.name]
    small = av.VideoFrame.from_ndarray(np.stack(planes), format=full)
    small.colorspace, small.color_range = frame.colorspace, frame.color_range
    return small.to_ndarray(format="rgb24")
