"""Every step of every task lowered for GPUs that are not there, at full width and two blocks.

There faults of shapes, masks and kernels are raised that a CPU never meets: cuDNN's attention is
chosen by platform. Wants jax's CUDA plugin, in an environment of its own: `make plan-gpu`. Every
entry on one of its meshes is "short", for every change: `make plan-gpu PLAN_GPU_ARGS="-k short"`.
"""

import dataclasses
import functools
import importlib
import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import gpus, pods
from syncmv4d_jax.run import assembly, plan, programs, sections
from syncmv4d_jax.tasks import video

HOST, LAYERS = "h100-8", 2
SEQUENCES = (1, 2, 4, 8)
SHORT = 4
# Wan is trained on what SyncMV4D is, and sampled as released.
CLIPS = {"size": (480, 704), "frames": 49, "views": 3}
# configuration, variant, what is changed, entry -> sequence axes of eight GPUs' planned meshes.
ROWS = {
    ("taco", "full", "mjd_step"): SEQUENCES,
    ("taco", "full", "closed_loop_step"): SEQUENCES,
    ("taco", "full", "sample_step"): SEQUENCES,
    ("wan_ti2v", "full", "train_step"): SEQUENCES,
    ("wan_ti2v", "full", "sample_step"): SEQUENCES,
    ("wan_ti2v", "lora", "train_step"): SEQUENCES,
    ("wan_ti2v", "lora", "sample_step"): SEQUENCES,
    ("robots", "rays", "mjd_step"): SEQUENCES,
    ("robots", "rays", "sample_step"): SEQUENCES,
    ("hvg3d", "taco", "train_step"): SEQUENCES,
    ("hvg3d", "taco", "sample_step"): SEQUENCES,
    ("hvg3d", "control_views", "train_step"): SEQUENCES,
    ("hvg3d", "control_views", "sample_step"): SEQUENCES,
    ("strag", "full", "train_step"): SEQUENCES,
    ("strag", "full", "sample_step"): SEQUENCES,
    ("vism", "full", "train_step"): SEQUENCES,
    ("vism", "full", "sample_step"): SEQUENCES,
    ("vism", "full_parameters", "train_step"): SEQUENCES,
    ("vism", "full_parameters", "sample_step"): SEQUENCES,
    ("dpa", "full", "train_step"): (1, 2, 4),
    ("wan_vae", "demo", "train_step"): (1,),
    ("motion_codec", "full", "train_step"): (1,),
    ("silhouette", "full", "train_step"): (1,),
    ("flow_codec", "learned", "train_step"): (1,),
}
WITHOUT_ATTENTION = (
    "wan_vae",
    "motion_codec",
    "silhouette",
    "flow_codec",
)  # the autoencoder's is its own
there = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, gpus.PLUGINS)),
    reason="wants a CUDA plugin: make plan-gpu",
)


def named(row, sequence):
    """A test's name; at SHORT, or the longest axis below it, tokens a device are odd."""
    short = sequence == max(n for n in ROWS[row] if n <= SHORT)
    return "-".join([*row, str(sequence), *["short"] * short])


def configuration(file, variant, entry=""):
    """A full-size configuration with two blocks."""
    config = importlib.import_module(f"configs.{file}").get_config(variant)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if "dit" in config.task:
            config.task.dit = {**config.task.dit.to_dict(), "layers": LAYERS}
        if file == "wan_ti2v" and entry == "train_step":
            config.task.update(CLIPS)
    return config


@functools.cache
def steps(file, variant, entry=""):
    """{step: what it does} of a full-size configuration."""
    return programs.named(assembly.task(configuration(file, variant, entry)), ())


def planned(file, variant, entry):
    """The meshes that a plan tries for a step on eight GPUs."""
    other = entry if (file, entry) == ("wan_ti2v", "train_step") else ""  # other sizes
    own = steps(file, variant, other)[entry]
    work = own.work()
    return pods.meshes(8, views=work.views, heads=work.heads, training=own.step is None)


def flash(lowered):
    """How often a program calls cuDNN's attention, forward and backward."""
    text = lowered.as_text()
    return [len(re.findall(rf"@__cudnn\$fmha\w*Softmax{end}\(", text)) for end in ("", "Backward")]


@pytest.mark.slow
def test_rows_are_all_steps_on_all_planned_meshes():
    there_are = {(*own, entry) for own in {row[:2] for row in ROWS} for entry in steps(*own)}
    assert there_are == set(ROWS)
    for row, sequences in ROWS.items():
        assert [mesh["sequence"] for mesh in planned(*row)] == list(sequences)


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize(
    ("file", "variant", "entry", "sequence"),
    [pytest.param(*row, n, id=named(row, n)) for row in ROWS for n in ROWS[row]],
)
def test_steps_lower(file, variant, entry, sequence):
    config = configuration(file, variant, entry)
    [axes] = [mesh for mesh in planned(file, variant, entry) if mesh["sequence"] == sequence]
    mesh = meshes.make_mesh(axes, plan.load_devices(HOST)[1])
    batch = axes["data"] * axes["fsdp"]
    function, arguments = programs.program(config, mesh, entry, batch)
    forward, backward = flash(function.lower(*arguments))
    assert (forward > 0) == (file not in WITHOUT_ATTENTION)
    assert (backward > 0) == (forward > 0 and entry != "sample_step")


@there
@pytest.mark.gpu_aot
def test_a_single_gpu_has_its_own_kernels_in_short():
    config = configuration("taco", "full")
    mesh = meshes.make_mesh({}, plan.load_devices("h100-1")[1])
    function, arguments = programs.program(config, mesh, "sample_step", 1)
    assert flash(function.lower(*arguments))[0] > 0


@there
@pytest.mark.gpu_aot
@pytest.mark.parametrize("way", ["encode", "decode"])
def test_autoencoder_of_wan(way):
    config = configuration("wan_ti2v", "full")
    mesh = meshes.make_mesh({}, plan.load_devices("h100-1")[1])
    task = assembly.task(config, mesh)
    codec = dataclasses.replace(task.vae, config=video.ahead(task.vae.config))
    shapes = programs.place(config, mesh, jax.eval_shape(task.init, jax.random.key(0))["vae"])
    shape, dtype = (1, *task.latent_shape), jnp.float32
    if way == "encode":
        shape, dtype = (1, 1, config.task.frames, *config.task.size, 3), jnp.uint8
    x = jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))
    assert "stablehlo.convolution" in getattr(video, way).lower(codec, shapes, x).as_text()


@there
@pytest.mark.gpu_aot
def test_one_row_is_compiled():
    """To its memory, in a process of its own: a training step of two blocks on eight H100."""
    settings = sections.PlanConfig(topologies=(HOST,), mesh=(1, 8, 1, 1), until="memory")
    config = configuration("taco", "full")
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
    assert pods.find("h100-64").shape == "1x8x8" and pods.find("h100-64").near == 8
    assert pods.find("h100-8").near == 0 and pods.find("h200-1").devices == 1
    assert pods.find("4090-2").shape == "1x1x2" and pods.find("b200-1024").hosts == 128
    for name in ("v100-8", "h100-3", "h100-12", "h100", "h100-x", "v5p-8-2"):
        with pytest.raises(ValueError, match=rf"'{name}' is unknown.*h100-N.*gpus.py beside it"):
            pods.find(name)
    assert pods.find("2xv5e-64").near == 64 and pods.find("v5e-64").near == 0


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"h100-8 needs.*pip install --no-deps jax-cuda12-plugin==.*"
    ):
        plan.load_devices(HOST)
