"""Configurations by name, and their training step as shapes."""

import importlib

import jax
import jax.numpy as jnp

from syncmv4d_jax import configuration, tree
from syncmv4d_jax.run import assembly, optim, update


def load(name, variant):
    return importlib.import_module(f"configs.{name}").get_config(variant)


def inputs(config):
    """Shapes of a batch (schema.BATCH) of raw video for a configuration."""
    task = config.task
    b, v, n, k = config.train.batch_size, task.get("views", 3), task.get("frames", 5), 32
    k = task.get("points", k)
    (h, w), length = task.get("size", (32, 48)), 7
    width = task.get("dit", {}).get("text_dim", 4096)
    f32, i32 = jnp.float32, jnp.int32
    shapes = {
        "video": ((v, n, h, w, 3), jnp.uint8), "motion": ((v, n, h, w, 3), jnp.uint8),
        "text": ((length, width), f32), "text_lengths": ((), i32),
        "null_text": ((length, width), f32), "null_text_lengths": ((), i32),
        "tracks": ((n, k, 3), f32), "visibility": ((v, n, k), bool),
        "anchors": ((v, k, 2), f32), "anchor_valid": ((v, k), bool),
        "intrinsics": ((v, 3, 3), f32), "extrinsics": ((v, 1, 3, 4), f32), "scale": ((v, 2), f32),
        "frame_valid": ((n,), bool), "latent_valid": (((n - 1) // 4 + 1,), bool),
        "view_index": ((v,), i32),
        "flow": ((v, n, h, w, 3), jnp.float16), "flow_valid": ((v, h, w), bool),
        "depth0": ((v, h, w), f32),
    }  # fmt: skip
    if p := task.get("cloud"):
        shapes |= {
            "points": ((n, p, 3), f32), "point_valid": ((n, p), bool), "metric": ((), bool),
            "point_features": ((n, p, 13), f32), "point_ids": ((), bool),
            "tracking": ((v, n, h, w, 3), jnp.uint8), "mask": ((v, n, h, w), bool),
        }  # fmt: skip
    return {key: jax.ShapeDtypeStruct((b, *s), dtype) for key, (s, dtype) in shapes.items()}


def trace_update(config):
    """Traces a whole training step of every stage; returns the names of its scalars."""
    for _, own in configuration.stages(config):
        task = assembly.task(own)
        settings = assembly.read(own).optim
        params = jax.eval_shape(task.init, jax.random.key(0))
        trainable, frozen = tree.split(params, task.trainable)
        state = jax.eval_shape(lambda p, s=settings: optim.init(s, p), trainable)
        step = update.make_update(task, settings)
        state, scalars = jax.eval_shape(step, state, frozen, inputs(own), jax.random.key(0))
    return set(scalars)
