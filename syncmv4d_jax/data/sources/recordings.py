"""Where recordings come from: TACO, or a plain folder that any other data set can be written to.

`prepare` needs of a recording what `Recording` says: calibrated static cameras with a video each,
and the surfaces that are tracked, at every frame. A `Source` names a recording and opens it inside
the worker that prepares it. The plain layout, for recordings of HOT3D, ARCTIC or HOI4D kind:

    <root>/<sequence>/recording.json    {"fps": 30, "action": "...", "tool": "...", "target": "..."}
    <root>/<sequence>/cameras.json      TACO's calibration form: {camera: {K, R, T, imgSize}}
    <root>/<sequence>/<camera>.mp4      frame n of the video is frame n of the surfaces
    <root>/<sequence>/surfaces/<name>.npz   faces [q 3]; vertices [n p 3] metres, world frame, or
                                        vertices [p 3] with poses [n 4 4] (surface to world)
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from syncmv4d_jax.data.sources import mano, taco


class Recording(Protocol):
    """What preparation reads; `taco.Sequence` is one.

    id: unique in the data set. triplet: (action, tool, object). frames: of the surfaces. cameras:
    {name: taco.Camera}. names, faces: of the surfaces, faces [q 3] each.
    """

    id: str
    triplet: tuple[str, str, str]
    frames: int
    cameras: dict[str, taco.Camera]
    names: tuple[str, ...]
    faces: list[np.ndarray]

    def vertices(self, frame: int) -> list[np.ndarray]:
        """World vertices [p 3], metres, of each surface."""

    def video_path(self, camera: str) -> Path:
        """The video of a camera."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A recording that can be opened anywhere: picklable.

    Attributes:
      id, triplet: known before it is opened, for the split.
      layout: "taco" or "folder".
      root: of the data set.
      hands: folder of MANO's files ("taco").
      flip_left: see `mano.load_hands`.
    """

    id: str
    triplet: tuple[str, str, str]
    layout: str
    root: str
    hands: str = ""
    flip_left: bool = False

    @property
    def fps(self) -> float:
        """Frames per second of the recording."""
        if self.layout == "taco":
            return float(taco.FPS)
        return float(_description(Path(self.root) / self.id)["fps"])

    def open(self) -> Recording:
        """Reads everything but the videos.

        Raises:
          taco.BadSequence: a missing or broken file, or numbers that do not fit.
        """
        if self.layout == "taco":
            entry = taco.Entry(Path(self.root), self.triplet, self.id)
            return taco.load(self.root, entry, _hands(self.hands, self.flip_left))
        return read_folder(Path(self.root) / self.id)


@functools.cache
def _hands(folder: str, flip_left: bool) -> mano.Hands:
    return mano.load_hands(folder, flip_left=flip_left)


def taco_sources(root: str | Path, hands: str | Path, *, flip_left: bool = False) -> list[Source]:
    """The sequences of a TACO root.

    Raises:
      FileNotFoundError: no TACO data, or no MANO files.
    """
    _hands(str(hands), flip_left)  # say now, not once a sequence, that they are missing
    return [
        Source(e.sequence_id, e.triplet, "taco", str(root), str(hands), flip_left)
        for e in taco.index(root)
    ]


def folder_sources(root: str | Path) -> list[Source]:
    """The sequences of a root in the plain layout, sorted by name.

    Raises:
      FileNotFoundError: there are none.
    """
    found = sorted(path.parent for path in Path(root).glob("*/recording.json"))
    if not found:
        raise FileNotFoundError(f"{root}: no <sequence>/recording.json in it (see docs/data.md)")
    sources = []
    for path in found:
        try:
            text = _description(path)
            triplet = (str(text["action"]), str(text["tool"]), str(text["target"]))
        except taco.BadSequence:
            triplet = ("", "", "")  # listed with its reason when it is opened
        sources.append(Source(path.name, triplet, "folder", str(root)))
    return sources


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "recording.json"
    try:
        text = json.loads(path.read_text())
        if not float(text["fps"]) > 0:
            raise ValueError(f"fps {text['fps']}")
        return {"fps": text["fps"]} | {k: text[k] for k in ("action", "tool", "target")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise taco.BadSequence(
            f"{path}: wanted fps, action, tool and target, got {error!r}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Folder:
    """A recording in the plain layout; see `Recording`."""

    folder: Path
    id: str
    triplet: tuple[str, str, str]
    frames: int
    cameras: dict[str, taco.Camera]
    names: tuple[str, ...]
    faces: list[np.ndarray]
    surfaces: list[tuple[np.ndarray, np.ndarray | None]]

    def vertices(self, frame: int) -> list[np.ndarray]:
        """World vertices [p 3], metres, of each surface."""
        result = []
        for vertices, poses in self.surfaces:
            if poses is None:
                result.append(vertices[frame])
            else:
                result.append(vertices @ poses[frame, :3, :3].T + poses[frame, :3, 3])
        return result

    def video_path(self, camera: str) -> Path:
        """The video of a camera."""
        path = self.folder / f"{camera}.mp4"
        if not path.is_file():
            raise taco.BadSequence(f"{path}: not found")
        return path


def read_folder(folder: Path) -> Folder:
    """Reads a recording in the plain layout.

    Raises:
      taco.BadSequence: see `Source.open`.
    """
    text = _description(folder)
    cameras = taco.read_calibration(folder / "cameras.json")
    paths = sorted((folder / "surfaces").glob("*.npz"))
    if not paths:
        raise taco.BadSequence(f"{folder}/surfaces: no <name>.npz in it")
    read = [_surface(path) for path in paths]
    counts = {
        path.stem: len(v if p is None else p) for path, (v, p, _) in zip(paths, read, strict=True)
    }
    if len(set(counts.values())) != 1:
        raise taco.BadSequence(f"{folder.name}: frame counts differ: {counts}")
    return Folder(
        folder,
        folder.name,
        (str(text["action"]), str(text["tool"]), str(text["target"])),
        next(iter(counts.values())),
        cameras,
        tuple(path.stem for path in paths),
        [faces for _, _, faces in read],
        [(vertices, poses) for vertices, poses, _ in read],
    )


def _surface(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            vertices, faces = file["vertices"].astype(np.float64), file["faces"].astype(np.int64)
            poses = file["poses"].astype(np.float64) if "poses" in file else None
    except Exception as error:  # a damaged zip raises whatever its reader runs into
        raise taco.BadSequence(f"{path}: unreadable ({type(error).__name__}: {error})") from error
    shape = (vertices.ndim, None if poses is None else poses.shape[1:])
    if shape not in ((3, None), (2, (4, 4))) or vertices.shape[-1] != 3 or faces.shape[1:] != (3,):
        raise taco.BadSequence(
            f"{path}: wanted vertices [n p 3], or [p 3] with poses [n 4 4], and faces [q 3], got "
            f"{vertices.shape}, {faces.shape}"
        )
    finite = np.isfinite(vertices).all() and (poses is None or np.isfinite(poses).all())
    if not finite or faces.min(initial=0) < 0 or faces.max(initial=-1) >= vertices.shape[-2]:
        raise taco.BadSequence(f"{path}: values that are not finite, or faces beyond the vertices")
    return vertices, poses, faces
