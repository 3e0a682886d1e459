"""A HOT3D recording in its own files: a hand of blobs with three joints, objects, a headset."""

import csv
import json

import numpy as np
import tiny
import trimesh
from scipy.spatial.transform import Rotation

JOINTS = 3
PARENTS, BONES = [255, 0, 255], [1, 2, 255]  # the third joint moves nothing, bone 0 nothing moves
ROWS = ("t_wo_x[m]", "t_wo_y[m]", "t_wo_z[m]", "q_wo_w", "q_wo_x", "q_wo_y", "q_wo_z")
TURNS = {  # a world with this axis up, from one with z up
    "z": Rotation.identity(),
    "y": Rotation.from_euler("x", -90, degrees=True),
    "-x": Rotation.from_euler("y", -90, degrees=True),
}


def profile(seed=0):
    """The hand's model, millimetres."""
    rng = np.random.default_rng(seed)
    blob = trimesh.creation.icosphere(subdivisions=1, radius=40.0)
    points, marks = len(blob.vertices), 21
    weights = rng.dirichlet(np.ones(3), points)
    axes = rng.normal(size=(JOINTS, 3))
    landmarks = rng.normal(scale=8.0, size=(marks, 3)) + [60.0, 0, 0]
    landmarks[5] = 0  # the wrist
    return {
        "mesh_vertices": blob.vertices.tolist(),
        "mesh_triangles": blob.faces.astype(float).tolist(),
        "dense_bone_weights": weights.tolist(),
        "landmark_rest_positions": landmarks.tolist(),
        "landmark_rest_bone_indices": rng.integers(0, 3, (marks, 3)).tolist(),
        "landmark_rest_bone_weights": rng.dirichlet(np.ones(3), marks).tolist(),
        "joint_rest_positions": rng.normal(scale=20.0, size=(JOINTS, 3)).tolist(),
        "joint_rotation_axes": (axes / np.linalg.norm(axes, axis=1, keepdims=True)).tolist(),
        "joint_parent": PARENTS,
        "joint_frame_index": BONES,
    }


def write(root, *, frames=3, up="z", headset="Aria"):
    """Writes recording P1 with each row twice, and the scans of `tiny.write_hot3d`; returns it."""
    if not (root / "object_library").is_dir():
        tiny.write_hot3d(root, frames=frames)
        (root / "Aria/P1/derived_tracks.npz").unlink()
    folder, turn = root / headset / "P1", TURNS[up]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    (folder / "umetrack_hand_user_profile.json").write_text(json.dumps({"hand_model": profile()}))
    start = 56_000_000_000_000 + np.arange(frames) * 33_300_000
    times = np.stack([start, start + 90_000], 1).ravel().tolist()
    lines, tables = [], {"dynamic_objects.csv": [], "headset_trajectory.csv": []}
    angles = rng.normal(scale=0.3, size=(2, frames, JOINTS))
    still = {"1": (0.25, 0.0), "2": (-0.15, -0.25), "3": (0.1, 0.3)}
    for i, time in enumerate(times):
        n, hands = i // 2, {}
        for side, y in enumerate((-0.15, 0.1)):
            place = np.array([-0.1 + 0.01 * n, y, -0.3])
            q = turn * Rotation.from_euler("xyz", [0.1 * n, 0.2, side])
            where = {"t_xyz": turn.apply(place).tolist()}
            where["q_wxyz"] = q.as_quat(scalar_first=True).tolist()
            hands[str(side)] = {"wrist_xform": where, "joint_angles": angles[side, n].tolist()}
        lines.append(json.dumps({"timestamp_ns": time, "hand_poses": hands}))
        upright = turn * Rotation.from_euler("x", 90, degrees=True)  # y of an object is up
        bodies = [("dynamic_objects.csv", uid, (x, y, -0.43), upright)
                  for uid, (x, y) in still.items()]  # fmt: skip
        bodies.append(("headset_trajectory.csv", "9", (0.3, 0.05, 0.1), turn))
        for file, uid, place, q in bodies:
            values = [*turn.apply(place), *q.as_quat(scalar_first=True)]
            tables[file].append([uid, time, *(repr(float(x)) for x in values)])
    (folder / "umetrack_hand_pose_trajectory.jsonl").write_text("\n".join(lines))
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([["object_uid", "timestamp[ns]", *ROWS], *rows])
    return folder
