"""Conditions beside the latents and the motion module: what changes nothing, what reaches where."""

import dataclasses

import jax
import jax.numpy as jnp
import more4d_tiny as tiny
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models import conditioned, perception
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import dit

CONFIG = tiny.dit(8)
GRID = (2, 3)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
    return {"latents": draw(1, 3, *GRID, 12), "t": jnp.array([400.0]), "context": draw(1, 6, 8)}


@pytest.fixture(scope="module")
def params():
    return tiny.shaken(module.init(conditioned.ConditionedDiT, CONFIG, jax.random.key(0)))


def run(params, inputs, perceived=None, config=CONFIG):
    model = module.bind(conditioned.ConditionedDiT, config, params)
    return jax.jit(lambda x, t, c: model(x, t, c, perceived=perceived, first_frame=True))(
        inputs["latents"], inputs["t"], inputs["context"]
    )


def base_output(params, inputs):
    config = dataclasses.replace(CONFIG)
    plain = {k: x for k, x in params.items() if k != "condition_embedding"}
    model = module.bind(dit.DiT, config, plain)
    return jax.jit(lambda x, t, c: model(x, t, c, first_frame=True))(
        inputs["latents"][..., :4], inputs["t"], inputs["context"]
    )


def test_zero_rows_give_the_base_model_exactly(params, inputs):
    zero = {"kernel": jnp.zeros_like(params["condition_embedding"]["kernel"])}
    got = run({**params, "condition_embedding": zero}, inputs)
    np.testing.assert_array_equal(got, base_output(params, inputs))
    assert np.abs(run(params, inputs) - got).max() > 1e-3
    fresh = module.init(conditioned.ConditionedDiT, CONFIG, jax.random.key(0))
    assert not np.asarray(fresh["condition_embedding"]["kernel"]).any()


def test_two_embeddings_are_one_of_more_channels(params, inputs):
    """Wan's embedding of c + c' channels, its rows in two parts: (pf ph pw c) each."""
    config = tiny.dit(8, patch=(1, 2, 1))
    made = tiny.shaken(module.init(conditioned.ConditionedDiT, config, jax.random.key(1)))
    model = module.bind(conditioned.ConditionedDiT, config, made)
    latents = inputs["latents"]
    got, grid = model.embed(latents)
    kernels = [made[f"{k}_embedding"]["kernel"].reshape(2, -1, 24) for k in ("patch", "condition")]
    whole = jnp.concatenate(kernels, axis=1)  # [2 12 24]
    patches = latents.reshape(1, 3, 1, 2, 3, 12)
    wanted = (
        jnp.einsum("bfhiwc,icd->bfhwd", patches, whole)
        + made["patch_embedding"]["bias"][None, None, None, None]
    )
    assert grid == (3, 1, 3)
    np.testing.assert_allclose(got, wanted.reshape(1, 9, 24), atol=1e-5)
    with pytest.raises(ValueError, match=r"latents and conditions \[b f h w 4 \+ 8\]"):
        model.embed(latents[..., :11])


def modulation(params, feature, config=tiny.PERCEIVES):
    return module.bind(perception.Perception, config, params)(feature, GRID)


def test_the_motion_module_changes_nothing_at_first_and_then_every_latent_frame(params, inputs):
    feature = jnp.asarray(np.random.default_rng(2).standard_normal((1, 4, 6, 4), np.float32))
    fresh = module.init(perception.Perception, tiny.PERCEIVES, jax.random.key(3))
    without = run(params, inputs)
    np.testing.assert_array_equal(run(params, inputs, modulation(fresh, feature)), without)
    vectors = modulation(tiny.shaken(fresh), feature)
    assert vectors.shape == (2, 1, 6, 4, 24)
    # One block, so that what moves in a frame was not brought there by attention.
    one = dataclasses.replace(CONFIG, layers=1)
    first = {**params, "blocks": jax.tree.map(lambda x: x[:1], params["blocks"])}
    only_ffn = vectors[:1].at[:, :, :, :2].set(0.0)
    gap = run(first, inputs, only_ffn, one) - run(first, inputs, None, one)
    assert (np.abs(np.asarray(gap)).max((0, 2, 3, 4)) > 1e-4).all()  # [f]


