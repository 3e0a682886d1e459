"""A small scene that moves, as pixels of one view know it: depth, tracks, colours."""

import numpy as np

from syncmv4d_jax.geometry import cameras, flow_map

SIZE = (24, 36)


def camera(size=SIZE, focal=40.0, eye=(0.1, -1.0, 0.8), target=(0.0, 0.0, 0.1)):
    """(intrinsics [3 3], extrinsics [3 4])."""
    pose = cameras.look_at(np.array(eye), np.array(target), np.array([0.0, 0.0, 1.0]))
    lens = np.array([[focal, 0, size[1] / 2 - 0.3], [0, 1.1 * focal, size[0] / 2], [0, 0, 1]])
    return lens.astype(np.float32), pose.astype(np.float32)


def scene(frames=5, size=SIZE, seed=0, rig=None):
    """(flow_map.Camera, tracks [n h w 3] float32 world, colours [h w 3] uint8).

    A wavy wall; a square of it comes nearer and slides.
    """
    lens, pose = camera(size) if rig is None else rig
    y, x = np.mgrid[: size[0], : size[1]]
    depth = (1.2 + 0.02 * np.sin(x / 7) + 0.01 * np.cos(y / 5)).astype(np.float32)
    block = (abs(x - size[1] / 2) < size[1] / 6) & (abs(y - size[0] / 2) < size[0] / 5)
    depth[block] -= 0.3
    view = flow_map.Camera(depth, lens, pose)
    local = np.repeat(flow_map.start(view)[None], frames, 0)
    step = np.arange(frames)[:, None, None, None] * np.array([0.03, -0.01, -0.02])
    local = local + step * block[..., None]
    tracks = cameras.to_world(local, pose).astype(np.float32)
    colours = np.random.default_rng(seed).integers(1, 255, (*size, 3), np.uint8)
    return view, tracks, colours
