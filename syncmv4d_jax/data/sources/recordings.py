"""Where recordings come from: TACO, or a plain folder that any other data set can be written to.

`prepare` needs of a recording what `Recording` says: calibrated cameras with a video each, and the
surfaces that are tracked, at every frame. A `Source` names a recording and opens it inside
the worker that prepares it. The plain layout, for recordings of HOT3D, ARCTIC or HOI4D kind:

    <root>/<sequence>/recording.json    {"fps": 30, "action": "...", "tool": "...", "target": "..."}
                                        and, where wanted, "text": prompt, "occluders": [names],
                                        "labels": {surface: one of surfaces.LABELS}, "provenance":
                                        "real" or "sim", "actions": {"names", "mean", "std"} of
                                        the numbers of actions.npz
    <root>/<sequence>/cameras.json      TACO's calibration form: {camera: {K, R, T, imgSize}}; of
                                        a camera that moves R [n 9] and T [n 3]
    <root>/<sequence>/<camera>.mp4      frame n of the video is frame n of the surfaces; or, of a
                                        motion that nobody filmed, <camera>.png: the picture that it
                                        begins with
    <root>/<sequence>/surfaces/<name>.npz   faces [q 3]; vertices [n p 3] metres, world frame, or
                                        vertices [p 3] with poses [n 4 4] (surface to world)
    <root>/<sequence>/actions.npz       actions [n a]: what a robot is commanded at each frame

A surface named in "occluders" hides the others and is not tracked (see `surfaces`).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from syncmv4d_jax import recipe
from syncmv4d_jax.data import reading, rigs, surfaces
from syncmv4d_jax.data.sources import mano, taco
from syncmv4d_jax.data.surfaces import Surface


class Actions(NamedTuple):
    """Of the numbers of an action: names, and what they are standardised by."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Recording(Protocol):
    """What preparation reads; `taco.Sequence` is one.

    id: unique in the data set. triplet: (action, tool, object). text: the prompt, "" where the
    triplet says it all. filmed: the cameras have videos, not a picture each. frames: of the
    surfaces. cameras: {name: rigs.Camera}. paths: those that move, their extrinsics are
    [frames 3 4]. surfaces: those that are tracked first. actions: [frames a], or None.
    """

    @property
    def id(self) -> str: ...

    @property
    def triplet(self) -> tuple[str, str, str]: ...

    @property
    def text(self) -> str: ...

    @property
    def filmed(self) -> bool: ...

    @property
    def frames(self) -> int: ...

    @property
    def cameras(self) -> dict[str, rigs.Camera]: ...

    @property
    def paths(self) -> dict[str, rigs.Camera]: ...

    @property
    def surfaces(self) -> tuple[Surface, ...]: ...

    @property
    def actions(self) -> np.ndarray | None: ...

    def video_path(self, camera: str) -> Path:
        """The video of a camera."""
        ...


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

    def mark(self) -> str:
        """Returns a mark of the content of the recording's files; MANO's are marked apart."""
        if self.layout == "taco":
            return taco.Entry(Path(self.root), self.triplet, self.id).mark()
        return recipe.content(Path(self.root) / self.id)

    @property
    def provenance(self) -> str:
        """What the recording says of itself, "" where nothing."""
        if self.layout == "taco":
            return ""
        return str(_description(Path(self.root) / self.id)["provenance"])

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
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    found = [path for path in reading.entries(Path(root)) if (path / "recording.json").is_file()]
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


def actions_of(sources: Sequence[Source]) -> Actions:
    """What all recordings in the plain layout say of their actions.

    Raises:
      ValueError: some have none, or they differ.
    """
    found: dict[Actions | None, str] = {}
    for source in sources:
        told = _description(Path(source.root) / source.id) if source.layout == "folder" else {}
        found.setdefault(told.get("actions"), source.id)
    first, *more = list(found) or [None]
    if more or first is None:
        raise ValueError(
            "wanted actions of one kind in every recording (docs/data.md), got "
            + "; ".join(f"{name}: {x or 'none'}" for x, name in found.items())
        )
    return first


def _actions(told: Any) -> Actions:
    made = Actions(
        tuple(str(name) for name in told["names"]),
        *(tuple(float(x) for x in told[key]) for key in ("mean", "std")),
    )
    if not made.names or not len(made.names) == len(made.mean) == len(made.std):
        raise ValueError(f"actions: wanted a name, a mean and a std of each number, got {made}")
    if not (np.isfinite([*made.mean, *made.std]).all() and min(made.std) > 0):
        raise ValueError(f"actions: wanted finite means and std above 0, got {made}")
    return made


