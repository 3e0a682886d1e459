"""One view without its reference: drawn in training, in the loss, and generated in sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import flow
from syncmv4d_jax.tasks.syncmv4d import cycle

OPEN = {"cycle__dpa": False, "cycle__cycle": False}


def test_one_view_each_of_a_share_of_the_samples_is_hidden():
    task = tiny.make(view_drop=0.3)
    hidden = np.asarray(task._hidden(jax.random.key(0), 600))
    assert hidden.shape == (600, tiny.V) and hidden.sum(1).max() == 1
    assert 0.25 < hidden.any(1).mean() < 0.35
    assert (hidden.sum(0) > 40).all()  # any of them alike: 60 each
    with pytest.raises(ValueError, match="view_drop: wanted a share, 0 to 1, got 1.5"):
        tiny.make(view_drop=1.5)


@pytest.mark.parametrize("share, attend", [(0.0, True), (1.0, False), (1.0, True)])
def test_what_is_hidden_is_told_to_the_network_and_in_the_loss(monkeypatch, share, attend):
    task = tiny.make(view_drop=share, text_drop=0.0, dit__multi_view=attend, **OPEN)
    batch, seen = tiny.make_batch(), {}
    rng = np.random.default_rng(0)
    for name in ("video", "motion"):
        batch.pop(name)
        latents = rng.normal(size=(1, *task.latent_shape)).astype(np.float32)
        batch[f"{name}_latents"] = jnp.asarray(latents)

    def step(functions, detached, targets, t, context, rng, *, settings):
        seen.update(hidden=cycle.hidden_views(context))
        off = jnp.zeros_like(targets.latents).at[:, :, 0].set(1.0)  # video frame 0 of all views

        def diffused(data, error):
            noise = jax.random.normal(rng, data.shape)
            return cycle.Diffused(data, noise, flow.velocity(data, noise) + error)

        both = diffused(targets.latents, off), diffused(targets.motion_latents, 0.0)
        return cycle.Prediction(*both, None, targets.scale, off)

    monkeypatch.setattr(cycle, "train_step", step)
    _, terms = task.loss({}, {}, batch, jax.random.key(2))
    if not (share and attend):
        assert seen["hidden"] is None and terms["loss_video"] == 0
        return
    assert np.asarray(seen["hidden"]).sum() == 1
    # One frame of one view of three with two each, of which frames 0 of the others do not count.
    assert float(terms["loss_video"]) == pytest.approx(1 / 4, rel=1e-5)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_sampling_reads_nothing_of_a_hidden_view_and_generates_its_frame_0(prediction):
    task = tiny.make(
        prediction=prediction, sample_steps=2, cycle__refine_every=2, cycle__refine_last=1
    )
    batch = tiny.make_batch()
    params = task.init(jax.random.key(0))
    first = np.random.default_rng(0).normal(size=(1, *task.latent_shape)).astype(np.float32)
    keys = ("text", "text_lengths", "intrinsics", "extrinsics", "view_index", "frame_valid")
    inputs = {key: batch[key] for key in keys} | {"hidden": jnp.array([[False, True, False]])}
    found = []
    for other in (0.0, 5.0):
        own = jnp.asarray(first[:, :, :1]).at[:, 1].add(other)
        out = task.sample(params, inputs | {"first": own}, jax.random.key(1))
        found.append(out)
        np.testing.assert_array_equal(out.latents[:, [0, 2], :1], own[:, [0, 2]])
        assert np.abs(out.latents[:, 1, :1] - own[:, 1]).min() > 1e-6
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"sample: hidden wanted \[b v\] = \[1, 3\]"):
        task.sample(
            params, inputs | {"hidden": jnp.array([[True]]), "first": own}, jax.random.key(1)
        )
