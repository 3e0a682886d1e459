"""Clips of one camera as trackers and depth networks leave them, of a scene that is known."""

import json
import pickle
import shutil

import numpy as np
import tiny
from PIL import Image

from syncmv4d_jax.data import raycast
from syncmv4d_jax.geometry import cameras

FRAMES, SMALL, SCALE = 18, (63, 98), 0.4  # of the depth; VGGT's unit in metres
WALL = (np.array([[-4.0, -3, -3], [4, -3, -3], [4, -3, 3], [-4, -3, 3]]),
        np.array([[0, 1, 2], [0, 2, 3]]))  # fmt: skip


def posed(n):
    motion = tiny.poses(FRAMES)
    return [
        (v @ motion[name][n, :3, :3].T + motion[name][n, :3, 3], faces)
        for name, (v, faces) in tiny.solids().items()
    ]


def make(folder):
    """Writes a clip with all but tracks; returns folder, K, pose, tracks [n k 3] of pixels."""
    (folder / "masks").mkdir(parents=True)
    k, pose = tiny.rig(3)["cam0"]
    small = cameras.crop_resize_intrinsics(k, (0, 0, 160, 120), SMALL)
    depth, images = [], []
    for n in range(FRAMES):
        meshes = posed(n)
        scene = raycast.Scene([*meshes, WALL])
        whole = scene.cast(k, pose, tiny.SIZE)
        ids = np.where((whole.mesh >= 0) & (whole.mesh < 2), 1, 2) * (whole.mesh >= 0)
        ids[whole.mesh == 4] = 0
        picture = Image.fromarray(ids.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        picture.save(folder / f"masks/{n:05d}.png")
        depth.append(scene.cast(small, pose, SMALL).depth / SCALE)
        images.append(tiny.draw(meshes, k, pose))
    tiny.write_video(folder / "video.mp4", images)
    own = pose.copy()
    own[:, 3] /= SCALE
    noise = 1e-5 * np.random.default_rng(0).normal(size=(FRAMES, 3, 4))
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    np.savez(
        folder / "vggt.npz", depth=np.stack(depth)[..., None].astype(np.float32),
        depth_conf=np.ones((FRAMES, *SMALL)), extrinsic=own + noise,
        intrinsic=np.repeat((small + half)[None], FRAMES, 0), world_points=np.zeros(1),
    )  # fmt: skip
    told = {"fps": 30, "text": "Stir.", "metric": False, "static_camera": True,
            "labels": {"1": "right", "2": "object"}}  # fmt: skip
    (folder / "clip.json").write_text(json.dumps(told))
    first = raycast.Scene(posed(0))
    y, x = np.mgrid[8:112:4, 8:152:4]
    pixels = np.stack([x.ravel(), y.ravel()], -1).astype(np.float32)
    hits = first.cast_pixels(pixels, k, pose)
    met = hits.mask
    tracks = []
    for n in range(FRAMES):
        meshes = posed(n)
        corners = np.stack([meshes[m][0][meshes[m][1][f]] for m, f in
                            zip(hits.mesh[met], hits.face[met], strict=True)])  # fmt: skip
        tracks.append(np.einsum("kic,ki->kc", corners, hits.barycentric[met]))
    return folder, k, pose, np.stack(tracks)


def write(form, truth, target):
    """A copy of the clip with tracks in one of three forms, each of a scale of its own."""
    folder, k, pose, world = truth
    shutil.copytree(folder, target)
    pixels, depth = (np.stack(x) for x in zip(*[cameras.project(w, k, pose) for w in world],
                                              strict=True))  # fmt: skip
    seen = np.ones(depth.shape, bool)
    if form == "SpatialTracker":
        given = np.concatenate([pixels, 3 * depth[..., None]], -1)
        np.savez(target / "tracks.npz", pred_tracks=given, pred_visibility=seen)
    elif form == "SpaTrackerV2":
        own = np.eye(4)
        own[:3] = pose
        own[:3, 3] *= 2
        small = cameras.crop_resize_intrinsics(k, (0, 0, 160, 120), (60, 80))
        np.savez(
            target / "tracks.npz", coords=2 * world, extrinsics=np.repeat(own[None], FRAMES, 0),
            intrinsics=np.repeat(small[None], FRAMES, 0), visibs=seen[..., None],
            video=np.zeros((FRAMES, 3, 60, 80), np.uint8), depths=np.zeros(1),
        )  # fmt: skip
    else:
        local = np.stack([cameras.to_camera(w, pose) for w in world])
        found = {"coords": 5 * local, "colors": np.zeros((local.shape[1], 3)), "vis": seen}
        (target / "dense_3d_track.pkl").write_bytes(pickle.dumps(found))
    return target
