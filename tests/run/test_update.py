"""One training step: whose randomness it has, what micro-batches add up to."""

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.run import optim, sections, update


class Noise:
    """A task whose gradient is what its rng draws, and the mean of the batch."""

    def loss(self, trainable, frozen, batch, rng):
        draw = jax.random.normal(rng)
        loss = trainable["a"] * draw + trainable["b"] * jnp.mean(batch["x"])
        return loss, {"draw": draw}


def steps(config, count=3):
    step = jax.jit(update.make_update(Noise(), config))
    state = optim.init(config, {"a": jnp.ones(()), "b": jnp.ones(())})
    batch, rows = {"x": jnp.arange(8.0)}, []
    for _ in range(count):
        state, scalars = step(state, {}, batch, jax.random.key(7))
        rows.append(scalars)
    return state, rows


def test_a_step_is_drawn_anew_and_the_same_step_again():
    _, rows = steps(sections.OptimConfig())
    draws = [float(row["draw"]) for row in rows]
    assert len(set(draws)) == 3
    assert draws == [float(row["draw"]) for row in steps(sections.OptimConfig())[1]]


def test_micro_batches_have_draws_of_their_own_and_are_averaged():
    plain, many = sections.OptimConfig(clip=0.0), sections.OptimConfig(clip=0.0, accumulate=4)
    (_, one), (_, four) = steps(plain, 1), steps(many, 1)
    key = jax.random.fold_in(jax.random.key(7), 0)
    draws = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(4)]
    np.testing.assert_allclose(four[0]["draw"], np.mean(draws), rtol=1e-6)
    np.testing.assert_allclose(four[0]["gradient_norm"], np.hypot(np.mean(draws), 3.5), rtol=1e-6)
    np.testing.assert_allclose(one[0]["gradient_norm"], np.hypot(one[0]["draw"], 3.5), rtol=1e-6)
