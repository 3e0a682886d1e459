"""Frames of videos: sought, decoded, turned, cut and resized one at a time, in sRGB's numbers.

What a container says of its pictures is done as ffmpeg does it, or refused by name:

    display matrix       turns by quarters and mirrors are done, others refused
    colour               Y'CbCr by its matrix (BT.601 where none is named) and range, of any depth:
                         by Eq. 1 and 2 here, since versions of the bindings convert differently
    time                 frame n is the n-th that is shown (edit lists count); of poses, the frame
                         at their time where the rate varies
    pixels not square    only with a calibration of the stored size
    fields, 360 degrees, two eyes, parts of pictures, sizes that change, several videos: refused

    y = (Y - 16) / 219, c = (C - 128) / 224,   or of the full range Y / 255, (C - 128) / 255   (1)
    R = y + 2 (1 - kr) cr,  B = y + 2 (1 - kb) cb,  G = (y - kr R - kb B) / (1 - kr - kb)     (2)
"""

import fractions
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from syncmv4d_jax.data import mp4, pictures, rigs, transforms
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.geometry import cameras

# Matrix of a video (ITU-T H.273, table 4) -> kr, kb of Eq. 2; 2: not named.
MATRICES = {
    1: (0.2126, 0.0722), 2: (0.299, 0.114), 4: (0.3, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
    7: (0.212, 0.087), 9: (0.2627, 0.0593),
}  # fmt: skip
FULL = 2  # the range of all values, of `color_range`
REGULAR = 0.25  # part of a frame's time that it may come early or late in a video of one rate
SAME_RATE = 0.01  # 29.97 frames a second are 30
WAYS_OUT = {
    "interlaced": "it has fields of two instants; deinterlace it first (ffmpeg -vf bwdif)",
    "spherical": "it is a 360 degree video; a pinhole camera's view must be cut from it first",
    "stereo": "it has the pictures of two eyes in one; cut one out first",
}


class Video:
    """A video: path, size (height, width) as it is shown, `stamps` [n], seconds from the start."""

    def __init__(self, path: Path):
        """Reads its time stamps and one frame.

        Raises:
          taco.BadSequence: not a video, or one that says of itself what is refused here.
        """
        self.path, shown, self._stamps = path, None, []
        try:
            if (part := mp4.window(path)) is not None:
                width, height, x, y = map(float, part[1])
                raise ValueError(
                    f"of its {part[0][0]} x {part[0][1]} pixels {width:g} x {height:g} are shown, "
                    f"{x:g}, {y:g} off the centre; cut them out first (ffmpeg does)"
                )
            with av.open(str(path)) as container:
                stream = _stream(container)
                self._square = fractions.Fraction(stream.sample_aspect_ratio or 1)
                for packet in container.demux(stream):
                    if packet.pts is not None and not packet.is_discard:
                        self._stamps.append(packet.pts)
                    if shown is None and not packet.is_corrupt:
                        shown = next(iter(packet.decode()), None)
                self._stamps = sorted(set(self._stamps))
                if shown is None or not self._stamps or stream.time_base is None:
                    raise ValueError("it has no frames")
                self._turn = _turn(shown)
                self._stored = (shown.height, shown.width)
                _check(shown, self._stored, self._turn)
                seconds = np.array(self._stamps, np.float64) * float(stream.time_base)
        except Exception as error:  # a damaged header raises whatever its parser runs into
            raise taco.BadSequence(f"{path}: cannot be read as a video ({error})") from error
        self.stamps = seconds - seconds[0]
        self.size = self._stored[::-1] if self._turn[0] else self._stored

    @property
    def step(self) -> float:
        """Seconds from a frame to the next, usually; 0 of a single frame."""
        return float(np.median(np.diff(self.stamps))) if len(self.stamps) > 1 else 0.0

    def intrinsics(self, camera: rigs.Camera) -> np.ndarray:
        """Intrinsics [3 3] of the camera for the video as it is stored, see `fit_intrinsics`.

        Raises:
          taco.BadSequence: another aspect, or pixels that are not square, without a calibration.
        """
        if abs(float(self._square) - 1) > 0.01 and self.size != tuple(camera.size):
            raise taco.BadSequence(
                f"{self.path}: its pixels are not square ({self._square}), and the imgSize of "
                f"camera {camera.name!r} is not the stored {self.size[1]} x {self.size[0]}; scale "
                "it first (ffmpeg -vf scale=iw*sar:ih,setsar=1)"
            )
        return fit_intrinsics(camera, self.size, str(self.path))

    def numbers(self, index: np.ndarray, *, fps: float, frames: int) -> np.ndarray:
        """The frames shown at the times of poses.

        Args:
          index: [n] of the poses.
          fps: poses a second. frames: of all of them.

        Raises:
          taco.BadSequence: another rate, another number of frames, or no frame at a pose's time.
        """
        have, last = len(self.stamps), self.stamps[-1]
        regular = have < 3 or np.abs(np.diff(self.stamps) / self.step - 1).max() <= REGULAR
        if regular and have > 1 and abs((have - 1) / last / fps - 1) > SAME_RATE:
            raise taco.BadSequence(
                f"{self.path}: it has {(have - 1) / last:.4g} frames a second, the poses {fps:g}: "
                "frame n does not show pose n"
            )
        covered = have if regular else round(last * fps) + 1
        if abs(covered - frames) > frames // 100:
            raise taco.BadSequence(
                f"{self.path}: wanted {frames} frames, one a pose, got {covered}"
            )
        if regular:
            return np.asarray(index)
        wanted = np.asarray(index) / fps
        found = np.abs(self.stamps[None] - wanted[:, None]).argmin(1)
        late = np.abs(self.stamps[found] - wanted)
        if (late > 0.5 / fps).any():
            at = int(np.argmax(late))
            raise taco.BadSequence(
                f"{self.path}: its frame rate varies, and none of its frames is at pose "
                f"{int(index[at])}, {wanted[at]:.3f} s: the nearest is {late[at]:.3f} s away"
            )
        return found

    def read(
        self, index: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> np.ndarray:
        """Decodes the frames `index` [n] (not decreasing), cut to `box`, resized to `size`.

        Decoding starts at the key frame before the first one and ends at the last one.

        Returns:
          [n h w 3] uint8.

        Raises:
          taco.BadSequence: a damaged video, or without some of the frames.
        """
        wanted, found = sorted({int(i) for i in index}), {}
        stamps = {self._stamps[i]: i for i in wanted if 0 <= i < len(self._stamps)}
        try:
            for number, frame in self._frames(stamps) if stamps else ():
                found[number] = _shrink(frame, self._turn, box, size)
        except Exception as error:  # see __init__
            raise taco.BadSequence(f"{self.path}: cannot be read as a video ({error})") from error
        if missing := [i for i in wanted if i not in found]:
            raise taco.BadSequence(
                f"{self.path}: wanted frames {wanted[0]}..{wanted[-1]}, {len(missing)} of them are "
                f"not there, the first is {missing[0]}"
            )
        return np.stack([found[int(i)] for i in index])

    def _frames(self, wanted: dict[int, int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields (number, frame) of the `wanted` time stamps {stamp: number}.

        Frames that no other frame refers to are not decoded unless wanted: the others stay exact.
        """
        with av.open(str(self.path)) as container:
            stream, key = _stream(container), None
            stream.codec_context.thread_count = 1  # sequences are prepared side by side
            if min(wanted) > self._stamps[0]:
                container.seek(min(wanted), stream=stream, backward=True)
            for packet in container.demux(stream):
                key = packet.pts if key is None else key
                skip = packet.pts is not None and packet.pts not in wanted
                stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
                for frame in packet.decode():
                    if frame.pts is None:
                        raise ValueError("a frame without a time stamp")
                    if frame.is_corrupt and frame.pts >= (key or 0):  # and what refers to it
                        raise ValueError(f"the frame at {frame.time:.3f} s is damaged")
                    if frame.pts in wanted:
                        _check(frame, self._stored, self._turn)
                        yield wanted[frame.pts], frame
                    if frame.pts >= max(wanted):
                        return


class Still:
    """A picture in place of a video: each frame is it. The methods are those of `Video`."""

    def __init__(self, path: Path):
        """Reads the picture.

        Raises:
          taco.BadSequence: no picture.
        """
        try:
            self._picture = pictures.read(path)
        except (OSError, ValueError) as error:
            raise taco.BadSequence(str(error)) from error
        self.path, self.size = path, self._picture.shape[:2]

    def intrinsics(self, camera: rigs.Camera) -> np.ndarray:
        """As `Video.intrinsics`."""
        return fit_intrinsics(camera, self.size, str(self.path))

    def numbers(self, index: np.ndarray, *, fps: float, frames: int) -> np.ndarray:
        """As `Video.numbers`: the first frame, whatever is asked for."""
        del fps, frames
        return np.zeros(len(index), int)

    def read(self, index: np.ndarray, box: transforms.Box, size: tuple[int, int]) -> np.ndarray:
        """As `Video.read`."""
        one = transforms.crop_resize(self._picture, box, size)
        return np.repeat(one[None], len(index), axis=0)


def opened(path: Path) -> Video | Still:
    """Opens a video, or the picture that stands for one."""
    return Video(path) if path.suffix.lower() == ".mp4" else Still(path)


def read_all(path: Path) -> np.ndarray:
    """Returns all frames of a video as it is shown, [n h w 3] uint8; raises as `Video`."""
    video = Video(path)
    if abs(float(video._square) - 1) > 0.01:
        raise taco.BadSequence(f"{path}: its pixels are not square ({video._square})")
    height, width = video.size
    return video.read(np.arange(len(video.stamps)), (0, 0, width, height), video.size)


def fit_intrinsics(camera: rigs.Camera, size: tuple[int, int], where: str) -> np.ndarray:
    """Intrinsics [3 3] of a camera whose video was stored at another size (h, w), row by row.

    Raises:
      taco.BadSequence: another aspect, or one side alone is another: not a resized copy.
    """
    ratio = np.array(size) / np.array(camera.size)
    if not 0.97 < ratio[0] / ratio[1] < 1.03 or ((ratio == 1).any() and (ratio != 1).any()):
        raise taco.BadSequence(
            f"{where}: the video is {size[1]} x {size[0]}, its camera {camera.size[1]} x "
            f"{camera.size[0]}: not resized but cut or turned"
        )
    height, width = camera.size
    return cameras.crop_resize_intrinsics(camera.intrinsics, (0, 0, width, height), size)


def _stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """The video of a container, its cover picture aside."""
    found = [s for s in container.streams.video if not _is_cover(s)]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} videos, wanted one")
    return found[0]


def _is_cover(stream: av.video.stream.VideoStream) -> bool:
    # PyAV 14.0 does not tell: there a cover counts as a second video.
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _side_data(frame: av.VideoFrame) -> dict[str, bytes]:
    found: Any = frame.side_data  # a mapping by PyAV's stubs, its items by what runs
    return {item.type.name: bytes(item) for item in found}


def _turn(frame: av.VideoFrame) -> tuple[bool, int, int]:
    """How a frame is shown: (rows become columns, step of rows, step of columns then)."""
    raw = _side_data(frame).get("DISPLAYMATRIX")
    if raw is None:
        return False, 1, 1
    a, b, _, c, d, *_ = struct.unpack("=9i", raw)  # x' = a x + c y, y' = b x + d y
    sides = np.abs([[a, d], [b, c]]).min(1)
    largest = max(abs(a), abs(b), abs(c), abs(d))
    if sides.max() < 0.99 * largest or np.abs([[a, d], [b, c]]).max(1).min() > 0.01 * largest:
        raise ValueError(f"it is shown turned by another angle than quarters: {(a, b, c, d)}")
    if sides[0] > sides[1]:
        return False, 1 if d > 0 else -1, 1 if a > 0 else -1
    return True, 1 if b > 0 else -1, 1 if c > 0 else -1


def _check(frame: av.VideoFrame, stored: tuple[int, int], turn: tuple[bool, int, int]) -> None:
    """Refuses what is not one picture of one instant, and changes on the way."""
    said = _side_data(frame)
    flat = struct.unpack("=i", said.get("STEREO3D", bytes(4))[:4]) == (0,)
    for key, there in (
        ("interlaced", frame.interlaced_frame),
        ("spherical", "SPHERICAL" in said),
        ("stereo", not flat),
    ):
        if there:
            raise ValueError(WAYS_OUT[key])
    if (frame.height, frame.width) != stored or _turn(frame) != turn:
        raise ValueError(
            f"its pictures change from {stored[1]} x {stored[0]} to {frame.width} x "
            f"{frame.height}, or their turn does"
        )


def _shrink(
    frame: av.VideoFrame,
    turn: tuple[bool, int, int],
    box: tuple[float, float, float, float],
    size: tuple[int, int],
) -> np.ndarray:
    """Returns `box` of a frame, as it is shown, at `size`: [h w 3] uint8.

    The planes of a 12-megapixel frame are cut and resized before their colours are converted:
    less time, and nearer to the picture than a converter's chroma, which is not smoothed. Chroma
    counts as lying between its pixels, as converters have it.
    """
    planes = []
    for plane in _planes(frame):
        rows = plane.swapaxes(0, 1) if turn[0] else plane
        rows = rows[:: turn[1], :: turn[2]]
        high, wide = (frame.width, frame.height) if turn[0] else (frame.height, frame.width)
        x, y = (
            round(full / part) for full, part in zip((wide, high), rows.shape[1::-1], strict=True)
        )
        place = (box[0] / x, box[1] / y, box[2] / x, box[3] / y)
        planes.append(transforms.crop_resize(rows, place, size))
    if len(planes) == 1:
        return planes[0] if planes[0].ndim == 3 else np.stack(planes * 3, -1)
    if frame.format.is_rgb:
        return np.stack(planes, -1)
    luma, blue, red = planes
    return _rgb(luma, blue, red, frame)


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """The planes of a frame, uint8: Y Cb Cr, R G B, or one of grey [h w] or of colours [h w 3].

    Raises:
      ValueError: a form of pixels that is not read.
    """
    form = frame.format
    parts = [c for c in form.components if not c.is_alpha]
    if form.has_palette or (form.is_rgb and not form.is_planar):
        return [frame.to_ndarray(format="rgb24")]
    if len({c.plane for c in parts}) != len(parts) or max(c.bits for c in parts) > 16:
        raise ValueError(f"pixels of the form {form.name}: convert it (ffmpeg -pix_fmt yuv420p)")
    found = []
    for part in parts:
        plane, wide = frame.planes[part.plane], part.bits > 8
        kind = np.dtype(np.uint16 if wide else np.uint8)
        rows = np.frombuffer(
            memoryview(plane), kind.newbyteorder(">" if form.is_big_endian else "<")
        )
        rows = rows.reshape(-1, plane.line_size // kind.itemsize)[: part.height, : part.width]
        if wide:
            half = 1 << (part.bits - 9)
            rows = np.minimum((rows.astype(np.uint32) + half) >> (part.bits - 8), 255)
        found.append(rows.astype(np.uint8, copy=False))
    return found


def _rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Eq. 1 and 2: [h w] uint8 each -> [h w 3] uint8."""
    matrix = int(frame.colorspace)
    if matrix not in MATRICES:
        raise ValueError(f"colours by the matrix {matrix} of ITU-T H.273, wanted {list(MATRICES)}")
    kr, kb = MATRICES[matrix]
    full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    low, height, width = (0, 255, 255) if full else (16, 219, 224)
    y = (luma.astype(np.float32) - low) / height
    cb, cr = ((c.astype(np.float32) - 128) / width for c in (blue, red))
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    rgb = np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], -1)
    return np.clip(np.round(255 * rgb), 0, 255).astype(np.uint8)
