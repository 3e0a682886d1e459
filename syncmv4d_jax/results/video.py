"""Videos by PyAV: H.264 mp4, or FFV1, which loses nothing; on disk written whole or not at all."""

import io
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import frames as decoded
from syncmv4d_jax.data import mp4

X264 = {"preset": "veryfast", **mp4.X264}


def write(path: str | Path, frames: np.ndarray, *, fps: float, quality: int = 14) -> None:
    """Writes frames [n h w 3] uint8 as an mp4 that browsers play.

    Args:
      quality: x264's constant rate factor, 0 is lossless.

    Raises:
      ValueError: wrong shape or dtype, or odd sizes (4:2:0 needs even ones).
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(
            f"{path}: wanted frames [n h w 3] uint8, got {frames.shape} {frames.dtype}"
        )
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"{path}: wanted even height and width, got {frames.shape[1:3]}")
    with disk.whole(path) as partial:
        _encode(str(partial), frames, fps, {"crf": str(quality)}, {"movflags": "+faststart"})


def write_exact(path: str | Path, frames: np.ndarray, *, fps: float) -> None:
    """Writes frames [n h w 3] uint8 as FFV1 in Matroska: `read` gives them to the last bit."""
    frames = np.asarray(frames)
    with disk.whole(path) as partial, av.open(str(partial), "w", format="matroska") as file:
        stream = file.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "bgr0"
        _fill(file, stream, frames)


def encode(frames: np.ndarray, *, fps: float, quality: int) -> bytes:
    """Returns frames [n h w 3] uint8, of even size, as an mp4 that seeks quickly."""
    target = io.BytesIO()
    _encode(target, frames, fps, {"crf": str(quality), "g": "8", "bf": "0"}, {})
    return target.getvalue()


def _encode(
    target: str | BinaryIO,
    frames: np.ndarray,
    fps: float,
    codec: dict[str, str],
    container: dict[str, str],
) -> None:
    """Encodes with options of x264 and of the mp4 file."""
    with av.open(target, "w", format="mp4", options=container) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {**codec, **X264}
        _fill(file, stream, frames)


def _fill(file: av.container.OutputContainer, stream: av.VideoStream, frames: np.ndarray) -> None:
    """Encodes frames [n h w 3] uint8 as all of a stream."""
    stream.height, stream.width = frames.shape[1:3]
    for frame in frames:
        file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    file.mux(stream.encode())


def read(path: str | Path) -> np.ndarray:
    """Reads all frames of a video, [n h w 3] uint8.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a video, a truncated one, or one that the reader of recordings refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    return decoded.read_all(path)
