"""The depth of a request's image: read as the command line reads it, written down as numbers.

Runs in the process that decodes (serve/decode.py). Beside FOLDER/000.png it writes

    depth.npz    depth [h w] metres, 0 unknown; intrinsics [3 3] pixels

and gives what the page draws of it before a job is sent.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import depth, pictures
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.serve import drawn

PIXELS = 6000  # drawn of an image with its depth


def read(folder: Path, name: str, file: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the depth of FOLDER/000.png, writes depth.npz, and returns what the page draws.

    Args:
      name: what it is called.
      told: size, of the video, (h, w); field_of_view, degrees across the image, where the lens is
        not in the file.

    Raises:
      Wrong: depth that cannot be used.
    """
    image = folder / "000.png"
    place = folder / f"depth{'.npy' if Path(name).suffix.lower() == '.npy' else '.npz'}"
    shutil.move(file, place)
    try:
        height, width = pictures.read(image).shape[:2]
        values, lens = depth.read_file(place, (height, width))
        if lens is None:
            lens = _lens(name, (height, width), told.get("field_of_view"))
        place.unlink()
        place = folder / "depth.npz"
        np.savez(place, depth=values, intrinsics=lens)
        height, width = told["size"]
        return _shown(depth.read(image, place, rig="", views=1, size=(height, width)))
    except (ValueError, OSError) as error:
        where = error.where if isinstance(error, drawn.Wrong) else "depth"
        raise drawn.Wrong(str(error).replace(str(place), name), where) from error


def _lens(name: str, size: tuple[int, int], wide: float | None) -> np.ndarray:
    """intrinsics [3 3] of an image (h, w) that is `wide` degrees wide."""
    if wide is None:
        words = (
            f"{name}: has no intrinsics [3 3], the lens of the image is not known: wanted them in "
            "the file, or field_of_view, degrees from the image's left to its right"
        )
        raise drawn.Wrong(words, "field_of_view")
    focal = 0.5 * size[1] / np.tan(0.5 * np.radians(wide))
    return np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1.0]])


def _shown(posed: depth.Posed) -> dict[str, Any]:
    """Coloured points of an image with its depth."""
    height, width = posed.depth.shape
    step = max(1, int(np.ceil(np.sqrt(height * width / PIXELS))))
    y, x = (a.ravel() for a in np.mgrid[:height:step, :width:step])
    known = posed.depth[y, x] > 0
    y, x = y[known], x[known]
    lens, pose = posed.intrinsics[0].astype(float), posed.extrinsics[0].astype(float)
    points = cameras.unproject(np.stack([x, y], -1).astype(float), posed.depth[y, x], lens, pose)
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in posed.image[y, x]]
    more = {"K": lens.ravel().tolist(), "size": [height, width], "colours": colours}
    return drawn.packed(points[None]) | more
