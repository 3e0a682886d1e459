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
    are hands, others objects, where nothing is said.
    """

    fps: float = 30.0
    unit: float = 1.0
    up: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, paths: Sequence[str | Path]) -> list[surfaces.Surface]:
        """Reads them all, of one number of frames.

        Raises:
          FileNotFoundError, ValueError: meshes that cannot be used, or do not fit each other.
        """
        rows: list[Row] = []
        for path in paths:
            meshes = mesh_sequences.read(path, self.fps, unit=self.unit, up=self.up)
            rows += [(name, *mesh, f"{path}, {name}") for name, mesh in meshes.items()]
        return self.fit(rows)

    def fit(self, rows: Sequence[Row]) -> list[surfaces.Surface]:
        """Meshes that are at hand: metres, z up, `fps` frames a second; all of one number of
        frames, or of one.

        Raises:
          ValueError: meshes that cannot be used, or do not fit each other.
        """
        found: list[surfaces.Surface] = []
        for name, faces, vertices, where in rows:
            label = self.labels.get(name, "")
            found.append(surfaces.Surface(name.replace("/", "_"), faces, vertices, label=label))
            surfaces.check(found[-1], where=where)
        lengths = {s.name: s.frames for s in found}
        longest = max(lengths.values(), default=0)
        for i, s in enumerate(found):
            if s.frames == 1:  # it does not move
                vertices = np.repeat(s.vertices, longest, axis=0)
                found[i] = surfaces.Surface(s.name, s.faces, vertices, label=s.label)
        if len({s.frames for s in found}) != 1:
            raise ValueError(f"the meshes have different numbers of frames: {lengths}")
        if len(lengths) < len(found):
            raise ValueError(f"several meshes of one name: {[s.name for s in found]}")
        if unknown := sorted(set(self.labels) - set(lengths)):
            raise ValueError(f"labels: no meshes {unknown}; there are {sorted(lengths)}")
        if strange := sorted(set(self.labels.values()) - set(surfaces.LABELS)):
            raise ValueError(f"labels: wanted some of {surfaces.LABELS}, got {strange}")
        return found


def write(
    target: Path,
    meshes: Meshes,
    found: Sequence[surfaces.Surface],
    rig: Mapping[str, rigs.Camera],
    images: Mapping[str, np.ndarray],
    *,
    text: str,
    where: str,
) -> None:
    """Writes the recording `target`, whole or not at all.

    Args:
      meshes: what was told of them.  found: what it read.
      rig: in the meshes' world.
      images: [h w 3] uint8 of each camera, what the video begins with.
      text: the prompt.
      where: the cameras are from, for messages.

    Raises:
      ValueError: meshes, pictures or cameras that cannot be used, or do not fit each other.
    """
    for name, camera in rig.items():
        size = images[name].shape[:2]
        if tuple(camera.size) != size:
            raise ValueError(
                f"{where}: imgSize is {camera.size[1]} x {camera.size[0]}, the picture "
                f"{size[1]} x {size[0]}"
            )
    rigs.check(dict(rig), [s.at(0) for s in found], where=f"{where} and the meshes")
    description = {
        "fps": meshes.fps, "action": "follow", "tool": found[0].name, "target": found[-1].name,
        "text": text, "labels": dict(meshes.labels), "provenance": "sim",
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
