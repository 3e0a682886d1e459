"""Sampling of SyncMV4D: functions over a `Loop`, the schedule's runs compiled once each.

    text -> keys of all blocks;  noise -> { scan over plain steps | one refining step }
    -> latents, tracks, scale

Steps outside `guidance_interval` are runs of their own, whose program has one branch.

Query pixels are given, or chosen before the first refining step, each in one view, from frame 0 of
the motion estimated there; where other views show them is found anew until sigma has fallen to
`cycle.anchor_time` (A23).

What is compiled has the loop itself, a value that does not change, as its static argument: another
loop is another program, an equal one the same.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models import reuse
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.tasks import base
from syncmv4d_jax.tasks.syncmv4d import cycle, cycle_sampling
from syncmv4d_jax.tasks.syncmv4d import loop as loops

Array = jax.Array
Params = dict[str, Any]
Context = dict[str, Any]
State = cycle_sampling.SampleState


class Run(NamedTuple):
    """Steps first to last - 1 of a schedule; a refining run has one step, and may take a warp."""

    first: int
    last: int
    refine: bool
    guided: bool
    fresh: bool


class Plan(NamedTuple):
    """A schedule and its runs; sigmas has 0 behind."""

    schedule: flow.Schedule
    sigmas: np.ndarray
    runs: list[Run]

    def following(self, run: Run) -> float:
        """Sigma of the next refining step, 0 at the last one."""
        later = (other.first for other in self.runs if other.refine and other.first > run.first)
        return float(self.sigmas[next(later, len(self.sigmas) - 1)])


def plan(loop: loops.Loop) -> Plan:
    """Returns which steps are taken how; see `cycle_sampling`."""
    o = loop.options
    schedule = flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)
    # On the host, as the schedule rounds them: plans are made before anything is traced.
    sigmas = flow.sigmas_of(o.sampler, o.sample_steps, o.sample_shift, "official")[0]
    sigmas = sigmas.astype(np.float32).astype(np.float64)
    steps = cycle_sampling.plan_steps(sigmas, loop.settings)
    guided = cycle_sampling.plan_guidance(sigmas, steps, o.guidance_interval)
    fresh = cycle_sampling.plan_warps(sigmas, [run[:3] for run in guided], loop.settings)
    runs = [Run(*run, new) for run, new in zip(guided, fresh, strict=True)]
    return Plan(schedule, sigmas, runs)


def sample(
    loop: loops.Loop,
    params: Params,
    inputs: dict[str, Array],
    rng: Array,
    *,
    progress: base.Progress | None = None,
    look: base.Look | None = None,
) -> base.Sample:
    """Samples videos and tracks.

    Args:
      params: all parts.
      inputs: as a batch, of which are read: `first` [b v 1 h w c] reference latents, text (and
        null_text for guidance), cameras, view_index, frame_valid; anchors and anchor_valid where
        they are given, else they are chosen on the way (A23); hidden, views whose frame 0 is
        generated: nothing is read of their `first`.
      rng: key.
      progress: called with (steps done, steps) after each run of steps.
      look: called with (steps done, `_estimate`) after each refining step.

    Returns:
      latents, motion_latents, scale; tracks, confidence and anchors from the aligner, without one
      read off the final motion (not from `das_tracking`, which has no depth); with
      `reuse_threshold` reused_steps.
    """
    first, b = inputs["first"], len(inputs["first"])
    made = plan(loop)
    state, context, noise = begin(loop, made, params, inputs, rng)
    for run in made.runs:
        guidance = loop.options.guidance if run.guided else 1.0
        state = _remember(loop, state, b * (1 + (run.guided and loop.guides(context))))
        row, before = made.schedule.row(run.first), state.run.latents
        if run.refine and state.tracks_t is None:
            query, tracks = _set_anchors(loop, guidance, params, state, row, first, context)
            sigma = made.sigmas[run.first]
            state = _start_tracks(loop, state, tracks, noise, sigma, context, query=query)
        if run.refine:
            numbers = jnp.float32(made.following(run)), jnp.asarray(run.fresh)
            state = refine(loop, guidance, params, state, row, *numbers, first, context)
        else:
            rows = made.schedule.rows(run.first, run.last)
            again = jnp.arange(run.first, run.last) < made.schedule.steps - 1  # may be reused
            state = plain(loop, guidance, params, state, rows, again, first, context)
        if progress is not None:
            jax.block_until_ready(state.run.latents)
            progress(run.last, made.schedule.steps)
        if look is not None and run.refine:
            step = jnp.asarray(made.sigmas[[run.first, run.last]], jnp.float32)
            look(run.last, _estimate(before, state, step, context))
    return _result(loop, params, state, noise, context)


def begin(
    loop: loops.Loop, made: Plan, params: Params, inputs: dict[str, Array], rng: Array
) -> tuple[State, Context, Array | None]:
    """The state before the first step, the context of all steps, and noise of tracks to come.

    The context has the keys of the text, which all steps read.
    """
    o, keys, first = loop.options, jax.random.split(rng), inputs["first"]
    context, b = loop.context(inputs), len(first)
    context["text_keys"] = text_keys(loop, params, context, loop.guides(context))
    if loop.settings.sweep and context["anchors"] is None:
        context["pictures"] = _pictures(loop, params, first)
    state = cycle_sampling.sample_start(
        keys[0],
        made.schedule,
        first,
        settings=loop.settings,
        latent_shape=(b, *loop.latent_shape),
        scale=jnp.broadcast_to(loop.scale_statistics()[0], (b, o.views, 2)),
        hidden=context["hidden"],
    )
    if not loop.settings.dpa:
        return state, context, None
    noise = jax.random.normal(keys[1], (b, o.views, o.frames, o.points, 3))
    if context["anchors"] is not None:
        state = _start_tracks(loop, state, None, noise, made.sigmas[0], context)
    return state, context, noise


# What is compiled.


def plain_run(
    loop: loops.Loop,
    guidance: float,
    params: Params,
    state: State,
    rows: flow.Schedule,
    again: Array,
    first: Array,
    context: Context,
) -> State:
    """`cycle_sampling.sample_plain` of a loop."""
    functions = loop.functions(params, first, guidance=guidance)
    return cycle_sampling.sample_plain(functions, state, rows, first, context, again=again)


def refine_step(
    loop: loops.Loop,
    guidance: float,
    params: Params,
    state: State,
    row: flow.Schedule,
    following: Array,
    fresh: Array,
    first: Array,
    context: Context,
) -> State:
    """`cycle_sampling.sample_refine` of a loop."""
    functions = loop.functions(params, first, guidance=guidance)
    return cycle_sampling.sample_refine(
        functions, state, row, following, fresh, first, context, settings=loop.settings
    )  # fmt: skip


plain = jax.jit(plain_run, static_argnums=(0, 1))
refine = jax.jit(refine_step, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=0)
def _pictures(loop: loops.Loop, params: Params, first: Array) -> Array:
    """`Loop.pictures`."""
    return loop.pictures(params, first)


@functools.partial(jax.jit, static_argnums=(0, 3))
def text_keys(loop: loops.Loop, params: Params, context: Context, guided: bool) -> dit_block.Keys:
    """`Loop.text_keys`."""
    return loop.text_keys(params, context, guided=guided)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _set_anchors(loop, guidance, params, state, row, first, context) -> tuple[cycle.Query, Array]:
    """Query pixels of frame 0 of the clean motion estimate, and first tracks, normalised (A23)."""
    functions = loop.functions(params, first, guidance=guidance)
    t, latents = jnp.full((len(first),), row.sigma, jnp.float32), state.run.latents
    out = functions.mjd(latents["video"], latents["motion"], state.feedback, t, context)
    clean = flow.to_data(latents["motion"], out.motion_velocity, t)
    query = loop.motion.find_anchors(params, first, clean, out.scale, context)
    coarse, _ = functions.decode(clean, out.scale, {**context, **query._asdict()})
    return query, loop.normalise(coarse.tracks, context)


@functools.partial(jax.jit, static_argnums=0)
def _read_tracks(loop, params, state, context) -> tuple[Context, cycle.Coarse]:
    """Tracks without an aligner: the final motion, matched and unprojected (Table 3, row 3)."""
    motion, scale = state.run.latents["motion"], state.run.carried.scale
    first = state.run.latents["video"][:, :, :1]
    if context["anchors"] is None:
        query = loop.motion.find_anchors(params, first, motion, scale, context)
        context = {**context, **query._asdict()}
    return context, loop.motion.decode(params, first, motion, scale, context)[0]


@functools.partial(jax.jit, static_argnums=0)
def _parts(loop, params, coarse, noise, context) -> dict[str, Array]:
    """What the aligner makes of the last coarse tracks in one step, without and with its network:
    fused tracks [b n k 3] metres."""
    t = jnp.ones(len(noise))

    def aligned(network):
        velocity = loop.align(params, noise, coarse, t, context, network=network)
        metres = loop.denormalise(noise - velocity, context)
        return world_tracks.fuse(metres, coarse.confidence)

    return {"closed_form": aligned(False), "network": aligned(True)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _empty_memory(loop, rows) -> reuse.Memory:
    return loop.empty_memory(rows)


def _remember(loop: loops.Loop, state: State, samples: int) -> State:
    """The state with a memory for `samples`; of both branches the first is the text's."""
    if not loop.options.reuse_threshold:
        return state
    carried, rows = state.run.carried, samples * loop.options.views
    memory = carried.memory
    if memory is None or len(memory.seen) < rows:
        done = 0 if memory is None else memory.reused
        memory = _empty_memory(loop, rows)._replace(reused=jnp.int32(done))
    memory = memory._replace(seen=memory.seen[:rows], moved=memory.moved[:rows])
    return state._replace(run=state.run._replace(carried=carried._replace(memory=memory)))


