"""What the loop is made of: independence of views, what switches leave in the program, its cost."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import tree
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost
from syncmv4d_jax.tasks.syncmv4d import cycle


def program(task, batch):
    """The StableHLO of loss and gradients, with the names of its stages."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    trainable, frozen = tree.split(params, task.trainable)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    lowered = function.lower(trainable, frozen, batch, jax.random.key(1))
    return lowered.as_text(debug_info=True)


def cached(task, batch):
    """The batch with latents (shapes only) in place of pixels."""
    shape = jax.ShapeDtypeStruct((1, *task.latent_shape), jnp.float32)
    kept = {k: v for k, v in batch.items() if k not in ("video", "motion")}
    return kept | {"video_latents": shape, "motion_latents": shape}


STAGES = (
    "feedback", "denoise", "align", "match", "warp", "paint", "vae_decode", "vae_encode", "tokens",
    "modulation", "inter_view_attention", "self_attention", "text_attention", "feed_forward",
    "heads",
)  # fmt: skip


@pytest.mark.slow
def test_switches_take_aligner_and_autoencoder_out_of_the_program():
    """The autoencoder is what convolves (the aligner gathers), the aligner and matching sort."""
    batch = tiny.make_batch()
    full = tiny.make()
    text = program(full, cached(full, batch))
    assert "stablehlo.convolution" in text and "stablehlo.sort" in text
    for stage in STAGES:  # a profile reads like the paper
        assert re.search(rf'["/(]{stage}[/)]', text), stage
    inside = r"feedback/(?:\w+/)*(match|vae_decode|warp|paint|vae_encode|tokens|heads)/"
    assert len(set(re.findall(inside, text))) == 7
    off = tiny.make(cycle__dpa=False, cycle__cycle=False)
    text = program(off, cached(off, batch))
    assert "stablehlo.convolution" not in text and "stablehlo.sort" not in text


def coarse_and_context(task, batch, views):
    one = {
        key: x[:, views] if key in PER_VIEW else x
        for key, x in batch.items()
        if key not in ("video", "motion")
    }
    tracks = jnp.repeat(one["tracks"][:, None], len(views), 1)
    noise = 0.01 * jax.random.normal(jax.random.key(2), (1, 3, *tracks.shape[2:]))
    coarse = cycle.Coarse(tracks + noise[:, views], jnp.full(tracks.shape[:-1], 0.8))
    noisy = jax.random.normal(jax.random.key(3), (1, 3, *tracks.shape[2:]))[:, views]
    return coarse, noisy, task.loop.context(one)


PER_VIEW = ("intrinsics", "extrinsics", "anchors", "anchor_valid", "view_index", "scale")


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_without_multi_view_the_aligner_sees_each_view_by_itself():
    """In float64: a view's depth by itself is found by a solve that magnifies rounding."""
    batch = tiny.make_batch()
    task = tiny.make(dit__multi_view=False)
    single = tiny.make(dit__multi_view=False, views=1)
    params = {"dpa": randomise(task)}
    run = jax.jit(lambda *xs: task.loop.align(params, *xs, network=True))
    t = jnp.array([0.4])
    coarse, noisy, context = coarse_and_context(task, batch, [0, 1, 2])
    together = run(noisy, coarse, t, context)
    metres = task.loop.denormalise(noisy, context)
    np.testing.assert_allclose(task.loop.normalise(metres, context), noisy, atol=1e-4)
    coarse, noisy, context = coarse_and_context(single, batch, [1])
    apart = jax.jit(lambda *xs: single.loop.align(params, *xs, network=True))
    alone = apart(noisy, coarse, t, context)
    np.testing.assert_allclose(together[:, 1:2], alone, rtol=0, atol=1e-6 * np.abs(alone).max())


def randomise(task):
    params = jax.jit(lambda key: task.init(key)["dpa"])(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten(
        x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)
    )


def test_cost_adds_up_what_the_switches_leave():
    task = tiny.make().loop
    each = {"mjd": 100.0, "encode": 10.0, "decode": 50.0, "dpa": 2.0, "pixels": 11.0}
    full = syncmv4d_cost.training(task, each)
    assert full == {"mjd": 350.0, "dpa": 8.0, "decode": 75.0, "encode": 5.0}
    used = syncmv4d_cost.training(tiny.make(cycle__network=True).loop, each)
    assert used["dpa"] == 9.0  # in what is fed back, too
    few = tiny.make(cycle__probability=0.1, cycle__decoded=0.1)
    few = syncmv4d_cost.training(few.loop, each)
    assert few["decode"] == pytest.approx(10.0) and few["mjd"] == pytest.approx(310.0)
    off = syncmv4d_cost.training(tiny.make(cycle__dpa=False, cycle__cycle=False).loop, each)
    assert off == {"mjd": 300.0}
    assert syncmv4d_cost.training(task, each, raw=True)["pixels"] == 22.0
    text = syncmv4d_cost.text(task)  # once a sample, not in every step
    each["mjd"] += text
    sampling = syncmv4d_cost.sampling(task, each)
    assert sampling["mjd"] == 400.0 + text and sampling["decode"] == 200.0  # four, all refine
    every = tiny.make(cycle__refine_every=4, cycle__refine_last=1, guidance=3.0)
    sampling = syncmv4d_cost.sampling(every.loop, each)
    assert sampling["mjd"] == 800.0 + 2 * text and sampling["decode"] == 100.0


def test_at_full_size_few_steps_cost_a_quarter_at_most():
    """Must show: at most 25 % on top of the transformer with the faithful autoencoder."""
    from configs.readings import few_steps
    from syncmv4d_jax.tasks import syncmv4d

    task = syncmv4d.make(few_steps.get_config()).loop
    each = {"mjd": 387.9, "encode": 174.7, "decode": 849.2, "dpa": 10.9}  # benchmarks/cycle.py
    each = {part: 1e12 * x for part, x in each.items()}
    for cost, plain in (
        (syncmv4d_cost.training(task, each), 4 * each["mjd"]),
        (syncmv4d_cost.sampling(task, each), 100 * each["mjd"]),
    ):
        assert 1 < sum(cost.values()) / plain <= 1.25
