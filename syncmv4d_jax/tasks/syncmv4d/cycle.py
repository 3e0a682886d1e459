"""The closed loop between appearance-motion diffusion (MJD) and the aligner (DPA): Algorithm 1.

Written as functions of functions: nothing here knows a model, so the ablations are arguments and
the loop is tested with two-line fakes. t = 1 is noise, v = noise - data (Eq. 2, whose sign the
paper states both ways; see `flow`); one t per sample is shared by video, motion and tracks:

    (1)  z_t = (1 - t) z_0 + t eps,  M_t = (1 - t) M + t eps          diffuse, Alg. 1 line 6
    (2)  M~  = M_t - t DPA(M_t, D, t),  z~ = E(render(M~, s))         feed back, lines 7-8
    (3)  v, s^ = MJD(z_t^V | z_I, z_t^M, z~, P, t)                    denoise, line 9
    (4)  z^_0 = z_t^M - t v^M,  D^ = unproject(decode(z^_0), s^)      lines 10-11
    (5)  v- = DPA(M_t, D^, t),  M- = M_t - t v-                       align, line 11

Readings (the paper is silent or slips; letters as in docs/paper.md). A8: z~ enters through its own
patch embedding. A10: the "dt" of line 10 is the whole step to the clean estimate. A11: the
condition D of (2) is `x0_selfcond` (the clean estimate of a first pass without feedback), `noisy`
(line 7 to the letter: the decoded noisy latent with the true scale) or `sim` (true tracks through
a corruption model). A9: no gradient flows from the aligner's loss into MJD, or through the scale
only (`grad="scale"`). A15: video frame 0 is given, so not in the loss; motion frame 0 is. A22: in
sampling the tracks move only at refining steps, by one Euler step to the sigma of the next one; the
warp that paints them densely belongs to frame 0 of the clean estimate and is kept once sigma has
fallen to `anchor_time` (`cycle_sampling.plan_warps`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow

Array = jax.Array
DRAWS = ("video", "motion", "tracks", "coin", "corrupt")


class Denoised(NamedTuple):
    """Velocities [b v f h w c] and scale [b v 2] metres; motion and scale None without motion.

    memory: the network's, for the next sampling step, if it was given one.
    """

    video: Array
    motion: Array | None
    scale: Array | None
    memory: Any = None


class Coarse(NamedTuple):
    """Decoded motion: tracks [b v n k 3] metres, world frame; confidence [b v n k] in 0..1."""

    tracks: Array
    confidence: Array


@dataclasses.dataclass(frozen=True)
class Functions:
    """What the loop is made of; `context` (any pytree) carries text, cameras and anchors.

    mjd(video, motion, feedback: latents [b v f h w c], t [b], context) -> Denoised; in sampling
      that reuses steps also memory=, again=, a scalar bool: whether this step may
    dpa(tracks_t [b v n k 3], coarse: Coarse, t [b], context) -> velocity [b v n k 3], normalised
    decode(latents [b v f h w c], scale [b v 2], context) -> (Coarse, pseudo video [b v n h w 3])
    warp(frame0 [b v h w 3], scale, context) -> how pixels follow anchors, any pytree of arrays
    encode(tracks [b v n k 3] metres, scale, warp, context) -> latents [b v f h w c]
    normalise, denormalise(tracks [b v n k 3], context): metres <-> normalised units (A16)
    corrupt(tracks [b v n k 3] metres, t [b], context, rng) -> Coarse
    """

    mjd: Callable[..., Denoised]
    dpa: Callable[..., Array] | None = None
    decode: Callable[..., tuple[Coarse, Array]] | None = None
    warp: Callable[..., Any] | None = None
    encode: Callable[..., Array] | None = None
    normalise: Callable[..., Array] | None = None
    denormalise: Callable[..., Array] | None = None
    corrupt: Callable[..., Coarse] | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Switches of the loop (Table 3 and the readings).

    Attributes:
      joint_motion: MJD denoises motion and scale beside the video.
      dpa: the aligner is trained and used.
      cycle: refined tracks are fed back to MJD.
      cond: what the feedback's aligner sees in training (A11): "x0_selfcond", "noisy" or "sim".
      grad: gradient of the aligner's loss into MJD (A9): "none" or "scale".
      probability: share of training steps that run the feedback; the others see zero feedback.
      decoded: share of training steps whose aligner sees MJD's decoded estimate; the others see
        true tracks through the corruption model, which costs no decoding.
      refine_every, refine_last: sampling refines at every n-th step and at the last ones (A22).
      anchor_time: without given anchors they are set once sigma falls to this value (A23).
    """

    joint_motion: bool = True
    dpa: bool = True
    cycle: bool = True
    cond: str = "x0_selfcond"
    grad: str = "none"
    probability: float = 0.5
    decoded: float = 1.0
    refine_every: int = 5
    refine_last: int = 3
    anchor_time: float = 0.6

    def __post_init__(self):
        if self.cond not in ("x0_selfcond", "noisy", "sim"):
            raise ValueError(f"cycle.cond: wanted x0_selfcond, noisy or sim, got {self.cond!r}")
        if self.grad not in ("none", "scale"):
            raise ValueError(f"cycle.grad: wanted none or scale, got {self.grad!r}")
        for name in ("probability", "decoded"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"cycle.{name}: wanted 0..1, got {getattr(self, name)}")
        if self.cycle and not self.dpa:
            raise ValueError("cycle needs dpa: the feedback is the aligner's output")
        if self.dpa and not self.joint_motion:
            raise ValueError("dpa needs joint_motion: the aligner refines generated motion")


