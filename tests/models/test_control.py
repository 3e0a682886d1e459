"""The branch beside a frozen transformer: sizes, its groups as a plain loop, its start."""

import dataclasses
import functools

import exactly
import hvg3d_tiny
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models import control
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit

TINY = dataclasses.replace(wan_config.TINY, layers=4)


@pytest.mark.parametrize(
    ("stride", "blocks"), [(1, 5_192_908_800), (2, 2_596_454_400), (3, 1_730_969_600)]
)
def test_parameters_at_full_size(stride, blocks):
    config = control.ControlConfig(wan_config.TI2V_5B, stride)
    shapes = module.shapes(control.ControlBranch, config)
    assert tree.count(shapes["blocks"]) == blocks
    assert tree.count(shapes["patch_embedding"]) == 1_772_544


def test_a_stride_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="divides the backbone's 30 blocks, got 4"):
        control.ControlConfig(wan_config.TI2V_5B, 4)


def test_a_branch_that_copies_has_a_head_more():
    shapes = module.shapes(
        control.ControlBranch, control.ControlConfig(wan_config.TI2V_5B, 3, copies=True)
    )
    assert shapes["answer_head"]["kernel"].shape == (3072, 2 * 4 * 48)


@pytest.fixture(scope="module")
def given():
    params = hvg3d_tiny.drawn(module.shapes(dit.DiT, TINY), 1)
    rng = np.random.default_rng(0)
    latents = jnp.asarray(rng.normal(size=(2, 2, 4, 4, 4)), jnp.float32)
    conditions = jnp.asarray(rng.normal(size=(2, 2, 4, 4, 8)), jnp.float32)
    text = jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.float32)
    return params, latents, conditions, text, jnp.array([300.0, 700.0])


def untrained(stride, params):
    return control.init(control.ControlConfig(TINY, stride), jax.random.key(2), params)


@functools.cache
def program(stride, keys):
    config = control.ControlConfig(TINY, stride)

    @exactly.jit
    def forward(given, weights, scale):
        params, latents, conditions, text, t = given
        model = module.bind(dit.DiT, TINY, params)
        copy = module.bind(control.ControlBranch, config, weights)

        def blocks(x, known, *, placement, **inputs):
            seen = jnp.concatenate([latents, conditions], -1)
            c = model.embed_patches(seen, copy.patch_embedding, placement)
            own = copy.text_keys(model.text_embedding(text)) if keys else known
            beside = control.Stream(c, own, inputs)
            own = control.Stream(x, known, inputs)
            return control.run(model, copy, own, beside, scale=scale)[0]

        known = model.text_keys(text) if keys else text
        return model(latents, t, known, first_frame=True, blocks=blocks)

    return forward


def run(given, branch, stride, *, keys=False, scale=1.0):
    return np.asarray(program(stride, keys)(given, branch, scale))


@pytest.mark.parametrize("stride", [1, 2])
def test_an_untrained_branch_or_scale_0_changes_nothing(given, stride):
    params, latents, _, text, t = given
    model = functools.partial(module.bind, dit.DiT, TINY)
    alone = exactly.jit(lambda p: model(p)(latents, t, text, first_frame=True))(params)
    new = untrained(stride, params)
    np.testing.assert_array_equal(run(given, new, stride), alone)
    assert np.abs(run(given, hvg3d_tiny.drawn(new, 3), stride) - alone).max() > 1e-2
    np.testing.assert_array_equal(run(given, hvg3d_tiny.drawn(new, 3), stride, scale=0.0), alone)


def test_groups_are_a_plain_loop(given, stride=2):
    """Block by block, as the module docstring has it."""
    params, latents, conditions, text, t = given
    config = control.ControlConfig(TINY, stride)
    weights = hvg3d_tiny.drawn(module.shapes(control.ControlBranch, config), 3)
    model = module.bind(dit.DiT, TINY, params)
    copy = module.bind(control.ControlBranch, config, weights)

    def blocks(x, known, *, placement, **inputs):
        row = lambda stacked, i: jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: E731
        seen = jnp.concatenate([latents, conditions], -1)
        c = model.embed_patches(seen, copy.patch_embedding, placement)
        for i in range(TINY.layers):
            x = row(model.blocks, i)(x, known, **inputs)
            if i % stride == 0:
                c = row(copy.blocks, i // stride)(c, known, **inputs)
                x = x + 0.7 * row(copy.blocks, i // stride).zero(c)
        return x

    wanted = jax.jit(lambda: model(latents, t, text, first_frame=True, blocks=blocks))()
    np.testing.assert_allclose(run(given, weights, stride, scale=0.7), wanted, atol=2e-4)
    np.testing.assert_allclose(run(given, weights, stride, scale=0.7, keys=True), wanted, atol=2e-4)


def test_copies_are_the_backbones_blocks(given):
    params, *_ = given
    new = tree.flatten(untrained(2, params))
    theirs = tree.flatten(params)
    for name, x in new.items():
        if name.startswith("blocks/zero/"):
            assert not np.any(x), name
        elif name.startswith("blocks/"):
            np.testing.assert_array_equal(x, theirs[name][::2], err_msg=name)
    rows = new["patch_embedding/kernel"].reshape(4, 12, -1)
    own = theirs["patch_embedding/kernel"].reshape(4, 4, -1)
    np.testing.assert_array_equal(rows[:, :4], own)
    assert not np.any(rows[:, 4:])
    np.testing.assert_array_equal(new["patch_embedding/bias"], theirs["patch_embedding/bias"])
