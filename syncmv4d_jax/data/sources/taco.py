"""TACO on disk: index, read and check sequences (taco_writer.py writes them).

Layout (`<root>/<Modality>/<triplet>/<sequence>/...`, triplet = "(action, tool, object)"):

    Marker_Removed_Allocentric_RGB_Videos | Allocentric_RGB_Videos   <camera>.mp4, 30 fps
    Allocentric_Camera_Parameters        calibration.json   K, R, T (world to camera, m), imgSize
    Egocentric_RGB_Videos, Egocentric_Camera_Parameters      a moving camera, not used for training
    Hand_Poses                           {left,right}_hand.pkl, {left,right}_hand_shape.pkl
    Object_Poses                         tool_<id>.npy, target_<id>.npy   [n 4 4] object to world, m
    Object_Models | object_models_released   <id>_cm.obj, centimetres (beside the modalities)
    Occluders                            <name>.npz, see `surfaces`; Texts   prompt.txt: ours, where
                                         there are any (embedded scenes: forearms and the table)
    Paths                                <name>.mp4, <name>.json of cameras that move: ours too,
                                         {"size", "fps", "frames": [{K, R, T}]}, one a frame

Distortion coefficients are never applied (as in TACO's own toolkit). World frames are per date.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import recipe
from syncmv4d_jax.data import reading, rigs, surfaces
from syncmv4d_jax.data.sources import mano, obj
from syncmv4d_jax.geometry import paths as camera_paths
from syncmv4d_jax.weights import torch_pickle

VIDEOS = ("Marker_Removed_Allocentric_RGB_Videos", "Allocentric_RGB_Videos")
MODELS = ("Object_Models", "object_models_released")
CAMERAS, HANDS, POSES = "Allocentric_Camera_Parameters", "Hand_Poses", "Object_Poses"
OCCLUDERS, TEXTS, PATHS = "Occluders", "Texts", "Paths"
READ = (CAMERAS, HANDS, POSES, OCCLUDERS, TEXTS, PATHS)
NAMES = ("left", "right", "tool", "target")
FPS = 30
# Wrong extrinsics (toolkit issues 18, 20): reported by users of the data set.
KNOWN_BAD = {"20230919_036": "wrong extrinsics (TACO-Instructions issue 18)"}


class BadSequence(ValueError):
    """A sequence that cannot be used; the message says which file and why."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sequence of the index: triplet (action, tool, object), sequence id, data root."""

    root: Path
    triplet: tuple[str, str, str]
    sequence_id: str

    def folder(self, modality: str) -> Path:
        return self.root / modality / triplet_name(self.triplet) / self.sequence_id

    def mark(self) -> str:
        """Returns a mark of all files that `load` and preparation read."""
        parts = {name: recipe.content(self.folder(name)) for name in (*VIDEOS, *READ)}
        for path in sorted(self.folder(POSES).glob("*.npy")):
            model = f"{path.stem.split('_')[-1]}_cm.obj"
            parts[model] = "".join(recipe.content(self.root / folder / model) for folder in MODELS)
        return recipe.mark(parts)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One recording: cameras, and the surfaces of both hands, tool and target at every frame.

    text: the prompt, "" where there is none of its own. paths: cameras that move, [n 3 4].
    """

    filmed = True
    actions = None

    entry: Entry
    frames: int
    cameras: dict[str, rigs.Camera]
    surfaces: tuple[surfaces.Surface, ...]
    text: str = ""
    paths: dict[str, rigs.Camera] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.entry.sequence_id

    @property
    def triplet(self) -> tuple[str, str, str]:
        return self.entry.triplet

    def video_path(self, camera: str) -> Path:
        """The video of a camera, without markers where there is one.

        Raises:
          BadSequence: no such file.
        """
        kinds = (PATHS,) if camera in self.paths else VIDEOS
        paths = [self.entry.folder(modality) / f"{camera}.mp4" for modality in kinds]
        for path in paths:
            if path.is_file():
                return path
        raise BadSequence(f"{self.id}: no video of camera {camera}: looked for {paths}")


def triplet_name(triplet: tuple[str, str, str]) -> str:
    return f"({', '.join(triplet)})"


def parse_triplet(name: str) -> tuple[str, str, str]:
    """Inverse of `triplet_name`.

    Raises:
      ValueError: not "(action, tool, object)".
    """
    parts = name.removeprefix("(").removesuffix(")").split(", ")
    if not (name.startswith("(") and name.endswith(")") and len(parts) == 3):
        raise ValueError(f"triplet: wanted '(action, tool, object)', got {name!r}")
    return parts[0], parts[1], parts[2]


def index(root: str | Path) -> list[Entry]:
    """Lists the sequences that have hand poses, sorted by sequence id.

    Raises:
      FileNotFoundError: no TACO data there.
    """
    root = Path(root)
    if not (root / HANDS).is_dir():
        raise FileNotFoundError(
            f"{root}: no folder {HANDS} in it; wanted TACO's root (or run "
            "data_prep/make_scenes.py --out DIR for embedded scenes)"
        )
    entries = []
    # A name with a dot is also a folder that was being written when its writer was stopped.
    for triplet in reading.entries(root / HANDS):
        if triplet.is_dir():
            parsed = parse_triplet(triplet.name)
            names = [s.name for s in reading.entries(triplet) if s.is_dir()]
            entries += [Entry(root, parsed, name) for name in names]
    return sorted(entries, key=lambda e: e.sequence_id)


def load(root: str | Path, entry: Entry, hands: mano.Hands) -> Sequence:
    """Reads everything of a sequence but its videos.

    Raises:
      BadSequence: a missing or broken file, frame counts that differ, values that are not finite,
        or a sequence known to be bad.
    """
    del root  # the entry knows it
    if entry.sequence_id in KNOWN_BAD:
        raise BadSequence(f"{entry.sequence_id}: {KNOWN_BAD[entry.sequence_id]}")
    cameras = read_calibration(entry.folder(CAMERAS) / "calibration.json")
    tracked = [
        *(_hand(entry, side, getattr(hands, side)) for side in ("left", "right")),
        *(_object(entry, role) for role in ("tool", "target")),
    ]
    files = sorted(entry.folder(OCCLUDERS).glob("[!.]*.npz"))
    found = read_surfaces(
        files, occluders=[p.stem for p in files], where=entry.sequence_id, tracked=tracked
    )
    frames = found[0].frames
    return Sequence(entry, frames, cameras, found, _text(entry), _paths(entry, frames))


def _paths(entry: Entry, frames: int) -> dict[str, rigs.Camera]:
    """Cameras that move; their lens is that of frame 0."""
    made = {}
    for file in sorted(entry.folder(PATHS).glob("[!.]*.json")):
        try:
            content = reading.values(file)
            height, width = (int(x) for x in content["size"])
            size = (height, width)
            path = camera_paths.of_file(content, frames=frames, size=size, where=str(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadSequence(f"{file}: {error}") from error
        lens = path.intrinsics[0].astype(np.float64)
        made[file.stem] = rigs.Camera(file.stem, lens, path.extrinsics.astype(np.float64), size)
    return made


def _text(entry: Entry) -> str:
    path = entry.folder(TEXTS) / "prompt.txt"
    try:
        return reading.prompt(reading.text(path), where=str(path)) if path.is_file() else ""
    except ValueError as error:
        raise BadSequence(str(error)) from error


def read_surfaces(
    paths: list[Path],
    *,
    occluders: Collection[str],
    where: str,
    tracked: Iterable[surfaces.Surface] = (),
) -> tuple[surfaces.Surface, ...]:
    """Reads surface files and puts them behind `tracked`, see `surfaces.in_order`.

    Raises:
      BadSequence: a broken file, nothing to track, or frame counts that differ.
    """
    try:
        kinds = [surfaces.OCCLUDER if p.stem in occluders else surfaces.TRACKED for p in paths]
        read = [surfaces.read(path, kind=kind) for path, kind in zip(paths, kinds, strict=True)]
        found = surfaces.in_order([*tracked, *read])
    except ValueError as error:
        raise BadSequence(f"{where}: {error}") from error
    counts = {surface.name: surface.frames for surface in found}
    if len(set(counts.values())) != 1:
        raise BadSequence(f"{where}: frame counts differ: {counts}")
    return found


def read_calibration(path: Path) -> dict[str, rigs.Camera]:
    """Reads TACO's calibration.json: {camera: {K, R, T, imgSize, ...}}; see `rigs.read`.

    Its coefficients of distortion are never applied, as in TACO's own toolkit.

    Raises:
      BadSequence: missing, not JSON, or cameras that `rigs` refuses.
    """
    try:
        return rigs.read(path, undistorted=True)
    except (OSError, ValueError) as error:
        raise BadSequence(f"broken calibration: {error}") from error


def _read_pickle(path: Path) -> Any:
    if not path.is_file():
        raise BadSequence(f"{path}: not found")
    try:
        return torch_pickle.load(path.read_bytes())
    except Exception as error:  # a broken pickle raises whatever its opcodes run into
        raise BadSequence(f"{path}: unreadable ({type(error).__name__}: {error})") from error


def _hand(entry: Entry, side: str, model: mano.Model) -> surfaces.Surface:
    folder = entry.folder(HANDS)
    frames = _read_pickle(folder / f"{side}_hand.pkl")
    shape_file = folder / f"{side}_hand_shape.pkl"
    try:
        keys = sorted(frames)
        if missing := sorted({f"{i + 1:05d}" for i in range(len(keys))} - set(keys)):
            raise ValueError(
                f"wanted frames 00001..{len(keys):05d}, got {keys[0]}..{keys[-1]}, "
                f"missing {missing[0]}"
            )
        pose = np.stack([np.asarray(frames[k]["hand_pose"], np.float64) for k in keys])
        move = np.stack([np.asarray(frames[k]["hand_trans"], np.float64) for k in keys])
        betas = np.zeros(10)
        if shape_file.is_file():
            betas = np.asarray(_read_pickle(shape_file)["hand_shape"], np.float64).reshape(10)
        if not all(np.isfinite(x).all() for x in (pose, move, betas)):
            raise ValueError("values that are not finite")
        found = surfaces.Surface(side, model.faces, mano.skin(model, pose, betas, move)[0])
        surfaces.check(found, where=f"{folder}/{side}_hand.pkl")
        return found
    except BadSequence:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadSequence(f"{folder}/{side}_hand.pkl: broken hand poses ({error!r})") from error


def _object(entry: Entry, role: str) -> surfaces.Surface:
    folder = entry.folder(POSES)
    files = sorted(folder.glob(f"{role}_*.npy"))
    if len(files) != 1:
        raise BadSequence(f"{folder}: wanted one {role}_<id>.npy, got {[f.name for f in files]}")
    try:
        poses = np.load(files[0], allow_pickle=False).astype(np.float64)
    except Exception as error:  # a damaged header raises whatever its parser runs into
        raise BadSequence(f"{files[0]}: unreadable ({type(error).__name__}: {error})") from error
    identifier = files[0].stem.split("_")[-1]
    vertices, faces = read_model(entry.root, identifier)
    found = surfaces.Surface(role, faces, vertices, poses)
    try:
        surfaces.check(found, where=str(files[0]))
    except surfaces.BrokenSurface as error:
        raise BadSequence(str(error)) from error
    return found


def read_model(root: Path, identifier: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads `<identifier>_cm.obj`: vertices [p 3] in metres, faces [q 3].

    Raises:
      BadSequence: missing or broken.
    """
    paths = [root / folder / f"{identifier}_cm.obj" for folder in MODELS]
    for path in paths:
        if path.is_file():
            try:
                vertices, faces = obj.parse(reading.text(path), where=str(path))
                return vertices * 0.01, faces
            except ValueError as error:
                raise BadSequence(f"unreadable mesh: {error}") from error
    raise BadSequence(f"object model {identifier}: looked for {[str(p) for p in paths]}")


def with_markers_removed(root: str | Path) -> Iterator[str]:
    """Yields the ids of the sequences that have videos without markers."""
    for path in sorted(Path(root).glob(f"{VIDEOS[0]}/*/*")):
        yield path.name
