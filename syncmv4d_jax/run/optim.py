"""Optimiser from plain values: AdamW or Muon, schedules, regexes for decay and rates, EMA, a guard.

The train state is ``{"params", "opt", "step", "ema"}``, with the optax state as ``opt["inner"]``
and the guard's numbers as ``opt["guard"]``. The guard looks at the norm of the gradient before
clipping. A step is skipped, leaving parameters, moments and averages bit for bit as they were, when

    loss or norm is not finite,   or   norm > spike_factor * m after `guard_warmup` accepted steps,

where m is the running mean of accepted norms. `step` counts skipped steps too (the data moved on).

With `store="bfloat16"` parameters, moments and averages are kept in bfloat16, half the memory; an
update is computed in float32 and rounded stochastically, so that steps smaller than half a unit in
the last place are made on average (`round_stochastically`).

With `ema_memory="host"` averages lie in the hosts' pinned memory between steps: `placed` says so
to jit, a step takes them to the devices leaf by leaf (`near`). On a CPU both are one memory.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from syncmv4d_jax import tree
from syncmv4d_jax.run import sections

Tree = Any
State = dict[str, Any]
EPSILON = 1e-8  # of Adam
MOMENTUM = 0.95  # of Muon
HOST = "pinned_host"  # what jax calls the memory of a device's host
MATRICES = r"kernel$"  # what Muon takes, where it has at least two axes


class Diverged(RuntimeError):
    """`abort_after` steps in a row were skipped."""


def schedule(config: sections.OptimConfig, length: jax.Array | None = None) -> optax.Schedule:
    """Returns the learning rate as a function of the number of applied updates.

    Args:
      length: of the schedule, steps, in place of ``config.steps``: [] float32, a program's input.
    """
    after = max(config.steps - config.warmup, 1)
    if config.schedule == "cosine" and length is not None:
        body = _cosine(config, jnp.maximum(length - config.warmup, 1))
    elif config.schedule == "cosine":
        body = optax.cosine_decay_schedule(config.learning_rate, after, config.final_fraction)
    else:
        body = optax.constant_schedule(config.learning_rate)
    if not config.warmup:
        return body
    # The first update has rate peak / warmup, not 0.
    ramp = lambda count: config.learning_rate * (count + 1) / config.warmup  # noqa: E731
    return optax.join_schedules([ramp, body], [config.warmup])


def _cosine(config: sections.OptimConfig, after: jax.Array) -> optax.Schedule:
    """optax.cosine_decay_schedule, which takes no length that a program is given."""

    def rate(count: jax.Array) -> jax.Array:
        share = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count, after) / after))
        return config.learning_rate * (config.final_fraction + (1 - config.final_fraction) * share)

    return rate


def multiplier(config: sections.OptimConfig, name: str) -> float:
    """Returns the factor on the learning rate of the parameter called `name`."""
    matches = (factor for pattern, factor in config.multipliers if re.search(pattern, name))
    return next(matches, 1.0)


def _scale_by_path(config: sections.OptimConfig) -> optax.GradientTransformation:
    def update(updates: Tree, state: Any, params: Tree = None) -> tuple[Tree, Any]:
        del params
        scaled = tree.map_named(lambda name, u: u * multiplier(config, name), updates)
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _muon_axes(config: sections.OptimConfig, params: Tree) -> Tree:
    def axes(name: str, leaf: Any) -> contrib.MuonDimensionNumbers | None:
        first = 1 if re.search(config.stacked, name) else 0
        if leaf.ndim - first < 2 or not re.search(MATRICES, name):
            return None
        return contrib.MuonDimensionNumbers(tuple(range(first, leaf.ndim - 1)), leaf.ndim - 1)

    return tree.map_named(axes, params)


def transformation(
    config: sections.OptimConfig, length: jax.Array | None = None
) -> optax.GradientTransformation:
    """Returns the optax chain of `config`: clip, moments, decay, rates; without the guard.

    Args:
      length: as in `schedule`.
    """
    rate, decay = schedule(config, length), lambda params: tree.mask(params, config.decay)
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.name == "adamw":
        parts += [
            optax.scale_by_adam(config.b1, config.b2, EPSILON),
            optax.add_decayed_weights(config.weight_decay, decay),
            optax.scale_by_learning_rate(rate),
        ]
    else:
        parts += [
            contrib.muon(
                1.0,
                beta=MOMENTUM,
                adam_b1=config.b1,
                adam_b2=config.b2,
                muon_weight_dimension_numbers=lambda params: _muon_axes(config, params),
                consistent_rms=0.2,  # the rate of AdamW then fits
            ),
            # Here, not in muon: its own mask does not reach the leaves that Adam takes.
            optax.add_decayed_weights(-config.weight_decay, decay),
            optax.scale_by_schedule(rate),
        ]
    return optax.chain(*parts, _scale_by_path(config))


def init(config: sections.OptimConfig, params: Tree) -> State:
    """Returns the train state of step 0; may run under jit or jax.eval_shape.

    Raises:
      ValueError: a multiplier's regex matches no path.
    """
    flat = tree.flatten(params)
    for pattern, _ in config.multipliers:
        if not any(re.search(pattern, name) for name in flat):
            raise ValueError(
                f"optim.multipliers: {pattern!r} matches none of {len(flat)} trainable paths, "
                f"e.g. {tree.sample(flat)}"
            )
    params = _stored(config, params)
    # Arrays and copies of their own: the state is donated, and no buffer can be donated twice.
    counts = ("accepted", "nonfinite", "spikes", "in_a_row")
    guard = {name: jnp.zeros((), jnp.int32) for name in counts}
    guard["norm"] = jnp.zeros((), jnp.float32)
    return {
        "params": params,
        "opt": {"inner": _stored(config, transformation(config).init(params)), "guard": guard},
        "step": jnp.zeros((), jnp.int32),
        "ema": jax.tree.map(jnp.copy, params) if config.ema else {},
    }


def placed(config: sections.OptimConfig, shardings: Tree) -> Tree:
    """Returns the shardings of a train state with those of averages where `config` keeps them."""
    if config.ema_memory == "device":
        return shardings
    host = lambda one: one.with_memory_kind(HOST)  # noqa: E731
    return {**shardings, "ema": jax.tree.map(host, shardings["ema"])}


def near(values: Tree) -> Tree:
    """Returns arrays in the memory of their devices, where they are computed with."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device), values)


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    """Rounds float32 [...] to one of the two bfloat16 neighbours, so that the mean is x.

    Values that are not finite round to nearest.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = (bits + noise) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _cast(tree_: Tree, dtype: Any) -> Tree:
    floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda x: x.astype(dtype) if floating(x) else x, tree_)


def _stored(config: sections.OptimConfig, values: Tree, step: jax.Array | None = None) -> Tree:
    """Floating leaves in the dtype of `config.store`; stochastically rounded where `step` is."""
    if config.store == "float32":
        return values
    if step is None:
        return _cast(values, jnp.bfloat16)
    leaves, structure = jax.tree.flatten(values)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(leaves))
    rounded = [
        round_stochastically(x, key) if x.dtype == jnp.float32 else x
        for x, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, rounded)


def _judge(
    config: sections.OptimConfig, guard: State, loss: jax.Array, norm: jax.Array
) -> tuple[jax.Array, State]:
    finite = jnp.isfinite(norm) & jnp.isfinite(loss)
    spike = jnp.zeros((), bool)
    if config.spike_factor:
        settled = guard["accepted"] >= config.guard_warmup
        spike = finite & settled & (norm > config.spike_factor * guard["norm"])
    good = finite & ~spike
    weight = jnp.maximum(1.0 / (guard["accepted"] + 1), 0.02)  # plain mean first, then 50 steps
    running = guard["norm"] + weight * (norm - guard["norm"])
    return good, {
        "accepted": guard["accepted"] + good,
        "nonfinite": guard["nonfinite"] + ~finite,
        "spikes": guard["spikes"] + spike,
        "in_a_row": jnp.where(good, 0, guard["in_a_row"] + 1),
        "norm": jnp.where(good, running, guard["norm"]),
    }


def apply(
    config: sections.OptimConfig,
    state: State,
    gradients: Tree,
    loss: jax.Array,
    length: jax.Array | None = None,
) -> tuple[State, dict[str, jax.Array]]:
    """Applies one step's gradients.

    Args:
      config: optimiser settings.
      state: the train state.
      gradients: a tree like ``state["params"]``.
      loss: [] float32, judged by the guard.
      length: as in `schedule`.

    Returns:
      The next state, and scalars: gradient_norm, learning_rate, skipped (0 or 1), counters of the
        guard.
    """
    old = state = {**state, "ema": near(state["ema"])} if config.ema_memory == "host" else state
    if config.store != "float32":  # the update is computed in float32
        gradients, state = _cast((gradients, state), jnp.float32)
    norm = optax.global_norm(gradients)
    good, guard = _judge(config, state["opt"]["guard"], loss, norm)
    updates, inner = transformation(config, length).update(
        gradients, state["opt"]["inner"], state["params"]
    )
    params, ema = optax.apply_updates(state["params"], updates), state["ema"]
    if config.ema:
        step = guard["accepted"].astype(jnp.float32)
        decay = jnp.minimum(config.ema, (1 + step) / (10 + step))
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
    made = _stored(config, (params, inner, ema), state["step"])
    kept = old["params"], old["opt"]["inner"], old["ema"]
    params, inner, ema = jax.tree.map(lambda n, o: jnp.where(good, n, o), made, kept)
    new = {
        "params": params,
        "opt": {"inner": inner, "guard": guard},
        "step": state["step"] + 1,
        "ema": ema,
    }
    scalars = {
        "gradient_norm": norm,
        "learning_rate": schedule(config, length)(state["opt"]["guard"]["accepted"]),
        "skipped": 1 - good.astype(jnp.int32),
        "skipped_nonfinite": guard["nonfinite"],
        "skipped_spikes": guard["spikes"],
        "skipped_in_a_row": guard["in_a_row"],
    }
    return new, scalars


def check(config: sections.OptimConfig, scalars: dict[str, Any], *, step: int) -> None:
    """Raises `Diverged` when `abort_after` steps in a row were skipped."""
    if int(scalars["skipped_in_a_row"]) >= config.abort_after:
        raise Diverged(
            f"step {step}: {int(scalars['skipped_in_a_row'])} steps in a row were skipped "
            f"(optim.abort_after={config.abort_after}); in all {int(scalars['skipped_nonfinite'])} "
            f"not finite, {int(scalars['skipped_spikes'])} spikes; last gradient norm "
            f"{float(scalars['gradient_norm']):.3g}. Lower optim.learning_rate, or look at the "
            "data of these steps; the last checkpoint holds the weights before the first of them."
        )
