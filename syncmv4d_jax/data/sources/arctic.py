"""ARCTIC's raw sequences: two MANO hands and an object of two parts, 30 times a second.

    raw_seqs/<subject>/<object>_<...>.mano.npy    a pickled dictionary, left and right: {rot [n 3],
                                          pose [n 45] axis-angle, trans [n 3] metres, shape [10]}
    raw_seqs/<subject>/<object>_<...>.object.npy  [n 7]: the parts' angle, axis-angle, millimetres
    meta/object_vtemplates/<object>/      mesh.obj, millimetres; parts.json, 0 or 1 a vertex;
                                          top_keypoints_300.json, points on the part that turns
    meta/misc.json                        of each subject world2cam [8 4 4], intris_mat [8 3 3],
                                          image_size [9 2], ioi_offset
    images/<subject>/<sequence>/<view>/<index>.jpg    view 0 is worn, 1 to 8 stand still

    bottom: R v + t        top: R A v + t, A by the angle about (0, 0, -1)

The world has z up. MANO's mean pose is added to `pose`, and `trans` moves the hand without bringing
its wrist to the origin first, as smplx does it. An image is of frame index - ioi_offset.

NOTE(parity): of parts.json ARCTIC's documentation calls 1 the top, its code turns the vertices
with 0 (common/object_tensors.py: parts + 1 == 1). The points of top_keypoints_300.json decide here.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import spatial

from syncmv4d_jax.data import reading, rigs
from syncmv4d_jax.data.sources import gltf_reader, mano, obj
from syncmv4d_jax.weights import torch_pickle

FPS = 30.0
END = ".mano.npy"
MILLIMETRE = 1e-3
AXIS = np.array([0.0, 0.0, -1.0])  # of the object's parts, in its own frame
FARTHEST = 1e6  # millimetres, and every other number here is smaller
CLEAR = 0.8  # share of the points of the top that are nearest to vertices of one part
HAND = {"rot": 3, "pose": 45, "trans": 3}
IMAGE = re.compile(r"([^/]+)/([^/]+)/(\d)/(\d+)\.(?:jpg|png)$")


class Picture(NamedTuple):
    """What the path of an image says: frame, from 0, of the sequence; view 1 to 8."""

    subject: str
    sequence: str
    view: int
    frame: int


def read(
    path: str | Path, fps: float, *, hands: str | Path, first: int = 0
) -> dict[str, gltf_reader.Moving]:
    """Reads a sequence at `fps` frames a second.

    Args:
      path: of its .mano.npy, in ARCTIC's folders.
      hands: folder of MANO's own files (mano.load_hands).
      first: frame to begin with.

    Returns:
      {"left", "right", "<object> top", "<object> bottom": faces, vertices [n p 3] metres, z up}.
      Triangles between the parts, which stretch, are left out.

    Raises:
      FileNotFoundError: a file is missing. ValueError: damaged, or numbers that do not fit.
    """
    path = Path(path)
    if not path.name.endswith(END):
        raise ValueError(f"{path}: wanted raw_seqs/<subject>/<object>_<...>{END}")
    root, name = path.parents[2], path.name.removesuffix(END)
    models = mano.load_hands(hands)
    posed = _hands(path)
    file = path.with_name(f"{name}.object.npy")
    placed = _numbers(file, _array(file), (len(posed["left"]["rot"]), 7))
    if not 0 <= first < len(placed):
        raise ValueError(f"{path}: wanted a frame of 0..{len(placed) - 1}, got {first}")
    found = {}
    for side, model in zip(("left", "right"), models, strict=True):
        own = posed[side]
        pose = np.concatenate([own["rot"], own["pose"]], axis=1)[first:]
        vertices, _ = mano.skin(
            model, pose, own["shape"], own["trans"][first:], flat_mean=False, recentre=False
        )
        found[side] = gltf_reader.Moving(model.faces, vertices)
    thing = name.partition("_")[0]
    folder = root / "meta" / "object_vtemplates" / thing
    for part, moving in _object(folder, placed[first:]).items():
        found[f"{thing} {part}"] = moving
    times = np.arange(len(placed) - first) / FPS
    asked = np.arange(int(times[-1] * fps + 1e-6) + 1) / fps
    return {key: _at(moving, times, asked) for key, moving in found.items()}


def _at(moving: gltf_reader.Moving, times: np.ndarray, asked: np.ndarray) -> gltf_reader.Moving:
    n, p, _ = moving.vertices.shape
    channel = gltf_reader.Channel(times, moving.vertices.reshape(n, -1), "LINEAR")
    vertices = gltf_reader.sampled(channel, asked, turn=False).reshape(-1, p, 3)
    return gltf_reader.Moving(moving.faces, vertices)


def _array(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; wanted ARCTIC's raw_seqs")
    with reading.parsing(path, "array of ARCTIC"):
        return torch_pickle.npy(path.read_bytes())


def _numbers(path: Path, given: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """float64 of a shape, None: whatever it is.

    Raises:
      ValueError: of another shape, not finite, or beyond FARTHEST.
    """
    with reading.parsing(path, "array of numbers"):  # rows of different lengths are none
        array = np.asarray(given)
    fits = array.ndim == len(shape) and all(
        want in (None, got) for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "fiu":
        wanted = " ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{path}: wanted numbers [{wanted}], got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        frame = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise ValueError(f"{path}: values that are not finite, the first in row {frame}")
    array = array.astype(np.float64)
    if (far := np.argwhere(np.abs(array) > FARTHEST)).size:
        found = array[tuple(far[0])]
        raise ValueError(f"{path}: {found:.3g} in row {far[0, 0]}; wanted at most {FARTHEST:.0f}")
    return array


def _hands(path: Path) -> dict[str, dict[str, np.ndarray]]:
    whole, found = _array(path), dict[str, dict[str, np.ndarray]]()
    count: int | None = None
    for side in ("left", "right"):
        own = whole.get(side) if isinstance(whole, dict) else None
        if not isinstance(own, dict) or not {*HAND, "shape"} <= own.keys():
            raise ValueError(f"{path}: wanted {side} with {', '.join(HAND)} and shape")
        values = {}
        for key, width in HAND.items():
            values[key] = _numbers(path, own[key], (count, width))
            count = len(values[key])
        found[side] = values | {"shape": _numbers(path, np.ravel(own["shape"]), (10,))}
    if not count:
        raise ValueError(f"{path}: no frame in it")
    return found


def _object(folder: Path, placed: np.ndarray) -> dict[str, gltf_reader.Moving]:
    """Its two parts at placements [n 7], metres."""
    file = folder / "mesh.obj"
    points, faces = obj.parse(reading.text(file), where=str(file), every=True)
    top = _top(folder, points)
    angle = mano.rotations(placed[:, :1] * AXIS)
    turn, shift = mano.rotations(placed[:, 1:4]), MILLIMETRE * placed[:, 4:]
    found = {}
    for part, inside, pose in (("top", top, turn @ angle), ("bottom", ~top, turn)):
        used, own = np.unique(faces[inside[faces].all(1)], return_inverse=True)
        if not len(used):
            raise ValueError(f"{folder}: parts.json leaves no triangle of the {part}")
        still = MILLIMETRE * points[used]
        vertices = np.einsum("nij,pj->npi", pose, still) + shift[:, None]
        found[part] = gltf_reader.Moving(own.reshape(-1, 3), vertices)
    return found


def _top(folder: Path, points: np.ndarray) -> np.ndarray:
    """Which vertices [p] are of the part that turns."""
    path = folder / "parts.json"
    parts = _numbers(path, reading.values(path), (len(points),)) > 0
    path = folder / "top_keypoints_300.json"
    with reading.parsing(path, "points of the top"):
        known = _numbers(path, reading.values(path)["keypoints"], (None, 3))
    share = parts[spatial.cKDTree(points).query(known)[1]].mean()
    if max(share, 1 - share) < CLEAR:
        raise ValueError(
            f"{folder}: which part is the top? Of its points {share:.0%} are on vertices that "
            "parts.json has as 1, the others on those with 0"
        )
    return parts if share > 0.5 else ~parts


def picture(path: str | Path, root: str | Path) -> tuple[Picture, rigs.Camera]:
    """What an image in ARCTIC's folders shows, and the camera that took it.

    Raises:
      FileNotFoundError: no meta/misc.json. ValueError: not such a path, or of the camera that is
        worn, whose lens bends.
    """
    match = IMAGE.search(Path(path).as_posix())
    if match is None:
        raise ValueError(f"{path}: wanted images/<subject>/<sequence>/<view>/<index>.jpg of ARCTIC")
    subject, sequence, view = match[1], match[2], int(match[3])
    if not 1 <= view <= 8:
        raise ValueError(f"{path}: view {view}: wanted one of 1 to 8, which stand still")
    file = Path(root) / "meta" / "misc.json"
    told = reading.values(file)
    with reading.parsing(file, f"cameras of {subject}"):
        own = told[subject]
        camera = {
            "K": own["intris_mat"][view - 1],
            "R": [row[:3] for row in own["world2cam"][view - 1][:3]],
            "T": [row[3] for row in own["world2cam"][view - 1][:3]],
            "imgSize": own["image_size"][view],
        }
        frame = int(match[4]) - int(own["ioi_offset"])
    if frame < 0:
        raise ValueError(f"{path}: is from {-frame} frames before the sequence begins (ioi_offset)")
    where = f"{file}, {subject}, view {view}"
    taken = rigs.parse(f"view_{view}", camera, where=where)
    return Picture(subject, sequence, view, frame), taken
