"""Rectified flow: identities, samplers against the official ones, diffusers live."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import flow

GOLDEN = Path(__file__).parent / "golden/flow"


def toy(x, sigma):
    return jnp.tanh(1.3 * x) * (0.4 + sigma) + 0.2 * jnp.cos(3 * x)


def run(schedule, x, velocity):
    """Scans a sampler; returns the sample after every step."""

    def body(carry, row):
        x, state = flow.step(carry[0], velocity(carry[0], row), carry[1], row)
        return (x, state), x

    return jax.jit(lambda x: jax.lax.scan(body, (x, flow.start(schedule, x)), schedule)[1])(x)


@pytest.mark.parametrize("steps, shift", [(50, 5.0), (10, 3.0)])
@pytest.mark.parametrize("kind, name", [("unipc", "unipc"), ("dpmpp_2m", "dpmpp")])
def test_sampler_equals_official(kind, name, steps, shift):
    golden = np.load(GOLDEN / f"sched_{name}_{steps}_shift{shift:.0f}.npz")
    schedule = flow.schedule(kind, steps, shift=shift)
    np.testing.assert_array_equal(schedule.timestep, golden["timesteps"].astype(np.float32))
    np.testing.assert_allclose(schedule.sigma, golden["sigmas"][:-1], atol=1e-7)
    np.testing.assert_allclose(schedule.sigma_next, golden["sigmas"][1:], atol=1e-7)
    xs = run(schedule, jnp.asarray(golden["x_init"]), lambda x, row: toy(x, row.t))
    np.testing.assert_allclose(xs, golden["xs"], atol=1e-5)


@pytest.mark.parametrize("variant", flow.VARIANTS)
@pytest.mark.parametrize("kind", flow.KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_true_velocity_returns_data(kind, variant, steps):
    keys = jax.random.split(jax.random.key(0), 2)
    data, noise = (jax.random.normal(key, (2, 3, 4)) for key in keys)
    schedule = flow.schedule(kind, steps, shift=3.0, variant=variant)
    x = flow.interpolate(data, noise, schedule.sigma[0])
    xs = run(schedule, x, lambda x, row: flow.velocity(data, noise))
    np.testing.assert_allclose(xs[-1], data, atol=2e-5)
    assert jnp.isfinite(xs).all()


@pytest.mark.parametrize("kind", flow.KINDS)
def test_higher_order_samplers_converge_faster(kind):
    x = jnp.linspace(-1, 1, 64)
    fine = run(flow.schedule("unipc", 400, shift=1.0), x, lambda x, row: toy(x, row.sigma))[-1]
    error = [
        float(
            jnp.abs(
                run(flow.schedule(kind, n, shift=1.0), x, lambda x, r: toy(x, r.sigma))[-1] - fine
            ).max()
        )
        for n in (10, 40)
    ]
    assert error[1] < error[0] / (2.5 if kind == "euler" else 6)


def test_identities():
    keys = jax.random.split(jax.random.key(1), 3)
    data, noise = (jax.random.normal(key, (2, 5, 3)) for key in keys[:2])
    for shape in ((), (2,), (2, 5)):
        t = flow.sample_uniform(keys[2], shape)
        x = flow.interpolate(data, noise, t)
        np.testing.assert_allclose(flow.to_data(x, flow.velocity(data, noise), t), data, atol=1e-6)
    np.testing.assert_array_equal(flow.interpolate(data, noise, 1.0), noise)
    np.testing.assert_array_equal(flow.guide((data, noise), (1.0,)), noise + (data - noise))
    three = flow.guide((data, noise, data * 0), (3.0, 2.0))
    np.testing.assert_allclose(three, 2 * noise + 3 * (data - noise), atol=1e-5)
    with pytest.raises(ValueError, match="more axes"):
        flow.interpolate(data[0, 0], noise[0, 0], jnp.ones((3, 1)))


def test_times_are_uniform_before_they_are_shifted():
    t = np.sort(flow.sample_uniform(jax.random.key(0), (4096,)))
    np.testing.assert_allclose(t, (np.arange(4096) + 0.5) / 4096, atol=0.03)
    shifted = np.sort(flow.sample_uniform(jax.random.key(0), (4096,), shift=5.0))
    np.testing.assert_allclose(shifted, 5 * t / (1 + 4 * t), atol=1e-6)


def test_guidance_goes_away_from_the_unconditional():
    ones = jnp.ones(3)
    np.testing.assert_allclose(flow.guide((3 * ones, ones), (5.0,)), 11.0)


def test_shift_is_invertible_and_monotone():
    t = np.linspace(0, 1, 11)
    shifted = flow.shift_time(t, 5.0)
    np.testing.assert_allclose(flow.shift_time(shifted, 1 / 5.0), t, atol=1e-12)
    assert (np.diff(shifted) > 0).all() and shifted[0] == 0 and shifted[-1] == 1


def test_time_table():
    table = flow.time_table(5.0)
    assert table.t.shape == table.weight.shape == (1000,)
    np.testing.assert_allclose(table.weight.mean(), 1.0, atol=1e-6)
    assert table.weight.min() == 0 and table.t[0] == 1
    assert abs(float(table.t[table.weight.argmax()]) - 0.5) < 1e-2
    t, weight = flow.sample_table(jax.random.key(0), (4096,))
    index = jnp.argmin(jnp.abs(table.t[None] - t[:64, None]), axis=1)
    np.testing.assert_array_equal(weight[:64], table.weight[index])
    assert abs(float(weight.mean()) - 1) < 0.05


def test_first_frame():
    latents, first = jnp.ones((2, 4, 3, 3, 2)), jnp.zeros((2, 1, 3, 3, 2))
    held = flow.hold_first(latents, first)
    assert held[:, 0].max() == 0 and held[:, 1:].min() == 1 and held.shape == latents.shape
    with pytest.raises(ValueError, match="wanted"):
        flow.hold_first(latents, first[:1])
    held = flow.hold_first(latents, first, jnp.array([True, False]))
    assert held[0].min() == 1 and held[1, 0].max() == 0 and held[1, 1:].min() == 1


def test_rows_of_a_schedule():
    schedule = flow.schedule("unipc", 8)
    x = jnp.linspace(-2, 2, 10)
    whole = run(schedule, x, lambda x, row: toy(x, row.t))[-1]
    state = flow.start(schedule, x)
    for first, last in ((0, 3), (3, 4), (4, 8)):
        (x, state), _ = jax.lax.scan(
            lambda carry, row: (flow.step(carry[0], toy(carry[0], row.t), carry[1], row), None),
            (x, state),
            schedule.rows(first, last),
        )
    np.testing.assert_allclose(x, whole, atol=1e-6)
    assert schedule.steps == 8 and float(schedule.row(7).sigma_next) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="kind"):
        flow.schedule("heun", 4)
    with pytest.raises(ValueError, match="steps >= 1"):
        flow.schedule("euler", 0)


@pytest.mark.parity
@pytest.mark.parametrize("kind, steps", [("unipc", 50), ("unipc", 6), ("dpmpp_2m", 20)])
def test_variant_equals_diffusers(kind, steps):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    cls = {
        "unipc": diffusers.UniPCMultistepScheduler,
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    }[kind]
    theirs = cls(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, solver_order=2
    )
    theirs.set_timesteps(steps)
    schedule = flow.schedule(kind, steps, shift=5.0, variant="diffusers")
    np.testing.assert_array_equal(schedule.timestep, theirs.timesteps.numpy().astype(np.float32))
    x = np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32)
    ours = run(schedule, jnp.asarray(x), lambda x, row: toy(x, row.t))
    sample = torch.from_numpy(x)
    for i, timestep in enumerate(theirs.timesteps):
        v = torch.from_numpy(np.array(toy(jnp.asarray(sample.numpy()), float(timestep) / 1000)))
        sample = theirs.step(v, timestep, sample).prev_sample
        np.testing.assert_allclose(ours[i], sample.numpy(), atol=1e-5)
