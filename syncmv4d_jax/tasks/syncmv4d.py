"""SyncMV4D: MJD and DPA trained and sampled in the closed loop of `cycle`.

Losses (paper Eq. 3 and 5, all weights 1 by default):

    L = |dv^V|^2 + |dv^M|^2 + |ds|^2 + |dv^DPA|^2 + Chamfer(M-, M)

over valid latent frames; video frame 0 is given and not in the loss (A15). The scale is regressed
in standardised metres (A5). Parts of the parameters: `dit` (MJD; Wan's weights load by the same
paths), `dpa`, `vae` (frozen) and, with `prediction="data"`, `prior`.

`prediction="data"` is the small-model setting: the network's output is the clean latent (a still
clip made linearly of the reference latent plus a correction), the velocity follows from it as
(x_t - x_0) / t and the loss is on the data.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import cameras, corruption, cycle, flow, motion
from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import mjd
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.nn import attention, module

Array = jax.Array
Params = dict[str, Any]
PREDICTIONS = ("velocity", "data")
SMALLEST_TIME = 0.02  # (x_t - x_0) / t is bounded there with prediction="data"


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size: (height, width) of the videos, pixels.
      frames, views, points: N, V, K of the paper.
      motion_repr: "point_tracks", or "das_tracking" (Table 4; no depth over time, so no aligner).
      prediction: "velocity" or "data" (module docstring).
      scale_mean, scale_std: of (nearest, farthest) depth over the data set, metres (A5).
      time_shift: training times are shift(U(0, 1)); 1 is the paper's uniform draw.
      text_drop: share of samples trained with the null text (guidance).
      foreground_gain: extra loss weight of latent cells that tracked points pass through.
      video_weight, motion_weight, scale_weight, dpa_weight, chamfer_weight: of the loss terms.
      sampler, sample_steps, sample_shift, guidance: of sampling (A22).
      vae_batch: clips that the autoencoder takes at once inside the loop.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    points: int = 1600
    motion_repr: str = "point_tracks"
    prediction: str = "velocity"
    scale_mean: tuple[float, float] = (1.9, 2.4)
    scale_std: tuple[float, float] = (0.3, 0.3)
    time_shift: float = 1.0
    text_drop: float = 0.1
    foreground_gain: float = 0.0
    video_weight: float = 1.0
    motion_weight: float = 1.0
    scale_weight: float = 1.0
    dpa_weight: float = 1.0
    chamfer_weight: float = 1.0
    sampler: str = "unipc"
    sample_steps: int = 50
    sample_shift: float = 5.0
    guidance: float = 5.0
    vae_batch: int = 1

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"task.prediction: wanted {PREDICTIONS}, got {self.prediction!r}")
        if self.motion_repr not in motion.REPRESENTATIONS:
            raise ValueError(
                f"task.motion_repr: wanted {motion.REPRESENTATIONS}, got {self.motion_repr!r}"
            )
        if self.frames % 4 != 1:
            raise ValueError(f"task.frames: wanted 4 n + 1 frames, got {self.frames}")


def make(config: Any) -> "SyncMV4D":
    """Builds the task from `config.task`: `Options` and sections dit, dpa, vae, cycle."""
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("dit", "dpa", "vae", "cycle")}
    return SyncMV4D(
        options=section(Options, values, "config.task"),
        mjd_config=section(mjd.MJDConfig, parts["dit"], "config.task.dit"),
        dpa_config=section(aligner.AlignerConfig, parts["dpa"], "config.task.dpa"),
        vae_config=vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae")),
        settings=section(cycle.Settings, parts["cycle"], "config.task.cycle"),
    )


class SyncMV4D:
    """The task; see `tasks.base.Task`."""

    def __init__(
        self,
        *,
        options: Options,
        mjd_config: mjd.MJDConfig,
        dpa_config: aligner.AlignerConfig,
        vae_config: vae.VAEConfig,
        settings: cycle.Settings,
        placement: attention.Placement = attention.LOCAL,
    ):
        if settings.joint_motion != mjd_config.joint_motion:
            raise ValueError(
                f"config.task.cycle.joint_motion={settings.joint_motion} and "
                f"config.task.dit.joint_motion={mjd_config.joint_motion} differ"
            )
        if options.motion_repr == "das_tracking" and settings.dpa:
            raise ValueError("motion_repr=das_tracking has no depth over time: switch dpa off")
        self.options, self.settings, self.placement = options, settings, placement
        self.mjd_config, self.dpa_config, self.vae_config = mjd_config, dpa_config, vae_config
        self.match = motion.settings_for(*options.size)
        parts = ["dit"] + ["dpa"] * settings.dpa + ["prior"] * (options.prediction == "data")
        self.trainable = rf"^({'|'.join(parts)})/"
        self.frozen_parts = ("vae",)
        self._runs: dict[str, Any] = {}

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        o, (step, stride) = self.options, self.vae_config.stride
        f = (o.frames - 1) // step + 1
        return (o.views, f, o.size[0] // stride, o.size[1] // stride, self.vae_config.z_dim)

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts."""
        keys = jax.random.split(rng, 3)
        params = {
            "dit": mjd.init(self.mjd_config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[2]),
        }
        if self.settings.dpa:
            params["dpa"] = module.init(aligner.Aligner, self.dpa_config, keys[1])
        if self.options.prediction == "data":
            c = self.vae_config.z_dim
            params["prior"] = {"kernel": jnp.eye(c), "bias": jnp.zeros((c,))}
        return params

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and its terms for a batch of schema.BATCH (latents or raw video)."""
        keys = jax.random.split(rng, 3)
        targets = self._targets(frozen, batch)
        t = flow.sample_uniform(keys[0], targets.scale.shape[:1], shift=self.options.time_shift)
        context = self._drop_text(self.context(batch), keys[1])
        stopped = jax.tree.map(jax.lax.stop_gradient, trainable)
        out = cycle.train_step(
            self.functions({**frozen, **trainable}, targets.video[:, :, :1]),
            self.functions({**frozen, **stopped}, targets.video[:, :, :1]),
            targets,
            t,
            context,
            keys[2],
            settings=self.settings,
        )
        terms = self._latent_terms(out, targets, t, context, batch)
        if self.settings.dpa:
            terms |= self._track_terms(out, targets, t, context)
        weights = {
            "video": self.options.video_weight,
            "motion": self.options.motion_weight,
            "scale": self.options.scale_weight,
            "dpa": self.options.dpa_weight,
            "chamfer": self.options.chamfer_weight,
        }
        total = sum(weights[name] * value for name, value in terms.items())
        return total, {f"loss_{name}": value for name, value in terms.items()}

    def _targets(self, frozen: Params, batch: dict[str, Array]) -> cycle.Targets:
        def latents(name):
            if f"{name}_latents" in batch:
                return batch[f"{name}_latents"].astype(jnp.float32)
            return jax.lax.stop_gradient(self.encode_pixels(frozen, batch[name]))

        joint = self.settings.joint_motion
        tracks = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=self.options.views)
        return cycle.Targets(
            latents("video"), latents("motion") if joint else None, tracks, batch["scale"]
        )

    def _latent_terms(self, out, targets, t, context, batch) -> dict[str, Array]:
        weight = batch["latent_valid"].astype(jnp.float32)[:, None, :, None, None, None]
        weight = weight * self._foreground(context, batch)
        not_first = (jnp.arange(weight.shape[2]) > 0).astype(jnp.float32)
        not_first = einops.rearrange(not_first, "f -> 1 1 f 1 1 1")

        def term(velocity, noise, data, weight):
            error = velocity - flow.velocity(data, noise)
            if self.options.prediction == "data":
                error = error * _time(t, error)
            weight = jnp.broadcast_to(weight, error.shape)
            return jnp.sum(weight * jnp.square(error)) / jnp.maximum(jnp.sum(weight), 1.0)

        terms = {
            "video": term(out.denoised.video, out.video_noise, targets.video, weight * not_first)
        }
        if self.settings.joint_motion:
            terms["motion"] = term(out.denoised.motion, out.motion_noise, targets.motion, weight)
            mean, std = self._scale_statistics()
            terms["scale"] = jnp.mean(jnp.square((out.denoised.scale - targets.scale) / std))
            del mean
        return terms

    def _track_terms(self, out, targets, t, context) -> dict[str, Array]:
        _, terms = aligner.loss(
            out.track_velocity,
            target=out.track_target,
            tracks_t=out.tracks_t,
            tracks=self._normalise(targets.tracks[:, 0], context),
            t=t,
            valid=self._valid(context, out.tracks_t),
        )
        return {"dpa": terms["velocity"], "chamfer": terms["chamfer"]}

    def _foreground(self, context, batch) -> Array:
        """Loss weights [b v f hl wl 1]: 1, and more where tracked points pass (foreground_gain)."""
        v, f, h, w, _ = self.latent_shape
        b = batch["tracks"].shape[0]
        if not self.options.foreground_gain:
            return jnp.ones((b, 1, 1, 1, 1, 1), jnp.float32)
        points = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=v)
        pixels, _ = cameras.project(points, context["intrinsics"], context["extrinsics"])
        step, stride = self.vae_config.stride
        cell = jnp.floor((pixels + 0.5) / stride).astype(jnp.int32)
        x, y = cell[..., 0], cell[..., 1]
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        frame = (np.arange(self.options.frames) + step - 1) // step
        frame = einops.rearrange(jnp.asarray(frame), "n -> 1 1 n 1")
        index = jnp.where(inside, (frame * h + y) * w + x, f * h * w)

        def mark(index):
            return jnp.zeros((f * h * w + 1,)).at[index.ravel()].set(1.0)[:-1]

        marked = jax.vmap(jax.vmap(mark))(index)
        marked = einops.rearrange(marked, "b v (f h w) -> b v f h w 1", f=f, h=h)
        return 1.0 + self.options.foreground_gain * marked

    def _drop_text(self, context: dict[str, Array], rng: Array) -> dict[str, Array]:
        null = context["null_text"]
        if not self.options.text_drop or null is None:
            return context
        drop = jax.random.uniform(rng, context["text_lengths"].shape) < self.options.text_drop
        length = context["text"].shape[1]
        null = jnp.pad(null, ((0, 0), (0, max(0, length - null.shape[1])), (0, 0)))[:, :length]
        text = jnp.where(drop[:, None, None], null, context["text"])
        lengths = jnp.where(drop, context["null_text_lengths"], context["text_lengths"])
        return {**context, "text": text, "text_lengths": lengths}

    # The loop's functions.

    def context(self, batch: dict[str, Array]) -> dict[str, Any]:
        """Returns what the loop's functions read of a batch (or of sampling inputs)."""
        keys = "text text_lengths intrinsics extrinsics view_index anchors anchor_valid frame_valid"
        context = {key: batch.get(key) for key in keys.split()}
        context["null_text"] = batch.get("null_text")
        context["null_text_lengths"] = batch.get("null_text_lengths")
        if self.settings.joint_motion:
            context["centre"] = cameras.scene_centre(
                batch["intrinsics"],
                batch["extrinsics"],
                self.options.size,
                depth=jnp.full(batch["text_lengths"].shape, np.mean(self.options.scale_mean))
                if self.options.views == 1
                else None,
            )
        return context

    def functions(self, params: Params, first: Array, *, guidance: float = 1.0):
        """Returns `cycle.Functions`; `first` [b v 1 h w c] is the reference latent."""
        aligned = self.settings.dpa
        return cycle.Functions(
            mjd=functools.partial(self._mjd, params, first, guidance),
            dpa=functools.partial(self._dpa, params) if aligned else None,
            decode=functools.partial(self._decode, params) if aligned else None,
            encode=functools.partial(self._encode, params) if aligned else None,
            normalise=self._normalise,
            denormalise=self._denormalise,
            corrupt=self._corrupt,
        )

    def _mjd(self, params, first, guidance, video, motion_t, feedback, t, context):
        guided = guidance != 1.0 and context["null_text"] is not None
        text, lengths = context["text"], context["text_lengths"]
        inputs = (video, motion_t, feedback, t, context["view_index"], context["extrinsics"])
        if guided:  # both branches as one batch
            text = jnp.concatenate([text, context["null_text"]])
            lengths = jnp.concatenate([lengths, context["null_text_lengths"]])
            inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), inputs)
        x, m, z, time, views, extrinsics = inputs
        out = module.bind(mjd.MJD, self.mjd_config, params["dit"])(
            x,
            m,
            time * flow.TRAIN_STEPS,
            text,
            context_lengths=lengths,
            feedback=z,
            view_index=views,
            extrinsics=extrinsics,
            placement=self.placement,
        )
        if guided:
            halves = [jax.tree.map(lambda x: jnp.split(x, 2)[i], out) for i in (0, 1)]  # noqa: B023
            guide = functools.partial(flow.guide, scale=guidance)
            out = halves[0]._replace(video=guide(halves[0].video, halves[1].video))
            if out.motion is not None:
                out = out._replace(motion=guide(halves[0].motion, halves[1].motion))
        return self._denoised(params, first, video, motion_t, out, t)

    def _denoised(self, params, first, video, motion_t, out, t) -> cycle.Denoised:
        scale = out.scale
        if scale is not None:
            mean, std = self._scale_statistics()
            scale = mean + std * scale
        if self.options.prediction == "velocity":
            return cycle.Denoised(out.video, out.motion, scale)
        prior = (
            first @ params["prior"]["kernel"]
            + params["prior"]["bias"][None, None, None, None, None]
        )
        clean = out.video + prior
        to_velocity = lambda x_t, x_0: (x_t - x_0) / _time(t, x_t)  # noqa: E731
        moved = None if out.motion is None else to_velocity(motion_t, out.motion)
        return cycle.Denoised(to_velocity(video, clean), moved, scale)

    def _scale_statistics(self) -> tuple[Array, Array]:
        statistics = (self.options.scale_mean, self.options.scale_std)
        mean, std = (jnp.asarray(x, jnp.float32)[None, None] for x in statistics)
        return mean, std

    def _dpa(self, params, tracks_t, coarse, t, context):
        noisy = self._normalise(coarse.tracks, context)
        rays = aligner.point_rays(noisy, context["extrinsics"], context["centre"])
        return module.bind(aligner.Aligner, self.dpa_config, params["dpa"])(
            tracks_t,
            noisy,
            t,
            confidence=coarse.confidence,
            valid=self._valid(context, tracks_t),
            rays=rays,
        )

    def _valid(self, context, tracks) -> Array:
        frames = einops.rearrange(context["frame_valid"], "b n -> b 1 n 1")
        return jnp.broadcast_to(frames, tracks.shape[:-1])

    def _normalise(self, tracks, context):
        return aligner.normalise(tracks, context["centre"])

    def _denormalise(self, tracks, context):
        return aligner.denormalise(tracks, context["centre"])

    def _decode(self, params, latents, scale, context):
        pseudo = self.decode_pixels(params, latents)
        pseudo = jnp.clip((pseudo + 1) / 2, 0, 1)
        scale = jnp.stack([scale[..., 0], jnp.maximum(scale[..., 1], scale[..., 0] + 1e-2)], -1)
        found = self._per_view(
            lambda *x: motion.decode(*x, settings=self.match),
            pseudo,
            context["anchors"],
            context["anchor_valid"],
            scale,
            context["intrinsics"],
            context["extrinsics"],
        )
        return cycle.Coarse(found.tracks, found.confidence), pseudo

    def _encode(self, params, tracks, scale, frame0, context):
        pseudo = self._per_view(
            lambda *x: motion.render(*x, settings=self.match),
            tracks,
            frame0,
            context["anchors"],
            context["anchor_valid"],
            scale,
            context["intrinsics"],
            context["extrinsics"],
        )
        return self._vae(params, "encode", pseudo * 2 - 1)

    @staticmethod
    def _per_view(function, *arrays):
        """Maps a single-view function over [b v ...] arrays, one view at a time."""
        b, v = arrays[0].shape[:2]
        fold = [x.reshape((b * v, *x.shape[2:])) for x in arrays]
        out = jax.lax.map(lambda xs: function(*xs), tuple(fold))
        return jax.tree.map(lambda x: x.reshape((b, v, *x.shape[1:])), out)

    def _corrupt(self, tracks, t, context, rng):
        coarse, confidence = corruption.corrupt(
            tracks, context["extrinsics"], context["anchor_valid"], t, rng
        )
        return cycle.Coarse(coarse, confidence)

    # The autoencoder.

    def _vae(self, params, method: str, x: Array) -> Array:
        """Applies VAE.encode or VAE.decode to [b v ...], `vae_batch` clips at a time."""
        b, v = x.shape[:2]
        model = module.bind(vae.VAE, self.vae_config, params["vae"])
        x = einops.rearrange(x, "b v n h w c -> (b v) n h w c")
        one = lambda clip: getattr(model, method)(clip[None])[0]  # noqa: E731
        y = jax.lax.map(one, x, batch_size=min(self.options.vae_batch, b * v))
        return einops.rearrange(y, "(b v) n h w c -> b v n h w c", b=b)

    def encode_pixels(self, params: Params, video: Array) -> Array:
        """video: [b v n h w 3] uint8 -> latents [b v f h w c]."""
        return self._vae(params, "encode", video.astype(jnp.float32) / 127.5 - 1)

    def decode_pixels(self, params: Params, latents: Array) -> Array:
        """latents: [b v f h w c] -> video [b v n h w 3] in [-1, 1] (not clamped)."""
        return self._vae(params, "decode", latents)

    # Sampling.

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: Any = None,
    ) -> dict[str, Array]:
        """Samples videos and tracks.

        Args:
          params: all parts.
          inputs: as a batch, of which are read: `first` [b v 1 h w c] reference latents, text (and
            null_text for guidance), cameras, view_index, frame_valid; anchors and anchor_valid when
            known (a record's own frame-0 pixels), else they are set on the way (A23).
          rng: key.
          progress: called with (steps done, steps) after each run of steps.

        Returns:
          video, motion: latents [b v f h w c]; scale [b v 2] metres; tracks_per_view [b v n k 3]
          metres, confidence [b v n k], anchors [b v k 2], anchor_valid [b v k] with an aligner.
        """
        schedule = flow.schedule(
            self.options.sampler, self.options.sample_steps, shift=self.options.sample_shift
        )
        given = inputs.get("anchors") is not None
        sigmas = np.append(np.asarray(schedule.sigma), 0.0)
        runs = cycle.plan_steps(sigmas, self.settings, anchors_given=given)
        refining = [first for first, _, refine in runs if refine]
        keys, first = jax.random.split(rng), inputs["first"]
        b = first.shape[0]
        context = self.context(inputs)
        state = cycle.sample_start(
            keys[0],
            schedule,
            first,
            settings=self.settings,
            latent_shape=(b, *self.latent_shape),
            scale=jnp.broadcast_to(self._scale_statistics()[0], (b, self.options.views, 2)),
        )
        noise = None
        if self.settings.dpa:
            o = self.options
            noise = jax.random.normal(keys[1], (b, o.views, o.frames, o.points, 3))
            if given:
                state = cycle.start_tracks(state, None, noise, sigmas[0])
        for begin, end, refine in runs:
            if refine and state.tracks_t is None:
                context, tracks = self._jit("anchor", self._set_anchors)(
                    params, state, schedule.row(begin), first, context
                )
                state = cycle.start_tracks(state, tracks, noise, sigmas[begin])
            if refine:
                later = [i for i in refining if i > begin]
                following = jnp.float32(sigmas[later[0]] if later else 0.0)
                state = self._jit("refine", self._refine_run)(
                    params, state, schedule.row(begin), following, first, context
                )
            else:
                state = self._jit("plain", self._plain_run)(
                    params, state, schedule.rows(begin, end), first, context
                )
            if progress is not None:
                jax.block_until_ready(state.video)
                progress(end, schedule.steps)
        return self._sampled(state, context)

    def _jit(self, name: str, function: Any) -> Any:
        return self._runs.setdefault(name, jax.jit(function))

    def _plain_run(self, params, state, rows, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_plain(functions, state, rows, first, context, settings=self.settings)

    def _refine_run(self, params, state, row, following, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_refine(
            functions, state, row, following, first, context, settings=self.settings
        )

    def _set_anchors(self, params, state, row, first, context):
        """Anchors from frame 0 of the clean motion estimate, and first tracks, normalised (A23)."""
        functions = self.functions(params, first, guidance=self.options.guidance)
        t = jnp.full((first.shape[0],), row.sigma, jnp.float32)
        out = functions.mjd(state.video, state.motion, state.feedback, t, context)
        clean = flow.to_data(state.motion, out.motion, t)
        pseudo = jnp.clip((self.decode_pixels(params, clean)[:, :, 0] + 1) / 2, 0, 1)
        find = functools.partial(
            motion.frame0_anchors, count=self.options.points, settings=self.match
        )
        anchors = jax.vmap(find)(pseudo, out.scale, context["intrinsics"], context["extrinsics"])
        context = {**context, "anchors": anchors.pixels, "anchor_valid": anchors.valid}
        coarse, _ = functions.decode(clean, out.scale, context)
        return context, self._normalise(coarse.tracks, context)

    def _sampled(self, state: cycle.SampleState, context) -> dict[str, Array]:
        result = {"video": state.video}
        if self.settings.joint_motion:
            result |= {"motion": state.motion, "scale": state.scale}
        if self.settings.dpa:
            result |= {
                "tracks_per_view": state.refined.tracks,
                "confidence": state.refined.confidence,
                "anchors": context["anchors"],
                "anchor_valid": context["anchor_valid"],
            }
        return result


def _time(t: Array, like: Array) -> Array:
    """t [b], bounded below, with trailing axes to broadcast against `like`."""
    return jnp.maximum(t, SMALLEST_TIME).reshape(t.shape + (1,) * (like.ndim - 1))


def fuse(tracks: Array, confidence: Array) -> Array:
    """Confidence-weighted mean over views: tracks [... v n k 3] -> [... n k 3].

    confidence: [... v n k]. Points that no view is confident of get the plain mean.
    """
    weight = (confidence + 1e-3)[..., None]
    return jnp.sum(weight * tracks, axis=-4) / jnp.sum(weight, axis=-4)
