"""HVG-3D at tiny numbers, and a batch for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import syncmv4d_tiny

from configs import hvg3d
from syncmv4d_jax.run import assembly

P = 64


def make(**changes):
    """The `:debug` task; "section__key" changes a section of `config.task`."""
    config = hvg3d.get_config("debug").unlock()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config.task[section] if section else config.task)[name] = value
    return assembly.task(config)


def mjd(**changes):
    """On an MJD of three views."""
    return make(backbone="mjd", views=3, **changes)


def make_batch(task, seed=0):
    """A ball's points that three cameras see, and latents as a cache would hold."""
    v, f, h, w, c = task.network.latent_shape
    rng = np.random.default_rng(seed)
    whole = syncmv4d_tiny.make_batch(seed)
    own = {k: whole[k] for k in ("text", "text_lengths", "null_text", "null_text_lengths")}
    own |= {k: whole[k][:, :v] for k in ("intrinsics", "extrinsics", "view_index")}
    normals = whole["tracks"] - whole["tracks"].mean((1, 2), keepdims=True)
    told = np.zeros((1, syncmv4d_tiny.N, syncmv4d_tiny.K, 13), np.float32)
    told[..., :3] = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    told[..., [6, 8, 10]] = 1
    normal = lambda *s: rng.normal(size=(1, *s)).astype(np.float32)  # noqa: E731
    made = {
        "points": whole["tracks"],
        "point_valid": np.ones(told.shape[:3], bool),
        "point_features": told,
        "point_ids": np.ones(1, bool),
        "metric": np.ones(1, bool),
        "hoi_mask": rng.uniform(size=(1, v, f, h, w, 1)).astype(np.float32),
        "video_latents": normal(v, f, h, w, c),
        "motion_latents": normal(v, f, h, w, c),
        "tracking_latents": normal(v, f, h, w, c),
        "black_latents": normal(f, h, w, c),
        "latent_valid": np.ones((1, f), bool),
    }
    return {key: jnp.asarray(x) for key, x in {**own, **made}.items()}


def drawn(shapes, seed=0, scale=0.1):
    """Random values for a tree of shapes: nothing is compiled, and no map is zero."""
    rng = np.random.default_rng(seed)

    def one(path, leaf):
        around = 1.0 if path[-1].key in ("scale", "gamma") else 0.0
        return (around + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


def parameters(task, seed=0):
    """Parameters whose backbone says something, and an untrained branch."""
    params = drawn(jax.eval_shape(task.init, jax.random.key(0)), seed)
    for own, part in ((params["control"]["blocks"], "zero"), (params["control"], "answer_head")):
        if part in own:
            own[part] = jax.tree.map(np.zeros_like, own[part])
    return jax.tree.map(np.asarray, task.grow(params, frozenset()))


def options(task, **changes):
    """The task with other options."""
    own = dataclasses.replace(task.network.options, **changes)
    return dataclasses.replace(task, network=dataclasses.replace(task.network, options=own))
