"""Saves, verified restores, fall-back, merging and exports."""

import json
import logging
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import checkpoint, optim, sections

CONFIG = sections.OptimConfig(ema=0.9)


def state(seed=0):
    key = jax.random.split(jax.random.key(seed), 2)
    params = {
        "dit": {"blocks": {"kernel": jax.random.normal(key[0], (2, 64, 64))}},
        "dpa": {"kernel": jax.random.normal(key[1], (16, 8)), "bias": jnp.zeros((8,))},
    }
    return optim.init(CONFIG, params)


def placed(axes):
    abstract = jax.eval_shape(lambda: state())
    shardings = meshes.shardings(abstract, meshes.make_mesh(axes), minimum=16)
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings
    )


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


@pytest.fixture
def saved(tmp_path):
    """Two whole checkpoints, 1 and 2."""
    store = checkpoint.Store(tmp_path / "c")
    for step in (1, 2):
        here = state(step)
        assert store.save(step, here, {"note": step, "shapes": checkpoint.shapes(here)})
    assert store.wait() and store.steps() == [1, 2]
    store.close()
    return tmp_path / "c"


def flip(directory: Path, files: int = 1) -> None:
    """Flips one bit in the middle of each of the largest data files."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: -path.stat().st_size)[:files]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "sequence": 2}])
def test_restores_onto_another_mesh(saved, axes):
    step, got, meta = checkpoint.Store(saved).restore(placed(axes))
    assert (step, meta["note"]) == (2, 2)
    assert equal(jax.device_get(got), jax.device_get(state(2)))
    kernel = got["params"]["dit"]["blocks"]["kernel"]
    assert not kernel.sharding.is_fully_replicated


def test_flipped_bit_is_seen_and_the_step_before_is_used(saved, caplog):
    flip(saved / "2")
    with caplog.at_level(logging.WARNING):
        step, got, _ = checkpoint.Store(saved).restore(placed({"fsdp": 8}))
    assert step == 1 and equal(jax.device_get(got), jax.device_get(state(1)))
    assert "is damaged" in caplog.text
    assert (saved / "corrupt" / "2-0").is_dir() and not (saved / "2").exists()


def test_silent_change_is_seen_by_the_fingerprint_alone(saved, monkeypatch):
    """Orbax does not checksum array data: a changed value must not need its help."""
    restore = checkpoint.ocp.CheckpointManager.restore

    def change(manager, step, args):
        result = restore(manager, step, args=args)
        if "state" in result and step == 2:
            result["state"]["params"]["dpa"]["bias"] = jnp.zeros((8,)).at[3].set(1e-30)
        return result

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "restore", change)
    step, *_ = checkpoint.Store(saved).restore(placed({"fsdp": 8}))
    assert step == 1


def test_all_damaged_is_an_error(saved):
    flip(saved / "1")
    flip(saved / "2")
    with pytest.raises(ValueError, match=r"none of the checkpoints \[1, 2\] is whole"):
        checkpoint.Store(saved).restore(placed({"fsdp": 8}))


def test_reading_weights_only(saved):
    params = checkpoint.restore_params(saved)
    assert equal(params, jax.device_get(state(2)["ema"]))
    flip(saved / "2", files=20)  # whichever of them holds the averages
    assert equal(checkpoint.restore_params(saved), jax.device_get(state(1)["ema"]))
    with pytest.raises(FileNotFoundError, match="wanted a checkpoint of step 7, found .1, 2."):
        checkpoint.restore_params(saved, step=7)


def test_weights_alone_are_compared_with_their_fingerprints(saved):
    """As above, without orbax's help: the recorded number is another."""
    path = saved / "2" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["fingerprints"]["ema/dpa/bias"] ^= 1
    path.write_text(json.dumps(meta))
    assert equal(checkpoint.restore_params(saved), jax.device_get(state(1)["ema"]))
    with pytest.raises(ValueError, match=r"none of the checkpoints \[2\] is whole"):
        checkpoint.restore_params(saved, step=2)


def test_torn_save_is_ignored_and_removed(saved):
    torn = saved / "3.orbax-checkpoint-tmp"
    torn.mkdir()
    (torn / "half").write_text("half")
    store = checkpoint.Store(saved)
    step, *_ = store.restore(placed({"fsdp": 8}))
    store.close()
    assert step == 2 and not torn.exists()


