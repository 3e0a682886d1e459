"""How products are put to XLA on a single CPU, so that its fast kernels take them.

bfloat16: a product whose result is bfloat16 too is computed in float32, at float32's rate. Where
the result is asked for in float32 and rounded afterwards, which is the same sum rounded once, the
processor's own bfloat16 products serve (AMX, AVX512-BF16): 3.5 times the rate. They want the left
operand's rows in one piece, so what is transposed there is copied first. Forms and rates:
benchmarks/RESULTS.md, "bfloat16 on a CPU".
"""

import jax
import jax.numpy as jnp
from jax.experimental import layout


def alone(x: jax.Array) -> bool:
    """Whether an array lives on one CPU; its type knows the mesh, of any machine."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty:
        return jax.default_backend() == "cpu"
    return mesh.size == 1 and mesh.abstract_device.platform == "cpu"


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
    """Sums of rows of x [b s d] by weights [b|1 p s] -> [b p d], dtype of x, summed in float32.

    With b an axis of the product x is read where it lies. As "ps,bsd->bpd" it is a product of a
    transposed copy, in which XLA computes what x is made of value by value, across its rows.
    """
    weights = jnp.broadcast_to(weights.astype(x.dtype), (len(x), *weights.shape[1:]))
    precision, axes = jax.lax.Precision.HIGHEST, (((2,), (1,)), ((0,), (0,)))
    summed = jax.lax.dot_general(
        weights, x, axes, precision=precision, preferred_element_type=jnp.float32
    )
    return summed.astype(x.dtype)


@jax.custom_vjp
def choose(first: jax.Array, vectors: jax.Array) -> jax.Array:
    """first: [b s] bool, vectors: [b 2 d] -> [b s d], the first vector where `first` is True."""
    return jnp.where(first[..., None], vectors[:, :1], vectors[:, 1:])


def _choose_backward(first: jax.Array, g: jax.Array) -> tuple[None, jax.Array]:
    return None, sums(jnp.stack([first, ~first], 1), g)


choose.defvjp(lambda first, vectors: (choose(first, vectors), first), _choose_backward)
