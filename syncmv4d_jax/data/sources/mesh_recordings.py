"""Meshes over time and a picture of each camera -> a recording in the plain layout (recordings.py).

Nobody filmed what follows the pictures: the recording says that it is simulated, and has a PNG
where others have a video.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import rigs, surfaces
from syncmv4d_jax.data.sources import mesh_sequences

Row = tuple[str, np.ndarray, np.ndarray, str]  # name, faces [q 3], vertices [n p 3], where from


@dataclasses.dataclass(frozen=True)
class Meshes:
    """What is told of the meshes.

    fps: frames a second to read.  unit: metres of a unit of theirs.  up: "y" or "z"; "" is y of
    glTF, z of others.  labels: {mesh: one of surfaces.LABELS}; names with left or right in them
    are hands, others objects, where nothing is said.  occluders: names of meshes that hide others
    and are not followed.
    """

    fps: float = 30.0
    unit: float = 1.0
    up: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    occluders: Sequence[str] = ()

    def read(self, paths: Sequence[str | Path]) -> list[surfaces.Surface]:
        """Reads them all, of one number of frames.

        Raises:
          FileNotFoundError, ValueError: meshes that cannot be used, or do not fit each other.
        """
        found: list[Row] = []
        for path in paths:
            found += rows(path, mesh_sequences.read(path, self.fps, unit=self.unit, up=self.up))
        return self.fit(found)

    def fit(self, rows: Sequence[Row]) -> list[surfaces.Surface]:
        """Meshes that are at hand: metres, z up, `fps` frames a second; all of one number of
        frames, or of one.

        Raises:
          ValueError: meshes that cannot be used, or do not fit each other.
        """
        found: list[surfaces.Surface] = []
        for name, faces, vertices, where in rows:
            kind = surfaces.OCCLUDER if name in self.occluders else surfaces.TRACKED
            told = self.labels.get(name, "")
            made = surfaces.Surface(_plain(name), faces, vertices, kind=kind, label=told)
            surfaces.check(made, where=where)
            found.append(made)
        lengths = {s.name: s.frames for s in found}
        longest = max(lengths.values(), default=0)
        for i, s in enumerate(found):
            if s.frames == 1:  # it does not move
                still = np.repeat(s.vertices, longest, axis=0)
                found[i] = dataclasses.replace(s, vertices=still)
        if len({s.frames for s in found}) != 1:
            raise ValueError(f"the meshes have different numbers of frames: {lengths}")
        if len(lengths) < len(found):
            raise ValueError(f"several meshes of one name: {[s.name for s in found]}")
        for key, names in (("labels", self.labels), ("occluders", self.occluders)):
            if unknown := sorted(set(map(_plain, names)) - set(lengths)):
                raise ValueError(f"{key}: no meshes {unknown}; there are {sorted(lengths)}")
        if strange := sorted(set(self.labels.values()) - set(surfaces.LABELS)):
            raise ValueError(f"labels: wanted some of {surfaces.LABELS}, got {strange}")
        return list(surfaces.in_order(found))


def rows(path: str | Path, meshes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Row]:
    """The meshes {name: moving} of a file, as `Meshes.fit` takes them."""
    return [(name, *mesh, f"{path}, {name}") for name, mesh in meshes.items()]


def _plain(name: str) -> str:
    """A mesh's name as the name of a file."""
    return name.replace("/", "_")


def write(
    target: Path,
    found: Sequence[surfaces.Surface],
    fps: float,
    rig: Mapping[str, rigs.Camera],
    images: Mapping[str, np.ndarray],
    *,
    text: str,
    where: str,
) -> None:
    """Writes the recording `target`, whole or not at all.

    Args:
      found: the surfaces that move, of `Meshes`. fps: their frames a second.
      rig: in the meshes' world.
      images: [h w 3] uint8 of each camera, what the video begins with.
      text: the prompt.
      where: the cameras are from, for messages.

    Raises:
      ValueError: pictures or cameras that cannot be used, or do not fit each other or the meshes.
    """
    for name, camera in rig.items():
        size = images[name].shape[:2]
        if tuple(camera.size) != size:
            raise ValueError(
                f"{where}: imgSize is {camera.size[1]} x {camera.size[0]}, the picture "
                f"{size[1]} x {size[0]}"
            )
    followed = [s for s in found if s.kind == surfaces.TRACKED]
    rigs.check(dict(rig), [s.at(0) for s in followed], where=f"{where} and the meshes")
    description = {
        "fps": fps, "action": "follow", "tool": followed[0].name, "target": followed[-1].name,
        "text": text, "labels": {s.name: s.label for s in found if s.label}, "provenance": "sim",
        "occluders": [s.name for s in found if s.kind == surfaces.OCCLUDER],
    }  # fmt: skip
    with disk.whole(target) as partial:
        (partial / "surfaces").mkdir(parents=True)
        for surface in found:
            surfaces.write(partial / "surfaces", surface)
        (partial / "recording.json").write_text(json.dumps(description, indent=1))
        plain = {name: rigs.stated(camera) for name, camera in rig.items()}
        (partial / "cameras.json").write_text(json.dumps(plain, indent=1))
        for name, pixels in images.items():
            Image.fromarray(pixels).save(partial / f"{name}.png")
