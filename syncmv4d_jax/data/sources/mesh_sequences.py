"""Meshes over time from what other programs write: glTF, OBJ sequences, PC2 and MDD.

    <file>.glb, .gltf              names, meshes and time of the file (gltf_reader.py); y up
    <folder>/<name>_000000.obj ... one file a frame, the same faces in all; several names
    <name>.pc2 beside <name>.obj   "POINTCACHE2\\0", int32 version 1, int32 points, float32 start,
                                   float32 rate, int32 samples; float32 [samples points 3], little
                                   endian; a sample a frame
    <name>.mdd beside <name>.obj   int32 frames, int32 points; float32 times [frames], seconds;
                                   float32 [frames points 3], big endian

`read` gives metres, z up. Alembic, USD and .blend are refused: they export to glTF.
"""

import re
import struct
from pathlib import Path

import numpy as np

from syncmv4d_jax.data import reading
from syncmv4d_jax.data.sources import gltf_reader, obj

Meshes = dict[str, gltf_reader.Moving]
FRAME = re.compile(r"(.+?)_?(\d{3,})\.obj$", re.IGNORECASE)
OTHER = (".abc", ".usd", ".usda", ".usdc", ".usdz", ".blend", ".fbx")
UPS = ("y", "z")
PC2 = struct.Struct("<12siiffi")
LONGEST = 60.0  # seconds from one stored frame to the next


def read(path: str | Path, fps: float, *, unit: float = 1.0, up: str = "") -> Meshes:
    """Reads meshes at `fps` frames a second.

    Args:
      path: a file, or a folder of an OBJ sequence.
      fps: of the result; samples of OBJ sequences and PC2 are taken to be so many a second.
      unit: metres of the file's unit, 0.001 for millimetres.
      up: "y" or "z", the file's; "" is y for glTF, z for others.

    Returns:
      {name: faces [q 3], vertices [n p 3] metres, z up}.

    Raises:
      FileNotFoundError: nothing there, or no mesh beside a cache of points.
      ValueError: a format that is not read, damaged, or faces that change.
    """
    path = Path(path)
    if up not in ("", *UPS):
        raise ValueError(f"up: wanted one of {UPS}, got {up!r}")
    kind = path.suffix.lower()
    if kind in OTHER:
        raise ValueError(
            f"{path}: {kind} is not read; export it as glTF (.glb), or as a point cache (.pc2)"
        )
    with reading.parsing(path, "moving mesh"):
        if path.is_dir():
            found = _sequence(path)
        elif not path.is_file():
            raise FileNotFoundError(f"{path}: no such file or folder")
        elif kind in (".glb", ".gltf"):
            found = gltf_reader.read(path, fps)
        elif kind == ".pc2":
            found = _cached(path, _pc2(path))
        elif kind == ".mdd":
            found = _cached(path, _mdd(path, fps))
        else:
            raise ValueError(
                f"{path}: wanted .glb, .gltf, .pc2, .mdd or a folder of .obj files, got "
                f"{kind or 'it'}"
            )
        upright = up or ("y" if kind in (".glb", ".gltf") else "z")
        return {name: _placed(path, name, mesh, unit, upright) for name, mesh in found.items()}


def _placed(
    path: Path, name: str, mesh: gltf_reader.Moving, unit: float, up: str
) -> gltf_reader.Moving:
    faces, vertices = mesh
    if not np.isfinite(vertices).all():
        bad = int(np.flatnonzero(~np.isfinite(vertices).all((1, 2)))[0])
        raise ValueError(f"{path}: {name} has values that are not finite, the first in frame {bad}")
    if not faces.size or faces.min() < 0 or faces.max() >= vertices.shape[1]:
        raise ValueError(f"{path}: {name} has no faces, or faces beyond its vertices")
    if up == "y":  # (x, y, z) -> (x, -z, y)
        x, y, z = np.moveaxis(vertices, -1, 0)
        vertices = np.stack([x, -z, y], axis=-1)
    return gltf_reader.Moving(faces, unit * vertices)


