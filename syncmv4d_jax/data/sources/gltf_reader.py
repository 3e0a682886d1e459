"""Meshes over time of a glTF 2.0 file: rigid, skinned, morphing, as its animation moves them.

Read are .glb, and .gltf with its buffers beside it or inside. Of an animation: channels of
translation, rotation, scale and weights, LINEAR, STEP and CUBICSPLINE. With a key's in-tangent a,
value p, out-tangent b and d = t1 - t0, s = (t - t0) / d, a cubic spline is

    p(t) = (2 s^3 - 3 s^2 + 1) p0 + d (s^3 - 2 s^2 + s) b0 + (3 s^2 - 2 s^3) p1 + d (s^3 - s^2) a1

then normalised where it is a rotation. A vertex is G v, with G the product of its node's and all
parents' matrices, or with a skin sum_j w_j G_j B_j v, B the inverse bind matrices; morph targets
are added before. Compressed geometry (Draco, meshopt) is refused.
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.data import reading

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32,
              5126: np.float32}  # fmt: skip
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
COMPRESSED = ("KHR_draco_mesh_compression", "EXT_meshopt_compression")
PATHS = ("translation", "rotation", "scale", "weights")


class Moving(NamedTuple):
    """faces [q 3]; vertices [n p 3], in the file's unit and axes (y up)."""

    faces: np.ndarray
    vertices: np.ndarray


class Channel(NamedTuple):
    """Keys of one path of one node: times [k], values [k ...] (spline: [k 3 ...])."""

    times: np.ndarray
    values: np.ndarray
    kind: str


def read(path: str | Path, fps: float) -> dict[str, Moving]:
    """Returns {name of a node: its mesh at i / fps}, over the length of the first animation.

    Raises:
      ValueError: not such a file, or geometry that is compressed, without triangles, or damaged.
    """
    path = Path(path)
    with reading.parsing(path, "glTF"):
        return _File(path).moving(fps)


