"""Depth of a user's image, from a file that some tool wrote, and the cameras that go with it.

    ONE.npz   depth [h w] (also [h w 1], [1 h w]) metres, 0 where nothing is known; and, where the
              tool knows it, intrinsics or K [3 3] pixels
    ONE.npy   depth [h w]

of the size of the image. A rig says where the other views are: a file of cameras in TACO's form,
in which the image's own camera has its name (else it is the first), or "taco", three cameras of
the data set's rig about the image's, scaled to the depth of the scene.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from syncmv4d_jax.data import pictures, reading, rigs, user
from syncmv4d_jax.geometry import cameras, paths

TOOLS = (
    "Depth Pro, MoGe, UniDepth, Metric3D, VGGT and Depth Anything's metric models write one "
    "(docs/more4d.md has a line for each): an npz with depth [h w] in metres and, where known, "
    "intrinsics [3 3] in pixels"
)
METRES = 30.0  # a median beyond: these are not metres of a table
NEAREST = 0.05
HOLES = 0.3  # share of pixels that may be unknown
SEEN = 0.2  # share of the scene that another camera of the rig must have in its image
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # a level camera in a world with z up


class Posed(NamedTuple):
    """An image with its depth among the cameras of a rig.

    image [h w 3] uint8; depth [h w] metres, 0 unknown; intrinsics [v 3 3] px, extrinsics [v 3 4]
    world to camera: of all views; source: which of them the image is.
    """

    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    source: int


def read_file(path: str | Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads depth [h w] float32 metres and, where the file has them, intrinsics [3 3].

    Args:
      size: (height, width) of the image.

    Raises:
      FileNotFoundError: no such file; says which tools write one.
      ValueError: no depth in it, of another size, not in metres, not finite, or mostly unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no depth file; {TOOLS}")
    try:
        single = path.suffix.lower() == ".npy"
        arrays = {"depth": np.load(path, allow_pickle=False)} if single else reading.arrays(path)
    except Exception as error:  # a file of another kind raises whatever its reader runs into
        raise ValueError(f"{path}: cannot be read as npz or npy ({error}); {TOOLS}") from error
    if "depth" not in arrays:
        raise ValueError(f"{path}: has no array depth, it has {sorted(arrays)}; {TOOLS}")
    depth = np.squeeze(arrays["depth"]).astype(np.float32)
    if depth.shape != tuple(size):
        raise ValueError(
            f"{path}: depth is {' x '.join(map(str, depth.shape))}, its image is {size[0]} x "
            f"{size[1]}: wanted the depth of every pixel; write it at the image's own size (for "
            "tools that resize: bring depth back by the nearest pixel, and K with it)"
        )
    _check(depth, path)
    lens = arrays.get("intrinsics", arrays.get("K"))
    return depth, None if lens is None else np.asarray(lens, np.float64).reshape(3, 3)


def _check(depth: np.ndarray, path: Path) -> None:
    strange = ~np.isfinite(depth)
    if strange.any():
        raise ValueError(
            f"{path}: {strange.mean():.1%} of the depths are inf or NaN: where nothing is known, "
            "or behind everything (sky), write 0"
        )
    if (depth < 0).any():
        raise ValueError(f"{path}: has depths below 0 (down to {depth.min():.4g}): wanted metres")
    holes = float((depth == 0).mean())
    if holes > HOLES:
        raise ValueError(
            f"{path}: {holes:.0%} of the depths are 0, not known; at most {HOLES:.0%} may be: the "
            "scene could not be drawn from elsewhere; fill them, or take another tool"
        )
    middle = float(np.median(depth[depth > 0]))
    if not NEAREST <= middle <= METRES:
        raise ValueError(
            f"{path}: the median depth is {middle:.4g}: {rigs.UNITS} Or is it disparity, or depth "
            "without a unit? Wanted metres along the optical axis"
        )


def read(
    image: str | Path, file: str | Path, *, rig: str, views: int, size: tuple[int, int]
) -> Posed:
    """Reads an image with its depth, cut about its centre and resized to `size`.

    Args:
      file: of the depth.
      rig: "taco", a file of cameras, or "" for the image's camera alone.
      views: cameras wanted; 1 is the image's.

    Raises:
      FileNotFoundError: a file that is not there.
      ValueError: as `read_file` and `rigs.read`; fewer cameras than views, no lens, or a rig that
        does not look at the scene.
    """
    path = pictures.single(Path(image))
    pixels = pictures.read(path)
    whole = (pixels.shape[0], pixels.shape[1])
    depth, lens = read_file(file, whole)
    box = user.centre_box(whole, size)
    resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS, box=box)
    y, x = (
        (low + (np.arange(n) + 0.5) * (high - low) / n).astype(int)
        for n, low, high in ((size[0], box[1], box[3]), (size[1], box[0], box[2]))
    )
    depth = depth[y[:, None], x[None]]
    own = None if lens is None else cameras.crop_resize_intrinsics(lens, box, size)
    if not rig:
        lenses, poses, source = _alone(own, file, rig)
    elif rig == "taco":
        lenses, poses, source = _taco(own, depth, size)
    else:
        lenses, poses, source = _of_file(rig, path.stem, own, size)
    if len(poses) < views:
        raise ValueError(f"config.sample.rig={rig!r}: wanted {views} cameras, got {len(poses)}")
    kept = sorted([source, *[i for i in range(len(poses)) if i != source][: views - 1]])
    lenses, poses = lenses[kept], poses[kept]
    made = Posed(np.asarray(resized), depth, lenses.astype(np.float32), poses.astype(np.float32),
                 kept.index(source))  # fmt: skip
    _check_rig(made, rig)
    return made


def _alone(own: np.ndarray | None, file: str | Path, rig: str):
    if own is None:
        raise ValueError(
            f"{file}: has no intrinsics [3 3], and config.sample.rig={rig!r} no camera: the lens "
            "of the image is not known; give one of them"
        )
    pose = np.concatenate([UPRIGHT, np.zeros((3, 1))], axis=1)
    return own[None], pose[None], 0


def _taco(own: np.ndarray | None, depth: np.ndarray, size: tuple[int, int]):
    """The three cameras, drawn in or out until they look at what the image's middle shows; the
    image's own is turned to look there with its own lens."""
    from syncmv4d_jax.data.scenes import scene  # loads what makes meshes: only here

    made = list(scene.rig(size, scene.THREE).values())
    source = len(made) // 2
    lenses = np.stack([camera.intrinsics for camera in made])
    turns = np.stack([camera.extrinsics[:, :3] for camera in made])
    centres = np.stack([cameras.camera_centre(camera.extrinsics) for camera in made])
    if own is not None:
        lenses[source] = own
    target = scene.WORK + np.array([0, 0, 0.06])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    seen = cameras.bearings(middle, lenses[source]) * np.median(depth[depth > 0])
    there = turns[source] @ (target - centres[source])
    centres = target + (np.linalg.norm(seen) / np.linalg.norm(there)) * (centres - target)
    turns[source] = paths.between(there, seen) @ turns[source]
    shifts = -np.einsum("vij,vj->vi", turns, centres)
    return lenses, np.concatenate([turns, shifts[..., None]], axis=-1), source


