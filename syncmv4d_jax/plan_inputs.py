"""What a planned step is given: parameters, batch and state as shapes with shardings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import parallel, tree

Tree = Any


def split(config: ml_collections.ConfigDict, task: Any) -> tuple[Tree, Tree]:
    """Returns shapes of (trainable, frozen); a step without the aligner does not read the VAE."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    if not task.settings.dpa:
        shapes.pop("vae")
    trainable, frozen = tree.split(shapes, task.trainable)
    dtype = jnp.dtype(config.train.get("frozen_dtype", "float32"))
    return trainable, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), frozen)


def sampling(task: Any, params: Tree, batch: Tree) -> tuple[Any, tuple[Tree, ...]]:
    """The refining step of `task.sample`, caught on its way to jit: nothing large is computed."""
    caught: dict[str, tuple[Any, tuple[Tree, ...]]] = {}

    def catch(name, function):
        def call(*arguments):
            caught.setdefault(name, (function, arguments))
            shapes = jax.eval_shape(function, *arguments)
            return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)

        return call

    task._jit = catch
    v, _, h, w, c = task.latent_shape
    inputs = {name: np.ones(x.shape, x.dtype) for name, x in batch.items()}
    inputs["null_text"] = inputs["text"]  # both branches of guidance are encoded to one length
    size = inputs["text"].shape[0]
    inputs["first"] = np.zeros((size, v, 1, h, w, c), np.float32)
    task.sample(params, inputs, jax.random.key(0))
    function, arguments = caught["refine" if "refine" in caught else "plain"]
    cut = batch["text"].sharding

    def place(x):
        whole = NamedSharding(cut.mesh, P())
        batched = np.ndim(x) > 0 and x.shape[0] == size
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=cut if batched else whole)

    step = functools.partial(function)
    step.__name__ = "sample_step"  # what the compiler calls it, see plan.PROGRAMS
    return jax.jit(step), (params, *jax.tree.map(place, arguments[1:]))


def place(config: ml_collections.ConfigDict, mesh: Mesh, shapes: Tree) -> Tree:
    """Returns shapes with the shardings that `config.sharding` gives parameters."""
    rules = tuple((str(p), tuple(axes)) for p, axes in config.get("sharding", ()))
    placed = parallel.shardings(shapes, mesh, rules)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