class _File:
    def __init__(self, path: Path):
        self.path = path
        data = path.read_bytes()
        self.inside = b""
        if data[:4] == b"glTF":
            at, parts = 12, dict[bytes, bytes]()
            while at < len(data):
                size, kind = struct.unpack_from("<I4s", data, at)
                parts.setdefault(kind, data[at + 8 : at + 8 + size])
                at += 8 + size
            data, self.inside = parts[b"JSON"], parts.get(b"BIN\0", b"")
        self.json: dict[str, Any] = json.loads(data)
        used = [x for x in COMPRESSED if x in self.json.get("extensionsRequired", ())]
        if used:
            raise ValueError(
                f"{path}: its geometry is compressed ({', '.join(used)}); export it without, e.g. "
                "Blender: File, Export, glTF, Data, Compression off"
            )
        self.nodes = self.json.get("nodes", [])
        self.parents = {
            child: i for i, node in enumerate(self.nodes) for child in node.get("children", ())
        }
        self.buffers: dict[int, bytes] = {}
        self.channels = self._channels()

    # Numbers.

    def _buffer(self, index: int) -> bytes:
        if index not in self.buffers:
            uri = self.json["buffers"][index].get("uri")
            if uri is None:
                self.buffers[index] = self.inside
            elif uri.startswith("data:"):
                self.buffers[index] = base64.b64decode(uri.partition(",")[2])
            else:
                self.buffers[index] = self._beside(uri)
        return self.buffers[index]

    def _beside(self, uri: str) -> bytes:
        """A buffer in the file's folder: a file of other people names no other place."""
        folder = self.path.parent.resolve()
        file = (folder / uri).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise ValueError(
                f"{self.path}: its buffer {uri[:60]!r} is not in its folder; export it as .glb, "
                "which has all in one file"
            )
        return file.read_bytes()

    def _view(self, view: int, offset: int, count: int, dtype: Any, width: int) -> np.ndarray:
        told = self.json["bufferViews"][view]
        data = self._buffer(told["buffer"])
        item = np.dtype(dtype).itemsize * width
        step, start = told.get("byteStride", item), told.get("byteOffset", 0) + offset
        if start + step * (count - 1) + item > len(data):
            raise ValueError(f"{self.path}: truncated, buffer {told['buffer']} is too short")
        rows = np.ndarray((count, width), dtype, data, start, (step, np.dtype(dtype).itemsize))
        return rows.copy()

    def accessor(self, index: int) -> np.ndarray:
        """[count width] float64 where normalised or float, else integers."""
        told = self.json["accessors"][index]
        dtype, width = COMPONENTS[told["componentType"]], WIDTHS[told["type"]]
        count = told["count"]
        found = np.zeros((count, width), dtype)
        if "bufferView" in told:
            found = self._view(told["bufferView"], told.get("byteOffset", 0), count, dtype, width)
        if sparse := told.get("sparse"):
            where, what = sparse["indices"], sparse["values"]
            kind = COMPONENTS[where["componentType"]]
            rows = self._view(
                where["bufferView"], where.get("byteOffset", 0), sparse["count"], kind, 1
            )
            found[rows[:, 0]] = self._view(
                what["bufferView"], what.get("byteOffset", 0), sparse["count"], dtype, width
            )
        if told.get("normalized"):
            largest = 2.0 ** (8 * found.itemsize - (found.dtype.kind == "i")) - 1
            return np.maximum(found.astype(np.float64) / largest, -1.0)
        return found.astype(np.float64) if dtype == np.float32 else found

    # Time.

    def _channels(self) -> dict[tuple[int, str], Channel]:
        found: dict[tuple[int, str], Channel] = {}
        for animation in self.json.get("animations", ())[:1]:
            for channel in animation["channels"]:
                target = channel["target"]
                if "node" not in target or target["path"] not in PATHS:
                    continue
                sampler = animation["samplers"][channel["sampler"]]
                times = self.accessor(sampler["input"])[:, 0]
                values = self.accessor(sampler["output"])
                kind = sampler.get("interpolation", "LINEAR")
                keys = (len(times), 3) if kind == "CUBICSPLINE" else (len(times),)
                values = values.reshape(*keys, -1)
                found[target["node"], target["path"]] = Channel(times, values, kind)
        return found

    def times(self, fps: float) -> np.ndarray:
        """Seconds of the frames, from the animation's first key to its last."""
        if not self.channels:
            return np.zeros(1)
        begin = min(c.times[0] for c in self.channels.values())
        end = max(c.times[-1] for c in self.channels.values())
        return begin + np.arange(int((end - begin) * fps + 1e-6) + 1) / fps

    def _path(self, node: int, path: str, default: np.ndarray, times: np.ndarray) -> np.ndarray:
        """[n ...] of a path of a node, of its animation or as it stands."""
        channel = self.channels.get((node, path))
        if channel is not None:
            return sampled(channel, times, turn=path == "rotation")
        own = np.asarray(self.nodes[node].get(path, default), np.float64)
        return np.broadcast_to(own, (len(times), *own.shape))

    def _local(self, node: int, times: np.ndarray) -> np.ndarray:
        """[n 4 4]."""
        if "matrix" in self.nodes[node]:
            own = np.asarray(self.nodes[node]["matrix"], np.float64).reshape(4, 4).T
            return np.broadcast_to(own, (len(times), 4, 4))
        shift = self._path(node, "translation", np.zeros(3), times)
        turn = self._path(node, "rotation", np.array([0.0, 0, 0, 1]), times)
        scale = self._path(node, "scale", np.ones(3), times)
        found = np.tile(np.eye(4), (len(times), 1, 1))
        found[:, :3, :3] = rotations(turn) * scale[:, None, :]
        found[:, :3, 3] = shift
        return found

    def world(self, node: int, times: np.ndarray) -> np.ndarray:
        """[n 4 4]: node to scene."""
        found, above = self._local(node, times), {node}
        while node in self.parents:
            node = self.parents[node]
            if node in above:
                raise ValueError(f"{self.path}: node {node} hangs below itself")
            above.add(node)
            found = self._local(node, times) @ found
        return found

    # Meshes.

    def moving(self, fps: float) -> dict[str, Moving]:
        """See `read`."""
        times, found = self.times(fps), dict[str, Moving]()
        for index, node in enumerate(self.nodes):
            if "mesh" not in node:
                continue
            mesh = self.json["meshes"][node["mesh"]]
            name = node.get("name") or mesh.get("name") or f"mesh_{index}"
            while name in found:
                name += "_"
            parts = [self._primitive(index, mesh, p, times) for p in mesh["primitives"]]
            starts = np.cumsum([0, *(part.vertices.shape[1] for part in parts)])
            faces = [part.faces + start for part, start in zip(parts, starts[:-1], strict=True)]
            vertices = np.concatenate([part.vertices for part in parts], 1)
            found[name] = Moving(np.concatenate(faces), vertices)
        if not found:
            raise ValueError(f"{self.path}: no node has a mesh")
        return found

    def _primitive(self, node: int, mesh: dict, primitive: dict, times: np.ndarray) -> Moving:
        if primitive.get("mode", 4) != 4:
            raise ValueError(
                f"{self.path}: mesh {mesh.get('name', node)!r} is no list of triangles (mode "
                f"{primitive['mode']}); triangulate it on export"
            )
        own = primitive["attributes"]
        still = self.accessor(own["POSITION"]).astype(np.float64)
        faces = np.arange(len(still))
        if "indices" in primitive:
            faces = self.accessor(primitive["indices"])[:, 0].astype(np.int64)
        vertices = np.broadcast_to(still, (len(times), *still.shape))
        if targets := primitive.get("targets"):
            default = np.asarray(mesh.get("weights", np.zeros(len(targets))), np.float64)
            weights = self._path(node, "weights", default, times)
            for i, target in enumerate(targets):
                if "POSITION" in target:
                    moved = self.accessor(target["POSITION"]).astype(np.float64)
                    vertices = vertices + weights[:, i, None, None] * moved
        if "skin" in self.nodes[node]:
            return Moving(faces.reshape(-1, 3), self._skinned(node, own, vertices, times))
        pose = self.world(node, times)
        vertices = np.einsum("nij,npj->npi", pose[:, :3, :3], vertices) + pose[:, None, :3, 3]
        return Moving(faces.reshape(-1, 3), vertices)

    def _skinned(self, node: int, own: dict, vertices: np.ndarray, times: np.ndarray) -> np.ndarray:
        """vertices [n p 3] as the joints carry them; the node's own place does not count."""
        skin = self.json["skins"][self.nodes[node]["skin"]]
        joints = np.stack([self.world(joint, times) for joint in skin["joints"]])  # [j n 4 4]
        if "inverseBindMatrices" in skin:
            bind = self.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
            joints = joints @ bind[:, None]
        sets = sum(name.startswith("JOINTS_") for name in own)
        index = np.concatenate([self.accessor(own[f"JOINTS_{i}"]) for i in range(sets)], 1)
        weight = np.concatenate([self.accessor(own[f"WEIGHTS_{i}"]) for i in range(sets)], 1)
        weight = weight / np.maximum(weight.sum(1, keepdims=True), 1e-12)
        result = np.zeros(vertices.shape)
        for slot in range(index.shape[1]):
            pose = joints[index[:, slot].astype(int)].swapaxes(0, 1)  # [n p 4 4]
            moved = np.einsum("npij,npj->npi", pose[..., :3, :3], vertices) + pose[..., :3, 3]
            result += weight[None, :, slot, None] * moved
        return result