def _start_tracks(loop, state, tracks, noise, sigma, context, *, query=None) -> State:
    warp = None
    if loop.settings.cycle:
        if query is not None:
            context = {**context, **query._asdict()}
        b, v = context["anchors"].shape[:2]
        frame0 = jax.ShapeDtypeStruct((b, v, *loop.motion.maps.size, 3), jnp.float32)
        scale = jax.ShapeDtypeStruct((b, v, 2), jnp.float32)
        shapes = jax.eval_shape(loop.motion.warp, frame0, scale, context)
        warp = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return cycle_sampling.start_tracks(state, tracks, noise, sigma, warp=warp, query=query)


def _result(
    loop: loops.Loop, params: Params, state: State, noise: Array | None, context: Context
) -> base.Sample:
    latents, carried = state.run.latents, state.run.carried
    given: dict[str, Any] = {}
    coarse = state.refined
    if loop.settings.joint_motion:
        given |= {"motion_latents": latents["motion"], "scale": carried.scale}
    if carried.memory is not None:
        given["reused_steps"] = jnp.full((len(latents["video"]),), carried.memory.reused)
    readable = loop.settings.joint_motion and loop.options.motion_repr == "point_tracks"
    if readable and not loop.settings.dpa:
        context, coarse = _read_tracks(loop, params, state, context)
    if state.query is not None:
        context = {**context, **state.query._asdict()}
    if state.coarse is not None:
        given |= {"coarse": state.coarse.tracks, "coarse_confidence": state.coarse.confidence}
        if loop.dpa_config.sigma_coarse is not None:  # else there is no closed form
            given |= _parts(loop, params, state.coarse, noise, context)
    if coarse is not None:
        given |= {"tracks_per_view": coarse.tracks, "confidence": coarse.confidence}
        given |= _query_pixels(context)
    return base.Sample(latents["video"], **given)