def _description(folder: Path) -> dict[str, Any]:
    path = folder / "recording.json"
    try:
        text = reading.values(path)
        if not 0 < float(text["fps"]) < float("inf"):
            raise ValueError(f"fps {text['fps']}")
        occluders = tuple(text.get("occluders", ()))
        if not all(isinstance(name, str) for name in (*occluders, text.get("text", ""))):
            raise ValueError("text and occluders must be strings")
        found = {"fps": text["fps"], "text": text.get("text", ""), "occluders": occluders}
        found |= {"labels": dict(text.get("labels", {})), "provenance": text.get("provenance", "")}
        if strange := sorted(set(found["labels"].values()) - set(surfaces.LABELS)):
            raise ValueError(f"labels: wanted some of {surfaces.LABELS}, got {strange}")
        if found["provenance"] not in ("", "real", "sim"):
            raise ValueError(f"provenance: wanted real or sim, got {found['provenance']!r}")
        found["actions"] = _actions(text["actions"]) if "actions" in text else None
        if "text" in text:
            found["text"] = reading.prompt(text["text"], where="text")
        words = {k: str(text[k]) for k in ("action", "tool", "target")}
        return found | {k: reading.prompt(word, where=k) for k, word in words.items()}
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
    text: str
    frames: int
    cameras: dict[str, rigs.Camera]
    surfaces: tuple[surfaces.Surface, ...]
    paths: dict[str, rigs.Camera] = dataclasses.field(default_factory=dict)
    actions: np.ndarray | None = None

    @property
    def filmed(self) -> bool:
        """Whether the cameras have videos; one that has a picture has none."""
        inside = reading.entries(self.folder)
        return not any(p.suffix.lower() == ".png" and p.stem in self.cameras for p in inside)

    def video_path(self, camera: str) -> Path:
        """The video of a camera."""
        try:
            return reading.named(self.folder, camera, (".mp4", ".png"))
        except (OSError, ValueError) as error:
            raise taco.BadSequence(str(error)) from error


def read_folder(folder: Path) -> Folder:
    """Reads a recording in the plain layout.

    Raises:
      taco.BadSequence: see `Source.open`.
    """
    text = _description(folder)
    try:
        cameras = rigs.read(folder / "cameras.json")
    except (OSError, ValueError) as error:
        raise taco.BadSequence(f"{folder.name}: {error}") from error
    inside = reading.entries(folder / "surfaces") if (folder / "surfaces").is_dir() else []
    paths = [path for path in inside if path.suffix.lower() == ".npz"]
    if not paths:
        raise taco.BadSequence(f"{folder}/surfaces: no <name>.npz in it")
    if unknown := sorted(set(text["occluders"]) - {path.stem for path in paths}):
        raise taco.BadSequence(f"{folder}/recording.json: occluders {unknown} have no surface")
    if unknown := sorted(set(text["labels"]) - {path.stem for path in paths}):
        raise taco.BadSequence(f"{folder}/recording.json: labels of {unknown}, which no surface is")
    found = taco.read_surfaces(paths, occluders=text["occluders"], where=folder.name)
    named = text["labels"]
    found = tuple(dataclasses.replace(s, label=named.get(s.name, "")) for s in found)
    for name, camera in cameras.items():
        if camera.path is not None and len(camera.path) != found[0].frames:
            raise taco.BadSequence(
                f"{folder}/cameras.json: camera {name!r} moves for {len(camera.path)} frames, the "
                f"surfaces for {found[0].frames}: wanted a pose a frame"
            )
    rows = _rows(folder, text["actions"], found[0].frames) if text["actions"] else None
    return Folder(
        folder,
        folder.name,
        (str(text["action"]), str(text["tool"]), str(text["target"])),
        text["text"],
        found[0].frames,
        cameras,
        found,
        actions=rows,
    )


def _rows(folder: Path, told: Actions, frames: int) -> np.ndarray:
    path, wanted = folder / "actions.npz", (frames, len(told.names))
    try:
        rows = reading.arrays(path)["actions"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise taco.BadSequence(f"{path}: wanted actions [n a], got {error!r}") from error
    if rows.shape != wanted or not np.isfinite(rows).all():
        raise taco.BadSequence(f"{path}: wanted finite actions {wanted}, got {rows.shape}")
    return rows
