"""One training step: loss and gradients, micro-batches, the optimiser."""

from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import tree
from syncmv4d_jax.run import optim, sections
from syncmv4d_jax.tasks import base

Tree = Any


def make_update(task: base.Task, config: sections.OptimConfig) -> Callable:
    """Returns update(state, frozen, batch, key, length=None) -> (state, scalars), to be jitted.

    The step's randomness is `key` folded with ``state["step"]`` and, with `config.accumulate` > 1,
    with the index of the micro-batch; micro-batches are strided, so that a sharded batch axis stays
    local. The loss and its scalars are means over micro-batches. `length` is of the learning rate's
    schedule (optim.schedule).
    """

    def update(
        state: Tree, frozen: Tree, batch: Tree, key: jax.Array, length: jax.Array | None = None
    ) -> tuple[Tree, Tree]:
        rng = jax.random.fold_in(key, state["step"])
        if isinstance(task, base.Taught) and state["ema"]:
            frozen = {**frozen, "average": optim.near(state["ema"])}
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        if config.accumulate == 1:
            (loss, scalars), gradients = gradient(state["params"], frozen, batch, rng)
        else:
            micro = _micro_batches(batch, config.accumulate)

            def add(total: Tree, part: tuple[jax.Array, Tree]) -> tuple[Tree, None]:
                index, piece = part
                here = gradient(state["params"], frozen, piece, jax.random.fold_in(rng, index))
                return jax.tree.map(lambda t, x: t + x / config.accumulate, total, here), None

            first = jax.tree.map(lambda x: x[0], micro)
            shapes = jax.eval_shape(gradient, state["params"], frozen, first, rng)
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            indices = jnp.arange(config.accumulate)
            ((loss, scalars), gradients), _ = jax.lax.scan(add, zero, (indices, micro))
        state, more = optim.apply(config, state, gradients, loss, length)
        return state, {"loss": loss, **scalars, **more}

    return update


def _micro_batches(batch: Tree, count: int) -> Tree:
    for name, x in tree.flatten(batch).items():
        if x.shape[0] % count:
            raise ValueError(
                f"optim.accumulate={count} does not divide the batch of {x.shape[0]} ({name})"
            )
    return jax.tree.map(lambda x: einops.rearrange(x, "(b a) ... -> a b ...", a=count), batch)
