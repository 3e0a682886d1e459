"""Linear, norms and time features."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from syncmv4d_jax.models.nn import layers

GOLDEN = Path(__file__).parents[2] / "golden" / "wan_dit" / "prims.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def test_sincos_matches_the_float64_reference(golden):
    got = layers.sincos(jnp.asarray(golden["sincos_t"], jnp.float32), width=256)
    np.testing.assert_allclose(got, golden["sincos"], atol=1e-6)


def test_sincos_keeps_its_phase_for_any_float_time():
    t = np.random.default_rng(0).uniform(0, 1000, (3, 500)).astype(np.float32)
    frequencies = 10000.0 ** (-np.arange(128) / 128)
    angle = t.astype(np.float64)[..., None] * frequencies
    wanted = np.concatenate([np.cos(angle), np.sin(angle)], -1)
    np.testing.assert_allclose(
        jax.jit(layers.sincos, static_argnames="width")(t, width=256), wanted, atol=2e-6
    )
    with pytest.raises(ValueError, match="even width"):
        layers.sincos(t, width=7)


def test_linear_multiplies_matrices_on_one_cpu_only():
    """The program says so; values and gradients are those of the plain product."""
    x, kernel = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(3, 7, 5), (5, 4)]))

    def loss(x, kernel, product):
        return jnp.sum(jnp.tanh(product(x, kernel)) ** 2)

    ours, plain = (jax.value_and_grad(loss, argnums=(0, 1)) for _ in range(2))
    got, wanted = ours(x, kernel, layers.product), plain(x, kernel, jnp.matmul)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, wanted)

    def dots(*arrays):
        text = jax.jit(jax.grad(loss, argnums=1), static_argnums=2).lower(*arrays, layers.product)
        return [line for line in text.as_text().splitlines() if "dot_general" in line]

    assert all("21x" in line for line in dots(x, kernel))  # rows of three samples together
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P())
    meshed = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (x, kernel)]
    assert all("3x7x" in line for line in dots(*meshed))


def test_bfloat16_is_summed_in_float32_on_one_cpu_only():
    """And rounded once; what the backward pass reads transposed is copied to rows there."""
    shapes = [(3, 7, 5), (5, 4)]
    x, kernel = (
        jax.random.normal(jax.random.key(i), s, jnp.bfloat16) for i, s in enumerate(shapes)
    )

    def loss(x, kernel):
        return jnp.sum(jnp.square(layers.product(x, kernel).astype(jnp.float32)))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
    exact = gradients(x.astype(jnp.float32), kernel.astype(jnp.float32))
    for got, wanted in zip(gradients(x, kernel), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        error = jnp.max(jnp.abs(got.astype(jnp.float32) - wanted)) / jnp.max(jnp.abs(wanted))
        assert float(error) < 2**-7  # the cotangent and the sum, each rounded to 8 bits

    def program(*arrays):
        text = gradients.lower(*arrays).as_text()
        lines = [line for line in text.splitlines() if "dot_general" in line]
        return [line.endswith("xf32>") for line in lines], text.count("LayoutConstraint")

    assert program(x, kernel) == ([True] * 3, 1)
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P())
    meshed = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place) for a in (x, kernel)]
    assert program(*meshed) == ([False] * 3, 0)


def test_rms_norm_matches_reference(golden):
    norm = layers.RMSNorm(256, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.asarray(golden["rms_w"])
    np.testing.assert_allclose(norm(jnp.asarray(golden["rms_in"])), golden["rms_out"], atol=1e-5)


def test_rms_norm_casts_before_the_weight():
    x = jax.random.normal(jax.random.key(0), (4, 64)).astype(jnp.bfloat16)
    norm = layers.RMSNorm(64, rngs=nnx.Rngs(0))
    norm.scale[...] = 1 + jax.random.normal(jax.random.key(1), (64,))
    y = x.astype(jnp.float32)
    y = (y / jnp.sqrt(jnp.mean(y**2, -1, keepdims=True) + 1e-6)).astype(jnp.bfloat16)
    wanted = y * norm.scale[...].astype(jnp.bfloat16)[None]
    assert norm(x).dtype == jnp.bfloat16
    assert float(jnp.mean(norm(x) == wanted)) > 0.99


def test_layer_norm_and_modulation():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 64))
    shift, scale = jax.random.normal(jax.random.key(1), (2, 2, 1, 64))
    y = layers.layer_norm(x, eps=1e-6)
    np.testing.assert_allclose(np.mean(y, -1), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, -1), 1, atol=1e-4)
    wanted = y * (1 + scale) + shift
    np.testing.assert_allclose(layers.modulate(x, shift, scale, eps=1e-6), wanted, atol=1e-6)
    norm = layers.LayerNorm(64, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = 1 + scale[0, 0], shift[0, 0]
    wanted = y * (1 + scale[0, 0])[None, None] + shift[0, 0][None, None]
    np.testing.assert_allclose(norm(x), wanted, atol=1e-5)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def _affine(module, *vectors):
    for name, vector in zip(("scale", "bias"), vectors, strict=False):
        getattr(module, name)[...] = vector
    return module


CHAINS = {  # layer, and the formula that autodiff takes on a mesh; x, scale, bias -> y
    "gelu": (lambda x, s, b: layers.gelu(x), lambda x, s, b: jax.nn.gelu(x, approximate=True)),
    "rms_norm": (
        lambda x, s, b: _affine(layers.RMSNorm(6, eps=1e-3, rngs=nnx.Rngs(0)), s)(x),
        lambda x, s, b: x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-3) * s,
    ),
    "layer_norm": (
        lambda x, s, b: _affine(layers.LayerNorm(6, eps=1e-3, rngs=nnx.Rngs(0)), s, b)(x),
        lambda x, s, b: (
            (x - x.mean(-1, keepdims=True))
            * jax.lax.rsqrt(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True) + 1e-3)
            * s
            + b
        ),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHAINS)
def test_gradients_on_one_cpu_are_those_of_the_formula(name, dtype):
    own, formula = CHAINS[name]
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=(2, 7, 6)), dtype) for _ in range(2))
    vectors = [jnp.asarray(rng.normal(size=(1, 1, 6)), jnp.float32) for _ in range(2)]

    def both(function, given):
        def loss(x, s, b):
            return jnp.sum(function(x, s, b).astype(jnp.float32) * weight.astype(jnp.float32))

        return jax.value_and_grad(loss, (0, 1, 2))(*given)

    flat = [v.reshape(6) for v in vectors]
    (value, got), (other, wanted) = (
        both(own, (x, *flat)), both(formula, (x.astype(jnp.float32), *vectors))
    )  # fmt: skip
    room = 2e-6 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(value, other, rtol=room, atol=room)
    for a, b in zip(got, wanted, strict=True):
        b = np.asarray(b, np.float64).reshape(a.shape)
        near = np.abs(np.asarray(a, np.float64) - b).max()
        assert near <= room * max(np.abs(b).max(), 1), (a, b)


def test_norms_and_gelu_keep_their_input_alone_on_one_cpu():
    """In a scan whatever is kept is stacked; a mesh keeps what autodiff asks for."""
    x = jnp.ones((3, 6))

    def kept(function):
        def step(x, _):
            return function(x), None

        def forward(x):
            return jax.lax.scan(step, x, None, length=2)[0]

        _, pull = jax.vjp(forward, x)
        return sum(leaf.size for leaf in jax.tree.leaves(pull)) // x.size

    assert kept(layers.gelu) == 2  # x of both turns
    assert kept(lambda x: layers.layer_norm(x, eps=1e-3)) < 4  # and two numbers a row
    assert kept(lambda x: jax.nn.gelu(x, approximate=True)) > 4


def test_linear_computes_in_the_dtype_of_its_input():
    linear = layers.Linear(6, 4, rngs=nnx.Rngs(0))
    linear.bias[...] = jnp.arange(4.0)
    x = jax.random.normal(jax.random.key(0), (2, 3, 6))
    np.testing.assert_allclose(
        linear(x), np.asarray(x) @ np.asarray(linear.kernel[...]) + np.arange(4), atol=1e-6
    )
    assert linear(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert layers.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0))(x).shape == (2, 3, 4)
