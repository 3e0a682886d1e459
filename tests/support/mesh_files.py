"""Writers of what other programs write: glTF with animation, OBJ sequences, PC2, MDD."""

import json
import struct

import numpy as np

FLOAT, UINT, USHORT = 5126, 5125, 5123
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """A file under construction: `add` an array, then `save` nodes, meshes, animations."""

    def __init__(self):
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, array, component=FLOAT):
        dtype = {FLOAT: "<f4", UINT: "<u4", USHORT: "<u2"}[component]
        flat = np.asarray(array, dtype).reshape(len(array), -1)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": flat.nbytes})
        self.data += flat.tobytes() + b"\0" * (-flat.nbytes % 4)
        self.accessors.append(
            {"bufferView": len(self.views) - 1, "componentType": component, "count": len(flat),
             "type": KINDS[flat.shape[1]]}
        )  # fmt: skip
        return len(self.accessors) - 1

    def mesh(self, name, vertices, faces, **more):
        own = {"POSITION": self.add(vertices), **more.pop("attributes", {})}
        indices = self.add(np.asarray(faces).reshape(-1, 1), UINT)
        return {"name": name, "primitives": [{"attributes": own, "indices": indices, **more}]}

    def save(self, path, **content):
        content |= {"asset": {"version": "2.0"}, "bufferViews": self.views}
        content |= {"accessors": self.accessors, "buffers": [{"byteLength": len(self.data)}]}
        text = json.dumps(content).encode()
        text += b" " * (-len(text) % 4)
        size = 12 + 8 + len(text) + 8 + len(self.data)
        with path.open("wb") as file:
            file.write(struct.pack("<4sII", b"glTF", 2, size))
            file.write(struct.pack("<I4s", len(text), b"JSON") + text)
            file.write(struct.pack("<I4s", len(self.data), b"BIN\0") + bytes(self.data))


def y_up(vertices):
    """(x, y, z), z up -> (x, z, -y)."""
    x, y, z = np.moveaxis(vertices, -1, 0)
    return np.stack([x, z, -y], -1)


def quaternions(rotations):
    """[n 3 3] -> x y z w [n 4], of rotations by less than half a turn."""
    w = np.sqrt(np.maximum(1 + np.trace(rotations, axis1=1, axis2=2), 1e-12)) / 2
    r = rotations
    xyz = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], 1)
    return np.concatenate([xyz / (4 * w[:, None]), w[:, None]], 1)


def write_obj(path, vertices, faces):
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
    path.write_text("\n".join(lines) + "\n")


def write_sequence(folder, name, vertices, faces):
    folder.mkdir(parents=True, exist_ok=True)
    for n, frame in enumerate(vertices):
        write_obj(folder / f"{name}_{n:06d}.obj", frame, faces)


def write_pc2(path, vertices, faces):
    head = struct.pack("<12siiffi", b"POINTCACHE2\0", 1, vertices.shape[1], 0.0, 1.0, len(vertices))
    path.write_bytes(head + vertices.astype("<f4").tobytes())
    write_obj(path.with_suffix(".obj"), vertices[0], faces)


def write_mdd(path, vertices, faces, times):
    head = struct.pack(">ii", *vertices.shape[:2]) + np.asarray(times, ">f4").tobytes()
    path.write_bytes(head + vertices.astype(">f4").tobytes())
    write_obj(path.with_suffix(".obj"), vertices[0], faces)
