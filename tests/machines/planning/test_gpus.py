"""Every step of every task lowered for GPUs that are not there, at full width and two blocks.

There faults of shapes, masks and kernels are raised that a CPU never meets: cuDNN's attention is
chosen by platform. Wants jax's CUDA plugin, in an environment of its own: `make plan-gpu`.
"""

import functools
import importlib
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import taco
from syncmv4d_jax import schema, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import gpus, pods
from syncmv4d_jax.run import assembly, optim, plan, programs, sections, update

HOST, LAYERS = "8xh100", 2
MESHES = {
    entry: pods.meshes(8, views=3, heads=24, training=entry != "sample_step")
    for entry in ("mjd_step", "closed_loop_step", "sample_step")
}
there = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, gpus.PLUGINS)),
    reason="wants a CUDA plugin: make plan-gpu",
)


def flash(lowered):
    """How often a program calls cuDNN's attention, forward and backward."""
    text = lowered.as_text()
    return [len(re.findall(rf"@__cudnn\$fmha\w*Softmax{end}\(", text)) for end in ("", "Backward")]


def mesh_of(axes):
    return meshes.make_mesh(axes, plan.load_devices(HOST)[1])


def cut(config, **changes):
    """A full-size configuration with two blocks."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "dit" in config.task:
            config.task.dit = {**config.task.dit.to_dict(), "layers": LAYERS}
        config.task.update(changes)
    return config


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize(
    ("entry", "axes"),
    [(entry, axes) for entry, found in MESHES.items() for axes in found],
    ids=lambda x: pods.show(x) if isinstance(x, dict) else x,
)
def test_steps_of_the_loop(entry, axes):
    config = programs.of_entry(cut(taco.get_config()), entry)
    batch = axes["data"] * axes["fsdp"]
    function, arguments = programs.program(config, mesh_of(axes), entry, batch)
    forward, backward = flash(function.lower(*arguments))
    assert forward > 0 and (backward > 0) == (entry != "sample_step")


def batch_of(config, task, mesh, batch):
    """Shapes of schema.BATCH for any task, with whatever it may read."""
    v, f, hl, wl, c = getattr(task, "latent_shape", (3, 13, 30, 44, 48))
    o = config.task
    sizes = {
        "b": batch, "v": v, "n": o.get("frames", 49), "h": o.get("size", (480, 704))[0],
        "w": o.get("size", (480, 704))[1], "f": f, "hl": hl, "wl": wl, "c": c, "l": 512, "l0": 1,
        "d": 4096, "k": o.get("points", 1600),
    }  # fmt: skip
    place = meshes.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            tuple(sizes.get(axis) or int(axis) for axis in field.axes.split()),
            field.dtype,
            sharding=place,
        )
        for name, field in schema.BATCH.items()
    }


def task_of(config, mesh):
    task = assembly.task(config, mesh)
    return task, jax.eval_shape(task.init, jax.random.key(0))


TRAINED = {
    "wan_ti2v": ("wan_ti2v", "full", {"size": (480, 704), "frames": 49, "views": 3}),
    "lora": ("wan_ti2v", "lora", {"size": (480, 704), "frames": 49, "views": 3}),
    "aligner": ("dpa", "full", {}),
    "autoencoder": ("wan_vae", "demo", {}),
    "codec": ("motion_codec", "full", {}),
}
WITHOUT_ATTENTION = ("autoencoder", "codec")  # none of the kernels: the autoencoder's is its own
BY_SAMPLES = ("aligner", *WITHOUT_ATTENTION)  # small networks, whose tasks cut the batch only


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize(
    ("name", "sequence"),
    [(name, n) for name in TRAINED for n in (1, 2, 4, 8) if n == 1 or name not in BY_SAMPLES],
)
def test_training_of_other_tasks(name, sequence):
    file, variant, changes = TRAINED[name]
    module = importlib.import_module(f"configs.{file}")
    config = cut(module.get_config(variant), **changes)
    mesh = mesh_of({"fsdp": 8 // sequence, "sequence": sequence})
    task, shapes = task_of(config, mesh)
    trainable, frozen = tree.split(shapes, task.trainable)
    place = functools.partial(programs.place, config, mesh)
    settings = assembly.read(config).optim
    state = place(jax.eval_shape(functools.partial(optim.init, settings), trainable))
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = batch_of(config, task, mesh, 8 // sequence)
    lowered = jax.jit(update.make_update(task, settings)).lower(state, place(frozen), batch, key)
    forward, backward = flash(lowered)
    assert (forward > 0) == (backward > 0) == (name not in WITHOUT_ATTENTION)


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize("axes", MESHES["sample_step"], ids=pods.show)
def test_sampling_of_wan(axes):
    config = cut(importlib.import_module("configs.wan_ti2v").get_config())
    mesh = mesh_of(axes)
    task, shapes = task_of(config, mesh)
    caught = []

    def run(params, x, state, rows, conditions):
        caught.append((x, state, rows, conditions))
        return x, state

    function, task.__dict__["_run"] = task.sample_run, run  # in place of the jitted one
    v, _, *latent = task.latent_shape
    b = axes["data"]
    text = np.zeros((b, 512, 4096), np.float32), np.full((b,), 512, np.int32)
    inputs = dict(zip(("text", "text_lengths"), text, strict=True))
    inputs |= {f"null_{name}": x for name, x in inputs.items()}
    inputs["first"] = np.zeros((b, v, 1, *latent), np.float32)
    task.sample({}, inputs, jax.random.key(0))
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P())),
        caught[0],
    )
    lowered = jax.jit(function).lower(programs.place(config, mesh, shapes), *arguments)
    assert flash(lowered)[0] > 0


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize("way", ["encode_pixels", "decode_pixels"])
def test_autoencoder_of_wan(way):
    config = cut(importlib.import_module("configs.wan_ti2v").get_config())
    mesh = meshes.make_mesh({}, plan.load_devices("h100")[1])
    task, shapes = task_of(config, mesh)
    whole = NamedSharding(mesh, P())
    shape, dtype = (1, *task.latent_shape), jnp.float32
    if way == "encode_pixels":
        shape, dtype = (1, 1, config.task.frames, *config.task.size, 3), jnp.uint8
    x = jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    lowered = jax.jit(getattr(task, way)).lower(programs.place(config, mesh, shapes), x)
    assert "stablehlo.convolution" in lowered.as_text()


@there
@pytest.mark.gpu_aot
def test_one_row_is_compiled():
    """To its memory, in a process of its own: a training step of two blocks on eight H100."""
    settings = sections.PlanConfig(topologies=(HOST,), mesh=(1, 8, 1, 1), until="memory")
    config = cut(taco.get_config())
    [row] = plan.plan(config, settings, pods.find(HOST), [], "mjd_step", [])
    assert row["kind"] == "memory" and row["fits"] and row["not_counted"]
    assert 8 * 2**30 < row["peak_bytes"] < 10.5 * 2**30
    sent = {kind: found["gigabytes"] for kind, found in row["collectives"].items()}
    assert 1.5 < sent["all-gather"] < 3 and 0.7 < sent["reduce-scatter"] < 1.6
    assert sent["all-reduce"] < 0.1  # no gradient is summed whole
    assert row["kernels"] == 12  # 3 attentions and that of the extra tokens; back, run again
    # No transposed copy of what the blocks were given.
    assert "f32[3,8588,2,3072]" not in [shape for _, shape, _ in row["largest"]]


def test_a_gpu_is_described_by_numbers():
    text = gpus.target_config(gpus.SPECS["h200"])
    assert 'device_description_str: "NVIDIA H200"' in text and "core_count: 132" in text
    assert "major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES" in text
    assert "feature_extension" not in gpus.target_config(gpus.SPECS["l4"])
    for name, spec in gpus.SPECS.items():
        assert pods.chip_of(spec.name) == pods.CHIPS[name]
        assert pods.CHIPS[name].hbm == pytest.approx(pods.RESERVED * spec.memory, rel=2e-3)
        assert pods.CHIPS[name].bandwidth == pytest.approx(spec.bandwidth, rel=1e-3)


def test_topologies_of_gpus():
    assert pods.find("64xh100").shape == "1x8x8" and pods.find("64xh100").near == 8
    assert pods.find("8xh100").near == 0 and pods.find("h200").devices == 1
    assert pods.find("2xv5e-64").near == 64 and pods.find("v5e-64").near == 0


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="8xh100 needs jax's CUDA plugin.*make plan-gpu"):
        plan.load_devices(HOST)
