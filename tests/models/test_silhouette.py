"""The silhouette network: its pixels, sizes, that it is learnt, and what the loop paints by it."""

import configurations
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import syncmv4d_tiny as tiny

from configs import silhouette as configs
from syncmv4d_jax.models import silhouette
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.run import assembly
from syncmv4d_jax.tasks import silhouette as silhouette_task

TINY = silhouette.SilhouetteConfig(z_dim=8, space=8, width=16, depth=1)


def network(config, seed=0):
    params = module.init(silhouette.Silhouette, config, jax.random.key(seed))
    return params, module.bind(silhouette.Silhouette, config, params)


def test_a_cell_of_the_latent_is_its_square_of_pixels():
    """Blocks start as the identity: a cell then changes its own pixels and no others."""
    params, model = network(TINY)
    latents = jax.random.normal(jax.random.key(1), (2, 1, 3, 4, 8))
    base = model(latents)
    assert base.shape == (2, 24, 32) and base.dtype == jnp.float32
    moved = np.asarray(model(latents.at[1, 0, 2, 1].add(1.0)) != base)
    assert moved[1, 16:, 8:16].mean() > 0.9 and moved.sum() == moved[1, 16:, 8:16].sum()
    # Rows before columns: the readout's bias i * space + j lands at row i, column j of each cell.
    params["leave"]["bias"] = params["leave"]["bias"].at[3 * 8 + 5].add(1000.0)
    marked = np.asarray(module.bind(silhouette.Silhouette, TINY, params)(latents) > 500)
    assert marked.sum() == 24 and marked[:, 3::8, 5::8].all()


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="width: wanted at least 1, got 0"):
        silhouette.SilhouetteConfig(width=0)
    config = configs.get_config("debug").copy_and_resolve_references().unlock()
    config.task.silhouette.space = 16
    with pytest.raises(ValueError, match=r"task.silhouette: .*wanted \(8, 8\) of the autoencoder"):
        assembly.task(config)
    with pytest.raises(ValueError, match=r"wanted latents \[b 1 hl wl z\]"):
        network(TINY)[1](jnp.zeros((1, 2, 3, 4, 8)))
    task = assembly.task(configs.get_config("debug"))
    with pytest.raises(ValueError, match="config.data.raw=True"):
        task.loss({}, {}, {"video_latents": jnp.zeros((1, 3, 2, 4, 6, 8))}, jax.random.key(0))


def test_it_learns_the_painted_pixels_of_frame_0_and_no_other_frame():
    task = assembly.task(configs.get_config("debug"))
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 2, 4, 6, 8)).astype(np.float32)
    motion = rng.integers(0, 2, (2, 3, 5, 32, 48, 3)).astype(np.uint8) * 200  # noise, but frame 0:
    there = latents[:, :, 0, ..., 0] + 0.5 * latents[:, :, 0, ..., 1] > 0.2
    motion[:, :, 0] = 180 * np.kron(there, np.ones((8, 8)))[..., None]
    batch = {"video_latents": jnp.asarray(latents), "motion": jnp.asarray(motion)}
    params = {"silhouette": task.init(jax.random.key(0))["silhouette"]}
    optimiser = optax.adam(1e-2)
    state = optimiser.init(params)

    @jax.jit
    def update(params, state, key):
        (loss, scalars), slope = jax.value_and_grad(task.loss, has_aux=True)(params, {}, batch, key)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(params, change), state, loss, scalars["iou"]

    losses = []
    for step in range(60):
        params, state, loss, iou = update(params, state, jax.random.key(step))
        losses.append(float(loss))
    assert losses[-1] < 0.3 * losses[0] and iou > 0.9
    found = silhouette_task.mask(
        task.config, params["silhouette"], batch["video_latents"][:, :, :1]
    )
    true = motion[:, :, 0, ..., 0] > 0
    assert found.shape == true.shape and (np.asarray(found) == true).mean() > 0.95


@pytest.mark.parametrize("maps", ["autoencoder", "codec"])
def test_the_loop_warps_what_the_reference_image_shows(maps):
    """A network that finds the left half of the image, as its latent says."""
    config = configurations.load("readings.clean_mask", "debug").copy_and_resolve_references()
    config = config.unlock()
    if maps == "codec":
        config.task.codec = configurations.load("readings.learned_codec", "debug").task.codec
    task = assembly.task(config)
    assert "silhouette" in task.frozen_parts and "silhouette" not in task.trainable
    params = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0))["silhouette"])
    ramp = jnp.linspace(-1.0, 1.0, 16)
    params["enter"]["kernel"] = params["enter"]["kernel"].at[0].set(ramp)
    params["norm"]["scale"] += 1.0
    params["leave"]["kernel"] += ramp[:, None]
    params["leave"]["bias"] -= 1e-3
    first = jnp.zeros((1, 3, 1, 4, 6, 8)).at[..., :3, 0].set(1.0)
    batch = tiny.make_batch()
    context = task.loop.context(batch)
    height, width = task.loop.motion.maps.size
    frame0 = jnp.full((1, 3, height, width, 3), 0.5)

    def source(context):
        functions = task.loop.functions({"silhouette": params}, first)
        warp = jax.jit(functions.warp)(frame0, batch["scale"], context)
        return np.asarray(warp.source).reshape(3, height, width)

    found = source(context)
    assert found[:, :, : width // 2].any((1, 2)).all() and not found[:, :, width // 2 :].any()
    given = jnp.ones((1, 3, height, width), bool)  # comes first
    assert source({**context, "mask": given})[:, :, width // 2 :].any()
