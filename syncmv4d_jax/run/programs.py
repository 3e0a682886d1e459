"""What a planned step is given: parameters, batch and state as shapes with shardings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import schema, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import assembly, optim, update

Tree = Any


def of_entry(config: ml_collections.ConfigDict, entry: str) -> ml_collections.ConfigDict:
    """Returns the configuration of an entry: mjd_step is without cycle and aligner."""
    own = ml_collections.ConfigDict(config.to_dict())
    with own.unlocked():
        if entry == "mjd_step":
            own.task.cycle = {**own.task.get("cycle", {}), "cycle": False, "dpa": False}
        if own.task.get("vae", {}).get("conv", "auto") == "auto":
            own.task.vae = {**own.task.get("vae", {}), "conv": "native"}  # not the host's choice
        own.task.sample_steps = min(own.task.get("sample_steps", 50), 4)  # of one step's program
    return own


def program(
    config: ml_collections.ConfigDict, mesh: Mesh, entry: str, batch: int
) -> tuple[Any, tuple[Tree, ...]]:
    """Returns a jitted step and its arguments as shapes with shardings.

    Args:
      config: of the entry, see `of_entry`.
      mesh: from parallel.make_mesh.
      entry: of ENTRIES.
      batch: samples.
    """
    task = assembly.task(config, mesh)
    trainable, frozen = split(config, task)
    placed = functools.partial(place, config, mesh)
    batched = abstract_batch(config, task, mesh, batch)
    if entry == "sample_step":
        return sampling(task, placed({**trainable, **frozen}), batched)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=NamedSharding(mesh, P()))
    settings = assembly.read(config).optim
    state = placed(jax.eval_shape(functools.partial(optim.init, settings), trainable))
    shardings = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(
        update.make_update(task, settings), donate_argnums=0, out_shardings=(shardings, None)
    )
    return step, (state, placed(frozen), batched, rng)


def abstract_batch(
    config: ml_collections.ConfigDict, task: Any, mesh: Mesh, batch: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a batch of schema.BATCH with cached latents, as shapes with shardings."""
    v, f, h, w, c = task.latent_shape
    o, dit = task.options, task.mjd_config
    sizes = {
        "b": batch, "v": v, "n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h,
        "wl": w, "c": c, "l": dit.text_len, "l0": 1, "d": dit.text_dim, "k": o.points,
    }  # fmt: skip
    sharding, made = meshes.batch_sharding(mesh), {}
    cached = ("video_latents", "motion_latents", "null_text", "null_text_lengths")
    for name, field in schema.BATCH.items():
        if field.optional and name not in cached:
            continue
        axes = ["1" if axis.endswith("?") else axis for axis in field.axes.split()]
        shape = tuple(sizes.get(axis) or int(axis) for axis in axes)
        made[name] = jax.ShapeDtypeStruct(shape, field.dtype, sharding=sharding)
    return made


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
    placed = meshes.shardings(shapes, mesh, assembly.read(config).sharding)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
