"""The functions that `cycle` joins, made of SyncMV4D's networks, and their options.

`Loop` is the lower half of the task `tasks.syncmv4d.SyncMV4D`: MJD with guidance, the aligner, the
frozen autoencoder with matching and painting, all as `cycle.Functions` of (parameters, reference
latent).

`prediction="data"` is the small-model setting: the network's output is the clean latent (a still
clip made linearly of the reference latent plus a correction), the velocity follows from it as
(x_t - x_0) / t.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.geometry import cameras, corruption, matching, painting, pseudo_video
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models import flops, reuse
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd, warm_start
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks.syncmv4d import cycle

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
      guidance_interval: (lowest, highest) sigma with guidance; other steps run one branch.
      reuse_threshold: change of MJD's input below which a plain sampling step reuses what the
        blocks did in the last (models/reuse.py); 0 for never.
      vae_batch: clips that the autoencoder takes at once inside the loop.
      vae_chunk: latent frames of a clip that it takes at once, 0 for all: less memory.
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
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    reuse_threshold: float = 0.0
    vae_batch: int = 1
    vae_chunk: int = 0

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"task.prediction: wanted {PREDICTIONS}, got {self.prediction!r}")
        if self.motion_repr not in pseudo_video.REPRESENTATIONS:
            raise ValueError(
                f"task.motion_repr: wanted {pseudo_video.REPRESENTATIONS}, got {self.motion_repr!r}"
            )
        if self.frames % 4 != 1:
            raise ValueError(f"task.frames: wanted 4 n + 1 frames, got {self.frames}")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"task.guidance_interval: wanted 0 <= lowest <= highest <= 1, got {low}, {high}"
            )
        if self.reuse_threshold < 0:
            raise ValueError(f"task.reuse_threshold: wanted >= 0, got {self.reuse_threshold}")


class Loop:
    """Networks and options of the task, and the loop's functions."""

    def __init__(
        self,
        *,
        options: Options,
        mjd_config: mjd_config.MJDConfig,
        dpa_config: dpa_config.AlignerConfig,
        vae_config: vae.VAEConfig,
        settings: cycle.Settings,
        placement: protocol.Placement = protocol.LOCAL,
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
        self.match = matching.settings_for(*options.size)
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

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the pseudo videos inside the loop."""
        return self.options.size

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts."""
        keys = jax.random.split(rng, 3)
        params = {
            "dit": warm_start.init(self.mjd_config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[2]),
        }
        if self.settings.dpa:
            params["dpa"] = module.init(aligner.Aligner, self.dpa_config, keys[1])
        if self.options.prediction == "data":
            c = self.vae_config.z_dim
            params["prior"] = {"kernel": jnp.eye(c), "bias": jnp.zeros((c,))}
        return params

    def context(self, batch: dict[str, Array]) -> dict[str, Any]:
        """Returns what the loop's functions read of a batch (or of sampling inputs)."""
        keys = "text text_lengths intrinsics extrinsics view_index anchors anchor_valid frame_valid"
        context = {key: batch.get(key) for key in keys.split()}
        if context["extrinsics"] is not None:
            context["extrinsics"] = cameras.static(context["extrinsics"], where="the loop")
        context["null_text"] = batch.get("null_text")
        context["null_text_lengths"] = batch.get("null_text_lengths")
        if self.settings.joint_motion:
            context["centre"] = self._centre(context)
        return context

    def _centre(self, context):
        """[b 3] metres; [b v 3] without multi_view, each view's from its own camera (A16)."""
        cams, size = (context["intrinsics"], context["extrinsics"]), self.options.size
        if self.mjd_config.multi_view and self.options.views > 1:
            return cameras.scene_centre(*cams, size)
        one = [einops.rearrange(x, "b v i j -> (b v) 1 i j") for x in cams]
        depth = jnp.full(one[0].shape[:1], np.mean(self.options.scale_mean), jnp.float32)
        centre = cameras.scene_centre(*one, size, depth=depth)
        if self.mjd_config.multi_view:
            return centre
        return einops.rearrange(centre, "(b v) c -> b v c", v=self.options.views)

    def functions(self, params: Params, first: Array, *, guidance: float = 1.0):
        """Returns `cycle.Functions`; `first` [b v 1 h w c] is the reference latent."""
        aligned = self.settings.dpa
        return cycle.Functions(
            mjd=functools.partial(self._mjd, params, first, guidance),
            dpa=functools.partial(self._dpa, params) if aligned else None,
            decode=functools.partial(self._decode, params) if aligned else None,
            warp=self._warp,
            encode=functools.partial(self._encode, params) if aligned else None,
            normalise=self.normalise,
            denormalise=self._denormalise,
            corrupt=self._corrupt,
        )

    def _mjd(
        self, params, first, guidance, video, motion_t, feedback, t, context, *, memory=None,
        again=None,
    ):  # fmt: skip
        guided = guidance != 1.0 and context["null_text"] is not None
        inputs = mjd.Inputs(
            video, motion_t, t * flow.TRAIN_STEPS, feedback, context["view_index"],
            context["extrinsics"],
        )  # fmt: skip
        if guided:  # both branches as one batch
            inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), inputs)
        model = module.bind(mjd.MJD, self.mjd_config, params["dit"])
        run = functools.partial(model.run, placement=self.placement)
        tokens = model.prepare(inputs, self._text(context, guided), placement=self.placement)
        if memory is None:
            x = run(tokens)
        else:
            seen = model.first_input(tokens, placement=self.placement)
            rule = reuse.Rule(self.options.reuse_threshold, again)
            blocks = lambda x: run(tokens._replace(x=x))  # noqa: E731
            x, memory = reuse.step(blocks, tokens.x, seen, memory, rule=rule)
        out = model.read(x, tokens, placement=self.placement)
        if guided:
            halves = [jax.tree.map(lambda x: jnp.split(x, 2)[i], out) for i in (0, 1)]  # noqa: B023
            guide = functools.partial(flow.guide, scale=guidance)
            out = halves[0]._replace(velocity=guide(halves[0].velocity, halves[1].velocity))
            if out.motion_velocity is not None:
                motion = guide(halves[0].motion_velocity, halves[1].motion_velocity)
                out = out._replace(motion_velocity=motion)
        denoised = self._denoised(params, first, video, motion_t, out, t)
        return denoised._replace(memory=memory)

    def _text(self, context, guided):
        """What MJD reads of the text; with guidance both branches as one batch.

        The keys of all blocks where they were computed before (`text_keys`): the same in all steps.
        """
        keys = context.get("text_keys")
        if keys is not None:
            rows = len(context["text"]) * (1 + guided)
            return jax.tree.map(lambda x: x[:, :rows], keys)
        text, lengths = context["text"], context["text_lengths"]
        if guided:
            text = jnp.concatenate([text, context["null_text"]])
            lengths = jnp.concatenate([lengths, context["null_text_lengths"]])
        return mjd.Text(text, lengths)

    def empty_memory(self, rows: int) -> reuse.Memory:
        """Returns MJD's memory before the first of the steps, of `rows` views."""
        config, (_, *latents, _) = self.mjd_config, self.latent_shape
        dense = flops.tokens(config, tuple(latents)) * (1 + config.joint_motion)
        shape = (rows, self.placement.tokens(config.extra_tokens + dense), config.dim)
        tokens = jax.ShapeDtypeStruct(shape, config.residual_dtype)
        memory = reuse.empty(tokens, jax.ShapeDtypeStruct(shape, config.dtype))
        cut = lambda x: self.placement.constrain(x, mjd.MJD.token_axes)  # noqa: E731
        return memory._replace(seen=cut(memory.seen), moved=cut(memory.moved))

    def text_keys(
        self, params: Params, context: dict[str, Array], *, guided: bool
    ) -> dit_block.Keys:
        """Returns keys and values of the text in all blocks [layers b l heads k], for `context`.

        Args:
          guided: those of the null text behind them, [layers 2b l heads k].
        """
        text = self._text(context, guided and context["null_text"] is not None)
        model = module.bind(mjd.MJD, self.mjd_config, params["dit"])
        return model.text_keys(*text, placement=self.placement)

    def _denoised(self, params, first, video, motion_t, out, t) -> cycle.Denoised:
        scale = out.scale
        if scale is not None:
            mean, std = self.scale_statistics()
            scale = mean + std * scale
        if self.options.prediction == "velocity":
            return cycle.Denoised(out.velocity, out.motion_velocity, scale)
        prior = (
            first @ params["prior"]["kernel"]
            + params["prior"]["bias"][None, None, None, None, None]
        )
        clean = out.velocity + prior
        to_velocity = lambda x_t, x_0: (x_t - x_0) / bounded_time(t, x_t)  # noqa: E731
        moved = None
        if out.motion_velocity is not None:
            moved = to_velocity(motion_t, out.motion_velocity)
        return cycle.Denoised(to_velocity(video, clean), moved, scale)

    def scale_statistics(self) -> tuple[Array, Array]:
        statistics = (self.options.scale_mean, self.options.scale_std)
        mean, std = (jnp.asarray(x, jnp.float32)[None, None] for x in statistics)
        return mean, std

    def _dpa(self, params, tracks_t, coarse, t, context):
        views = tracks_t.shape[1]
        noisy = self.scenes(self.normalise(coarse.tracks, context))
        centre = context["centre"].reshape(-1, 3)
        t = jnp.repeat(t, noisy.shape[0] // t.shape[0])
        rays = world_tracks.point_rays(noisy, self.scenes(context["extrinsics"]), centre)
        pad = self._pad_frames
        velocity = module.bind(aligner.Aligner, self.dpa_config, params["dpa"])(
            pad(self.scenes(tracks_t)),
            pad(noisy),
            t,
            confidence=pad(self.scenes(coarse.confidence)),
            valid=pad(self.scenes(self.valid_points(context, tracks_t))),
            rays=pad(rays),
            placement=self.placement,
        )
        # Pinned: else the partitioner sums the gradient of the aligner's head wrongly (view > 1).
        velocity = self.placement.constrain(velocity, "b any n k c")[:, :, : tracks_t.shape[2]]
        if self.mjd_config.multi_view:
            return velocity
        return einops.rearrange(velocity, "(b v) 1 n k c -> b v n k c", v=views)

    def _pad_frames(self, x: Array) -> Array:
        """[b v n ...] with zeros behind (not valid, not measured) until the frames divide."""
        more = self.placement.frames(x.shape[2]) - x.shape[2]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, more)) + ((0, 0),) * (x.ndim - 3)) if more else x
        return self.placement.constrain(x, "b any n k c" if x.ndim == 5 else "b any n k")

    def scenes(self, x: Array) -> Array:
        """What the aligner takes as one scene: [b v ...], or [(b v) 1 ...] without multi_view."""
        return x if self.mjd_config.multi_view else einops.rearrange(x, "b v ... -> (b v) 1 ...")

    def valid_points(self, context, tracks) -> Array:
        frames = einops.rearrange(context["frame_valid"], "b n -> b 1 n 1")
        return jnp.broadcast_to(frames, tracks.shape[:-1])

    def normalise(self, tracks, context):
        """[b v n k 3] metres, world frame -> normalised units (A16)."""
        return self._by_centre(world_tracks.normalise, tracks, context)

    def _denormalise(self, tracks, context):
        return self._by_centre(world_tracks.denormalise, tracks, context)

    @staticmethod
    def _by_centre(function, tracks, context):
        each = context["centre"].ndim == 3  # views have centres of their own
        return (jax.vmap(function) if each else function)(tracks, context["centre"])

    def _decode(self, params, latents, scale, context):
        pseudo = self.decode_pixels(params, latents)
        pseudo = jnp.clip((pseudo + 1) / 2, 0, 1)
        return self._matched(pseudo, scale, context), pseudo

    def _matched(self, pseudo, scale, context):
        scale = jnp.stack([scale[..., 0], jnp.maximum(scale[..., 1], scale[..., 0] + 1e-2)], -1)
        match = functools.partial(pseudo_video.decode, settings=self.match)
        found = self._per_view(match, pseudo, *self._anchored(scale, context))
        return cycle.Coarse(found.tracks, found.confidence)

    def _warp(self, frame0, scale, context):
        weigh = functools.partial(painting.warp_weights, settings=self.match)
        return self._per_view(weigh, frame0, *self._anchored(scale, context))

    def _encode(self, params, tracks, scale, warp, context):
        return self._vae(params, "encode", self._painted(tracks, scale, warp, context) * 2 - 1)

    def _painted(self, tracks, scale, warp, context):
        blank = jnp.zeros((*scale.shape[:2], *self.map_size, 3))  # `render` reads its size

        def paint(warp, *view):
            return painting.render(*view, settings=self.match, warp=warp)

        return self._per_view(paint, warp, tracks, blank, *self._anchored(scale, context))

    @staticmethod
    def _anchored(scale, context):
        """anchors, anchor_valid, scale, intrinsics, extrinsics of all views."""
        cams = context["intrinsics"], context["extrinsics"]
        return context["anchors"], context["anchor_valid"], scale, *cams

    def _per_view(self, function, *arrays):
        """Maps a single-view function over [b v ...] arrays, one view of a device at a time."""
        return self.placement.each(lambda _, view: function(*view), None, arrays)

    def _corrupt(self, tracks, t, context, rng):
        coarse, confidence = corruption.corrupt(
            tracks, context["extrinsics"], context["anchor_valid"], t, rng
        )
        return cycle.Coarse(coarse, confidence)

    # The autoencoder.

    def _vae(self, params, method: str, x: Array) -> Array:
        """Applies VAE.encode or VAE.decode to [b v ...], `vae_batch` clips of a device at a time.

        `vae_chunk` bounds the memory of a clip.
        """
        chunk = self.options.vae_chunk

        def one(weights, clip):
            model = module.bind(vae.VAE, self.vae_config, weights)
            return getattr(model, method)(clip[None], chunk=chunk)[0]

        weights = params["vae"]
        return self.placement.each(one, weights, x, at_once=self.options.vae_batch)

    def encode_pixels(self, params: Params, video: Array) -> Array:
        """video: [b v n h w 3] uint8 -> latents [b v f h w c]."""
        return self._vae(params, "encode", video.astype(jnp.float32) / 127.5 - 1)

    def decode_pixels(self, params: Params, latents: Array) -> Array:
        """latents: [b v f h w c] -> video [b v n h w 3] in [-1, 1] (not clamped)."""
        return self._vae(params, "decode", latents)


def bounded_time(t: Array, like: Array) -> Array:
    """t [b], bounded below, with trailing axes to broadcast against `like`."""
    return jnp.maximum(t, SMALLEST_TIME).reshape(t.shape + (1,) * (like.ndim - 1))
