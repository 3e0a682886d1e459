"""Vectors spread over tokens: their gradients, and by which program they are summed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.mjd import tokens
from syncmv4d_jax.models.wan import dit

LAYOUT = tokens.Layout(views=3, grid=(2, 2, 3), extra=2, modalities=2, pad=3)
LENGTHS = (2, 6, 6, 12, 3)
FIRST = np.array([[True] * 6 + [False] * 18, [False] * 24])


def of_views(vectors):
    """vectors: [b 4 d], of extra tokens, t = 0, t and motion."""
    return LAYOUT.spread(vectors[:, 1:3], vectors[:, 3:], vectors[:, :1])


def of_views_plainly(vectors):
    rows = jnp.repeat(vectors[:, jnp.array([0, 1, 2, 3, 2])], jnp.array(LENGTHS), axis=1)
    return jnp.repeat(rows, LAYOUT.views, axis=0)


def of_first_frame_plainly(vectors):
    return jnp.stack([v[jnp.where(first, 0, 1)] for v, first in zip(vectors, FIRST, strict=True)])


CASES = {
    "views": (of_views, of_views_plainly, 4),
    "first frame": (functools.partial(dit._choose, jnp.asarray(FIRST)), of_first_frame_plainly, 2),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_spread_vectors(case, dtype):
    """Summed in float32, whatever the dtype."""
    ours, plain, count = CASES[case]
    vectors = jax.random.normal(jax.random.key(0), (2, count, 5), dtype)
    probe = jax.random.normal(jax.random.key(1), plain(vectors).shape, dtype)

    def value(spread, vectors, probe):
        return jnp.sum(spread(vectors) * probe, dtype=jnp.float32)

    np.testing.assert_array_equal(ours(vectors), plain(vectors))
    got = jax.jit(jax.grad(functools.partial(value, ours)))(vectors, probe)
    exact = (x.astype(jnp.float32) for x in (vectors, probe))
    wanted = jax.grad(functools.partial(value, plain))(*exact)
    assert got.dtype == dtype
    error = np.linalg.norm(got.astype(jnp.float32) - wanted) / np.linalg.norm(wanted)
    assert error < (1e-5 if dtype == "float32" else 2**-8)


@pytest.mark.parametrize(("case", "elsewhere"), [("views", 1), ("first frame", 0)])
def test_the_batch_is_an_axis_of_the_sums_product_on_one_cpu_only(case, elsewhere):
    """It reads the gradient where it lies, summed in float32; `elsewhere`: products on a mesh."""
    ours, _, count = CASES[case]

    def products(*arrays):
        gradient = jax.grad(lambda x: jnp.sum(jnp.square(ours(x))))
        text = jax.jit(gradient).lower(*arrays).as_text()
        lines = [line for line in text.splitlines() if "dot_general" in line]
        return ["batching_dims" in line and line.endswith("xf32>") for line in lines]

    vectors = jnp.ones((2, count, 5), jnp.bfloat16)
    assert products(vectors) == [True]
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.NamedSharding(mesh, jax.P())
    meshed = jax.ShapeDtypeStruct(vectors.shape, vectors.dtype, sharding=place)
    assert products(meshed) == [False] * elsewhere
