"""The steps of a task, jitted for a mesh, and their arguments as shapes with shardings.

Which steps there are, what they read and what they do is the task's to say (`tasks.base.Planned`).
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import assembly, optim, precision, update
from syncmv4d_jax.tasks import base

Tree = Any
# What the compiler calls the jitted functions: of a training step, and of any other.
NAMES = ("update", "sample_step")


def find(config: ml_collections.ConfigDict, entry: str, mesh: Mesh | None = None) -> base.Program:
    """Returns a step of the task that a configuration names.

    Raises:
      ValueError: the task cannot be planned, or has no such step.
    """
    return named(assembly.task(config, mesh), (entry,))[entry]


def named(task: base.Task, entries: tuple[str, ...]) -> dict[str, base.Program]:
    """Returns the steps of a task by name, all of them where none are named.

    Raises:
      ValueError: the task cannot be planned, or has no such step.
    """
    made = base.serves(task, base.Planned, "mode=plan").programs()
    if unknown := [entry for entry in entries if entry not in made]:
        raise ValueError(
            f"config.plan.entries: task {task.name!r} has no {unknown}; wanted some of {list(made)}"
        )
    return {entry: made[entry] for entry in entries or made}


def program(
    config: ml_collections.ConfigDict, mesh: Mesh, entry: str, batch: int
) -> tuple[Any, tuple[Tree, ...]]:
    """Returns a jitted step and its arguments as shapes with shardings.

    Args:
      mesh: from mesh.make_mesh.
      entry: see `find`.
      batch: samples.
    """
    own = find(config, entry, mesh)
    trainable, frozen = split(config, own)
    placed = functools.partial(place, config, mesh)
    inputs = cut(own.inputs(batch), mesh, batch)
    if own.step is not None:
        named_step = functools.partial(own.step)
        vars(named_step)["__name__"] = NAMES[1]
        held = tree.join(trainable, frozen)
        held = precision.shapes(held, assembly.read(config).sample.precision)
        return jax.jit(named_step), (placed(held), *inputs)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    rng = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=NamedSharding(mesh, P()))
    settings = assembly.read(config).optim
    state = jax.eval_shape(functools.partial(optim.init, settings), trainable)
    cuts = meshes.shardings(state, mesh, assembly.read(config).sharding)
    shardings = optim.placed(settings, cuts)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings
    )
    step = jax.jit(
        update.make_update(own.task, settings), donate_argnums=0, out_shardings=(shardings, None)
    )
    return step, (state, placed(frozen), *inputs, rng)


def split(config: ml_collections.ConfigDict, program: base.Program) -> tuple[Tree, Tree]:
    """Returns shapes of (trainable, frozen) parameters, those that a step reads."""
    shapes = jax.eval_shape(program.task.init, jax.random.key(0))
    read = {part: shapes[part] for part in program.parts}
    trainable, frozen = tree.split(read, program.task.trainable)
    dtype = jnp.dtype(assembly.read(config).train.frozen_dtype)
    return trainable, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), frozen)


def hosted(
    config: ml_collections.ConfigDict, program: base.Program, axes: Mapping[str, int]
) -> int:
    """Returns the bytes for each device that a training step leaves with the host.

    Two of the largest leaves are left out, which are on their way at a time (libtpu has two).

    Args:
      axes: sizes of data, fsdp, view, sequence.
    """
    settings = assembly.read(config).optim
    if program.step is not None or not settings.ema or settings.ema_memory == "device":
        return 0
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes))
    state = jax.eval_shape(functools.partial(optim.init, settings), split(config, program)[0])
    averages = {"ema": state["ema"]}  # rules see the state's paths
    cuts = meshes.shardings(averages, mesh, assembly.read(config).sharding)
    bytes_of = jax.tree.leaves(
        jax.tree.map(
            lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, averages, cuts
        )
    )
    return max(sum(bytes_of) - 2 * max(bytes_of), 0)


def cut(shapes: Tree, mesh: Mesh, batch: int) -> Tree:
    """Returns shapes of inputs with shardings: cut where the leading axis is the batch."""
    rows, whole = meshes.batch_sharding(mesh), NamedSharding(mesh, P())

    def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        batched = x.ndim > 0 and x.shape[0] == batch
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows if batched else whole)

    return jax.tree.map(one, shapes)


def place(config: ml_collections.ConfigDict, mesh: Mesh, shapes: Tree) -> Tree:
    """Returns shapes with the shardings that `config.sharding` gives parameters."""
    placed = meshes.shardings(shapes, mesh, assembly.read(config).sharding)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
