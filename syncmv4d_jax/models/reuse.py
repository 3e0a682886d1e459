"""Reusing what the blocks did at an earlier sampling step (after TeaCache, arXiv:2411.19108).

With y the input of the first block, modulated by the time, and i the sampling step,

    (1)  change_i = mean |y_i - y_{i-1}| / mean |y_{i-1}|,   total += change_i
    (2)  total < threshold:  x_out = x_in + (x_out - x_in of the last step that ran the blocks)
         else:               the blocks run, total = 0

for all views, video and motion together. Shapes are static; one branch of a `cond` runs. Departs
from TeaCache: the change is not rescaled by a polynomial fitted to one model, so the threshold is
in units of (1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Shaped = jax.Array | jax.ShapeDtypeStruct


class Memory(NamedTuple):
    """Of the last step: seen, y of (1); moved [(b v) s d], x_out - x_in; total; reused, a count."""

    seen: jax.Array
    moved: jax.Array
    total: jax.Array
    reused: jax.Array


class Rule(NamedTuple):
    """threshold: of (2), a float; allowed: scalar bool, False runs the blocks in any case."""

    threshold: float
    allowed: jax.Array


def empty(tokens: Shaped, seen: Shaped) -> Memory:
    """Returns the memory before the first step, which runs the blocks.

    Args:
      tokens, seen: arrays or shapes like x and y, [(b v) s d].
    """
    zeros = [jnp.zeros(x.shape, x.dtype) for x in (seen, tokens)]
    return Memory(zeros[0], zeros[1], jnp.float32(jnp.inf), jnp.int32(0))


def step(
    run: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    seen: jax.Array,
    memory: Memory,
    *,
    rule: Rule,
) -> tuple[jax.Array, Memory]:
    """Returns (x_out, the new memory): `run(x)`, or x and what the blocks added last time.

    Args:
      run: the blocks, [(b v) s d] -> [(b v) s d].
      x: [(b v) s d].
      seen: [(b v) s d], y of (1).
    """
    before = memory.seen.astype(jnp.float32)
    change = jnp.mean(jnp.abs(seen.astype(jnp.float32) - before))
    total = memory.total + change / jnp.maximum(jnp.mean(jnp.abs(before)), 1e-9)
    again = rule.allowed & (total < rule.threshold)

    def compute():
        y = run(x)
        return y, y - x

    y, moved = jax.lax.cond(again, lambda: (x + memory.moved, memory.moved), compute)
    total = jnp.where(again, total, 0.0)
    return y, Memory(seen, moved, total, memory.reused + again.astype(jnp.int32))
