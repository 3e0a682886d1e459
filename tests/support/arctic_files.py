"""A sequence in ARCTIC's folders: synthetic hands, a box with a lid, eight cameras, an image."""

import json

import numpy as np
import tiny
import trimesh
from PIL import Image
from scipy.spatial.transform import Rotation

from syncmv4d_jax.data.scenes import hand

N, OFFSET = 7, 3
NAME = "box_grab_01"


def box():
    """(vertices [p 3] millimetres, faces, of the lid [p] bool): two blocks that touch at y = 0."""
    lid = trimesh.creation.box(bounds=[[-60, 0, -40], [60, 30, 40]])
    bottom = trimesh.creation.box(bounds=[[-60, -50, -40], [60, 0, 40]])
    vertices = np.concatenate([lid.vertices, bottom.vertices])
    between = [[0, 8, 9], [1, 9, 8]]  # what joins the parts in ARCTIC's meshes
    faces = np.concatenate([lid.faces, bottom.faces + 8, between])
    return vertices, faces, np.arange(16) < 8


def motion(seed=0):
    """{left, right: {...}} and [n 7], as the files hold them."""
    rng = np.random.default_rng(seed)
    hands = {}
    for side, x in (("left", -0.1), ("right", 0.1)):
        hands[side] = {
            "rot": 0.3 * rng.normal(size=(N, 3)),
            "pose": 0.2 * rng.normal(size=(N, 45)),
            "trans": [x, 0.0, 0.9] + 0.02 * rng.normal(size=(N, 3)),
            "shape": 0.5 * rng.normal(size=10),
            "fitting_err": np.zeros(N),
        }
    time = np.arange(N)[:, None] / N
    placed = [0.8 * time, 0.5 * rng.normal(size=(1, 3)) * time, [[10.0, -20.0, 900.0]] + 30 * time]
    return hands, np.concatenate(placed, axis=1)


def write(root, *, top=0):
    """Writes the sequence, and MANO's stand-in into root/mano; top: the lid's number in parts.json.

    Returns the path of its .mano.npy.
    """
    hands, placed = motion()
    folder = root / "raw_seqs" / "s01"
    folder.mkdir(parents=True)
    np.save(folder / f"{NAME}.mano.npy", hands, allow_pickle=True)
    np.save(folder / f"{NAME}.object.npy", placed)
    vertices, faces, lid = box()
    template = root / "meta" / "object_vtemplates" / "box"
    template.mkdir(parents=True)
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in vertices]
    lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
    (template / "mesh.obj").write_text("\n".join(lines))
    parts = np.where(lid, top, 1 - top)
    (template / "parts.json").write_text(json.dumps(parts.tolist()))
    points = {"keypoints": (vertices[lid] * 0.98 + [0, 1, 0]).tolist()}
    (template / "top_keypoints_300.json").write_text(json.dumps(points))
    (root / "meta" / "misc.json").write_text(json.dumps({"s01": rig()}))
    hand.write(root / "mano")
    image = root / "images" / "s01" / NAME / "2" / f"{OFFSET + 2:05d}.jpg"
    image.parent.mkdir(parents=True)
    Image.new("RGB", tiny.SIZE[::-1], (90, 80, 70)).save(image)
    return folder / f"{NAME}.mano.npy"


def rig():
    """The subject's entry of misc.json: all eight see the box from different sides."""
    cameras = []
    for i in range(8):
        angle = 2 * np.pi * i / 8
        turn = Rotation.from_euler("zx", [np.degrees(angle), 90], degrees=True).as_matrix()
        rows = np.array([[1, 0, 0], [0, -1, 0], [0, 0, -1.0]]) @ turn.T
        eye = np.array([0.0, 0.0, 0.9]) - 1.5 * rows[2]
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rows, -rows @ eye
        cameras.append(pose.tolist())
    lens = [[300.0, 0, 79.5], [0, 300.0, 59.5], [0, 0, 1]]
    sizes = [[2800, 2000], *[list(tiny.SIZE[::-1])] * 8]
    return {"world2cam": cameras, "intris_mat": [lens] * 8, "image_size": sizes,
            "ioi_offset": OFFSET, "gender": "neutral"}  # fmt: skip
