"""The average of the weights in the hosts' memory: where it lies, and that it is the same."""

import functools

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import taco
from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines.planning import pods, report
from syncmv4d_jax.run import assembly, checkpoint, optim, plan, programs, sections, train

MESH = {"data": 1, "fsdp": 8, "view": 1, "sequence": 1}
KINDS = {"device": "device", "host": "pinned_host"}


def parameters():
    kernel = jax.random.normal(jax.random.key(0), (256, 512))
    return {"dit": {"out": {"kernel": kernel, "bias": jnp.zeros((512,))}}}


def stepped(memory, store="float32"):
    """The state after three steps over eight devices."""
    config = sections.OptimConfig(ema=0.9, ema_memory=memory, store=store)
    init, params = functools.partial(optim.init, config), parameters()
    cuts = meshes.shardings(jax.eval_shape(init, params), meshes.make_mesh(MESH))
    placed = optim.placed(config, cuts)
    state = jax.jit(init, out_shardings=placed)(params)
    apply = functools.partial(optim.apply, config)
    step = jax.jit(apply, donate_argnums=0, out_shardings=(placed, None))
    for scale in (0.1, 0.2, np.nan):  # the last is skipped
        state, _ = step(state, jax.tree.map(lambda x, s=scale: s * x, params), jnp.float32(1.0))
    return state


@pytest.mark.parametrize("store", ["float32", "bfloat16"])
def test_it_lies_where_it_should_and_is_the_same(store):
    states = {memory: stepped(memory, store) for memory in KINDS}
    for memory, state in states.items():
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state["ema"])}
        others = {x.sharding.memory_kind for x in jax.tree.leaves((state["params"], state["opt"]))}
        assert kinds == {KINDS[memory]} and others == {"device"}
        moved = jax.tree.leaves(optim.near(state["ema"]))
        assert {x.sharding.memory_kind for x in moved} == {"device"}
    marks = [checkpoint.fingerprints(state) for state in states.values()]
    assert marks[0] == marks[1] and len(marks[0]) > 12


def test_a_run_goes_on_with_its_average_in_the_other_memory(tmp_path, caplog):
    """Two steps with the device, two with the host; as four with the device, and nothing told."""
    train.run(fakes.config(steps=4), tmp_path / "device")
    train.run(fakes.config(steps=2), tmp_path / "host")
    config = fakes.config(steps=4)
    config.optim.ema_memory = "host"
    train.run(config, tmp_path / "host")
    found = [
        tree.flatten(
            checkpoint.restore_params(assembly.stage_directory(tmp_path / memory, ""), step=4)
        )
        for memory in KINDS
    ]
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(x, found[1][name]) for name, x in found[0].items())
    assert "ema_memory" not in caplog.text


def test_a_plan_counts_it_with_the_host():
    config = taco.get_config("debug")
    with config.unlocked():
        config.optim.ema, config.optim.ema_memory = 0.9, "host"
    own = programs.find(config, "mjd_step")
    mesh = meshes.make_mesh(MESH)
    _, (state, *_) = programs.program(config, mesh, "mjd_step", 8)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state["ema"])} == {"pinned_host"}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(state["params"])} == {"device"}
    bytes_of = [
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(state["ema"])
    ]
    assert programs.hosted(config, own, MESH) == sum(bytes_of) - 2 * max(bytes_of) > 10**5
    full = taco.get_config("full").copy_and_resolve_references()
    full.optim.ema_memory = "host"
    step = programs.find(full, "mjd_step")
    cut = 4 * tree.count(programs.split(full, step)[0]) / 8
    assert 0.5 * cut < programs.hosted(full, step, MESH) < cut
    near = config.copy_and_resolve_references()
    near.optim.ema_memory = "device"
    assert programs.hosted(near, own, MESH) == 0
    assert programs.hosted(config, programs.find(config, "sample_step"), MESH) == 0
    assert plan._recipe(near) != plan._recipe(config)
    work = own.work()
    states = [plan._bounded(one, own, work, 8).state for one in (near, config)]
    assert states == [16, 12]


def test_it_is_advised_before_none():
    row = {"mesh": MESH, "batch": 8}
    config = taco.get_config("full")
    found = report.advice(config, pods.find("h200-8"), row, training=True, codec=False)
    where = [i for i, x in enumerate(found) if "optim.ema" in x]
    assert [found[i].split(":")[0] for i in where] == [
        'config.optim.ema_memory="host"',
        "config.optim.ema=0",
    ]
    with pytest.raises(ValueError, match=r"optim.ema_memory: wanted one of .*'host'.*got 'disk'"):
        sections.OptimConfig(ema_memory="disk")
