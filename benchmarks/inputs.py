"""Batches that a training step can digest, of any size, without data on disk."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.geometry import cameras


def batch_of(task: Any, batch: int = 1) -> dict[str, jax.Array]:
    """Returns a random batch of schema.BATCH with cached latents; cameras see points at 1.5 m."""
    rng, own = np.random.default_rng(0), next(iter(task.programs().values()))
    (shapes,), made = own.inputs(batch), {}
    for name, x in shapes.items():
        value = rng.standard_normal(x.shape)
        made[name] = jnp.asarray(value if x.dtype == jnp.float32 else np.ones(x.shape), x.dtype)
    height, width = task.clip.size
    eye = jnp.broadcast_to(jnp.eye(3, 4), made["extrinsics"].shape)
    focal = jnp.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    made |= {"intrinsics": jnp.broadcast_to(focal, made["intrinsics"].shape)}
    made["extrinsics"] = eye.at[..., 0, 3].set(jnp.arange(eye.shape[1])[None, :, None] * 0.1)
    made["tracks"] = 0.2 * made["tracks"] + jnp.array([0, 0, 1.5])[None, None, None]
    made["anchors"] = jnp.asarray(rng.uniform(0, height, made["anchors"].shape), jnp.float32)
    made["null_text"] = jnp.zeros_like(made["text"])  # of one length, as data_prep makes them
    made["scale"] = jnp.broadcast_to(jnp.array([1.2, 1.8]), made["scale"].shape)
    return made


def rig_of(size: tuple[int, int], views: int) -> dict[str, dict[str, list[float]]]:
    """Returns cameras in the form of cameras.json, side by side, that look at the world's origin.

    Args:
      size: (height, width) of their images.
    """
    height, width = size
    lens, rig = [width, 0, (width - 1) / 2, 0, width, (height - 1) / 2, 0, 0, 1], {}
    for view in range(views):
        eye = np.array([0.3 * view - 0.15 * (views - 1), -1, 0.6])
        pose = cameras.look_at(eye, np.zeros(3), np.array([0, 0, 1.0]))
        turn, shift = pose[:, :3].ravel().tolist(), pose[:, 3].tolist()
        rig[f"view_{view}"] = {"K": lens, "R": turn, "T": shift, "imgSize": [width, height]}
    return rig


def weights_of(task: Any) -> dict[str, Any]:
    """Returns small random numbers for all parts of a task, without compiling its `init`."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(task.init, jax.random.key(0))
    make = lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32), x.dtype)  # noqa: E731
    return jax.tree.map(make, shapes)