def sampled(channel: Channel, times: np.ndarray, *, turn: bool) -> np.ndarray:
    """Values [n ...] of a channel at `times` [n]; before and after its keys they stay.

    Args:
      turn: they are quaternions x y z w: linear is along the shorter great circle.
    """
    keys, values = channel.times, channel.values
    if len(keys) == 1:
        one = values[:, 1] if channel.kind == "CUBICSPLINE" else values
        return np.broadcast_to(one[0], (len(times), *one.shape[1:]))
    clipped = np.clip(times, keys[0], keys[-1])
    at = np.clip(np.searchsorted(keys, clipped, side="right") - 1, 0, len(keys) - 2)
    width = keys[at + 1] - keys[at]
    s = ((clipped - keys[at]) / np.where(width > 0, width, 1.0))[:, None]
    if channel.kind == "STEP":
        last = (clipped >= keys[-1])[:, None]
        return np.where(last, values[-1], values[at])
    if channel.kind == "CUBICSPLINE":
        d = width[:, None]
        p0, b0, a1, p1 = values[at, 1], values[at, 2], values[at + 1, 0], values[at + 1, 1]
        found = (2 * s**3 - 3 * s**2 + 1) * p0 + d * (s**3 - 2 * s**2 + s) * b0
        found = found + (3 * s**2 - 2 * s**3) * p1 + d * (s**3 - s**2) * a1
        return found / np.linalg.norm(found, axis=1, keepdims=True) if turn else found
    if not turn:
        return (1 - s) * values[at] + s * values[at + 1]
    p, q = values[at], values[at + 1]
    cosine = (p * q).sum(1, keepdims=True)
    q, cosine = np.where(cosine < 0, -q, q), np.abs(cosine)
    angle = np.arccos(np.clip(cosine, -1, 1))
    near = angle < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    a = np.where(near, 1 - s, np.sin((1 - s) * angle) / sine)
    b = np.where(near, s, np.sin(s * angle) / sine)
    found = a * p + b * q
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def rotations(quaternions: np.ndarray) -> np.ndarray:
    """x y z w [n 4] -> [n 3 3]."""
    x, y, z, w = (quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), -1, 0)
