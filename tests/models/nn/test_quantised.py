"""Kernels of 8 bits: what rounding may cost, and that networks read them as they are meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import layers, module, quantised
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, umt5

KINDS = ("int8", "float8")


def kernels(seed=0):
    """[layers d_in d_out], columns of very different sizes, one of them zero."""
    x = jax.random.normal(jax.random.key(seed), (2, 40, 6))
    return x * jnp.array([1e-4, 1.0, 30.0, 0.0, 0.5, 2.0])[None, None]


def dequantise(kernel):
    """Values times scale, float32."""
    return kernel.values.astype(jnp.float32) * kernel.scale


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_off_by_half_a_step_of_its_own_column(kind):
    kernel = kernels()
    made = quantised.Kernel(**quantised.quantise(kernel, kind))
    assert made.values.dtype.itemsize == 1 and made.scale.shape == (2, 1, 6)
    back = np.asarray(dequantise(made))
    step = np.asarray(made.scale) if kind == "int8" else np.maximum(
        np.abs(kernel) * 2.0**-3, np.asarray(made.scale) * 2.0**-9
    )  # fmt: skip
    assert (np.abs(back - kernel) <= 0.5001 * step).all()
    # The largest of a column is exact, a column of zeros stays.
    largest = np.abs(kernel).max(1)
    np.testing.assert_allclose(np.abs(back).max(1), largest, rtol=1e-6)
    assert np.isfinite(back).all() and not back[..., 3].any()
    assert quantised.kind(made.values.dtype) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_widened_weights_are_what_8_bits_mean(kind):
    """Rounded once more they are the same, and what was not rounded is as it was."""
    given = {
        "blocks": {"k": {"kernel": kernels(), "bias": jnp.ones(6)}},
        "head": {"a": jnp.ones(2)},
    }
    small = quantised.params(given, kind)
    wide = quantised.widened(small)
    assert tree.flatten(wide).keys() == tree.flatten(given).keys()
    kernel = wide["blocks"]["k"]["kernel"]
    pair = quantised.Kernel(**small["blocks"]["k"]["kernel"])
    np.testing.assert_array_equal(kernel, dequantise(pair))
    assert kernel.dtype == jnp.float32 and wide["head"]["a"] is small["head"]["a"]
    again = quantised.Kernel(**quantised.quantise(kernel, kind))
    np.testing.assert_array_equal(again.values, pair.values)


def test_other_kinds_are_refused():
    with pytest.raises(ValueError, match=r"wanted one of \['float8', 'int8'\], got 'int4'"):
        quantised.quantise(kernels(), "int4")
    with pytest.raises(ValueError, match="quantised values: wanted one of .*got float32"):
        quantised.kind(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_multiplies_the_values_then_the_scale(kind, dtype):
    kernel, x = kernels()[0], jax.random.normal(jax.random.key(1), (3, 7, 40)).astype(dtype)
    pair, bias = quantised.quantise(kernel, kind), jnp.arange(6.0)
    layer = layers.Linear(40, 6, rngs=module.nnx.Rngs(0))
    layer.kernel = module.nnx.Param(quantised.Kernel(**pair))
    layer.bias = module.nnx.Param(bias)
    wanted = x.astype(jnp.float32) @ dequantise(quantised.Kernel(**pair)) + bias[None, None]
    found = layer(x)
    assert found.dtype == dtype
    scale = np.abs(wanted).max((0, 1)) + 1e-6
    error = np.abs(found.astype(jnp.float32) - wanted).max((0, 1)) / scale
    assert error.max() < (1e-5 if dtype == "float32" else 1e-2)


def dequantised(params):
    """Plain kernels of the same values."""
    if isinstance(params, quantised.Kernel):
        return dequantise(params)
    return {k: dequantised(x) for k, x in params.items()} if isinstance(params, dict) else params


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_networks_run_stacked_blocks_of_quantised_kernels(kind):
    """Wan's transformer and umT5, scanned: as with plain kernels of the same values."""
    config, keys = wan_config.TINY, jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (1, 3, 4, 6, config.in_channels))
    text = jax.random.normal(keys[1], (1, 8, config.text_dim))
    ids = jnp.arange(1, 9)[None]
    for network, sizes, run in (
        (dit.DiT, config, lambda model: model(x, jnp.array([500.0]), text)),
        (umt5.UMT5, umt5.TINY, lambda model: model(ids, jnp.ones((1, 8), bool))),
    ):
        params = module.init(network, sizes, keys[2])
        params = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(keys[3], p.shape), params)
        made = quantised.params(params, kind)
        flat = tree.flatten(made)
        taken = {n.rpartition("/")[0] for n in flat if n.endswith("/values")}
        assert taken == {n for n in tree.flatten(params) if "blocks/" in n and n[-6:] == "kernel"}
        forward = jax.jit(lambda p, n=network, s=sizes, r=run: r(module.bind(n, s, p)))
        wanted = forward(dequantised(quantised.wrap(made)))
        np.testing.assert_allclose(forward(made), wanted, atol=2e-4 * np.abs(wanted).max())
        plain = forward(params)
        error = np.sqrt(np.mean((wanted - plain) ** 2) / np.mean(plain**2))
        assert 1e-5 < error < {"int8": 0.02, "float8": 0.08}[kind]