def test_the_place_of_a_token_is_its_place_in_frame_0(params, inputs):
    """A feature that differs at one place of frame 0 moves that place, of all frames, alone."""
    one = dataclasses.replace(CONFIG, layers=1)
    first = {**params, "blocks": jax.tree.map(lambda x: x[:1], params["blocks"])}
    vectors = np.zeros((1, 1, 6, 4, 24), np.float32)
    vectors[:, :, 4, 2:] = 0.3  # FFN, row 1, column 1
    gap = run(first, inputs, jnp.asarray(vectors), one) - run(first, inputs, None, one)
    moved = np.abs(np.asarray(gap)[0]).max(-1) > 1e-5  # [f h w]
    assert moved[:, 1, 1].all() and moved.sum() == 3


def test_the_module_trains_after_two_updates():
    """The gate is zero: the first update moves it alone, the second everything."""
    made = module.init(perception.Perception, tiny.PERCEIVES, jax.random.key(4))
    feature = jnp.asarray(np.random.default_rng(5).standard_normal((1, 2, 3, 4), np.float32))
    goal = jnp.asarray(np.random.default_rng(6).standard_normal((2, 1, 6, 4, 24), np.float32))
    gradient = jax.jit(jax.grad(lambda p: jnp.mean((modulation(p, feature) - goal) ** 2)))
    first = gradient(made)
    made = jax.tree.map(lambda x, g: x - g, made, first)
    second = tree.flatten(gradient(made))
    moved = {name for name, g in tree.flatten(first).items() if np.abs(g).max() > 0}
    assert moved == {"blocks/self_attn_gate", "blocks/ffn_gate"}
    assert all(np.abs(g).max() > 0 for g in second.values())


def test_the_module_joins_what_a_block_has():
    """(LN(x) (1 + scale) + shift) (1 + a) + b, of one modulation."""
    rng = np.random.default_rng(7)
    x, shift, scale, a, b = (rng.standard_normal((2, 3, 4)) for _ in range(5))
    own = perception.PerceivedBlock.join(shift, scale, a, b)
    np.testing.assert_allclose(
        x * (1 + own[1]) + own[0], (x * (1 + scale) + shift) * (1 + a) + b, atol=1e-12
    )


def test_a_pooled_feature_has_no_place():
    pooled = dataclasses.replace(tiny.PERCEIVES, pooled=True)
    made = tiny.shaken(module.init(perception.Perception, pooled, jax.random.key(4)))
    feature = jnp.asarray(np.random.default_rng(5).standard_normal((1, 8, 9, 4), np.float32))
    kernel = made["conv_0"]["kernel"]
    made["conv_0"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(kernel[1, 1])
    kernel = made["conv_2"]["kernel"]
    made["conv_2"]["kernel"] = jnp.zeros_like(kernel).at[1, 1].set(kernel[1, 1])
    vectors = np.asarray(modulation(made, feature, pooled))
    np.testing.assert_allclose(vectors, vectors[:, :, :1].repeat(6, 2), atol=1e-6)


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="wanted one of"):
        perception.PerceptionConfig(source="clip")
    with pytest.raises(ValueError, match="wanted the 768 channels"):
        perception.PerceptionConfig(width=64)


def test_true_sizes():
    """Parameters of the sheet: convolutions and 30 guides; the demo's."""
    count = lambda c: tree.count(module.shapes(perception.Perception, c))  # noqa: E731
    assert count(perception.PerceptionConfig()) == 10_618_368 + 30 * 9_455_616
    demo = perception.PerceptionConfig("latents", 48, 64, 192, 4)
    assert count(demo) == 73_856 + 3_136 + 4 * 50_304
