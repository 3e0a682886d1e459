"""The jaxpr counter against hand counts: products, convolutions, loops, branches, derivatives."""

import jax
import jax.numpy as jnp

from syncmv4d_jax.models import flops

f32 = jnp.float32


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, f32)


def test_products_and_convolutions():
    assert flops.count(lambda a, b: a @ b, shape(3, 4), shape(4, 5)) == 2 * 3 * 4 * 5
    batched = flops.count(
        lambda a, b: jnp.einsum("b i j, b j k -> b i k", a, b), shape(7, 3, 4), shape(7, 4, 5)
    )
    assert batched == 7 * 2 * 3 * 4 * 5

    def convolve(x, kernel):
        numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)

    got = flops.count(convolve, shape(1, 8, 8, 3), shape(3, 3, 3, 16))
    assert got == 2 * (4 * 4 * 16) * (3 * 3 * 3)


def test_loops_and_branches():
    square = shape(4, 4)
    once = 2 * 4**3

    def scan(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, None, length=6)[0]

    assert flops.count(scan, square, square) == 6 * once
    assert flops.count(jax.checkpoint(scan), square, square) == 6 * once
    assert flops.count(jax.jit(scan), square, square) == 6 * once

    def branch(a, b):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ b @ b, lambda: a)

    assert flops.count(branch, square, square) == 2 * once

    def loop(a, b):
        return jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ b, a)

    assert flops.count(loop, square, square, rounds=3) == 3 * once
    mapped = flops.count(lambda x: jax.lax.map(lambda y: y @ y, x), shape(5, 4, 4))
    assert mapped == 5 * once


def test_a_gradient_costs_twice_the_forward():
    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    both = flops.count(jax.grad(loss, argnums=(0, 1)), shape(8, 16), shape(4, 8))
    assert both == 3 * 2 * 4 * 8 * 16


def test_elementwise_work_when_asked_for():
    def light(x):
        return jnp.sum(jnp.exp(x) + 1.0)

    assert flops.count(light, shape(3, 5)) == 0
    assert flops.count(light, shape(3, 5), elementwise=True) == 3 * 15
    mapped = lambda x: jax.lax.map(light, x)  # noqa: E731
    assert flops.count(mapped, shape(7, 3, 5), elementwise=True) == 7 * 3 * 15
    assert flops.count(jnp.sort, shape(4, 8), elementwise=True) == 4 * 8 * 3
