"""The clean estimate on the way has the sample's form, and is the sample at the last step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import schema


def given(task):
    batch = tiny.make_batch()
    known = {key: batch[key] for key in schema.CONDITIONS if key in batch}
    v, _, h, w, c = task.latent_shape
    first = np.random.default_rng(0).normal(size=(1, v, 1, h, w, c)).astype(np.float32)
    return known | {"first": jnp.asarray(first)}


def test_estimates_have_the_samples_form():
    task = tiny.make(sample_steps=3, guidance=1.0, cycle__refine_every=2, cycle__refine_last=1)
    seen = []

    def sample(params, inputs, rng):
        look = lambda done, x: seen.append((done, jax.tree.map(jnp.shape, x)))  # noqa: E731
        return task.watch(params, inputs, rng, look=look)

    params = jax.eval_shape(task.init, jax.random.key(0))
    found = jax.eval_shape(sample, params, given(task), jax.random.key(1))
    assert seen and seen[-1][0] == 3
    for _, estimate in seen:
        for name in ("latents", "motion_latents", "tracks_per_view", "confidence", "scale"):
            assert getattr(estimate, name) == getattr(found, name).shape, name
        assert estimate.anchors == found.anchors.shape
    names = [row.name for row in task.switches]
    assert names == ["cycle", "refine_every", "refine_last", "network"]
    assert {row.name: row.value for row in task.switches}["refine_every"] == 2


@pytest.mark.slow
def test_the_last_estimate_is_the_sample_and_looking_changes_nothing():
    task = tiny.make(sample_steps=2, guidance=1.0, cycle__refine_last=1)
    params, inputs, seen = task.init(jax.random.key(0)), given(task), []
    plain = task.sample(params, inputs, jax.random.key(1))
    looked = task.watch(
        params, inputs, jax.random.key(1), look=lambda done, x: seen.append((done, x))
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(looked), strict=True):
        np.testing.assert_array_equal(a, b)
    done, last = seen[-1]
    assert done == 2
    np.testing.assert_allclose(last.latents, plain.latents, atol=1e-4)
    np.testing.assert_allclose(last.motion_latents, plain.motion_latents, atol=1e-4)
    np.testing.assert_array_equal(last.tracks_per_view, plain.tracks_per_view)
