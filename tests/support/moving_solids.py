"""What a task that follows meshes is given, of the tiny recording's solids, and one with depth."""

import io
import json
import zipfile

import mesh_files
import numpy as np
import tiny
import views
from PIL import Image

SIZE = (32, 48)  # of the picture with depth


def write(folder, frames, camera="front"):
    """Writes objs/ of moving solids, front.png of their first frame and cameras.json."""
    motion, first = tiny.poses(frames), []
    for name, (vertices, faces) in tiny.solids().items():
        turn, shift = motion[name][:, :3, :3], motion[name][:, None, :3, 3]
        moved = np.einsum("nij,pj->npi", turn, vertices) + shift
        mesh_files.write_sequence(folder / "objs", name, moved, faces)
        first.append((moved[0], faces))
    lens, pose = tiny.rig(2)["cam0"]
    Image.fromarray(tiny.draw(first, lens, pose)).save(folder / "front.png")
    own = {"K": lens.ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
           "T": pose[:, 3].tolist(), "imgSize": tiny.SIZE[::-1]}  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({camera: own}))


def zipped(*rows):
    """A .zip of (name, content), as bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in rows:
            made.writestr(name, data)
    return file.getvalue()


def archive(folder, prefix=""):
    """A .zip of the files of a folder, as bytes; prefix: of their names in it."""
    return zipped(*((prefix + path.name, path.read_bytes()) for path in sorted(folder.iterdir())))


def npz(**arrays):
    """An .npz, as bytes."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def write_deep(folder, size=SIZE):
    """Writes one.png and its depth one.npz; returns (camera, [h w 3] uint8)."""
    camera, _, colours = views.scene(1, size)
    Image.fromarray(colours).save(folder / "one.png")
    np.savez(folder / "one.npz", depth=camera.depth, intrinsics=camera.intrinsics)
    return camera, colours
