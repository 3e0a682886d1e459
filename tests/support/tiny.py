"""Tiny recordings: four moving solids before six cameras in the plain layout; a HOT3D sample."""

import json

import av
import numpy as np
import trimesh

from syncmv4d_jax.data import raycast
from syncmv4d_jax.data.scenes import hot3d
from syncmv4d_jax.geometry import cameras

SIZE = (120, 160)  # of the videos
SURFACES = {
    "left": (-0.09, 0.0),
    "right": (0.09, 0.0),
    "tool": (0.02, 0.06),
    "target": (0.0, -0.07),
}
DOTS = 8  # vertices painted white, of the left hand


def solids():
    """{name: (vertices [p 3] metres, faces)}."""
    result = {}
    for i, name in enumerate(SURFACES):
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.05)
        stretch = np.array([1.0, 1.0, 1.0])
        stretch[i % 3] = 1.4
        result[name] = (np.asarray(mesh.vertices) * stretch, np.asarray(mesh.faces))
    return result


def poses(frames):
    """{name: [n 4 4]}: the solids slide and turn."""
    result, time = {}, np.arange(frames) / 30.0
    for i, (name, (x, y)) in enumerate(SURFACES.items()):
        angle = 0.8 * time * (1 if i % 2 else -1)
        pose = np.tile(np.eye(4), (frames, 1, 1))
        pose[:, 0, 0] = pose[:, 1, 1] = np.cos(angle)
        pose[:, 1, 0] = np.sin(angle)
        pose[:, 0, 1] = -np.sin(angle)
        pose[:, 0, 3] = x + 0.03 * np.sin(2 * time + i)
        pose[:, 1, 3] = y + 0.02 * np.cos(2 * time + i) + 0.01 * i
        pose[:, 2, 3] = 0.08 + 0.02 * np.sin(time + i)
        result[name] = pose
    return result


def rig(views=6):
    """{camera: (K, [R|t])}, from left to right of an actor at y < 0."""
    result = {}
    for i in range(views):
        angle = np.radians(30 + 120 * i / (views - 1))
        eye = np.array([1.2 * np.cos(angle), 1.2 * np.sin(angle), 0.9])
        pose = cameras.look_at(eye, np.array([0.0, 0.0, 0.08]), np.array([0.0, 0.0, 1.0]))
        intrinsics = np.array([[320.0, 0, 79.5], [0, 320.0, 59.5], [0, 0, 1]])
        result[f"cam{i}"] = (intrinsics, pose)
    return result


def dots():
    return np.arange(0, 162, 162 // DOTS)[:DOTS]


def draw(meshes, intrinsics, extrinsics):
    """A frame [h w 3] uint8: shaded solids over grey, white dots on the first."""
    scene = raycast.Scene(meshes)
    hits = scene.cast(intrinsics, extrinsics, SIZE)
    image = np.full((*SIZE, 3), 90, np.float32)
    for i, (_, faces) in enumerate(meshes):
        here = hits.mesh == i
        image[here] = np.array([[200, 60, 40], [40, 160, 60], [50, 70, 200], [150, 120, 60]][i])
        image[here] *= 0.7 + 0.1 * np.sin(faces[hits.face[here], 0])[:, None]
    vertices = meshes[0][0][dots()]
    pixels, depth = cameras.project(vertices, intrinsics, extrinsics)
    seen = depth - scene.cast_pixels(pixels, intrinsics, extrinsics).depth < 0.003
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for u, v in pixels[seen]:
        near = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 2.0)[..., None]
        image = image * (1 - near) + 255 * near
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def write_video(path, frames, fps=30, pixels="yuv444p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {"crf": "6", "preset": "ultrafast", "g": "12"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def way(pose, frames):
    """[n 3 4]: the camera comes nearer, goes aside and turns about its axis."""
    result = np.empty((frames, 3, 4))
    for n in range(frames):
        angle = 0.15 * n / frames
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0],
                         [0, 0, 1]])  # fmt: skip
        result[n] = turn @ pose
        result[n, :, 3] += np.array([0.03, -0.01, -0.15]) * n / frames
    return result


def write(root, name="seq0", *, frames=18, tool="spoon", action="stir", views=6, moving=()):
    """Writes one recording of `frames` at 30 fps, cameras of `moving` move; returns its folder."""
    folder = root / name
    (folder / "surfaces").mkdir(parents=True)
    description = {"fps": 30, "action": action, "tool": tool, "target": "bowl"}
    (folder / "recording.json").write_text(json.dumps(description))
    motion, shapes, calibration = poses(frames), solids(), {}
    for surface, (vertices, faces) in shapes.items():
        np.savez(
            folder / "surfaces" / surface, vertices=vertices, faces=faces, poses=motion[surface]
        )
    names = sorted(shapes)
    for camera, (intrinsics, pose) in rig(views).items():
        every = way(pose, frames) if camera in moving else pose[None]
        calibration[camera] = {
            "K": intrinsics.ravel().tolist(),
            "R": every[:, :, :3].reshape(len(every), 9).squeeze().tolist(),
            "T": every[:, :, 3].squeeze().tolist(),
            "imgSize": [SIZE[1], SIZE[0]],
        }
        images = []
        for n in range(frames):
            posed = [
                (shapes[s][0] @ motion[s][n, :3, :3].T + motion[s][n, :3, 3], shapes[s][1])
                for s in names
            ]
            images.append(draw(posed, intrinsics, every[n % len(every)]))
        write_video(folder / f"{camera}.mp4", images)
    (folder / "cameras.json").write_text(json.dumps(calibration))
    return folder


def write_hot3d(root, *, frames):
    """Writes recording P1 of blobs, each row twice, with one scan (a painted box); returns root."""
    rng = np.random.default_rng(0)
    folder, library = root / "Aria" / "P1", root / "object_library"
    folder.mkdir(parents=True)
    library.mkdir()
    start = 56_000_000_000_000 + np.arange(frames) * 33_300_000
    blob = trimesh.creation.icosphere(subdivisions=2, radius=0.04)
    rows = {"timestamps_ns": np.stack([start, start + 90_000], 1).ravel()}
    for side, y in (("left", -0.15), ("right", 0.1)):
        path = np.array([-0.1, y, -0.3]) + 0.01 * np.arange(frames)[:, None, None]
        rows[f"{side}_hand_verts"] = np.repeat(blob.vertices + path, 2, 0).astype(np.float32)
        rows[f"{side}_hand_faces"] = blob.faces
        landmarks = path + np.array([-0.06, 0, 0]) + 0.01 * rng.normal(size=(1, 20, 3))
        landmarks[:, hot3d.WRIST] = path[:, 0]
        rows[f"{side}_landmarks"] = np.repeat(landmarks, 2, 0)
    for name, y in (("mug_white", 0.0), ("box", 0.2), ("unseen", 0.3)):
        pose = np.eye(4)
        pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # y of the object is up
        pose[:3, 3] = [-0.13, y, -0.43]
        rows[f"obj_{name}_T_world_object"] = np.tile(pose, (2 * frames, 1, 1))
    np.savez(folder / "derived_tracks.npz", **rows)
    box = trimesh.creation.box(extents=[0.05, 0.04, 0.05])
    box.visual.vertex_colors = np.array([200, 30, 30, 255], np.uint8)
    box.export(library / "1.glb")
    ids = {"1": "box", "2": "mug_white", "3": "unseen"}
    names = {key: {"instance_name": name} for key, name in ids.items()}
    (library / "instance.json").write_text(json.dumps(names))
    return root
