"""Initial parameters: which value a leaf has, halves, and what is told of what does not fit."""

import dataclasses

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import assembly, checkpoint, initial, optim
from syncmv4d_jax.weights import exports

EYE, OUT = "eye/in/kernel", "net/out/kernel"


class Growing(fakes.Fake):
    """Sets the output to twice the mean of the input layer where nothing gives the output."""

    def grow(self, params, given):
        flat = tree.flatten(params)
        if OUT not in given:
            flat[OUT] = jnp.full_like(flat[OUT], 2 * flat[EYE].mean())
        return tree.unflatten(flat)


def stage(**changed):
    config = fakes.config()
    config.task.trainable = "^net/"
    return dataclasses.replace(assembly.read(config), **changed)


def made(task, own, earlier=(), names=None):
    mesh = meshes.make_mesh(own.mesh)
    parameters = initial.Parameters(task, own, mesh, earlier)
    names = parameters.leaves if names is None else getattr(parameters, names)
    return tree.flatten(parameters.make(names)), parameters


def task():
    return Growing("^net/", 0.0)


def trained(folder, params):
    settings = stage().optim
    store = checkpoint.Store(folder)
    assert store.save(3, optim.init(settings, params), {})
    store.close()
    return folder


def test_a_leaf_has_the_first_value_there_is(tmp_path):
    """Earlier stages, the last first; config.weights; grown; fresh."""
    init = task().init(jax.random.fold_in(jax.random.key(stage().seed), 0))
    fresh = tree.flatten(init)
    got, _ = made(task(), stage())
    for name, leaf in got.items():  # nothing given: nothing to grow from
        np.testing.assert_allclose(leaf, fresh[name], atol=1e-6)
    file = tmp_path / "eye.safetensors"
    exports.write({"eye": {"in": {"kernel": np.full((16, 32), 0.25, np.float32)}}}, file)
    own = stage(weights={"eye": str(file)})
    got, parameters = made(task(), own)
    assert (np.asarray(got[EYE]) == 0.25).all() and (np.asarray(got[OUT]) == 0.5).all()
    blocks = "net/blocks/kernel"
    np.testing.assert_allclose(got[blocks], fresh[blocks], atol=1e-6)
    assert parameters.frozen == [EYE] and OUT in parameters.trainable
    half, _ = made(task(), own, names="frozen")
    assert half.keys() == {EYE} and (np.asarray(half[EYE]) == 0.25).all()
    first = trained(tmp_path / "a", {"eye": {"in": {"kernel": jnp.full((16, 32), 0.5)}}})
    second = trained(tmp_path / "b", {"eye": {"in": {"kernel": jnp.full((16, 32), 0.75)}}})
    got, _ = made(task(), own, [first, second])
    assert (np.asarray(got[EYE]) == 0.75).all() and (np.asarray(got[OUT]) == 1.5).all()


def test_the_frozen_half_has_its_dtype_and_all_have_their_shards():
    own = stage(train=dataclasses.replace(stage().train, frozen_dtype="bfloat16"))
    got, parameters = made(task(), own)
    assert got[EYE].dtype == jnp.bfloat16 and got[OUT].dtype == jnp.float32
    for name, leaf in got.items():
        wanted = parameters.leaves[name].sharding
        assert leaf.sharding.is_equivalent_to(wanted, leaf.ndim), name
    assert not got["net/blocks/kernel"].sharding.is_fully_replicated


def test_common_lists_both_differences():
    model, found = {"dit/q": (3,), "dit/new": (2,), "vae/a": (1,)}, {"dit/q": (3,), "dit/old": (2,)}
    with pytest.raises(ValueError) as error:
        initial.common(model, found)
    assert "only in the model (1): dit/new" in str(error.value)
    assert "only in the checkpoint (1): dit/old" in str(error.value)
    assert initial.common(model, {"dit/q": (3,)}, new="new$") == ["dit/q"]
    assert initial.common(model, {"dpa/x": (3,)}) == []
    assert initial.common({"dit/q": (3,)}, found, unused="old$") == ["dit/q"]
    with pytest.raises(ValueError, match=r"only in the checkpoint \(1\): dit/old"):
        initial.common({"dit/q": (3,)}, found, unused="new$")
    with pytest.raises(ValueError, match=r"dit/q: model \(3,\), checkpoint \(4,\)"):
        initial.common(model, {"dit/q": (4,), "dit/new": (2,)})


def test_a_rule_that_names_nothing_is_refused():
    own = stage(sharding=(("kernal$", ("fsdp", None)),))
    with pytest.raises(ValueError, match=r"'kernal\$' is found in none of 4 parameter paths"):
        made(task(), own)
