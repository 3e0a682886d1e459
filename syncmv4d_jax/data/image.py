"""One input image for image to video: any file that PIL reads, or a folder with one such file.

It is scaled by LANCZOS until it covers the wanted size and cut about its centre, as Wan's own
pipeline does (wan/textimage2video.py, i2v).
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from syncmv4d_jax.data import folder


def read(path: str | Path, *, size: tuple[int, int]) -> np.ndarray:
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
        image = Image.open(file)
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
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in folder.SUFFIXES)
    if not found:
        raise FileNotFoundError(f"{path}: wanted one image {folder.SUFFIXES}, found none")
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise ValueError(f"{path}: wanted one image, got {len(found)} ({names}); name the file")
    return found[0]
