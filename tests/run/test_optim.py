"""Schedules, masks, averages and the guard of the optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.run import optim, sections


def parameters():
    key = jax.random.split(jax.random.key(0), 3)
    return {
        "dit": {
            "blocks": {"q": {"kernel": jax.random.normal(key[0], (3, 8, 4))}},
            "out": {"kernel": jax.random.normal(key[1], (8, 4)), "bias": jnp.ones((4,))},
        },
        "dpa": {"conv": {"kernel": jax.random.normal(key[2], (3, 2, 4))}},
    }


def run(config, gradients, params=None):
    state = optim.init(config, parameters() if params is None else params)
    step = jax.jit(lambda state, g: optim.apply(config, state, g, jnp.float32(1.0)))
    rows = []
    for gradient in gradients:
        state, scalars = step(state, gradient)
        rows.append({k: float(v) for k, v in scalars.items()})
    return state, rows


def like(params, value):
    return jax.tree.map(lambda p: jnp.full_like(p, value), params)


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.all(x == y)), a, b)))


def test_schedule_warms_up_and_decays():
    config = sections.OptimConfig(
        learning_rate=1.0, warmup=4, steps=12, schedule="cosine", final_fraction=0.1
    )
    rates = [float(optim.schedule(config)(i)) for i in range(13)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(rates[12], 0.1, rtol=1e-5)
    assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_and_multipliers_follow_paths(name):
    config = sections.OptimConfig(
        name=name, learning_rate=0.1, weight_decay=0.5, multipliers=(("^dpa/", 0.0), ("out", 2.0))
    )
    params = parameters()
    state, _ = run(config, [like(params, 0.0)])
    after = tree.flatten(state["params"])
    for path, before in tree.flatten(params).items():
        factor = {"dpa/conv/kernel": 1.0, "dit/out/kernel": 1 - 2 * 0.05, "dit/out/bias": 1.0}
        np.testing.assert_allclose(after[path], before * factor.get(path, 0.95), rtol=1e-6)


def test_muon_update_of_a_matrix_is_orthogonal():
    """Every singular value of a layer's update is about the same, stacked layers one by one."""
    config = sections.OptimConfig(name="muon", learning_rate=1.0, clip=0.0)
    params = parameters()
    gradient = jax.tree.map(lambda p: p * 1e-3, params)
    state, _ = run(config, [gradient])
    update = (
        params["dit"]["blocks"]["q"]["kernel"] - state["params"]["dit"]["blocks"]["q"]["kernel"]
    )
    for layer in np.asarray(update):
        values = np.linalg.svd(layer, compute_uv=False)
        assert values.max() / values.min() < 2.0, values  # five Newton-Schulz steps: 0.7 to 1.2
        assert not np.isclose(np.linalg.norm(layer), 0)


def test_average_follows():
    """Behind weights that go 0.1 a step by g with g = 0.5 (g + 0.1), once 30 steps are done."""
    config = sections.OptimConfig(learning_rate=0.1, ema=0.5, weight_decay=0.0)
    params = parameters()
    state, _ = run(config, [like(params, 1.0)] * 30)
    gaps = jax.tree.map(lambda e, p: e - p, state["ema"], state["params"])
    for gap in jax.tree.leaves(gaps):
        np.testing.assert_allclose(gap, 0.1, rtol=1e-3)
    assert optim.init(sections.OptimConfig(), params)["ema"] == {}


