"""What a user brings: a folder of images with cameras.json, frames of videos, or one image.

One image is
scaled by LANCZOS until it covers the wanted size and cut about its centre, as Wan's own
pipeline does (wan/textimage2video.py, i2v).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from syncmv4d_jax import disk
from syncmv4d_jax.data import frames
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.geometry import cameras

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Views(NamedTuple):
    """images [v h w 3] uint8, intrinsics [v 3 3], extrinsics [v 3 4] float32, names of views."""

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
    try:
        entries = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if len(entries) < views:
        raise ValueError(f"{file}: wanted {views} cameras, got {len(entries)}: {list(entries)}")
    rows = [_view(folder, name, entries[name], size) for name in list(entries)[:views]]
    images, intrinsics, extrinsics = (np.stack(column) for column in zip(*rows, strict=True))
    return Views(images, intrinsics, extrinsics, tuple(list(entries)[:views]))


def _view(folder: Path, name: str, entry: dict, size: tuple[int, int]):
    where = f"{folder / 'cameras.json'}, camera {name!r}"
    try:
        intrinsics = np.asarray(entry["K"], np.float32).reshape(3, 3)
        rotation = np.asarray(entry["R"], np.float32).reshape(3, 3)
        translation = np.asarray(entry["T"], np.float32).reshape(3, 1)
        width, height = (int(x) for x in entry["imgSize"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: wanted K [9], R [9], T [3], imgSize [2], got {error}"
        ) from error
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}: R is not a rotation")
    image = _image(folder, name)
    if image.size != (width, height):
        raise ValueError(
            f"{where}: imgSize is {width} x {height}, but its image is "
            f"{image.size[0]} x {image.size[1]}; rescale K or the image"
        )
    box = centre_box((height, width), size)
    resized = image.resize((size[1], size[0]), Image.Resampling.LANCZOS, box=box)
    intrinsics = cameras.crop_resize_intrinsics(intrinsics, box, size)
    extrinsics = np.concatenate([rotation, translation], axis=1)
    return np.asarray(resized), intrinsics.astype(np.float32), extrinsics


def _image(folder: Path, name: str) -> Image.Image:
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            try:
                return Image.open(path).convert("RGB")
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    raise FileNotFoundError(
        f"{folder}: no image for camera {name!r}; wanted {name}.png, .jpg, .jpeg or .webp"
    )


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
        imgSize counts as resized, and K follows. Lens distortion is not taken out.
      out: folder, made whole or not at all.

    Returns:
      The cameras' names, in the file's order.

    Raises:
      FileNotFoundError: no calibration, or a camera without a video.
      FileExistsError: `out` is there already.
      ValueError: a broken entry or video, another aspect, or a video without that frame.
    """
    videos, calibration, out = Path(videos), Path(calibration), Path(out)
    if not calibration.is_file():
        raise FileNotFoundError(f"{calibration}: not found; wanted a JSON of calibrated cameras")
    if out.exists():
        raise FileExistsError(f"{out} is there already; give another --out or remove it")
    entries = json.loads(calibration.read_text())
    found = {}
    with disk.whole(out) as partial:
        partial.mkdir()
        for name, entry in entries.items():
            video = videos / f"{name}.mp4"
            if not video.is_file():
                raise FileNotFoundError(f"{video}: no video of camera {name!r} of {calibration}")
            size = height, width = frames.video_size(video)
            own = taco.Camera(
                name,
                np.asarray(entry["K"], np.float64).reshape(3, 3),
                np.zeros((3, 4)),
                tuple(entry["imgSize"][::-1]),
            )
            intrinsics = frames.fit_intrinsics(own, size, str(video))
            image = frames.read_clip(video, np.array([frame]), (0, 0, width, height), size)
            Image.fromarray(image[0]).save(partial / f"{name}.png")
            found[name] = {key: entry[key] for key in ("R", "T")}
            found[name] |= {"K": intrinsics.ravel().tolist(), "imgSize": [width, height]}
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
      ValueError: several images in the folder, a file that is no image, or one with values that
        are not finite.
    """
    file = _file(Path(path))
    try:
        image: Image.Image = Image.open(file)
        image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file}: cannot be read as an image ({error})") from error
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        raise ValueError(f"{file}: has pixels that are not finite (NaN)")
    image = image.convert("RGB")
    scale = max(size[1] / image.width, size[0] / image.height)
    wide, high = round(image.width * scale), round(image.height * scale)
    image = image.resize((wide, high), Image.Resampling.LANCZOS)
    x, y = (wide - size[1]) // 2, (high - size[0]) // 2
    return np.asarray(image.crop((x, y, x + size[1], y + size[0])))


def _file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image or folder")
        return path
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{path}: wanted one image {SUFFIXES}, found none")
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise ValueError(f"{path}: wanted one image, got {len(found)} ({names}); name the file")
    return found[0]
