"""Sampling cut over a mesh of fake devices equals sampling on one.

In float64, as in test_meshes: over steps, matching turns rounding into other choices.
"""

import jax
import meshed
import numpy as np
import pytest
from meshed_loop import make_batch, make_task

from configs import taco
from syncmv4d_jax.machines import placement
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.run import assembly, inputs, sample
from syncmv4d_jax.weights import exports

MESHES = {"view3": {"view": 3}, "ulysses": {"sequence": 4}, "both": {"view": 3, "sequence": 2}}


def test_the_mesh_of_a_sample_is_view_and_sequence():
    config = taco.get_config("debug")
    assert assembly.load_mesh(assembly.read(config)) is None  # fsdp=-1 cuts a batch
    config.mesh = {"data": 2, "sequence": 4}
    assert dict(assembly.load_mesh(assembly.read(config)).shape) == {
        "data": 1,
        "fsdp": 1,
        "view": 1,
        "sequence": 4,
    }
    config.mesh = {"sequence": -1}
    assert assembly.load_mesh(assembly.read(config)).size == 8
    config.mesh = {"view": 3, "sequence": 4}
    with pytest.raises(ValueError, match=r"view.*3.*sequence.*4.*12 devices, there are 8"):
        assembly.load_mesh(assembly.read(config))


@pytest.fixture
def drawn(tmp_path_factory, double):
    """drawn(mesh) -> arrays of tracks.npz of one sample with the same random weights."""
    config = taco.get_config("debug")
    task = make_task(3, "float64")
    params = meshed.shaken(jax.jit(task.init)(jax.random.key(0)), jax.random.key(1))
    file = tmp_path_factory.mktemp("weights") / "all.safetensors"
    exports.write(params, file, dtype="float64")
    config.weights = dict.fromkeys(params, str(file))
    arrays = {k: np.asarray(x)[0] for k, x in make_batch(task).items()}
    pixels = np.random.default_rng(1).integers(0, 256, (3, *task.options.size, 3))
    arrays["images"] = pixels.astype(np.uint8)

    def own(_, mesh):
        return make_task(3, "float64", placement.Placement(mesh) if mesh else protocol.LOCAL)

    def call(**mesh):
        workdir = tmp_path_factory.mktemp("sample")
        config.mesh = mesh
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembly, "task", own)
            patch.setattr(inputs, "of_config", lambda *_: [("one", dict(arrays))])
            sample.run(config, workdir)
        with np.load(workdir / "samples/one/tracks.npz") as found:
            return dict(found)

    return call


@pytest.mark.slow
def test_sharded_sampling_equals_unsharded(drawn):
    wanted = drawn()
    for name, mesh in MESHES.items():
        got = drawn(**mesh)
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(got[key], value, atol=1e-4, err_msg=f"{name}: {key}")