@pytest.mark.parametrize(
    "name, store",
    [
        ("adamw", "float32"),
        ("muon", "float32"),
        pytest.param("adamw", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_nonfinite_gradients_leave_everything_as_it_was(name, store):
    config = sections.OptimConfig(name=name, ema=0.9, store=store)
    params = parameters()
    good, bad = like(params, 1e-3), like(params, 1e-3)
    bad["dit"]["out"]["bias"] = jnp.full((4,), jnp.nan)
    # In bfloat16 the rounding's noise belongs to the step's number: bad steps come last there.
    order = [0, 1, 1, 0] if store == "float32" else [0, 0, 1, 1]  # 1: bad
    plain, _ = run(config, [good, good])
    state, rows = run(config, [(good, bad)[i] for i in order])
    assert equal(plain["params"], state["params"]) and equal(plain["ema"], state["ema"])
    assert equal(plain["opt"]["inner"], state["opt"]["inner"])
    assert int(state["step"]) == 4
    assert [row["skipped"] for row in rows] == order
    assert max(row["skipped_in_a_row"] for row in rows) == 2
    assert rows[3]["skipped_in_a_row"] == 2 * order[3]
    assert rows[3]["skipped_nonfinite"] == 2 and rows[3]["skipped_spikes"] == 0


def test_spikes_are_skipped_after_the_warm_up():
    config = sections.OptimConfig(spike_factor=5.0, guard_warmup=3)
    params = parameters()
    good, spike = like(params, 1e-3), like(params, 1.0)
    _, rows = run(config, [good, spike, good, good, spike, good])
    assert [row["skipped"] for row in rows] == [0, 0, 0, 0, 0, 0]  # the first spike set the mean
    _, rows = run(config, [good, good, good, spike, good])
    assert [row["skipped"] for row in rows] == [0, 0, 0, 1, 0]
    assert rows[-1]["skipped_spikes"] == 1


def test_abort_after_a_row_of_skipped_steps():
    config = sections.OptimConfig(abort_after=3)
    params = parameters()
    _, rows = run(config, [like(params, jnp.nan)] * 3)
    optim.check(config, rows[1], step=2)
    with pytest.raises(optim.Diverged, match="step 3: 3 steps in a row"):
        optim.check(config, rows[2], step=3)


def test_stochastic_rounding_is_right_on_average():
    x = jnp.full((200_000,), 1.0 + 2.0**-9)  # a quarter of the step from 1 to 1 + 2^-7
    rounded = optim.round_stochastically(x, jax.random.key(0)).astype(jnp.float32)
    assert set(np.unique(rounded)) == {1.0, 1.0 + 2.0**-7}
    np.testing.assert_allclose(jnp.mean(rounded - 1) * 2**9, 1.0, atol=0.02)
    odd = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0.0])
    got = optim.round_stochastically(odd, jax.random.key(1)).astype(jnp.float32)
    np.testing.assert_array_equal(got, odd)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bfloat16_state_follows_the_float32_one(name):
    """Steps of a tenth of the last place are lost by rounding to nearest, not by ours."""
    settings = {"name": name, "learning_rate": 2e-4, "ema": 0.9, "clip": 0.0}
    params = jax.tree.map(lambda p: jnp.ones((64, *p.shape[1:])), parameters())
    gradients = [jax.tree.map(lambda p: p + 0.1, params)] * 40
    wanted, _ = run(sections.OptimConfig(**settings), gradients, params)
    state, rows = run(sections.OptimConfig(**settings, store="bfloat16"), gradients, params)
    leaves = [x for x in jax.tree.leaves(state["opt"]["inner"]) if x.ndim]
    leaves += jax.tree.leaves((state["params"], state["ema"]))
    assert {x.dtype for x in leaves} == {jnp.dtype("bfloat16")}
    moved = lambda s: jnp.mean(s["params"]["dit"]["out"]["bias"].astype(jnp.float32) - 1)  # noqa: E731
    assert abs(moved(wanted)) > 4e-3
    np.testing.assert_allclose(moved(state), moved(wanted), rtol=0.2)


def test_bad_settings_say_what_was_wanted():
    with pytest.raises(ValueError, match=r"optim.name: wanted one of .*got 'sgd'"):
        sections.OptimConfig(name="sgd")
    with pytest.raises(ValueError, match="matches none of 4 trainable paths"):
        optim.init(sections.OptimConfig(multipliers=(("vae", 0.1),)), parameters())


def test_no_buffer_of_the_state_is_two_arrays():
    """It is donated as a whole."""
    state = optim.init(sections.OptimConfig(ema=0.9), {"a": {"kernel": jnp.ones((4, 4))}})
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state)]
    assert len(set(places)) == len(places)