class Targets(NamedTuple):
    """Clean data: latents [b v f h w c], tracks [b v n k 3] metres, scale [b v 2] metres."""

    video: Array
    motion: Array | None
    tracks: Array | None
    scale: Array | None


class Prediction(NamedTuple):
    """What the losses need: noisy inputs, velocities (predicted and true) and clean estimates."""

    video_t: Array
    video_noise: Array
    motion_t: Array | None
    motion_noise: Array | None
    denoised: Denoised
    tracks_t: Array | None
    track_velocity: Array | None
    track_target: Array | None
    feedback: Array


def train_step(
    functions: Functions,
    detached: Functions,
    targets: Targets,
    t: Array,
    context: Any,
    rng: Array,
    *,
    settings: Settings,
) -> Prediction:
    """Runs lines 6-11 of Algorithm 1 on clean data.

    Args:
      functions: see `Functions`; differentiated.
      detached: the same with stopped gradients, for the feedback pass.
      targets: clean latents, tracks and scale; the reference latent is `targets.video[:, :, :1]`.
      t: [b], float32 in 0..1.
      context: passed on to the functions.
      rng: key; noises, the feedback's coin and the corruption are drawn from it.
      settings: see `Settings`.

    Returns:
      `Prediction`; the caller turns it into losses.
    """
    keys = dict(zip(DRAWS, jax.random.split(rng, len(DRAWS)), strict=True))

    def diffuse(data, name):
        noise = jax.random.normal(keys[name], data.shape, jnp.float32)
        return flow.interpolate(data, noise, t), noise

    video_t, video_noise = diffuse(targets.video, "video")
    video_t = flow.hold_first(video_t, targets.video[:, :, :1])
    no_feedback = jnp.zeros_like(video_t)
    if not settings.joint_motion:
        denoised = functions.mjd(video_t, None, None, t, context)
        return Prediction(video_t, video_noise, None, None, denoised, None, None, None, no_feedback)
    motion_t, motion_noise = diffuse(targets.motion, "motion")
    if not settings.dpa:
        denoised = functions.mjd(video_t, motion_t, no_feedback, t, context)
        return Prediction(
            video_t, video_noise, motion_t, motion_noise, denoised, None, None, None, no_feedback
        )
    clean_tracks = functions.normalise(targets.tracks, context)
    tracks_t, track_noise = diffuse(clean_tracks, "tracks")

    def feed_back():
        coarse, frame0, scale = _condition(
            detached, targets, video_t, motion_t, t, context, keys["corrupt"], settings
        )
        velocity = detached.dpa(tracks_t, coarse, t, context)
        metres = detached.denormalise(flow.to_data(tracks_t, velocity, t), context)
        return detached.encode(metres, scale, detached.warp(frame0, scale, context), context)

    feedback, coin = no_feedback, jax.random.uniform(keys["coin"])
    if settings.cycle:
        feedback = jax.lax.cond(coin < settings.probability, feed_back, lambda: no_feedback)
    denoised = functions.mjd(video_t, motion_t, feedback, t, context)
    estimate = flow.to_data(motion_t, jax.lax.stop_gradient(denoised.motion), t)
    scale = denoised.scale if settings.grad == "scale" else jax.lax.stop_gradient(denoised.scale)
    decode = lambda: functions.decode(estimate, scale, context)[0]  # noqa: E731
    corrupt = lambda: functions.corrupt(targets.tracks, t, context, keys["corrupt"])  # noqa: E731
    always = settings.decoded >= 1
    coarse = decode() if always else jax.lax.cond(coin < settings.decoded, decode, corrupt)
    if settings.grad == "none":
        coarse = jax.tree.map(jax.lax.stop_gradient, coarse)
    velocity = functions.dpa(tracks_t, coarse, t, context)
    return Prediction(
        video_t, video_noise, motion_t, motion_noise, denoised, tracks_t, velocity,
        flow.velocity(clean_tracks, track_noise), feedback,
    )  # fmt: skip


def _condition(functions, targets, video_t, motion_t, t, context, rng, settings):
    """The aligner's condition of line 7 under reading A11: (Coarse, frame 0 of the map, scale)."""
    if settings.cond == "noisy":
        coarse, pseudo = functions.decode(motion_t, targets.scale, context)
        return coarse, pseudo[:, :, 0], targets.scale
    first = functions.mjd(video_t, motion_t, jnp.zeros_like(motion_t), t, context)
    coarse, pseudo = functions.decode(flow.to_data(motion_t, first.motion, t), first.scale, context)
    if settings.cond == "sim":
        coarse = functions.corrupt(targets.tracks, t, context, rng)
        return coarse, pseudo[:, :, 0], targets.scale
    return coarse, pseudo[:, :, 0], first.scale