def _sequence(folder: Path) -> Meshes:
    """The OBJ files of a folder, by name and number."""
    named: dict[str, list[tuple[int, Path]]] = {}
    for path in reading.entries(folder):
        if match := FRAME.match(path.name):
            named.setdefault(match[1], []).append((int(match[2]), path))
    if not named:
        raise ValueError(f"{folder}: wanted <name>_000000.obj, <name>_000001.obj, ...; found none")
    found, lengths = {}, {name: len(files) for name, files in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{folder}: wanted as many frames of each mesh, got {lengths}")
    for name, files in named.items():
        numbers = sorted(number for number, _ in files)
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            gap = next(n for n in range(numbers[0], numbers[-1]) if n not in numbers)
            raise ValueError(f"{folder}: frame {gap} of {name!r} is missing")
        frames: list[np.ndarray] = []
        _, first = obj.parse(reading.text(min(files)[1]), where=str(min(files)[1]), every=True)
        for _, path in sorted(files):
            vertices, faces = obj.parse(reading.text(path), where=str(path), every=True)
            if faces.shape != first.shape or (faces != first).any():
                raise ValueError(
                    f"{path}: its faces are others than those of the first frame; points can only "
                    "be followed on a mesh that keeps them: export it without remeshing"
                )
            frames.append(vertices)
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError(f"{folder}: frames of {name!r} have different numbers of vertices")
        found[name] = gltf_reader.Moving(first, np.stack(frames))
    return found


def _cached(path: Path, vertices: np.ndarray) -> Meshes:
    """A cache of points with the faces of the OBJ file beside it."""
    beside = path.with_suffix(".obj")
    if not beside.is_file():
        raise FileNotFoundError(f"{path}: wanted the mesh's faces in {beside.name} beside it")
    points, faces = obj.parse(reading.text(beside), where=str(beside), every=True)
    if len(points) != vertices.shape[1]:
        raise ValueError(
            f"{path}: {vertices.shape[1]} points, but {beside.name} has {len(points)} vertices"
        )
    return {path.stem: gltf_reader.Moving(faces, vertices)}


def _pc2(path: Path) -> np.ndarray:
    """[n p 3] of a point cache."""
    data = path.read_bytes()
    if len(data) < PC2.size or data[:12] != b"POINTCACHE2\0":
        raise ValueError(f"{path}: no PC2 point cache")
    _, version, points, _, _, samples = PC2.unpack_from(data)
    wanted = PC2.size + 12 * points * samples
    if version != 1 or points < 1 or samples < 1 or len(data) < wanted:
        raise ValueError(
            f"{path}: damaged: version {version}, {points} points, {samples} samples, {len(data)} "
            f"of {wanted} bytes"
        )
    flat = np.frombuffer(data, "<f4", 3 * points * samples, PC2.size)
    return flat.reshape(samples, points, 3).astype(np.float64)


def _mdd(path: Path, fps: float) -> np.ndarray:
    """[n p 3] of a motion file, linear between its times."""
    data = path.read_bytes()
    frames, points = struct.unpack_from(">ii", data) if len(data) >= 8 else (0, 0)
    wanted = 8 + 4 * frames + 12 * frames * points
    if frames < 1 or points < 1 or len(data) < wanted:
        raise ValueError(
            f"{path}: damaged: {frames} frames of {points} points, {len(data)} of {wanted} bytes"
        )
    times = np.frombuffer(data, ">f4", frames, 8).astype(np.float64)
    flat = np.frombuffer(data, ">f4", 3 * frames * points, 8 + 4 * frames)
    stored = flat.reshape(frames, points, 3).astype(np.float64)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError(f"{path}: damaged: its times do not rise")
    if (times[-1] - times[0]) * fps > LONGEST * frames:
        raise ValueError(f"{path}: its {frames} frames last {times[-1] - times[0]:g} seconds")
    asked = times[0] + np.arange(int((times[-1] - times[0]) * fps + 1e-4) + 1) / fps
    channel = gltf_reader.Channel(times, stored.reshape(frames, -1), "LINEAR")
    return gltf_reader.sampled(channel, asked, turn=False).reshape(-1, points, 3)
