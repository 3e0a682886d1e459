"""SyncMV4D at tiny numbers, and a batch for it."""

import jax.numpy as jnp
import numpy as np

from configs import taco
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.tasks import syncmv4d

B, V, N, H, W, K, L = 1, 3, 5, 32, 48, 32, 6


def make(**changes):
    config = taco.get_config("debug")
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config.task[section] if section else config.task)[name] = value
    return syncmv4d.make(config)


def make_batch(seed=0):
    """Points of a moving ball seen by three cameras around it, with its splatted pseudo videos."""
    rng = np.random.default_rng(seed)
    centre = np.array([0.2, 0.9, 0.4], np.float32)
    shell = rng.normal(size=(K, 3))
    shell = 0.08 * shell / np.linalg.norm(shell, axis=1, keepdims=True)
    path = np.linspace(0, 0.05, N)[:, None, None] * np.array([1.0, 0, 0])
    tracks = np.asarray(centre + shell[None] + path, np.float32)
    eyes = centre + np.array([[0.6, 0.8, 0.5], [0, 1.0, 0.6], [-0.6, 0.8, 0.5]], np.float32)
    up = np.broadcast_to(np.array([0, 0, 1.0], np.float32), eyes.shape)
    extrinsics = cameras.look_at(eyes, np.broadcast_to(centre, eyes.shape), up).astype(np.float32)
    intrinsics = np.broadcast_to(np.array([[90, 0, 23.5], [0, 90, 15.5], [0, 0, 1]]), (V, 3, 3))
    intrinsics = np.asarray(intrinsics, np.float32)
    pixels, depth = cameras.project(np.broadcast_to(tracks, (V, N, K, 3)), intrinsics, extrinsics)
    video = rng.integers(0, 255, (V, N, H, W, 3), np.uint8)
    batch = {
        "video": video,
        "motion": video // 2,
        "text": rng.normal(size=(L, 32)).astype(np.float32),
        "text_lengths": np.int32(4),
        "null_text": np.zeros((1, 32), np.float32),
        "null_text_lengths": np.int32(1),
        "tracks": tracks,
        "visibility": np.ones((V, N, K), bool),
        "anchors": np.asarray(pixels[:, 0], np.float32),
        "anchor_valid": np.ones((V, K), bool),
        "intrinsics": intrinsics,
        "extrinsics": extrinsics[:, None],
        "scale": np.stack([depth.min((1, 2)), depth.max((1, 2))], -1).astype(np.float32),
        "frame_valid": np.ones((N,), bool),
        "latent_valid": np.ones((2,), bool),
        "view_index": np.arange(V, dtype=np.int32),
    }
    return {key: jnp.asarray(value)[None] for key, value in batch.items()}
