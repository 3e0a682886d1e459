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
from typing import Any, NamedTuple, Protocol

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.configuration import one_of, shares

Array = jax.Array
Context = Any  # any pytree: text, cameras and anchors, passed on to the functions
Warp = Any  # any pytree of arrays: how pixels follow anchors
DRAWS = ("video", "motion", "tracks", "coin", "corrupt")


class Velocities(NamedTuple):
    """What MJD says of noisy latents: velocities [b v f h w c], and the scale [b v 2] in metres.

    motion_velocity and scale are None without motion. memory: the network's, for the next sampling
    step, if it was given one.
    """

    velocity: Array
    motion_velocity: Array | None
    scale: Array | None
    memory: Any = None


class Coarse(NamedTuple):
    """Decoded motion: tracks [b v n k 3] metres, world frame; confidence [b v n k] in 0..1."""

    tracks: Array
    confidence: Array


class Query(NamedTuple):
    """Query pixels that are not given: geometry.anchors.Anchors of every sample, without points.

    anchors: [b v k 2] px of frame 0; anchor_valid: [b v k]; anchor_confidence: [b v k] in 0..1;
    anchor_view: [b k], the view that was asked.
    """

    anchors: Array
    anchor_valid: Array
    anchor_confidence: Array
    anchor_view: Array


class Denoise(Protocol):
    """MJD. In sampling that reuses steps it also gets `memory` and `again`, whether it may."""

    def __call__(
        self,
        latents: Array,
        motion_latents: Array | None,
        feedback: Array | None,
        t: Array,
        context: Context,
        *,
        memory: Any = None,
        again: Array | None = None,
    ) -> Velocities:
        """latents, motion_latents, feedback: [b v f h w c]; t: [b]; again: scalar bool."""
        ...


class Align(Protocol):
    """DPA."""

    def __call__(self, tracks_t: Array, coarse: Coarse, t: Array, context: Context) -> Array:
        """tracks_t: [b v n k 3] normalised -> velocity, like it."""
        ...


class Decode(Protocol):
    """Motion latents to tracks, through the pseudo video."""

    def __call__(self, latents: Array, scale: Array, context: Context) -> tuple[Coarse, Array]:
        """latents: [b v f h w c], scale: [b v 2] -> coarse motion, pseudo video [b v n h w 3]."""
        ...


class MakeWarp(Protocol):
    """How the pixels of frame 0 follow the anchors."""

    def __call__(self, frame0: Array, scale: Array, context: Context) -> Warp:
        """frame0: [b v h w 3] of the pseudo video; scale: [b v 2]."""
        ...


class Encode(Protocol):
    """Tracks painted and encoded."""

    def __call__(self, tracks: Array, scale: Array, warp: Warp, context: Context) -> Array:
        """tracks: [b v n k 3] metres, scale: [b v 2] -> latents [b v f h w c]."""
        ...


class Convert(Protocol):
    """Between metres and normalised units (A16)."""

    def __call__(self, tracks: Array, context: Context) -> Array:
        """tracks: [b v n k 3] -> the same in the other unit."""
        ...


class Corrupt(Protocol):
    """The corruption model, in place of decoded motion."""

    def __call__(self, tracks: Array, t: Array, context: Context, rng: Array) -> Coarse:
        """tracks: [b v n k 3] metres; t: [b]."""
        ...


class Relocate(Protocol):
    """Where other views show query pixels that each are of one view, by the tracks of now."""

    def __call__(self, frame0: Array, scale: Array, tracks: Coarse, context: Context) -> Query:
        """frame0: of the decoded map [b v h w 3]; scale: [b v 2] metres."""
        ...


class Sweep(Protocol):
    """Tracks moved along the rays of their query pixels, by the reference images (A24)."""

    def __call__(self, tracks: Coarse, latents: Array, context: Context) -> Array:
        """latents: the first of the motion [b v 1 h w c]. Returns tracks [b v n k 3] metres."""
        ...