def _of_file(rig: str, name: str, own: np.ndarray | None, size: tuple[int, int]):
    found = rigs.read(rig)
    source = list(found).index(name) if name in found else 0
    lenses = np.stack(
        [
            cameras.crop_resize_intrinsics(c.intrinsics, user.centre_box(c.size, size), size)
            for c in found.values()
        ]
    )
    if own is not None and name not in found:
        lenses[source] = own
    return lenses, np.stack([camera.extrinsics for camera in found.values()]), source


def _check_rig(posed: Posed, rig: str) -> None:
    """Raises ValueError where a camera has less than SEEN of the scene in front of it."""
    height, width = posed.depth.shape
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y], -1)[posed.depth > 0].astype(np.float64)
    lens, pose = (a[posed.source].astype(np.float64) for a in posed[2:4])
    points = cameras.unproject(pixels, posed.depth[posed.depth > 0], lens, pose)
    for view in range(len(posed.extrinsics)):
        at, depth = cameras.project(
            points, posed.intrinsics[view].astype(float), posed.extrinsics[view].astype(float)
        )
        inside = (depth > 0) & (at >= -0.5).all(-1) & (at < np.array([width, height]) - 0.5).all(-1)
        if inside.mean() < SEEN:
            raise ValueError(
                f"config.sample.rig={rig!r}: camera {view} has {inside.mean():.0%} of the image's "
                f"scene in its view ({(depth > 0).mean():.0%} is in front of it), wanted "
                f"{SEEN:.0%}: it stands behind the scene or looks elsewhere. R, T are world to "
                "camera; the depth must be in the rig's metres"
            )