@jax.jit
def _estimate(before: Any, state: State, step: Array, context: Context) -> base.Sample:
    """The clean estimate of a refining step with the tracks that it refined.

    The step is drawn out to sigma 0: x0 = x - sigma dx / dsigma. That is the networks' own estimate
    where the solver is Euler's, and close to it elsewhere; no network runs for it.

    Args:
      before: latents before the step, by name. step: [2] its sigma and the next one's.
    """
    after, carried, coarse = state.run.latents, state.run.carried, state.refined
    slope = step[0] / (step[1] - step[0])
    clean = {name: x - slope * (after[name] - x) for name, x in before.items()}
    context = {**context, **(state.query._asdict() if state.query is not None else {})}
    return base.Sample(
        clean["video"],
        motion_latents=clean["motion"],
        scale=carried.scale,
        tracks_per_view=coarse.tracks,
        confidence=coarse.confidence,
        **_query_pixels(context),
    )


def _query_pixels(context: Context) -> dict[str, Array]:
    """Where the points are in frame 0 and how sure that is; given ones are as sure as can be."""
    if context.get("anchor_view") is not None:
        return {key: context[key] for key in cycle.Query._fields}
    pixels, valid = context["anchors"], context["anchor_valid"]
    asked = jnp.full((valid.shape[0], valid.shape[2]), -1, jnp.int32)
    return cycle.Query(pixels, valid, valid.astype(jnp.float32), asked)._asdict()
