"""Sampling in the closed loop (A22, A23): plain and refining steps, and which steps are which.

A plain step denoises video and motion (video.step). A refining one also decodes the clean estimate,
aligns the tracks with it and feeds them back. Plans are made before compilation.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.syncmv4d import cycle

Array = jax.Array


class Carried(NamedTuple):
    """From step to step: scale [b v 2] metres, the last one predicted; MJD's memory.

    memory is None where no step is reused (models/reuse.py).
    """

    scale: Array
    memory: Any = None


class SampleState(NamedTuple):
    """Carried through sampling.

    run: latents and solvers of "video" and, with joint motion, "motion"; carried: `Carried`.
    feedback: latents [b v f h w c], None without motion. tracks_t: [b v n k 3] normalised, None
    until anchors are known; refined: metres, last estimate; coarse: what it was made from; warp: of
    the last feedback, None without one; query: pixels that are not given, for the next refining
    step, None where they are.
    """

    run: video.State
    feedback: Array | None
    tracks_t: Array | None = None
    refined: cycle.Coarse | None = None
    coarse: cycle.Coarse | None = None
    warp: cycle.Warp = None
    query: cycle.Query | None = None


def sample_start(
    rng: Array,
    schedule: flow.Schedule,
    first: Array,
    *,
    settings: cycle.Settings,
    latent_shape: tuple[int, ...],
    scale: Array,
    hidden: Array | None = None,
) -> SampleState:
    """Draws the initial noise of video and motion (A22); tracks come with `start_tracks`.

    Args:
      rng: key.
      first: [b v 1 h w c], reference latents.
      latent_shape: (b, v, f, h, w, c).
      scale: [b v 2] metres, the prior mean, returned if no step predicts one.
      hidden: [b v] bool, views whose frame 0 is generated; None: none.
    """
    keys = jax.random.split(rng)
    noise = jax.random.normal(keys[0], latent_shape, jnp.float32)
    latents, feedback = {"video": flow.hold_first(noise, first, hidden)}, None
    if settings.joint_motion:
        latents["motion"] = jax.random.normal(keys[1], latent_shape, jnp.float32)
        feedback = jnp.zeros(latent_shape, jnp.float32)
    return SampleState(video.start(schedule, latents, Carried(scale)), feedback)


def start_tracks(
    state: SampleState,
    tracks: Array | None,
    noise: Array,
    sigma: Array,
    *,
    warp: cycle.Warp = None,
    query: cycle.Query | None = None,
) -> SampleState:
    """Returns the state with tracks at noise level sigma: M = (1 - sigma) M^ + sigma eps (A23).

    Args:
      tracks: [b v n k 3] normalised first estimate, or None to start from pure noise.
      noise: [b v n k 3].
      sigma: scalar.
      warp: zeros like what `Functions.warp` returns, so that every step has the same structure.
      query: where query pixels are that are not given.
    """
    tracks_t = noise if tracks is None else flow.interpolate(tracks, noise, sigma)
    zeros = jnp.zeros(noise.shape, jnp.float32)
    none = cycle.Coarse(zeros, zeros[..., 0])
    return state._replace(tracks_t=tracks_t, refined=none, coarse=none, warp=warp, query=query)


def denoiser(
    functions: cycle.Functions, feedback: Array | None, context: cycle.Context
) -> video.Denoise:
    """Returns MJD as `video.step` wants it; given: scalar bool, whether the step may be reused."""

    def denoise(run: video.State, row: flow.Schedule, again: Array) -> tuple[video.Latents, Any]:
        latents, kept = run.latents, {}
        t = jnp.full((len(latents["video"]),), row.sigma, jnp.float32)
        if run.carried.memory is not None:
            kept = {"memory": run.carried.memory, "again": again}
        out = functions.mjd(latents["video"], latents.get("motion"), feedback, t, context, **kept)
        velocities, scale = {"video": out.velocity}, run.carried.scale
        if "motion" in latents:
            velocities["motion"], scale = out.motion_velocity, out.scale
        return velocities, Carried(scale, out.memory)

    return denoise


def sample_plain(
    functions: cycle.Functions,
    state: SampleState,
    rows: flow.Schedule,
    first: Array,
    context: cycle.Context,
    *,
    again: Array | None = None,
) -> SampleState:
    """Runs consecutive plain steps as one scan: denoise, step both latents, re-impose frame 0.

    Args:
      rows: the schedule's rows of this run (scan inputs).
      first: see `sample_start`.
      again: [steps] bool, which steps may reuse the last one's blocks; None: none.
    """
    again = jnp.zeros(rows.sigma.shape, bool) if again is None else again
    denoise, held = denoiser(functions, state.feedback, context), {"video": first}
    hidden = cycle.hidden_views(context)
    run = video.scan(denoise, state.run, rows, first=held, given=again, hidden=hidden)
    return state._replace(run=run)


def sample_refine(
    functions: cycle.Functions,
    state: SampleState,
    row: flow.Schedule,
    next_sigma: Array,
    fresh: Array,
    first: Array,
    context: cycle.Context,
    *,
    settings: cycle.Settings,
) -> SampleState:
    """One step with the loop closed: denoise, decode the clean estimate, align, feed back.

    MJD runs whole: its estimate is decoded, and what was fed back before is new to it.

    Args:
      row: this step's row of the schedule.
      next_sigma: scalar, sigma of the next refining step, 0 at the last one.
      fresh: scalar bool, whether the warp is taken from this step's frame 0, and what is not given
        of query pixels found anew with this step's tracks, for the next; else they are kept.
      first: see `sample_start`.
    """
    if state.query is not None:
        context = {**context, **state.query._asdict()}
    motion_t = state.run.latents["motion"]
    denoise, held = denoiser(functions, state.feedback, context), {"video": first}
    hidden, never = cycle.hidden_views(context), jnp.asarray(False)
    run, velocities = video.step(denoise, state.run, row, first=held, given=never, hidden=hidden)
    scale, t = run.carried.scale, jnp.full((motion_t.shape[0],), row.sigma, jnp.float32)
    estimate = flow.to_data(motion_t, velocities["motion"], t)
    coarse, pseudo = functions.decode(estimate, scale, context)
    with jax.named_scope("align"):
        velocity = functions.dpa(state.tracks_t, coarse, t, context)
        metres = functions.denormalise(flow.to_data(state.tracks_t, velocity, t), context)
    feedback, warp, query = state.feedback, state.warp, state.query
    if settings.sweep and query is not None:  # once: what is fed back would hold to early errors
        found = cycle.Coarse(metres, coarse.confidence)
        settle = lambda: functions.sweep(found, estimate[:, :, :1], context)  # noqa: E731
        metres = jax.lax.cond(jnp.asarray(next_sigma) <= 0, settle, lambda: metres)
    frame0, refined = pseudo[:, :, 0], cycle.Coarse(metres, coarse.confidence)
    if query is not None:
        find = lambda: functions.relocate(frame0, scale, refined, context)  # noqa: E731
        query = jax.lax.cond(fresh, find, lambda: state.query)
    if settings.cycle:
        with jax.named_scope("feedback"):
            make = lambda: functions.warp(frame0, scale, context)  # noqa: E731
            warp = jax.lax.cond(fresh, make, lambda: state.warp)
            feedback = functions.encode(metres, scale, warp, context)
    return SampleState(
        run,
        feedback,
        tracks_t=state.tracks_t + (next_sigma - row.sigma) * velocity,
        refined=refined,
        coarse=coarse,
        warp=warp,
        query=query,
    )


def plan_steps(sigmas: Any, settings: cycle.Settings) -> list[tuple[int, int, bool]]:
    """Splits a sampler's steps into runs: (first, last + 1, whether this one step refines).

    Args:
      sigmas: [steps + 1], host array, decreasing to 0.
      settings: reads refine_every, refine_last.

    Returns:
      Runs in order; a refining run has one step. Without an aligner there is one plain run.
    """
    steps = len(sigmas) - 1
    if not settings.dpa:
        return [(0, steps, False)]
    refine = [
        i % settings.refine_every == 0 or i >= steps - settings.refine_last for i in range(steps)
    ]
    runs, first = [], 0
    for i in (i for i, chosen in enumerate(refine) if chosen):
        runs += [(first, i, False), (i, i + 1, True)]
        first = i + 1
    return [run for run in [*runs, (first, steps, False)] if run[0] < run[1]]


def plan_warps(
    sigmas: Any, runs: list[tuple[int, int, bool]], settings: cycle.Settings
) -> list[bool]:
    """Returns for each run whether it takes a fresh warp from its own estimate of frame 0.

    Refining runs do until sigma has fallen to `settings.anchor_time`; the first one there is the
    last that does. Query pixels that are not given are found anew where a warp is (A23).
    """
    fresh, settled = [], False
    for begin, _, refine in runs:
        fresh.append(refine and not settled)
        settled = settled or (refine and sigmas[begin] <= settings.anchor_time)
    return fresh


def plan_guidance(
    sigmas: Any, runs: list[tuple[int, int, bool]], interval: tuple[float, float]
) -> list[tuple[int, int, bool, bool]]:
    """Returns runs that are guided throughout or not at all: (first, last + 1, refine, guided).

    Args:
      sigmas: [steps + 1], host array.
      runs: of `plan_steps`.
      interval: (lowest, highest) sigma that is guided.
    """
    low, high = interval
    result: list[tuple[int, int, bool, bool]] = []
    for begin, end, refine in runs:
        for i in range(begin, end):
            guided = bool(low <= sigmas[i] <= high)
            if i > begin and result[-1][3] == guided:
                result[-1] = (result[-1][0], i + 1, refine, guided)
            else:
                result.append((i, i + 1, refine, guided))
    return result
