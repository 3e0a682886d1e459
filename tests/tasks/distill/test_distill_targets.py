"""The targets of distillation on a linear field, whose teacher is solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from syncmv4d_jax import flow
from syncmv4d_jax.tasks.distill import targets

RATES = np.array([0.7, -0.4, 0.2], np.float32)  # dx/dt = a x: a path per channel
KINDS = [(1, 6), (3, 2), (6, 1)]  # (points, substeps): six steps of the teacher in one's


def made(points, substeps, *, steps=2, shift=3.0):
    settings = targets.Settings(points=points, substeps=substeps)
    return targets.grid(steps, settings, shift=shift)


def teacher(latents, time):
    del time
    return {"x": latents["x"] * RATES[None]}, None


def same(latents):
    return latents


def factors(grid):
    """Euler's factor of each of the teacher's steps [n c]: x -> (1 - (t - t') a) x."""
    widths = grid.times[:-1] - grid.times[1:]
    return 1 - widths[:, None].astype(np.float64) * RATES.astype(np.float64)


def solved(grid):
    """The mean velocity over what is left of the student's step, over x [intervals c]."""
    each = grid.points * grid.substeps
    rows = []
    for i in range(grid.intervals):
        begin, end = i * grid.substeps, (i // grid.points + 1) * each
        moved = np.prod(factors(grid)[begin:end], axis=0)
        rows.append((1 - moved) / (grid.times[begin] - grid.times[end]))
    return np.asarray(rows)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_the_teachers_times_hold_the_students_as_its_sampler_has_them(steps):
    grid, own = made(3, 5, steps=steps, shift=5.0), flow.schedule("euler", steps, shift=5.0)
    assert grid.intervals == 3 * steps and len(grid.times) == 15 * steps + 1
    np.testing.assert_array_equal(grid.times[:-1:15], own.sigma)
    np.testing.assert_array_equal(grid.timesteps[:-1:15], own.timestep)
    assert grid.times[-1] == 0 and (np.diff(grid.times) < 0).all()
    ends = grid.end(jnp.arange(grid.intervals))
    np.testing.assert_array_equal(grid.times[ends], np.repeat(np.append(own.sigma[1:], 0), 3))


def train(grid, *, decay=0.0, target_moves=True):
    """Trains one number a time and channel by Eq. 4; returns u / x [intervals c]."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    weights = jnp.zeros((grid.intervals, 3))

    def field(weights):
        def run(latents, time):
            # which of the times that are learned it is
            known = jnp.asarray(grid.times[: -1 : grid.substeps])
            place = jnp.argmin(jnp.abs(known[None] - time.t[:, None]), axis=1)
            return {"x": weights[place] * latents["x"]}, None

        return run

    @jax.jit
    def step(carry, key):
        weights, mean, state = carry
        keys = jax.random.split(key)
        interval = jax.random.randint(keys[0], (64,), 0, grid.intervals)
        x = {"x": jax.random.normal(keys[1], (64, 3))}
        target = mean if target_moves else jnp.zeros_like(mean)

        def loss(weights):
            wanted, _ = targets.average(
                teacher, field(target if decay else weights), x, interval, grid, keep=same
            )
            found, _ = field(weights)(x, grid.time(interval * grid.substeps))
            return jnp.mean(jnp.square(found["x"] - wanted["x"]))

        updates, state = optimiser.update(jax.grad(loss)(weights), state)
        weights = optax.apply_updates(weights, updates)
        return (weights, decay * mean + (1 - decay) * weights, state), None

    carry = (weights, weights, optimiser.init(weights))
    keys = jax.random.split(jax.random.key(0), 1500)
    return np.asarray(jax.lax.scan(step, carry, keys)[0][0])


@pytest.mark.parametrize(("points", "substeps"), KINDS)
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_trained_student_steps_to_where_the_teacher_ends(points, substeps, decay):
    """At every time that is learned, and so in two Euler steps from noise to the teacher's data."""
    grid = made(points, substeps)
    found = train(grid, decay=decay)
    np.testing.assert_allclose(found, solved(grid), atol=2e-3)
    x = np.ones(3)
    for row, t in zip(found[:: grid.points], (0, 1), strict=True):
        each = grid.points * grid.substeps
        x = x - (grid.times[t * each] - grid.times[(t + 1) * each]) * row * x
    np.testing.assert_allclose(x, np.prod(factors(grid), axis=0), atol=3e-3)
    # ... which the teacher's own two steps are not
    own = np.prod([1 - (a - b) * RATES for a, b in ((1, 0.75), (0.75, 0))], axis=0)
    assert np.abs(own - np.prod(factors(grid), axis=0)).max() > 0.02


def test_the_targets_average_is_what_is_bootstrapped():
    """With a target that stays zero the student learns the teacher's share of Eq. 4 alone."""
    grid = made(3, 2)
    found = train(grid, decay=0.9, target_moves=False)
    ends = np.array([(i // 3 + 1) * 6 for i in range(6)])
    begin = np.arange(6) * 2
    t, r, s = grid.times[begin], grid.times[begin + 2], grid.times[ends]
    moved = factors(grid)[begin] * factors(grid)[begin + 1]
    np.testing.assert_allclose(found, (1 - moved) / (t - s)[:, None], atol=2e-3)
    assert np.abs(found - solved(grid))[r > s].min() > 0.01


def test_a_target_is_exact_where_the_targets_network_is():
    """Eq. 4 of the solved field is the solved field, for every division of the steps."""
    for points, substeps in KINDS:
        grid = made(points, substeps)
        known, exact = jnp.asarray(grid.times[: -1 : grid.substeps]), jnp.asarray(solved(grid))

        def target(latents, time, known=known, exact=exact):
            place = jnp.argmin(jnp.abs(known[None] - time.t[:, None]), axis=1)
            return {"x": exact.astype(jnp.float32)[place] * latents["x"]}, None

        interval = jnp.arange(grid.intervals)
        x = {"x": jax.random.normal(jax.random.key(1), (grid.intervals, 3))}
        wanted, _ = targets.average(teacher, target, x, interval, grid, keep=same)
        np.testing.assert_allclose(wanted["x"], exact * x["x"], rtol=2e-5, atol=2e-6)


def test_no_gradient_enters_the_target_and_held_values_stay():
    grid = made(2, 2)

    def keep(latents):
        return {"x": latents["x"].at[:, 0].set(5.0)}

    def run(scale):
        def field(latents, time):
            del time
            return {"x": scale * latents["x"]}, jnp.mean(scale * latents["x"])[None]

        x, interval = {"x": jnp.full((4, 3), 5.0)}, jnp.arange(4)
        return targets.average(field, field, x, interval, grid, keep=keep)

    # By the dtype's zeros: a constant has no gradient at all.
    assert jax.grad(lambda s: jnp.sum(run(s)[0]["x"]) + jnp.sum(run(s)[1]))(0.5) == 0
    reached, said = targets.drive(
        lambda x, t: ({"x": 0.5 * x["x"]}, t.t), {"x": jnp.full((4, 3), 5.0)},
        jnp.arange(4) * 2, grid, keep=keep,
    )  # fmt: skip
    np.testing.assert_array_equal(reached["x"][:, 0], 5.0)
    assert (reached["x"][:, 1:] < 5).all()
    np.testing.assert_array_equal(said, grid.times[1:8:2])  # of the last substep


@pytest.mark.parametrize("name", ["points", "substeps"])
def test_settings_say_what_they_want(name):
    with pytest.raises(ValueError, match=rf"task.distill.{name}: wanted at least 1, got 0"):
        targets.Settings(**{name: 0})
