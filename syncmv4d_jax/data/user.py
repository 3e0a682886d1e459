"""What a user brings: a folder of images with cameras.json, frames of videos, or one image.

One image is scaled by LANCZOS until it covers the wanted size and cut about its centre, as Wan's
own pipeline does (wan/textimage2video.py, i2v).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import pictures, reading, rigs
from syncmv4d_jax.geometry import cameras


class Views(NamedTuple):
    """images [v h w 3] uint8, intrinsics [v 3 3], extrinsics [v n 3 4] float32, n = 1 where all
    cameras stand still; names of views."""

    images: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    names: tuple[str, ...]


def read(folder: str | Path, *, views: int, size: tuple[int, int]) -> Views:
    """Reads the first `views` views of a folder, cut and resized to `size` (h, w).

    Raises:
      FileNotFoundError: no folder, no cameras.json, no image for a camera.
      ValueError: fewer cameras than views, a broken entry or image, or an image whose size is not
        its camera's imgSize.
    """
    folder = Path(folder)
    file = folder / "cameras.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: not found; wanted a folder with one image a view and cameras.json in TACO's "
            "calibration form (see docs/data.md)"
        )
    rig = rigs.read(file)
    if len(rig) < views:
        raise ValueError(f"{file}: wanted {views} cameras, got {len(rig)}: {list(rig)}")
    chosen = list(rig.values())[:views]
    lengths = {c.name: len(c.path) for c in chosen if c.path is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{file}: cameras that move for different numbers of frames: {lengths}")
    count = max(lengths.values(), default=1)
    rows = [_view(folder, camera, size, count) for camera in chosen]
    images, intrinsics, extrinsics = (np.stack(column) for column in zip(*rows, strict=True))
    return Views(images, intrinsics, extrinsics, tuple(list(rig)[:views]))


def _view(folder: Path, camera: rigs.Camera, size: tuple[int, int], count: int):
    image = pictures.read(pictures.named(folder, camera.name))
    check_size(camera, image.shape[:2], where=str(folder / "cameras.json"))
    box = centre_box(camera.size, size)
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)
    intrinsics = cameras.crop_resize_intrinsics(camera.intrinsics.astype(np.float32), box, size)
    poses = camera.extrinsics[None] if camera.path is None else camera.path
    extrinsics = np.broadcast_to(poses, (count, 3, 4)).astype(np.float32)
    return np.asarray(resized), intrinsics.astype(np.float32), extrinsics


def check_size(camera: rigs.Camera, size: tuple[int, ...], *, where: str) -> None:
    """Checks that an image of `size` (h, w) is a camera's.

    Raises:
      ValueError: the camera has another imgSize.
    """
    if tuple(size) != tuple(camera.size):
        raise ValueError(
            f"{where}, camera {camera.name!r}: imgSize is {camera.size[1]} x {camera.size[0]}, but "
            f"its image is {size[1]} x {size[0]} as it is shown; rescale K or the image"
        )


def read_alone(folder: str | Path, *, views: int, size: tuple[int, int]) -> np.ndarray:
    """Reads images of views without cameras, in the order of their names, or one that all views
    show: [v h w 3] uint8.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: another number of images.
    """
    folder = Path(folder)
    found = [path for path in reading.entries(folder) if path.suffix.lower() in pictures.SUFFIXES]
    if len(found) == 1:
        found *= views
    if len(found) != views:
        names = [path.name for path in found]
        raise ValueError(
            f"{folder}: wanted {views} images, one a view, or one for all, got {names}"
        )
    return np.stack([read_image(path, size=size) for path in found])


def centre_box(have: tuple[int, int], want: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the largest centred box (x0, y0, x1, y1) of `have` (h, w) shaped like `want`."""
    height, width = have
    aspect = want[1] / want[0]
    cut_width, cut_height = min(width, height * aspect), min(height, width / aspect)
    x0, y0 = (width - cut_width) / 2, (height - cut_height) / 2
    return x0, y0, x0 + cut_width, y0 + cut_height


def from_videos(
    videos: str | Path, calibration: str | Path, out: str | Path, *, frame: int = 0
) -> tuple[str, ...]:
    """Writes `out` in the form that `read` reads: frame `frame` of each calibrated video.

    Args:
      videos: folder with `<camera>.mp4`.
      calibration: JSON of TACO's form. A video stored a little larger or smaller than its camera's
        imgSize counts as resized, and K follows.
      frame: the n-th that is shown, from 0.
      out: folder, made whole or not at all.

    Returns:
      The cameras' names, in the file's order.

    Raises:
      FileNotFoundError: no calibration, or a camera without a video.
      FileExistsError: `out` is there already.
      ValueError: a broken entry or video, another aspect, or a video without that frame.
    """
    from syncmv4d_jax.data import frames  # loads a program for videos

    videos, calibration, out = Path(videos), Path(calibration), Path(out)
    if not calibration.is_file():
        raise FileNotFoundError(f"{calibration}: not found; wanted a JSON of calibrated cameras")
    if out.exists():
        raise FileExistsError(f"{out} is there already; give another --out or remove it")
    rig, found = rigs.read(calibration), {}
    with disk.whole(out) as partial:
        partial.mkdir()
        for name, camera in rig.items():
            try:
                path = reading.named(videos, name, (".mp4",))
            except FileNotFoundError as error:
                text = f"no video of camera {name!r} of {calibration}: {error}"
                raise FileNotFoundError(text) from error
            video = frames.Video(path)
            intrinsics, (height, width) = video.intrinsics(camera), video.size
            image = video.read(np.array([frame]), (0, 0, width, height), video.size)
            Image.fromarray(image[0]).save(partial / f"{name}.png")
            shown = rigs.Camera(name, intrinsics, camera.extrinsics, video.size)
            found[name] = rigs.stated(shown)
        (partial / "cameras.json").write_text(json.dumps(found, indent=1))
    return tuple(found)


def read_image(path: str | Path, *, size: tuple[int, int]) -> np.ndarray:
    """Reads one image.

    Args:
      path: of the file, or of a folder that holds one image.
      size: (height, width) wanted, pixels.

    Returns:
      [h w 3] uint8 RGB.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: several images in the folder, or what `pictures.read` refuses.
    """
    image = Image.fromarray(pictures.read(pictures.single(Path(path))))
    scale = max(size[1] / image.width, size[0] / image.height)
    wide, high = round(image.width * scale), round(image.height * scale)
    image = image.resize((wide, high), Image.Resampling.LANCZOS)
    x, y = (wide - size[1]) // 2, (high - size[0]) // 2
    return np.asarray(image.crop((x, y, x + size[1], y + size[0])))
