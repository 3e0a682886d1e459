"""The closed-loop step and the refining step, small, as the partitioner leaves them.

Fast to make: XLA partitions, then does as little as it can.
"""

import dataclasses
import functools
import math

import jax
import meshed
import pytest

from configs import taco
from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import placement
from syncmv4d_jax.machines.planning import hlo
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.run import programs

# mesh sizes, form of sequence sharding -> the collective that it needs
FORMS = {
    "ulysses": ({"fsdp": 2, "sequence": 4}, "all-to-all"),
    "ring": ({"fsdp": 2, "sequence": 4}, "collective-permute"),
}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def small(sequence):
    config = taco.get_config("debug")
    config.task.dit = {**config.task.dit, "heads": 4}
    config.task.dpa = {**config.task.dpa, "depth": 1}
    config.task.guidance, config.train.sequence = 5.0, sequence
    return config


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["mjd_step", "closed_loop_step", "sample_step"])
def test_no_collective_moves_whole_tokens(entry):
    """Blocks exchange tokens against heads; tokens do not move between samples."""
    axes, needed = FORMS["ulysses"]
    config = small("ulysses")
    mesh, batch = meshes.make_mesh(axes), 2 * axes["fsdp"]
    function, arguments = programs.program(config, mesh, entry, batch)
    text = function.lower(*arguments).compile(compiler_options=QUICK).as_text()
    found = hlo.collectives(text, slice_devices=axes["sequence"])  # of a sample: as if a slice
    assert any(one.kind == needed for one in found)
    task = programs.find(config, entry).task
    v, f, h, w, _ = task.latent_shape
    tokens = v * (task.mjd_config.extra_tokens + 2 * f * h * w) * task.mjd_config.dim
    weights = tree.flatten(jax.eval_shape(task.init, jax.random.key(0)))
    sizes = {math.prod(s) for x in weights.values() for s in (x.shape, x.shape[1:], x.shape[-2:])}
    wrong = []
    for one in found:
        for _, dims in one.shapes if one.kind in ("all-gather", "all-reduce") else ():
            size = math.prod(dims)
            between = one.across and dims[-1:] == (task.mjd_config.dim,) and size not in sizes
            if (one.times > 1 or between) and size >= tokens:
                wrong.append((one.kind, dims, one.times, one.across, one.source))
    assert not wrong, "\n".join(map(str, wrong))


def aligner_bytes(fsdp):
    """Bytes that a device sends in a step of the aligner, one sample a device."""
    axes = {"fsdp": fsdp, "sequence": 2}
    config = dataclasses.replace(dpa_config.TINY, depth=1, coarse_blocks=1, patch=32)
    params = jax.eval_shape(lambda: module.init(aligner.Aligner, config, jax.random.key(0)))
    mesh = meshes.make_mesh(axes, jax.devices()[: 2 * fsdp])
    cut = meshes.batch_sharding(mesh)
    place = lambda tree_, to: jax.tree.map(  # noqa: E731
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree_, to
    )
    scene = {k: x[:fsdp] for k, x in meshed.scene(3).items()}
    batch = place(scene, jax.tree.map(lambda _: cut, scene))
    step = jax.value_and_grad(functools.partial(meshed.aligner_loss, config=config))
    lowered = jax.jit(step, static_argnums=2).lower(
        place(params, meshes.shardings(params, mesh)), batch, placement.Placement(mesh)
    )
    found = hlo.collectives(lowered.compile(compiler_options=QUICK).as_text())
    # Around a ring a device sends (n - 1) / n of a value: not more, when values stay as they are.
    return sum(one.sent * one.times * one.group / (one.group - 1) for one in found)


@pytest.mark.slow
def test_what_the_aligner_sends_does_not_grow_with_the_batch():
    """Its own gradients and its exchange within a sample: as much at 4 samples as at 2."""
    assert aligner_bytes(4) <= 1.02 * aligner_bytes(2)
