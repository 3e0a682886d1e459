"""Tracks as an animated glTF 2.0 file (.glb) that Blender and web viewers open.

Every point is a small octahedron of one mesh. Frame 0 is the mesh, every later frame a morph
target that moves the octahedra; at the time of frame n the weight of target n is 1 and all others
0, linear between frames, so that the points move along straight lines from frame to frame. Cameras
are glTF cameras. glTF has y up: one node above all turns the world's z up into it (Blender turns it
back), and a camera looks along its -z with y up, where ours looks along z with y down. Its lens has
no principal point: where ours is not the image's middle (a crop), the camera is turned to look
through the middle, which keeps what is seen, not its perspective. USD keeps both (usd.py).
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import einops
import numpy as np
from scipy.spatial import transform

from syncmv4d_jax import disk
from syncmv4d_jax.results import clouds as point_clouds

FLOAT, UINT, UBYTE = 5126, 5125, 5121
VERTICES, INDICES = 34962, 34963  # bufferView targets
CORNERS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
FACES = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4],
                  [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])  # fmt: skip
Z_UP = [-(0.5**0.5), 0.0, 0.0, 0.5**0.5]  # quaternion x y z w: (x, y, z) -> (x, z, -y)


class _Buffer:
    """The file's binary part and the accessors into it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(
        self, array: np.ndarray, kind: str, component: int, *, target: int = 0, bounds: bool = False
    ) -> int:
        """Appends an array and returns its accessor's index; `bounds` writes min and max."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": component,
            "count": len(array),
            "type": kind,
        }
        if component == UBYTE:
            accessor["normalized"] = True
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.accessors.append(accessor)
        self.data += array.tobytes()
        self.data += b"\0" * (-len(self.data) % 4)
        return len(self.accessors) - 1


def write(
    path: str | Path,
    clouds: Mapping[str, np.ndarray],
    colours: np.ndarray,
    *,
    fps: float,
    cameras: Mapping[str, Any] | None = None,
    radius: float = 0.003,
) -> None:
    """Writes point clouds over time.

    Args:
      clouds: name -> tracks [n k 3], metres, world frame (z up); a point that is not finite stays
        where it was last seen, one that never is finite is left out.
      colours: [k 3] uint8 sRGB.
      fps: frames a second.
      cameras: intrinsics [v 3 3] pixels, extrinsics [v 3 4] world to camera, [v n 3 4] of cameras
        that move, size (h, w), and perhaps names of the views; or None.
      radius: of a drawn point, metres.

    Raises:
      ValueError: no cloud has a finite point, or colours do not fit.
    """
    buffer = _Buffer()
    content: dict[str, Any] = {"asset": {"version": "2.0", "generator": "syncmv4d_jax"}}
    content |= {"scene": 0, "meshes": [], "materials": [_material()], "animations": []}
    nodes: list[dict[str, Any]] = [{"name": "world", "rotation": Z_UP, "children": []}]
    channels: list[dict[str, Any]] = []
    samplers: list[dict[str, Any]] = []
    for name, points, paint in point_clouds.drawable(path, clouds, colours):
        nodes.append({"name": name, "mesh": len(content["meshes"])})
        content["meshes"].append(_mesh(buffer, name, points, paint, radius))
        if len(points) > 1:
            channels.append({"sampler": len(samplers),
                             "target": {"node": len(nodes) - 1, "path": "weights"}})  # fmt: skip
            samplers.append(_sampler(buffer, len(points), fps))
    if cameras is not None:
        names = point_clouds.views(len(cameras["intrinsics"]), cameras.get("names", ()))
        content["cameras"] = [_camera(k, cameras["size"]) for k in cameras["intrinsics"]]
        rig = zip(cameras["intrinsics"], cameras["extrinsics"], strict=True)
        for v, (k, pose) in enumerate(rig):
            every = [
                _place(k, x, cameras["size"]) for x in (pose if np.ndim(pose) == 3 else [pose])
            ]
            node: dict[str, Any] = {"name": names[v], "camera": v}
            if len(every) > 1:
                node |= _moving(buffer, every, fps, len(nodes), channels, samplers)
            else:
                node["matrix"] = every[0].T.reshape(-1).tolist()
            nodes.append(node)
    nodes[0]["children"] = list(range(1, len(nodes)))
    content |= {"nodes": nodes, "scenes": [{"nodes": [0]}]}
    if channels:
        content["animations"] = [{"name": "frames", "channels": channels, "samplers": samplers}]
    else:
        content.pop("animations")
    _save(Path(path), content, buffer)


def _mesh(
    buffer: _Buffer, name: str, points: np.ndarray, paint: np.ndarray, radius: float
) -> dict[str, Any]:
    """Octahedra of points [n k 3], metres, in linear colours [k 3]."""
    count = points.shape[1]
    corners = einops.rearrange(points[0][:, None] + radius * CORNERS, "k c x -> (k c) x")
    faces = einops.rearrange(np.arange(count)[:, None, None] * 6 + FACES, "k f c -> (k f c)")
    opaque = np.concatenate([paint, np.ones((count, 1))], -1)
    paint = np.repeat(np.round(255 * opaque).astype(np.uint8), 6, axis=0)

    def vectors(x):
        return buffer.add(x.astype("<f4"), "VEC3", FLOAT, target=VERTICES, bounds=True)

    primitive = {
        "attributes": {
            "POSITION": vectors(corners),
            "COLOR_0": buffer.add(paint, "VEC4", UBYTE, target=VERTICES),
        },
        "indices": buffer.add(faces.astype("<u4"), "SCALAR", UINT, target=INDICES),
        "material": 0,
        "mode": 4,
    }
    mesh: dict[str, Any] = {"name": name, "primitives": [primitive]}
    if len(points) > 1:
        moves = np.repeat(points[1:] - points[:1], 6, axis=1)
        primitive["targets"] = [{"POSITION": vectors(move)} for move in moves]
        mesh["weights"] = [0.0] * len(moves)
        mesh["extras"] = {"targetNames": [f"frame_{n + 1}" for n in range(len(moves))]}
    return mesh


def _sampler(buffer: _Buffer, frames: int, fps: float) -> dict[str, Any]:
    """Weights [n, n - 1] over time: target i is all there at frame i + 1."""
    times = (np.arange(frames) / fps).astype("<f4")
    weights = np.eye(frames, dtype="<f4")[:, 1:].reshape(-1)
    return {
        "input": buffer.add(times, "SCALAR", FLOAT, bounds=True),
        "output": buffer.add(weights, "SCALAR", FLOAT),
        "interpolation": "LINEAR",
    }


def _material() -> dict[str, Any]:
    surface = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 1}
    return {"name": "points", "pbrMetallicRoughness": surface}


def _rays(intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Directions [3 3] through the middles of the image, of its upper and of its lower edge."""
    height, width = size
    x, edges = width / 2 - 0.5, (height / 2 - 0.5, -0.5, height - 0.5)
    rays = np.array([[x, y, 1.0] for y in edges]) @ np.linalg.inv(np.float64(intrinsics)).T
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def _camera(intrinsics: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """A perspective camera: the angle between the image's upper and lower edge."""
    _, upper, lower = _rays(intrinsics, size)
    angle = float(np.arccos(np.clip(upper @ lower, -1, 1)))
    lens = {"yfov": angle, "aspectRatio": size[1] / size[0], "znear": 0.01, "zfar": 100.0}
    return {"type": "perspective", "perspective": lens}


def _moving(
    buffer: _Buffer,
    places: list[np.ndarray],
    fps: float,
    node: int,
    channels: list[dict[str, Any]],
    samplers: list[dict[str, Any]],
) -> dict[str, Any]:
    """Where a camera is at the first of its places [4 4]; adds its way to the animation."""
    turns = transform.Rotation.from_matrix(np.stack([x[:3, :3] for x in places])).as_quat()
    for n in range(1, len(turns)):  # of q and -q the one on the way
        turns[n] *= 1.0 if turns[n] @ turns[n - 1] >= 0 else -1.0
    shifts = np.stack([x[:3, 3] for x in places])
    times = buffer.add((np.arange(len(places)) / fps).astype("<f4"), "SCALAR", FLOAT, bounds=True)
    for path, kind, values in (("rotation", "VEC4", turns), ("translation", "VEC3", shifts)):
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        output = buffer.add(values.astype("<f4"), kind, FLOAT)
        samplers.append({"input": times, "output": output, "interpolation": "LINEAR"})
    return {"rotation": turns[0].tolist(), "translation": shifts[0].tolist()}


def _place(intrinsics: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Camera to world [4 4], turned to look through the image's middle."""
    pose = np.asarray(pose, np.float64)
    middle, upper, lower = _rays(intrinsics, size)
    down = lower - upper
    down = down - (down @ middle) * middle
    down /= np.linalg.norm(down)
    axes = np.stack([np.cross(down, middle), -down, -middle], -1)  # x right, y up, z back
    matrix = np.eye(4)
    matrix[:3, :3] = pose[:, :3].T @ axes
    matrix[:3, 3] = -pose[:, :3].T @ pose[:, 3]
    return matrix


def _save(path: Path, content: dict[str, Any], buffer: _Buffer) -> None:
    content |= {
        "buffers": [{"byteLength": len(buffer.data)}],
        "bufferViews": buffer.views,
        "accessors": buffer.accessors,
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(buffer.data)
    with disk.whole(path) as partial, partial.open("wb") as file:
        file.write(struct.pack("<III", 0x46546C67, 2, total))
        file.write(struct.pack("<II", len(text), 0x4E4F534A) + text)
        file.write(struct.pack("<II", len(buffer.data), 0x004E4942) + bytes(buffer.data))
