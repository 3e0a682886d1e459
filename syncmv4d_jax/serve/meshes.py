"""Meshes of a request: read as the command line reads them, written down as numbers.

Runs in the process that decodes (serve/decode.py). Beside the pictures of FOLDER it writes

    meshes.npz   names; faces_0 [q 3], vertices_0 [n p 3] metres, z up; faces_1, ...

and gives what the page draws of them before a job is sent. Files get names of their own; what
people call them is put back into sentences and into the names of meshes.
"""

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import controls, rigs, surfaces, transforms
from syncmv4d_jax.data.sources import mesh_recordings, mesh_sequences
from syncmv4d_jax.serve import drawn

MEMBERS, UNPACKED = 4096, 512 * 2**20  # files of an archive, and their bytes
VERTICES = 8_000_000  # of all meshes and frames
POINTS, PLACES, FRAMES = 1500, 200_000, 600  # drawn: points, points times frames, frames
KINDS = (".glb", ".gltf", ".pc2", ".mdd")
WANTED = (
    "wanted .glb, .gltf with its buffers inside, .pc2 or .mdd with the .obj of the same name, .obj "
    "files name_000000.obj, name_000001.obj, ..., or a .zip with these"
)


class _Files:
    """Files of people under names of our own; `said` puts theirs back into a sentence."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._stems: dict[str, str] = {}  # theirs -> ours
        self._words: dict[str, str] = {}  # of sentences, ours -> theirs
        self.sources: list[Path] = []  # for mesh_sequences.read
        scratch.mkdir()

    def lay(self, every: Sequence[tuple[str, Path]]) -> None:
        """Takes (what it is called, file); raises drawn.Wrong for what is no mesh."""
        cached = {_stem(name) for name, _ in every if _suffix(name) in (".pc2", ".mdd")}
        for number, (name, file) in enumerate(every):
            suffix, match = _suffix(name), mesh_sequences.FRAME.match(name)
            if suffix in (".glb", ".gltf"):
                place = self._scratch / f"{number:04d}{suffix}"
            elif suffix in KINDS or (suffix == ".obj" and _stem(name) in cached):
                place = self._scratch / f"{self._own(_stem(name))}{suffix}"
            elif match:
                place = self._scratch / "frames" / f"{self._own(match[1])}_{match[2]}.obj"
            else:
                raise drawn.Wrong(f"{name}: {WANTED}", "meshes")
            if place.exists():
                raise drawn.Wrong(f"{name}: two files of this name", "meshes")
            place.parent.mkdir(exist_ok=True)
            shutil.move(file, place)
            self._words[str(place)] = name
            if suffix in KINDS:
                self.sources.append(place)
        if (frames := self._scratch / "frames").is_dir():
            self._words[str(frames)] = "the .obj files"
            self.sources.append(frames)

    def _own(self, stem: str) -> str:
        return self._stems.setdefault(stem, f"mesh{len(self._stems):03d}")

    def named(self, source: Path, name: str) -> str:
        """What a mesh of a source is called."""
        theirs = {own: stem for stem, own in self._stems.items()}
        if source.suffix not in (".glb", ".gltf"):
            name = theirs.get(name, name)
        return re.sub(r"[^\w .-]", "_", name).strip(" .")[:60] or "mesh"

    def said(self, text: str) -> str:
        """A sentence with the names that they have."""
        words = self._words | {repr(own): repr(stem) for stem, own in self._stems.items()}
        for own in sorted(words, key=len, reverse=True):
            text = text.replace(own, words[own])
        return text.replace(f"{self._scratch}/", "")


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _stem(name: str) -> str:
    return name[: len(name) - len(Path(name).suffix)]


def _unpacked(file: Path, name: str, target: Path) -> list[tuple[str, Path]]:
    """The meshes of an archive as (what they are called, file); what they say that they are large
    is not believed.

    Raises:
      Wrong: no archive, a damaged one, or one with too much in it.
    """
    found, left = [], UNPACKED
    try:
        with zipfile.ZipFile(file) as archive:
            rows = [x for x in archive.infolist() if _suffix(x.filename) in (*KINDS, ".obj")]
            rows = [x for x in rows if "__MACOSX" not in x.filename]
            if len(rows) > MEMBERS:
                raise drawn.Wrong(f"{name}: {len(rows)} meshes, wanted at most {MEMBERS}", "meshes")
            for number, row in enumerate(rows):
                place = target / f"{number:04d}.member"
                with archive.open(row) as source, place.open("wb") as sink:
                    while part := source.read(2**20):
                        left -= len(part)
                        if left < 0:
                            words = f"{name}: wanted at most {UNPACKED >> 20} MiB when unpacked"
                            raise drawn.Wrong(words, "meshes")
                        sink.write(part)
                found.append((re.split(r"[/\\]", row.filename)[-1], place))
    except drawn.Wrong:
        raise
    except Exception as error:  # a damaged archive raises whatever its reader runs into
        raise drawn.Wrong(f"{name}: no .zip, or a damaged one ({error})", "meshes") from error
    if not found:
        raise drawn.Wrong(f"{name}: no meshes in it; {WANTED}", "meshes")
    return found


def read(
    folder: Path, files: Sequence[tuple[str, Path]], told: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads meshes, writes meshes.npz, and returns what the page draws.

    Args:
      files: (what it is called, file).
      told: fps, unit, up and labels (mesh_recordings.Meshes).

    Where `folder` has cameras.json, they must see them.

    Raises:
      Wrong: meshes or cameras that cannot be used; says where.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    laid = _Files(scratch / "meshes")
    settings = mesh_recordings.Meshes(**{k: told[k] for k in ("fps", "unit", "up", "labels")})
    try:
        every: list[tuple[str, Path]] = []
        for number, (name, file) in enumerate(files):
            target = scratch / f"{number:03d}"
            if _suffix(name) == ".zip":
                target.mkdir()
                every += _unpacked(file, name, target)
            else:
                every.append((name, file))
        laid.lay(every)
        found = _read(laid, settings, folder / "meshes.npz")
        if (rig := folder / "cameras.json").is_file():
            _seen(rigs.read(rig), found)
        return _points(found, settings.fps)
    except drawn.Wrong as error:
        raise drawn.Wrong(laid.said(str(error)), error.where) from error
    except (ValueError, OSError) as error:
        words = laid.said(str(error))
        raise drawn.Wrong(words, "labels" if words.startswith("labels") else "meshes") from error
    finally:
        shutil.rmtree(scratch)


def _read(laid: _Files, settings: mesh_recordings.Meshes, target: Path) -> list[surfaces.Surface]:
    """Reads the meshes and writes them into `target`."""
    rows: list[mesh_recordings.Row] = []
    for source in laid.sources:
        moving = mesh_sequences.read(source, settings.fps, unit=settings.unit, up=settings.up)
        for name, mesh in moving.items():
            own = laid.named(source, name)
            rows.append((own, *mesh, f"{source}, {own}"))
    total = sum(len(vertices) * vertices.shape[1] for _, _, vertices, _ in rows)
    if total > VERTICES:
        words = (
            f"meshes: {total:,} vertices in all frames, wanted at most {VERTICES:,}: fewer frames, "
            "or simpler meshes"
        )
        raise drawn.Wrong(words, "meshes")
    found = settings.fit(rows)
    arrays: dict[str, np.ndarray] = {"names": np.array([row[0] for row in rows])}
    for i, (_, faces, vertices, _) in enumerate(rows):
        arrays |= {f"faces_{i}": faces, f"vertices_{i}": vertices}
    np.savez_compressed(target, **arrays)  # type: ignore[arg-type]
    return found


def stored(file: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What meshes.npz holds, as pipelines take it: {name: (faces, vertices)}."""
    with np.load(file, allow_pickle=False) as arrays:
        return {
            str(name): (arrays[f"faces_{i}"], arrays[f"vertices_{i}"])
            for i, name in enumerate(arrays["names"])
        }


def _seen(rig: Mapping[str, rigs.Camera], found: Sequence[surfaces.Surface]) -> None:
    try:
        rigs.check(rig, [s.at(0) for s in found], where="cameras.json and the meshes")
    except ValueError as error:
        raise drawn.Wrong(str(error), "cameras") from error


def _points(found: Sequence[surfaces.Surface], fps: float) -> dict[str, Any]:
    """Points of the meshes in every frame, as many a square metre everywhere."""
    frames = min(found[0].frames, FRAMES)
    count = int(np.clip(PLACES // frames, 64, POINTS))
    faces, rng = [s.faces for s in found], np.random.default_rng(0)
    points = transforms.by_area([s.at(0) for s in found], faces, count, rng)
    moved = np.stack([points.positions([s.at(n) for s in found]) for n in range(frames)])
    labels = [surfaces.LABELS[i] for i in controls.labels(found)]
    more = {"names": [s.name for s in found], "labels": labels, "mesh": points.mesh.tolist()}
    return drawn.packed(moved) | more | {"fps": fps, "length": found[0].frames}
