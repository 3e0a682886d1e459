"""Weights of 8 bits: loaded, planned, stored, sampled with, and refused by training."""

import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hvg3d, wan_ti2v
from data_prep import quantise
from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import assembly, checkpoint, initial, precision, programs
from syncmv4d_jax.weights import exports

ROOT = Path(__file__).parents[2]
KERNEL = "dit/blocks/ffn/linear_0/kernel"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with random weights of all parts, and these."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    task = assembly.task(wan_ti2v.get_config("debug"))
    params = jax.jit(task.init)(jax.random.key(0))
    exports.write(params, path, metadata={"config": "own"})
    return path, params


def settings(path, dit=None, **sample):
    config = wan_ti2v.get_config("debug").copy_and_resolve_references().unlock()
    config.weights = {"dit": str(dit or path), "vae": str(path)}
    config.sample.update(sample)
    return config


def load(config, folder):
    return assembly.load_params(assembly.task(config), assembly.read(config), folder)


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_weights_are_quantised_as_they_are_loaded_or_from_a_file(kind, weights, tmp_path):
    path, params = weights
    found = tree.flatten(load(settings(path, precision=kind), tmp_path))
    wanted = quantised.quantise(tree.flatten(params)[KERNEL], kind)
    for key in ("values", "scale"):
        np.testing.assert_array_equal(found[f"{KERNEL}/{key}"], wanted[key])
    assert KERNEL not in found and found["dit/head/head/kernel"].dtype == jnp.float32
    # A file of them gives the same, with nothing said.
    script, out = ROOT / "data_prep" / "quantise.py", tmp_path / "q.safetensors"
    flags = ["--src", str(path), "--out", str(out), "--to", kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *flags])
        runpy.run_path(str(script), run_name="__main__")
    assert exports.metadata(out) == {"config": "own", "precision": kind, "source": str(path)}
    again = tree.flatten(load(settings(path, out), tmp_path))
    assert again.keys() == found.keys()
    for name, x in found.items():
        assert again[name].dtype == x.dtype
        np.testing.assert_array_equal(
            again[name].astype(jnp.float32), x.astype(jnp.float32), err_msg=name
        )
    # ... which training does not take.
    config = settings(path, out)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"q.safetensors holds weights of 8 bits .* only sampling"):
        initial.Parameters(assembly.task(config), assembly.read(config), mesh)


def test_kernels_of_blocks_are_held_in_bfloat16(weights, tmp_path):
    path, params = weights
    found = tree.flatten(load(settings(path, precision="bfloat16"), tmp_path))
    for name, x in tree.flatten(params).items():
        low = name.startswith("dit/blocks/") and name.endswith("kernel")
        assert found[name].dtype == (jnp.bfloat16 if low else jnp.float32), name
        np.testing.assert_array_equal(found[name], x.astype(found[name].dtype))


@pytest.mark.parametrize("kind", ["", "bfloat16", "int8", "float8"])
def test_plans_hold_what_sampling_does(kind, weights, tmp_path):
    path, _ = weights
    config = settings(path, precision=kind)
    mesh = jax.make_mesh((1, 1, 1, 1), ("data", "fsdp", "view", "sequence"),
                         devices=jax.devices()[:1])  # fmt: skip
    _, (held, *_) = programs.program(config, mesh, "sample_step", 1)
    found = load(config, tmp_path)["dit"]
    wanted = {n: (x.shape, x.dtype) for n, x in tree.flatten(found).items()}
    assert {n: (x.shape, x.dtype) for n, x in tree.flatten(held["dit"]).items()} == wanted
    # Training is not sampling.
    _, (state, *_) = programs.program(config, mesh, "train_step", 1)
    assert tree.flatten(state["params"])[KERNEL].dtype == jnp.float32


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match=r"config.sample.precision: wanted one of .*got 'int4'"):
        assembly.read(settings("w", precision="int4"))
    assert precision.shapes({"a": jax.ShapeDtypeStruct((1,), jnp.float32)}, "int8")["a"].shape == (
        1,
    )


def test_a_branch_of_8_bits_belongs_to_its_backbone_of_8_bits(tmp_path):
    """Quantised while it is loaded, or in one file of all parts; beside floats it is refused."""
    own = hvg3d.get_config("debug").copy_and_resolve_references().unlock()
    own.stages, own.sample.precision = (), "int8"
    task = assembly.task(own)
    params = jax.jit(task.init)(jax.random.key(0))
    marks = {"beside": checkpoint.part_marks(params, ("dit",))}
    branch = {part: params[part] for part in ("control", "points")}
    exports.write({"dit": params["dit"], "vae": params["vae"]}, tmp_path / "video.safetensors")
    exports.write(branch, tmp_path / "control.safetensors", metadata=marks)
    files = {"dit": "video", "control": "control", "points": "control"}
    files = {part: tmp_path / f"{name}.safetensors" for part, name in files.items()}
    own.weights.update({part: str(path) for part, path in files.items()})
    own.weights.vae = str(files["dit"])
    wanted = tree.flatten(assembly.load_params(task, assembly.read(own), tmp_path))
    assert wanted["control/blocks/zero/kernel/values"].dtype == jnp.int8
    sources, out = [str(files["dit"]), str(files["control"])], tmp_path / "all.safetensors"
    quantise.convert(sources, list(files), str(out), "int8", rest="bfloat16")
    own.sample.precision = ""
    own.weights.update(dict.fromkeys(files, str(out)))
    found = tree.flatten(assembly.load_params(task, assembly.read(own), tmp_path))
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        kept = name.endswith(("kernel/values", "kernel/scale")) or name.startswith("vae/")
        half = x if kept else x.astype(jnp.bfloat16).astype(x.dtype)
        np.testing.assert_array_equal(found[name], half, err_msg=name)
    own.weights.dit = str(files["dit"])
    with pytest.raises(ValueError, match="all.safetensors was trained beside another 'dit'"):
        assembly.load_params(task, assembly.read(own), tmp_path)
    params["dit"]["head"]["head"]["bias"] += 1
    exports.write({"dit": params["dit"]}, tmp_path / "other.safetensors")
    sources[0] = str(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="'dit': not the one that the others were trained beside"):
        quantise.convert(sources, list(files), str(tmp_path / "no.safetensors"), "int8")
    assert not (tmp_path / "no.safetensors").exists()
