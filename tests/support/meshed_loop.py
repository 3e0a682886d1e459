"""The closed loop's task and batch for meshes of eight fake devices."""

import functools

import meshed
import numpy as np

from configs import taco
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.tasks import syncmv4d


def make_task(views, dtype="float32", placement=protocol.LOCAL):
    config = taco.get_config("debug")
    config.task.views = views
    own = {"dtype": dtype}
    config.task.dit = {**config.task.dit, "heads": 12, "residual_dtype": dtype, **own}
    config.task.dpa = {**config.task.dpa, "depth": 1, **own}
    config.task.vae = {**config.task.vae, "conv": "columns", **own}
    config.task.cycle = {**config.task.cycle, "probability": 1.0}
    return syncmv4d.make(config, placement=placement)


def make_batch(task, moving=0.0):
    """Balls seen by cameras around them, that go aside by `moving` metres a frame; latents as a
    cache would hold."""
    rng = np.random.default_rng(0)
    v, f, h, w, c = task.latent_shape
    o, centre = task.options, np.array([0.2, 0.9, 0.4])
    shell = rng.normal(size=(meshed.B, 1, meshed.K, 3))
    shell = 0.08 * shell / np.linalg.norm(shell, axis=-1, keepdims=True)
    way = rng.normal(size=(meshed.B, 1, 1, 3)) * np.linspace(0, 0.05, meshed.N)[:, None, None]
    tracks = centre + shell + way
    extrinsics = meshed.rig(v, centre)[:, :, None]
    if moving:
        extrinsics = np.repeat(extrinsics, meshed.N, 2)
        extrinsics[..., 0, 3] += moving * np.arange(meshed.N, dtype=np.float32)
    high, wide = o.size
    k = np.array([[90, 0, wide / 2 - 0.5], [0, 90, high / 2 - 0.5], [0, 0, 1]], np.float32)
    intrinsics = np.broadcast_to(k, (meshed.B, v, 3, 3))
    seen = np.broadcast_to(tracks[:, None], (meshed.B, v, meshed.N, meshed.K, 3)).astype(np.float32)
    pixels, depth = cameras.project(seen, intrinsics, extrinsics)
    ones = functools.partial(np.ones, dtype=bool)
    text = task.mjd_config
    return {
        "video_latents": rng.normal(size=(meshed.B, v, f, h, w, c)).astype(np.float32),
        "motion_latents": rng.normal(size=(meshed.B, v, f, h, w, c)).astype(np.float32),
        "text": rng.normal(size=(meshed.B, 6, text.text_dim)).astype(np.float32),
        "text_lengths": np.full((meshed.B,), 4, np.int32),
        "null_text": np.zeros((meshed.B, 1, text.text_dim), np.float32),
        "null_text_lengths": np.ones((meshed.B,), np.int32),
        "tracks": tracks.astype(np.float32),
        "visibility": ones((meshed.B, v, meshed.N, meshed.K)),
        "anchors": np.asarray(pixels[:, :, 0], np.float32),
        "anchor_valid": ones((meshed.B, v, meshed.K)),
        "intrinsics": intrinsics,
        "extrinsics": extrinsics,
        "scale": np.stack([depth.min((2, 3)), depth.max((2, 3))], -1).astype(np.float32),
        "frame_valid": ones((meshed.B, meshed.N)),
        "latent_valid": ones((meshed.B, f)),
        "view_index": np.broadcast_to(np.arange(v, dtype=np.int32), (meshed.B, v)),
    }
