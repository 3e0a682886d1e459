"""Which sampling steps close the loop (A22, A23): plans for `cycle`, made before compilation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.tasks.syncmv4d import cycle


class SampleState(NamedTuple):
    """Carried through sampling.

    video, motion, feedback: [b v f h w c]; *_memory: the stepper's; scale: [b v 2] metres;
    tracks_t: [b v n k 3] normalised, None until anchors are known; refined: metres, last estimate;
    warp: of the last feedback, None without one.
    memory: what MJD keeps from step to step, None without reuse (models/reuse.py).
    """

    video: jax.Array
    video_memory: flow.State
    motion: jax.Array | None
    motion_memory: flow.State | None
    feedback: jax.Array | None
    scale: jax.Array
    tracks_t: jax.Array | None
    refined: cycle.Coarse | None
    warp: Any = None
    memory: Any = None


def sample_start(
    rng: jax.Array,
    schedule: flow.Schedule,
    first: jax.Array,
    *,
    settings: cycle.Settings,
    latent_shape: tuple[int, ...],
    scale: jax.Array,
) -> SampleState:
    """Draws the initial noise of video and motion (A22); tracks come with `start_tracks`.

    Args:
      rng: key.
      first: [b v 1 h w c], reference latents.
      latent_shape: (b, v, f, h, w, c).
      scale: [b v 2] metres, the prior mean, returned if no step predicts one.
    """
    keys = jax.random.split(rng)
    video = flow.hold_first(jax.random.normal(keys[0], latent_shape, jnp.float32), first)
    motion = motion_memory = feedback = None
    if settings.joint_motion:
        motion = jax.random.normal(keys[1], latent_shape, jnp.float32)
        motion_memory = flow.start(schedule, motion)
        feedback = jnp.zeros(latent_shape, jnp.float32)
    return SampleState(
        video, flow.start(schedule, video), motion, motion_memory, feedback, scale, None, None
    )


def start_tracks(
    state: SampleState,
    tracks: jax.Array | None,
    noise: jax.Array,
    sigma: jax.Array,
    *,
    warp: Any = None,
) -> SampleState:
    """Returns the state with tracks at noise level sigma: M = (1 - sigma) M^ + sigma eps (A23).

    Args:
      tracks: [b v n k 3] normalised first estimate, or None to start from pure noise.
      noise: [b v n k 3].
      sigma: scalar.
      warp: zeros like what `Functions.warp` returns, so that every step has the same structure.
    """
    tracks_t = noise if tracks is None else flow.interpolate(tracks, noise, sigma)
    zeros = jnp.zeros(noise.shape, jnp.float32)
    return state._replace(tracks_t=tracks_t, refined=cycle.Coarse(zeros, zeros[..., 0]), warp=warp)


def sample_plain(
    functions: cycle.Functions,
    state: SampleState,
    rows: flow.Schedule,
    first: jax.Array,
    context: Any,
    *,
    settings: cycle.Settings,
    again: jax.Array | None = None,
) -> SampleState:
    """Runs consecutive plain steps as one scan: denoise, step both latents, re-impose frame 0.

    Args:
      rows: the schedule's rows of this run (scan inputs).
      first: [b v 1 h w c], reference latents.
      again: [steps] bool, which steps may reuse the last one's (`state.memory`); None: none.
    """
    again = jnp.zeros(rows.sigma.shape, bool) if again is None else again

    def body(state, inputs):
        row, again = inputs
        return _denoise(functions, state, row, first, context, settings, again=again)[0], None

    return jax.lax.scan(body, state, (rows, again))[0]


def sample_refine(
    functions: cycle.Functions,
    state: SampleState,
    row: flow.Schedule,
    next_sigma: jax.Array,
    fresh: jax.Array,
    first: jax.Array,
    context: Any,
    *,
    settings: cycle.Settings,
) -> SampleState:
    """One step with the loop closed: denoise, decode the clean estimate, align, feed back.

    MJD runs whole: its estimate is decoded, and what was fed back before is new to it.

    Args:
      row: this step's row of the schedule.
      next_sigma: scalar, sigma of the next refining step, 0 at the last one.
      fresh: scalar bool, whether the warp is taken from this step's frame 0, else kept.
    """
    motion_t = state.motion
    state, denoised = _denoise(functions, state, row, first, context, settings)
    t = jnp.full((motion_t.shape[0],), row.sigma, jnp.float32)
    estimate = flow.to_data(motion_t, denoised.motion, t)
    coarse, pseudo = functions.decode(estimate, denoised.scale, context)
    velocity = functions.dpa(state.tracks_t, coarse, t, context)
    metres = functions.denormalise(flow.to_data(state.tracks_t, velocity, t), context)
    feedback, warp = state.feedback, state.warp
    if settings.cycle:
        frame0 = pseudo[:, :, 0]
        make = lambda: functions.warp(frame0, denoised.scale, context)  # noqa: E731
        warp = jax.lax.cond(fresh, make, lambda: state.warp)
        feedback = functions.encode(metres, denoised.scale, warp, context)
    return state._replace(
        tracks_t=state.tracks_t + (next_sigma - row.sigma) * velocity,
        feedback=feedback,
        refined=cycle.Coarse(metres, coarse.confidence),
        warp=warp,
    )


def _denoise(functions, state, row, first, context, settings, *, again=False):
    """One MJD call and one sampler step of both latents; frame 0 of the video is re-imposed."""
    t = jnp.full((state.video.shape[0],), row.sigma, jnp.float32)
    kept = {} if state.memory is None else {"memory": state.memory, "again": jnp.asarray(again)}
    denoised = functions.mjd(state.video, state.motion, state.feedback, t, context, **kept)
    video, video_memory = flow.step(state.video, denoised.video, state.video_memory, row)
    video = flow.hold_first(video, first)
    state = state._replace(video=video, video_memory=video_memory, memory=denoised.memory)
    if settings.joint_motion:
        motion, memory = flow.step(state.motion, denoised.motion, state.motion_memory, row)
        state = state._replace(motion=motion, motion_memory=memory, scale=denoised.scale)
    return state, denoised


def plan_steps(sigmas: Any, settings: Any, *, anchors_given: bool) -> list[tuple[int, int, bool]]:
    """Splits a sampler's steps into runs: (first, last + 1, whether this one step refines).

    Args:
      sigmas: [steps + 1], host array, decreasing to 0.
      settings: a `cycle.Settings`: refine_every, refine_last, anchor_time.
      anchors_given: False delays the first refinement until sigma <= anchor_time (A23).

    Returns:
      Runs in order; a refining run has one step. Without an aligner there is one plain run.
    """
    steps = len(sigmas) - 1
    if not settings.dpa:
        return [(0, steps, False)]
    start = 0
    if not anchors_given:
        start = next(i for i in range(steps) if sigmas[i] <= settings.anchor_time or i == steps - 1)
    refine = [
        i >= start
        and (
            i == start
            or (i - start) % settings.refine_every == 0
            or i >= steps - settings.refine_last
        )
        for i in range(steps)
    ]
    runs, first = [], 0
    for i in (i for i, chosen in enumerate(refine) if chosen):
        runs += [(first, i, False), (i, i + 1, True)]
        first = i + 1
    return [run for run in [*runs, (first, steps, False)] if run[0] < run[1]]


def plan_warps(sigmas: Any, runs: list[tuple[int, int, bool]], settings: Any) -> list[bool]:
    """Returns for each run whether it takes a fresh warp from its own estimate of frame 0.

    Refining runs do until sigma has fallen to `settings.anchor_time`; the first one there is the
    last that does. Where anchors are set on the way (A23) the warp is so computed once a sample.
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