def test_another_architecture_lists_both_differences(saved):
    other = placed({"fsdp": 8})
    other["params"]["new"] = other["params"].pop("dpa")
    with pytest.raises(checkpoint.Mismatch) as error:
        checkpoint.Store(saved).restore(other)
    assert "only here: params/new/bias" in str(error.value)
    assert "only in the checkpoint: params/dpa/bias" in str(error.value)


def test_keeps_the_latest_and_every_nth(tmp_path):
    store = checkpoint.Store(tmp_path, keep=1, keep_every=2)
    for step in range(1, 6):
        store.save(step, state(), {})
    store.close()
    assert checkpoint.Store(tmp_path).steps() == [2, 4, 5]


def test_a_save_that_fails_is_reported_and_the_old_one_stays(saved, caplog):
    """A file size limit stands in for a full disk: writes fail with an OS error."""
    store = checkpoint.Store(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with caplog.at_level(logging.WARNING):
            good = store.save(3, state(3), {}) and store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not good and "training goes on, the last good step is 2" in caplog.text
    step, *_ = checkpoint.Store(saved).restore(placed({"fsdp": 8}))
    assert step == 2
    assert store.save(4, state(4), {}) and store.wait() and store.latest_on_disk() == 4


def test_unwritable_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="give a writable --workdir"):
        checkpoint.Store(tmp_path / "file" / "checkpoints")


def test_fingerprint_sees_value_place_and_not_the_mesh():
    x = jax.random.normal(jax.random.key(0), (16, 24))
    mark = checkpoint.fingerprints({"x": x})["x"]
    mesh = meshes.make_mesh({"fsdp": 4, "sequence": 2})
    spec = jax.NamedSharding(mesh, jax.P("fsdp", "sequence"))
    assert checkpoint.fingerprints({"x": jax.device_put(x, spec)})["x"] == mark
    assert checkpoint.fingerprints({"x": x.at[3, 4].add(1e-3)})["x"] != mark
    swapped = x.at[0, 0].set(x[1, 1]).at[1, 1].set(x[0, 0])
    assert checkpoint.fingerprints({"x": swapped})["x"] != mark
    half = checkpoint.fingerprints({"x": x.astype(jnp.bfloat16), "i": jnp.arange(3)})
    assert half["x"] != mark


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 4, "fsdp": 2}])
def test_what_a_stage_left_is_read_into_shards(saved, axes):
    found = checkpoint.Trained(saved)
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)
        for name, leaf in tree.flatten(placed(axes)["params"]).items()
    }
    assert found.shapes == {name: leaf.shape for name, leaf in wanted.items()}
    some = {name: leaf for name, leaf in wanted.items() if name.startswith("dit/")}
    got = found.load(some)
    assert got.keys() == some.keys()
    kernel, leaf = got["dit/blocks/kernel"], some["dit/blocks/kernel"]
    assert kernel.sharding.is_equivalent_to(leaf.sharding, 3)
    assert not kernel.sharding.is_fully_replicated
    true = state(2)["ema"]["dit"]["blocks"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(kernel), np.asarray(true))
    flip(saved / "2", files=20)
    older = checkpoint.Trained(saved).load(some)["dit/blocks/kernel"]
    true = state(1)["ema"]["dit"]["blocks"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(older), np.asarray(true))


def test_a_change_that_orbax_does_not_see_is_seen_in_shards(saved, monkeypatch):
    restore = checkpoint.ocp.Checkpointer.restore

    def change(reader, path, *args):
        result = restore(reader, path, *args)
        if "ema" in result and path.parent.name == "2":
            result["ema"]["dpa"]["bias"] = jnp.zeros((8,)).at[3].set(1e-30)
        return result

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "restore", change)
    wanted = {"dpa/bias": jax.ShapeDtypeStruct((8,), jnp.float32)}
    kernel = {"dpa/kernel": jax.ShapeDtypeStruct((16, 8), jnp.float32)}
    got = checkpoint.Trained(saved).load(wanted | kernel)
    np.testing.assert_array_equal(got["dpa/kernel"], state(1)["ema"]["dpa"]["kernel"])
