"""Surfaces over time as files of other programs, which mesh_sequences.py reads again.

gltf   <name>.glb: a node with keys of translation and rotation where the surface is rigid, morph
       targets, one a frame, where it bends; y up below a node that turns it
obj    <name>/<name>_000000.obj and so on
pc2    <name>.pc2 beside <name>.obj
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import transform

from syncmv4d_jax import disk
from syncmv4d_jax.data import surfaces
from syncmv4d_jax.data.sources import mesh_sequences

FORMS = ("gltf", "obj", "pc2")
FLOAT, UINT = 5126, 5125
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
Z_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]  # quaternion x y z w: (x, y, z) -> (x, z, -y)


def write(folder: Path, surface: surfaces.Surface, form: str, *, fps: float) -> Path:
    """Writes a surface, metres, z up; returns what `mesh_sequences.read` takes.

    Args:
      form: of FORMS.
      fps: frames a second; only glTF says it.

    Raises:
      ValueError: another form.
    """
    if form not in FORMS:
        raise ValueError(f"wanted a form of {FORMS}, got {form!r}")
    folder.mkdir(parents=True, exist_ok=True)
    if form == "gltf":
        return _gltf(folder / f"{surface.name}.glb", surface, fps)
    frames = np.stack([surface.at(n) for n in range(surface.frames)])
    if form == "pc2":
        path = folder / f"{surface.name}.pc2"
        count, points, _ = frames.shape
        head = mesh_sequences.PC2.pack(b"POINTCACHE2\0", 1, points, 0.0, 1.0, count)
        path.write_bytes(head + frames.astype("<f4").tobytes())
        _obj(path.with_suffix(".obj"), frames[0], surface.faces)
        return path
    with disk.whole(folder / surface.name) as partial:
        partial.mkdir()
        for n, vertices in enumerate(frames):
            _obj(partial / f"{surface.name}_{n:06d}.obj", vertices, surface.faces)
    return folder / surface.name


def _obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    path.write_text("\n".join(lines) + "\n")


class _Binary:
    """A glTF's numbers and the accessors into them."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: np.ndarray, component: int = FLOAT) -> int:
        """Appends an array [k c], c of KINDS; returns its accessor's index."""
        flat = np.ascontiguousarray(array, "<f4" if component == FLOAT else "<u4")
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": flat.nbytes})
        self.data += flat.tobytes()  # four bytes a number: aligned
        told = {"bufferView": len(self.views) - 1, "componentType": component, "count": len(flat)}
        bounds = {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}  # viewers want them
        self.accessors.append(told | bounds | {"type": KINDS[flat.shape[1]]})
        return len(self.accessors) - 1


def _gltf(path: Path, surface: surfaces.Surface, fps: float) -> Path:
    binary, n = _Binary(), surface.frames
    still = surface.vertices if surface.poses is not None else surface.vertices[0]
    primitive: dict[str, Any] = {
        "attributes": {"POSITION": binary.add(still)},
        "indices": binary.add(surface.faces.reshape(-1, 1), UINT),
    }
    mesh: dict[str, Any] = {"name": surface.name, "primitives": [primitive]}
    values: dict[str, np.ndarray] = {}
    if surface.poses is not None:
        turns = transform.Rotation.from_matrix(surface.poses[:, :3, :3]).as_quat()
        for i in range(1, n):  # of q and -q the one on the way
            turns[i] *= 1.0 if turns[i] @ turns[i - 1] >= 0 else -1.0
        values = {"translation": surface.poses[:, :3, 3], "rotation": turns}
    elif n > 1:
        moves = [binary.add(vertices - still) for vertices in surface.vertices[1:]]
        primitive["targets"] = [{"POSITION": move} for move in moves]
        mesh["weights"] = [0.0] * len(moves)
        values = {"weights": np.eye(n)[:, 1:].reshape(-1, 1)}
    times = binary.add(np.arange(n)[:, None] / fps)
    animation: dict[str, list] = {"channels": [], "samplers": []}
    for way, keys in values.items():
        target = {"node": 1, "path": way}
        animation["channels"].append({"sampler": len(animation["samplers"]), "target": target})
        animation["samplers"].append({"input": times, "output": binary.add(keys)})
    content = {
        "asset": {"version": "2.0", "generator": "syncmv4d_jax"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"rotation": Z_UP, "children": [1]}, {"name": surface.name, "mesh": 0}],
        "meshes": [mesh],
        "bufferViews": binary.views,
        "accessors": binary.accessors,
        "buffers": [{"byteLength": len(binary.data)}],
    } | ({"animations": [animation]} if values else {})
    text = json.dumps(content, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + len(binary.data)
    with disk.whole(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, size))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(binary.data), b"BIN\0") + bytes(binary.data))
    return path
