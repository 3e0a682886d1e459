"""Configurations of tiny networks with random weights, which nothing was compiled for."""

import jax
import numpy as np

from configs import hvg3d, strag, vism
from syncmv4d_jax.run import assembly, embedded
from syncmv4d_jax.weights import exports


def drawn(config, path, seed):
    """Random weights of a configuration's task in one file; the configuration reads them there.

    Nothing is compiled for them, and no map is zero.
    """
    rng = np.random.default_rng(seed)

    def one(way, leaf):
        around = 1.0 if way[-1].key in ("scale", "gamma", "std") else 0.0
        return (around + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(assembly.task(config).init, jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(one, shapes)
    said = {"config": config.to_json_best_effort()}
    exports.write(params, path, dtype="float32", metadata=said)
    for part in params:
        config.weights[part] = str(path)
    return config


def plain(found):
    """A configuration that one may change, of two steps."""
    config = found.copy_and_resolve_references().unlock()
    config.task.sample_steps, config.task.guidance = 2, 1.0
    config.stages, config.data.name = (), "taco"
    return config


def with_text(config, folder):
    embedded.text_encoder(folder, dim=config.task.dit.text_dim, layers=1, seed=0)
    config.text.weights, config.text.max_length = str(folder), config.task.dit.text_len
    return config


def followed(folder):
    """A configuration that follows meshes, with its weights and text encoder in a folder."""
    config = with_text(plain(hvg3d.get_config("debug")), folder / "text")
    return drawn(config, folder / "weights.safetensors", 0)


def seen(folder):
    """The same of one image's points; and the file that draws what other cameras see of them."""
    config = with_text(plain(strag.get_config("debug")), folder / "text")
    drawn(config, folder / "points.safetensors", 1)
    drawn(plain(vism.get_config("debug")), folder / "views.safetensors", 2)
    return config, folder / "views.safetensors"
