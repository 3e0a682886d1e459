"""The autoencoder's task: weights, crops, statistics, and that training lowers the loss."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import wan_vae as wan_vae_config
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, perceptual, wan_vae


@pytest.fixture(scope="module")
def batch():
    """Two views of a coloured square that moves over a grey slope; its pseudo video on black."""
    video = np.zeros((1, 2, 5, 16, 24, 3), np.uint8)
    motion = np.zeros_like(video)
    for view in range(2):
        for frame in range(5):
            video[0, view, frame] = np.linspace(60, 200, 24, dtype=np.uint8)[None, :, None]
            left = 4 + 2 * frame + view
            video[0, view, frame, 4:12, left : left + 8] = (220, 40, 90)
            motion[0, view, frame, 4:12, left : left + 8] = (30, 160, 120)
    return {"video": jnp.asarray(video), "motion": jnp.asarray(motion)}


def task(**options):
    return wan_vae.WanVAE(vae.TINY, options=wan_vae.Options(**options))


def test_follows_the_protocol():
    config = wan_vae_config.get_config("debug")
    made = wan_vae.make(config)
    assert isinstance(made, base.Task)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    assert shapes.keys() == {"vae"}
    with pytest.raises(ValueError, match="unknown keys"):
        wan_vae.make(type(config)({"task": {"name": "wan_vae", "speed": 1}}))


@pytest.mark.parametrize("variant", wan_vae_config.VARIANTS)
def test_configurations(variant):
    config = wan_vae_config.get_config(variant)
    with pytest.raises((AttributeError, KeyError)):
        config.unknown = 1
    made = wan_vae.make(config)
    assert made.config.stride == (4, 8)
    if variant != "debug":
        shapes = module.shapes(vae.VAE, made.config)
        assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) <= 2_500_000


def test_lpips_of_the_videos_joins_the_loss_and_is_frozen():
    small = {"crop": (5, 32, 32), "kl_weight": 0.0}
    plain, own = task(**small), task(**small, perceptual_weight=0.5)
    rng, params = np.random.default_rng(0), own.init(jax.random.key(0))
    clips = {name: jnp.asarray(rng.integers(0, 255, (1, 1, 5, 32, 32, 3), np.uint8))
             for name in ("video", "motion")}  # fmt: skip
    trained, frozen = {"vae": params["vae"]}, {"lpips": params["lpips"]}
    args = clips, jax.random.key(1)
    base_loss, _ = plain.loss(trained, {}, *args)
    (loss, said), gradient = jax.value_and_grad(own.loss, has_aux=True)(trained, frozen, *args)
    model = module.bind(vae.VAE, own.config, params["vae"])
    video = clips["video"][0].astype(jnp.float32) / 127.5 - 1
    far = perceptual.distance(params["lpips"], model.decode(model.encode(video)), video)[0]
    assert abs(float(far)) > 1e-3
    np.testing.assert_allclose(said["lpips/video"], far, rtol=1e-4)
    np.testing.assert_allclose(loss - base_loss, 0.5 * far, rtol=1e-3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert own.frozen_parts == own.judges == ("lpips",) and plain.judges == ()
    assert set(plain.init(jax.random.key(0))) == {"vae"}
    with pytest.raises(ValueError, match=r"perceptual_weight: wanted pictures of at least 31.*16"):
        task(crop=(1, 16, 32), perceptual_weight=0.5)
    with pytest.raises(ValueError, match="perceptual_weight: wanted at least 0, got -1"):
        task(perceptual_weight=-1.0)


@pytest.mark.slow
def test_training_lowers_the_loss(batch):
    made = task(kl_weight=1e-6, foreground_gain=2.0, moving_gain=1.0, gradient_weight=0.5)
    params = made.init(jax.random.key(0))
    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        (loss, scalars), grads = jax.value_and_grad(made.loss, has_aux=True)(params, {}, batch, key)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, loss, scalars, grads

    state, losses = optimiser.init(params), []
    for i in range(12):
        params, state, loss, scalars, grads = step(params, state, jax.random.key(i))
        losses.append(float(loss))
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.7 * losses[0]
    each = {f"{k}/{m}" for k in ("loss", "psnr", "energy") for m in ("video", "motion")}
    assert set(scalars) == each | {"kl"}
    used = [float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads)]
    assert all(used), f"{used.count(False)} parameters of {len(used)} get no gradient"


def test_weights(batch):
    made = task(foreground_gain=3.0, moving_gain=2.0)
    clips, weights = made._clips(batch, jax.random.key(0))
    assert clips.shape == (4, 5, 16, 24, 3) and weights.shape == (4, 5, 16, 24, 1)
    np.testing.assert_allclose(jnp.mean(weights), 1.0, rtol=1e-5)
    still, painted = weights[0, 0, 0, 0, 0], weights[0, 0, 6, 8, 0]
    np.testing.assert_allclose(painted / still, 4.0, rtol=1e-5)
    # Frame 1, the pixel the square has just reached: painted and moving.
    np.testing.assert_allclose(weights[0, 1, 6, 13, 0] / still, 6.0, rtol=1e-5)
    plain, ones = task()._clips(batch, jax.random.key(0))
    np.testing.assert_array_equal(plain, clips)
    np.testing.assert_allclose(ones, 1.0)


def test_crops_keep_modalities_aligned(batch):
    both = {"video": batch["motion"], "motion": batch["motion"]}
    clips, _ = task(clips=1, crop=(1, 8, 16))._clips(both, jax.random.key(3))
    assert clips.shape == (2, 1, 8, 16, 3)
    np.testing.assert_array_equal(clips[0], clips[1])


def test_crops_are_drawn_about_what_is_painted():
    """A square of 4 x 4 pixels in a corner: it is in all crops that look for it, in few others."""
    motion = np.zeros((1, 8, 1, 48, 72, 3), np.uint8)
    motion[:, :, :, 40:44, 4:8] = 200
    both = {"video": jnp.asarray(motion), "motion": jnp.asarray(motion)}
    for focus, low, high in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.5)):
        clips, _ = task(crop=(1, 16, 24), focus=focus)._clips(both, jax.random.key(0))
        inside = np.asarray((clips > 0).any((1, 2, 3, 4)))
        assert low <= inside.mean() <= high
    nothing = {name: x * 0 for name, x in both.items()}
    assert task(crop=(1, 16, 24), focus=1.0)._clips(nothing, jax.random.key(0))[0].shape[2] == 16


@pytest.mark.slow
def test_blur_costs_more_with_the_gradient_term(batch):
    """Two reconstructions of equal L1: one is shifted by a constant, one has lost its edges."""
    sharp = jnp.tile(jnp.asarray([[0.0, 0.4], [0.4, 0.0]]), (8, 12))[None, None, :, :, None]
    errors = {"shifted": 0.2 + 0 * sharp, "blurred": 0.2 - sharp}
    weights = jnp.ones((2, 1, 16, 24, 1))
    cost = {}
    for name, error in errors.items():
        error = jnp.broadcast_to(error, (2, 1, 16, 24, 3))
        np.testing.assert_allclose(wan_vae._mean(jnp.abs(error) * weights), 0.2, rtol=1e-5)
        pairs = zip(wan_vae._steps(error), wan_vae._steps_of(weights), strict=True)
        cost[name] = float(sum(wan_vae._mean(jnp.abs(x) * w) for x, w in pairs)[0])
    assert cost["shifted"] < 1e-6 and cost["blurred"] == pytest.approx(0.8)
    made = {w: task(gradient_weight=w) for w in (0.0, 1.0)}
    params = made[0.0].init(jax.random.key(0))
    losses = [float(m.loss(params, {}, batch, jax.random.key(0))[0]) for m in made.values()]
    assert losses[1] > losses[0]


def test_bad_input(batch):
    made = task()
    params = made.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"missing \['motion'\]"):
        made.loss(params, {}, {"video": batch["video"]}, jax.random.key(0))
    with pytest.raises(ValueError, match=re.escape("wanted 4 k + 1 frames, got 4")):
        task(crop=(4, 8, 8))
    with pytest.raises(ValueError, match=re.escape("wanted (9, 8, 8) from clips of (5, 16, 24)")):
        task(crop=(9, 8, 8)).loss(params, {}, batch, jax.random.key(0))
    with pytest.raises(ValueError, match="task.crop"):
        wan_vae.Options(crop=(4, 8))
    with pytest.raises(ValueError, match="task.clips"):
        wan_vae.Options(clips=-1)
    with pytest.raises(ValueError, match="task.focus"):
        wan_vae.Options(focus=1.5)


def test_statistics_normalise_latents(batch):
    params = module.init(vae.VAE, vae.TINY, jax.random.key(0))
    videos = [batch["video"][0], batch["motion"][0]]
    mean, std = wan_vae.statistics(vae.TINY, params, videos)
    config = dataclasses.replace(vae.TINY, latents_mean=mean, latents_std=std)
    model = module.bind(vae.VAE, config, params)
    latents = jnp.stack([model.encode(v.astype(jnp.float32) / 127.5 - 1) for v in videos])
    np.testing.assert_allclose(jnp.mean(latents, axis=(0, 1, 2, 3, 4)), 0.0, atol=1e-3)
    np.testing.assert_allclose(jnp.std(latents, axis=(0, 1, 2, 3, 4)), 1.0, atol=1e-3)
    with pytest.raises(ValueError, match="at least one clip"):
        wan_vae.statistics(vae.TINY, params, [])
