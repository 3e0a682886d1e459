"""How products and norms are put to XLA on a single CPU, so that its fast kernels take them.

What autodiff saves of a norm or an activation, several arrays of its size, goes through the memory
twice, and a sum over tokens for a gradient is slow. So these have backward rules that start from
the input and sum by products.

bfloat16: a product whose result is bfloat16 too is computed in float32, at float32's rate. Where
the result is asked for in float32 and rounded afterwards, which is the same sum rounded once, the
processor's own bfloat16 products serve (AMX, AVX512-BF16): 3.5 times the rate. They want the left
operand's rows in one piece, so what is transposed there is copied first. Forms and rates:
benchmarks/RESULTS.md, "bfloat16 on a CPU".
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import layout


def alone(x: jax.Array) -> bool:
    """Whether an array lives on one CPU; its type knows the mesh, of any machine."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty:
        return jax.default_backend() == "cpu"
    return mesh.size == 1 and mesh.abstract_device.platform == "cpu"


def along_last(vector: jax.Array, like: jax.Array) -> jax.Array:
    """vector: [d] -> [1 ... 1 d] with the rank of `like` (rank promotion is an error here)."""
    return jnp.expand_dims(vector, tuple(range(like.ndim - vector.ndim)))


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [s d] @ kernel [d f] -> [s f], all bfloat16, summed in float32."""
    return _rounded(x, kernel)


def _rounded(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.dot(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rounded(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _rounded(g, kernel.T), _rounded(swapped(x), g)


product.defvjp(_forward, _backward)


def swapped(x: jax.Array) -> jax.Array:
    """[... s d] -> [... d s], as a copy that a product reads by rows."""
    rows = layout.Layout(tuple(range(x.ndim)))
    return layout.with_layout_constraint(jnp.swapaxes(x, -1, -2), rows)


def sums(weights: jax.Array, x: jax.Array) -> jax.Array:
    """Sums of rows of x [b s d] by weights [b|1 p s] -> [b p d], summed in float32 or better.

    With b an axis of the product x is read where it lies. As "ps,bsd->bpd" it is a product of a
    transposed copy, in which XLA computes what x is made of value by value, across its rows.
    """
    weights = jnp.broadcast_to(weights.astype(x.dtype), (len(x), *weights.shape[1:]))
    precision, axes = jax.lax.Precision.HIGHEST, (((2,), (1,)), ((0,), (0,)))
    wide = jnp.promote_types(x.dtype, jnp.float32)
    summed = jax.lax.dot_general(weights, x, axes, precision=precision, preferred_element_type=wide)
    return summed.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def normalise(x: jax.Array, eps: float, centred: bool) -> jax.Array:
    """x [... d] over its rms along the last axis; `centred`: less its mean before."""
    return _normalise(x, eps, centred)[0]


def _normalise(x, eps, centred):
    mean = jnp.mean(x, axis=-1, keepdims=True) if centred else None
    y = x if mean is None else x - mean
    rate = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return y * rate, (x, mean, rate)


def _normalise_backward(eps, centred, saved, g):
    del eps
    x, mean, rate = saved
    y = (x if mean is None else x - mean) * rate
    along = g - y * jnp.mean(g * y, axis=-1, keepdims=True)
    return ((along - jnp.mean(g, axis=-1, keepdims=True) if centred else along) * rate,)


normalise.defvjp(_normalise, _normalise_backward)


@jax.custom_vjp
def scale(x: jax.Array, vector: jax.Array) -> jax.Array:
    """x [... d] times vector [d]."""
    return x * along_last(vector, x)


def _scale_backward(saved, g):
    x, vector = saved
    return g * along_last(vector, g), _over_rows(g * x)


scale.defvjp(lambda x, vector: (scale(x, vector), (x, vector)), _scale_backward)


@jax.custom_vjp
def shift(x: jax.Array, vector: jax.Array) -> jax.Array:
    """x [... d] plus vector [d]."""
    return x + along_last(vector, x)


shift.defvjp(lambda x, vector: (shift(x, vector), None), lambda _, g: (g, _over_rows(g)))


def _over_rows(x):
    x = x.reshape(1, -1, x.shape[-1])
    return sums(jnp.ones((1, 1, x.shape[1]), x.dtype), x)[0, 0]


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form."""
    return jax.nn.gelu(x, approximate=True)


def _gelu_backward(x, g):
    dtype, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
    rate, cubic = math.sqrt(2 / math.pi), 0.044715
    tanh = jnp.tanh(rate * (x + cubic * x**3))
    slope = rate * (1 + 3 * cubic * x * x)
    gradient = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * slope
    return ((g * gradient).astype(dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@jax.custom_vjp
def choose(first: jax.Array, vectors: jax.Array) -> jax.Array:
    """first: [b s] bool, vectors: [b 2 d] -> [b s d], the first vector where `first` is True."""
    return jnp.where(first[..., None], vectors[:, :1], vectors[:, 1:])


def _choose_backward(first: jax.Array, g: jax.Array) -> tuple[None, jax.Array]:
    return None, sums(jnp.stack([first, ~first], 1), g)


choose.defvjp(lambda first, vectors: (choose(first, vectors), first), _choose_backward)