@dataclasses.dataclass(frozen=True)
class Functions:
    """What the loop is made of. Those that a switch leaves out are not called."""

    mjd: Denoise
    dpa: Align
    decode: Decode
    warp: MakeWarp
    encode: Encode
    normalise: Convert
    denormalise: Convert
    corrupt: Corrupt
    relocate: Relocate | None = None
    sweep: Sweep | None = None


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
      earlier: share of the steps with feedback whose feedback is of a time above t, nearer to noise
        (uniform in t..1, the same noises): in sampling it comes from the step before. 0 is the
        paper's line 7, the same t.
      decoded: share of training steps whose aligner sees MJD's decoded estimate; the others see
        true tracks through the corruption model, which costs no decoding.
      refine_every, refine_last: sampling refines at every n-th step and at the last ones (A22).
      anchor_time: the warp, and where other views show query pixels that are not given, are found
        anew at refining steps until sigma falls to this value, and kept then (A22, A23).
      network: the aligner's network corrects its closed form wherever tracks are refined: in
        sampling and in what training feeds back. Off: it is trained, and not used; no measurement
        has shown it to be better so far (docs/dpa.md).
      sweep: at the last refining step, depths of query pixels that are not given are settled by the
        reference images (A24). Off: the paper has nothing of it, and cameras have to see the same
        light.
    """

    joint_motion: bool = True
    dpa: bool = True
    cycle: bool = True
    cond: str = "x0_selfcond"
    grad: str = "none"
    probability: float = 0.5
    earlier: float = 0.0
    decoded: float = 1.0
    refine_every: int = 5
    refine_last: int = 3
    anchor_time: float = 0.6
    network: bool = False
    sweep: bool = False

    def __post_init__(self):
        one_of("cycle", self, cond=("x0_selfcond", "noisy", "sim"), grad=("none", "scale"))
        shares("cycle", self, "probability", "earlier", "decoded")
        if self.cycle and not self.dpa:
            raise ValueError("cycle needs dpa: the feedback is the aligner's output")
        if self.dpa and not self.joint_motion:
            raise ValueError("dpa needs joint_motion: the aligner refines generated motion")


def hidden_views(context: Context) -> Array | None:
    """[b v] bool, views without a reference: their video frame 0 is noised and generated.

    It is `hidden` of the context; None: none.
    """
    return context.get("hidden") if context else None


def shown(first: Array, context: Context) -> Array:
    """The reference latents [b v 1 h w c], zeros of hidden views: nothing is known of theirs."""
    hidden = hidden_views(context)
    if hidden is None:
        return first
    return jnp.where(einops.rearrange(hidden, "b v -> b v 1 1 1 1"), 0.0, first)


class Targets(NamedTuple):
    """Clean data: latents [b v f h w c], tracks [b v n k 3] metres, scale [b v 2] metres."""

    latents: Array
    motion_latents: Array | None
    tracks: Array | None
    scale: Array | None


class Diffused(NamedTuple):
    """One quantity at time t: noisy, its noise, and the velocity that is predicted for it."""

    noisy: Array
    noise: Array
    velocity: Array


class Prediction(NamedTuple):
    """What the losses need; a quantity that a switch leaves out is None.

    video, motion: latents [b v f h w c]; tracks: [b v n k 3] normalised; scale: [b v 2] metres;
    feedback: latents z~ [b v f h w c], zeros where there was none. confidence: [b v n k] of what
    the aligner was given; 0 = not measured.
    """

    video: Diffused
    motion: Diffused | None
    tracks: Diffused | None
    scale: Array | None
    feedback: Array
    confidence: Array | None = None


def train_step(
    functions: Functions,
    detached: Functions,
    targets: Targets,
    t: Array,
    context: Context,
    rng: Array,
    *,
    settings: Settings,
) -> Prediction:
    """Runs lines 6-11 of Algorithm 1 on clean data.

    Args:
      functions: see `Functions`; differentiated.
      detached: the same with stopped gradients, for the feedback pass.
      targets: the reference latent is `targets.latents[:, :, :1]`, but of hidden views.
      t: [b], float32 in 0..1.
      context: passed on to the functions.
      rng: key; noises, the feedback's coin and the corruption are drawn from it.
      settings: see `Settings`.

    Returns:
      `Prediction`; the caller turns it into losses.
    """
    keys = dict(zip(DRAWS, jax.random.split(rng, len(DRAWS)), strict=True))

    data, hidden = {"video": targets.latents}, hidden_views(context)
    if settings.joint_motion:
        data["motion"] = targets.motion_latents
    if settings.dpa:
        data["tracks"] = functions.normalise(targets.tracks, context)
        coin = jax.random.uniform(keys["coin"])
    noise = {name: jax.random.normal(keys[name], x.shape, jnp.float32) for name, x in data.items()}

    def diffuse(t: Array) -> dict[str, Array]:
        noisy = {name: flow.interpolate(x, noise[name], t) for name, x in data.items()}
        first = targets.latents[:, :, :1]
        return noisy | {"video": flow.hold_first(noisy["video"], first, hidden)}

    def closed() -> Array:
        past = t
        if settings.earlier:
            past = _earlier(t, jax.random.fold_in(keys["coin"], 1), settings.earlier)
        x, motion, tracks = diffuse(past).values()
        cond = settings.cond
        return feed_back(
            detached, targets, x, motion, tracks, past, context, keys["corrupt"], cond=cond
        )

    noisy = diffuse(t)
    feedback = jnp.zeros_like(noisy["video"])
    if settings.cycle:
        feedback = jax.lax.cond(coin < settings.probability, closed, lambda: feedback)
    with jax.named_scope("denoise"):
        out = functions.mjd(noisy["video"], noisy.get("motion"), feedback, t, context)
    video = Diffused(noisy["video"], noise["video"], out.velocity)
    motion = tracks = confidence = None
    if settings.joint_motion:
        motion = Diffused(noisy["motion"], noise["motion"], out.motion_velocity)
    if settings.dpa:
        with jax.named_scope("align"):
            coarse = _coarse(functions, targets, motion, out, t, context, keys, coin, settings)
            velocity = functions.dpa(noisy["tracks"], coarse, t, context)
        tracks = Diffused(noisy["tracks"], noise["tracks"], velocity)
        confidence = jax.lax.stop_gradient(coarse.confidence)
    return Prediction(video, motion, tracks, out.scale, feedback, confidence)


@jax.named_scope("feedback")
def feed_back(
    functions: Functions,
    targets: Targets,
    latents_t: Array,
    motion_t: Array,
    tracks_t: Array,
    t: Array,
    context: Context,
    rng: Array,
    *,
    cond: str,
) -> Array:
    """Lines 7 and 8: what is fed back to MJD, latents [b v f h w c].

    Args:
      latents_t, motion_t: noisy latents [b v f h w c]; tracks_t: [b v n k 3] normalised.
      cond: reading A11 of the aligner's condition.
    """
    if cond == "noisy":
        (coarse, pseudo), scale = functions.decode(motion_t, targets.scale, context), targets.scale
    else:
        nothing = jnp.zeros_like(motion_t)
        first = functions.mjd(latents_t, motion_t, nothing, t, context)
        estimate, scale = flow.to_data(motion_t, first.motion_velocity, t), first.scale
        coarse, pseudo = functions.decode(estimate, scale, context)
    if cond == "sim":
        coarse, scale = functions.corrupt(targets.tracks, t, context, rng), targets.scale
    velocity = functions.dpa(tracks_t, coarse, t, context)
    metres = functions.denormalise(flow.to_data(tracks_t, velocity, t), context)
    return functions.encode(metres, scale, functions.warp(pseudo[:, :, 0], scale, context), context)


def _earlier(t: Array, rng: Array, share: float) -> Array:
    """t [b], and for about this share of the samples uniform in t..1 instead."""
    coin, far = jax.random.uniform(rng, (2, *t.shape))
    return jnp.where(coin < share, t + (1 - t) * far, t)


def _coarse(functions, targets, motion, out, t, context, keys, coin, settings) -> Coarse:
    """Lines 10 and 11: MJD's clean estimate decoded, or true tracks through the corruption."""
    estimate = flow.to_data(motion.noisy, jax.lax.stop_gradient(out.motion_velocity), t)
    scale = out.scale if settings.grad == "scale" else jax.lax.stop_gradient(out.scale)
    decode = lambda: functions.decode(estimate, scale, context)[0]  # noqa: E731
    corrupt = lambda: functions.corrupt(targets.tracks, t, context, keys["corrupt"])  # noqa: E731
    always = settings.decoded >= 1
    coarse = decode() if always else jax.lax.cond(coin < settings.decoded, decode, corrupt)
    return jax.lax.stop_gradient(coarse) if settings.grad == "none" else coarse
