"""What the losses see: frame 0, dropped text; and that an overfitted model knows the scale."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import tree
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.syncmv4d import cycle


def noisy_batch(seed):
    """Latents in place of pixels; the scene's depth range depends on the seed."""
    task = tiny.make(cycle__dpa=False, cycle__cycle=False)
    batch = {k: v for k, v in tiny.make_batch(seed).items() if k not in ("video", "motion")}
    rng = np.random.default_rng(seed)
    for name in ("video_latents", "motion_latents"):
        batch[name] = jnp.asarray(rng.normal(size=(1, *task.latent_shape)), jnp.float32)
    low = 1.2 + 0.3 * seed + 0.05 * rng.uniform(size=(1, tiny.V))
    scale = np.stack([low, low + 0.3 + 0.1 * seed], -1)
    return batch | {"scale": jnp.asarray(scale, jnp.float32)}


def test_video_frame_0_is_not_in_the_loss():
    """A15: of the video; motion's is."""
    task, batch = tiny.make(cycle__dpa=False, cycle__cycle=False), noisy_batch(0)
    ones = jnp.ones((1, *task.latent_shape))
    targets = cycle.Targets(ones, ones, None, batch["scale"])

    def losses(change):
        at = lambda which: ones.at[:, :, 0].add(change) if which else ones  # noqa: E731
        rows = []
        for video, motion in ((True, False), (False, True)):
            both = (cycle.Diffused(ones, at(x), ones * 0) for x in (video, motion))
            out = cycle.Prediction(*both, None, batch["scale"], ones)
            context = task.loop.context(batch)
            terms = task.latent_terms(out, targets, jnp.array([0.5]), context, batch)
            rows.append(terms)
        return rows

    (video, motion), (video_moved, motion_moved) = losses(0.0), losses(3.0)
    assert video["video"] == video_moved["video"] == 0
    assert motion_moved["motion"] > motion["motion"] == 0


def test_the_scale_counts_from_the_point_that_the_rays_meet_in():
    """A5 about the centre: a camera that stands farther away is told so by its pose."""
    small = {"cycle__dpa": False, "cycle__cycle": False}
    plain, about = tiny.make(**small), tiny.make(**small, scale_origin="centre")
    batch = tiny.make_batch()
    batch["extrinsics"] = batch["extrinsics"].at[:, 1, :, 2, 3].add(0.5)  # along its own axis
    params = plain.init(jax.random.key(0))
    key, first = jax.random.key(1), jnp.zeros((1, tiny.V, 1, *plain.latent_shape[2:]))
    latents = jax.random.normal(key, (1, *plain.latent_shape))

    def scale(task):
        functions = task.loop.functions(params, first)
        context, t = task.loop.context(batch), jnp.full((1,), 0.5)
        return functions.mjd(latents, latents, latents * 0, t, context).scale

    met = np.array([0.2, 0.9, 0.4])  # of tiny.make_batch: what its cameras look at
    pose = np.asarray(batch["extrinsics"][0, :, 0])
    depth = pose[:, 2, :3] @ met + pose[:, 2, 3]
    assert depth[1] > depth[[0, 2]].max() + 0.3
    difference = np.asarray(scale(about) - scale(plain))[0]
    np.testing.assert_allclose(difference, np.stack([depth, depth], -1), atol=1e-5)


def test_a_lone_view_has_no_point_to_count_from():
    with pytest.raises(ValueError, match="scale_origin=centre: wanted views whose rays meet"):
        tiny.make(views=1, scale_origin="centre")
    with pytest.raises(ValueError, match="scale_origin: wanted .*'camera', 'centre'.*'world'"):
        tiny.make(scale_origin="world")


def test_text_is_dropped_for_whole_samples():
    text = jnp.ones((64, 5, 8))
    batch = {
        "text": text, "text_lengths": jnp.full((64,), 5), "null_text": jnp.zeros((64, 2, 8)),
        "null_text_lengths": jnp.full((64,), 1),
    }  # fmt: skip
    dropped_text, lengths = video.drop_text(batch, jax.random.key(0), share=0.5)
    dropped = np.asarray(lengths) == 1
    assert 16 < dropped.sum() < 48
    np.testing.assert_array_equal(dropped_text.max((1, 2)), np.where(dropped, 0.0, 1.0))
    with pytest.raises(ValueError, match=r"text_drop=0.5 needs null_text, null_text_lengths; got"):
        video.drop_text(batch | {"null_text": None}, jax.random.key(0), share=0.5)


@pytest.mark.slow
def test_an_overfitted_model_predicts_the_scale():
    """Must show: within 1 %, on four scenes, from any noise and time."""
    task = tiny.make(cycle__dpa=False, cycle__cycle=False)
    batches = [noisy_batch(seed) for seed in range(4)]
    batch = jax.tree.map(lambda *xs: jnp.concatenate(xs), *batches)
    mean, std = np.asarray(batch["scale"]).mean((0, 1)), np.asarray(batch["scale"]).std((0, 1))
    options = dataclasses.replace(
        task.options, scale_mean=tuple(mean), scale_std=tuple(std), text_drop=0.0
    )
    task = dataclasses.replace(task, options=options)
    params = jax.jit(task.init)(jax.random.key(0))
    trainable, frozen = tree.split(params, task.trainable)
    steps = 600
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = optimiser.init(trainable)

    @jax.jit
    def update(trainable, state, key):
        loss = lambda p: task.loss(p, frozen, batch, key)  # noqa: E731
        (_, terms), gradients = jax.value_and_grad(loss, has_aux=True)(trainable)
        updates, state = optimiser.update(gradients, state)
        return optax.apply_updates(trainable, updates), state, terms["loss_scale"]

    for step in range(steps):
        trainable, state, loss = update(trainable, state, jax.random.key(step))
    params = {**frozen, **trainable}
    targets = task.targets(frozen, batch)

    @jax.jit
    def predict(key, t):
        functions = task.loop.functions(params, targets.latents[:, :, :1])
        context = task.loop.context(batch)
        out = cycle.train_step(
            functions, functions, targets, t, context, key, settings=task.settings
        )
        return out.scale

    errors = [
        np.abs(predict(jax.random.key(1000 + i), jnp.full((4,), t)) / batch["scale"] - 1)
        for i, t in enumerate((0.1, 0.4, 0.7))
    ]
    assert np.median(errors) < 0.01, (np.median(errors), np.max(errors), loss)
