"""Sections: read once, locked, in every stage; errors name what is near."""

import dataclasses

import fakes
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import sections as config_sections
from configs import taco
from syncmv4d_jax import recipe
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import assembly, checkpoint, embedded, optim, sections, train
from syncmv4d_jax.weights import exports


def base():
    config = config_sections.base()
    config.task = {"name": "wan_vae"}
    return config


def test_defaults_come_back():
    """What configs/sections.py writes is what the dataclasses say, as are empty sections."""
    full, empty = assembly.read(base()), assembly.read(ml_collections.ConfigDict())
    for key in assembly.READ:
        assert getattr(full, key) == getattr(empty, key)
        assert set(base()[key]) == {f.name for f in dataclasses.fields(assembly.READ[key])}
    assert full.optim == sections.OptimConfig(steps=1000)  # as long as training
    assert full.seed == 0 and full.sharding == () and full.mesh["fsdp"] == -1


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"data": {"shrae": 0.1}}, r"'warm': config.data: unknown keys \['shrae'\].*near 'share'"),
        ({"dta": {}}, r"'warm': unknown sections \['dta'\] \('dta' is near 'data'\)"),
        ({"train": {"steps": "many"}}, "'warm'.*steps"),
        ({"train": {"steps": 0}}, "'warm': config.train.steps: wanted at least 1, got 0"),
        ({"data": {"share": 2.0}}, "'warm': config.data.share: wanted 0 < share <= 1"),
        ({"task": {"clip": 3}}, "'warm': config.task: unknown keys.*'clip' is near 'clips'"),
        (
            {"task": {"vae": {"dmi": 3}}},
            "'warm': config.task.vae: unknown keys.*'dmi' is near 'dim",
        ),
        ({"weights": {"vea": "x"}}, "'warm', config.weights: unknown keys.*'vea' is near 'vae'"),
        ({"mesh": {"fspd": 2}}, "'warm': config.mesh: unknown axes.*'fspd' is near 'fsdp'"),
        ({"optim": {"muon": "x"}}, "'warm': config.optim.*'muon' is gone: Muon takes"),
        ({"sharding": (("(", ()),)}, r"'warm': config.sharding\[0\]: '\(' is no regex"),
    ],
)
def test_a_typo_in_a_stage_is_named(stage, message):
    config = base()
    config.stages = ({"name": "first"}, {"name": "warm", **stage})
    with pytest.raises(ValueError, match=message):
        assembly.stages(config)


def test_nothing_runs_before_all_stages_are_read(tmp_path):
    config = fakes.config()
    config.stages = ({"name": "one"}, {"name": "two", "train": {"step": 3}})
    with pytest.raises(ValueError, match="'two'.*'step' is near 'steps'"):
        train.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("kernel$", r"sharding\[1\]: wanted \(regex over parameter paths, .*got 'kernel\$'"),
        (("kernel$",), r"sharding\[1\]: wanted \(regex"),
        (("kernel$", "fsdp"), r"wanted a tuple of mesh axes or None, got 'fsdp'"),
        (("kernel$", ("fspd", None)), r"unknown axes \['fspd'\]; wanted some of \('data'"),
        (("kernel$", (("fsdp", "model"),)), r"unknown axes \['model'\]"),
    ],
)
def test_rules_are_checked(rule, message):
    config = base()
    config.sharding = (("a", (None, ("fsdp", "view"))), rule)
    with pytest.raises(ValueError, match=message):
        assembly.read(config)


def test_rules_of_lists_are_rules():
    config = base()
    config.sharding = (["a", [None, ["fsdp", "view"]]],)
    assert assembly.read(config).sharding == (("a", (None, ("fsdp", "view"))),)


@pytest.mark.parametrize("axes", [None, {"fsdp": 8}])
def test_parameters_of_a_sample_come_from_stages_then_from_weights(tmp_path, axes):
    config = fakes.config()
    task, mesh = assembly.task(config), meshes.make_mesh(axes) if axes else None
    init = task.init(jax.random.key(1))
    net = jax.tree.map(lambda x: x + 1, init["net"])
    with pytest.raises(FileNotFoundError, match=r"no weights for \['eye', 'net'\]: nothing was"):
        assembly.load_params(task, assembly.read(config), tmp_path, mesh)
    store = checkpoint.Store(assembly.stage_directory(tmp_path, ""))
    state = optim.init(sections.OptimConfig(store="bfloat16"), {"net": net})
    store.save(1, state, {})
    store.close()
    exports.write(init, tmp_path / "all.safetensors")
    config.weights = {"eye": str(tmp_path / "all.safetensors"), "net": str(tmp_path / "none")}
    got = assembly.load_params(task, assembly.read(config), tmp_path, mesh)
    kernel = got["net"]["out"]["kernel"]
    np.testing.assert_array_equal(kernel, net["out"]["kernel"].astype(jnp.bfloat16))
    np.testing.assert_array_equal(got["eye"]["in"]["kernel"], init["eye"]["in"]["kernel"])
    assert kernel.dtype == jnp.float32 and kernel.sharding.is_fully_replicated == (axes is None)


def test_parts_of_the_parameters_are_loaded_alone(tmp_path):
    config = fakes.config()
    task = assembly.task(config)
    init = task.init(jax.random.key(1))
    exports.write({"eye": init["eye"]}, tmp_path / "eye.safetensors")
    config.weights = {"eye": str(tmp_path / "eye.safetensors"), "net": str(tmp_path / "none")}
    got = assembly.load_params(task, assembly.read(config), tmp_path, parts=("eye",))
    assert set(got) == {"eye"}
    np.testing.assert_array_equal(got["eye"]["in"]["kernel"], init["eye"]["in"]["kernel"])


@pytest.mark.parametrize(
    "key", ["data.records", "sample.images", "evaluate.samples", "weights.vae"]
)
def test_addresses_are_refused_by_name(key):
    config = base().unlock()
    section, name = key.split(".")
    config[section][name] = "gs://bucket/a"
    with pytest.raises(ValueError, match=f"config.{key}=gs://bucket/a: wanted a folder or file"):
        assembly.read(config)


def test_embedded_data_of_another_task_is_refused(tmp_path):
    """Before anything is made: what lies there says what it was made for."""
    config = taco.get_config("debug")
    recipe.write(tmp_path / "embedded/recipe.json", recipe.of(wants={"points": 7}))
    with pytest.raises(ValueError, match="wants.points: was 7, is .*; use another --workdir"):
        embedded.ensure(config, tmp_path)
    assert len(list((tmp_path / "embedded").iterdir())) == 1


def test_one_device_has_the_kernel_and_platform_of_its_mesh():
    config = taco.get_config("debug")
    config.train.attention = "chunked"
    task = assembly.task(config, meshes.make_mesh({}, jax.devices()[:1]))
    assert (task.placement.kernel, task.placement.platform) == ("chunked", "cpu")
