"""SyncMV4D's networks as the functions that `cycle` joins.

MJD with guidance and reuse, the aligner in normalised units, motion through maps (maps.py), all as
`cycle.Functions` of (parameters, reference latent).

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

from syncmv4d_jax import flow, schema
from syncmv4d_jax.geometry import cameras, corruption, matching, sweep
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models import flops, lora, reuse, silhouette
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.tasks import dpa, video
from syncmv4d_jax.tasks import silhouette as silhouette_task
from syncmv4d_jax.tasks.syncmv4d import cycle, maps
from syncmv4d_jax.tasks.syncmv4d import options as task_options

Array = jax.Array
Params = dict[str, Any]
Context = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Loop:
    """Networks by their configurations, options and the way through maps; no parameters."""

    options: task_options.Options
    settings: cycle.Settings
    mjd_config: mjd_config.MJDConfig
    dpa_config: dpa_config.AlignerConfig
    vae: video.FrozenVAE
    motion: maps.Motion
    placement: protocol.Placement
    silhouette_config: silhouette.SilhouetteConfig | None = None
    alpha: float = 1.0  # of adapters, where the parameters have some ("lora")

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        o = self.options
        return self.vae.latent_shape(o.views, o.frames, o.size)

    def context(self, batch: dict[str, Array]) -> Context:
        """Returns what the loop's functions read of a batch (or of sampling inputs).

        `mask` [b v h w] bool, where there is one, is the foreground of the reference images.
        `extrinsics` are [b v 3 4] where all cameras stand still, else [b v n 3 4].
        """
        context = {key: batch.get(key) for key in (*schema.CONDITIONS, "mask")}
        if context["extrinsics"] is not None:
            context["extrinsics"] = cameras.poses(context["extrinsics"])
        if self.settings.joint_motion:
            context["centre"] = self._centre(context)
        return context

    def _centre(self, context: Context) -> Array:
        """[b 3] metres; [b v 3] without multi_view, each view's from its own camera (A16)."""
        intrinsics, extrinsics = context["intrinsics"], cameras.at_first(context["extrinsics"], 2)
        size = self.options.size
        if self.mjd_config.multi_view and self.options.views > 1:
            return cameras.scene_centre(intrinsics, extrinsics, size)
        alone = "b v i j -> (b v) 1 i j"
        intrinsics, extrinsics = (einops.rearrange(x, alone) for x in (intrinsics, extrinsics))
        depth = jnp.full(len(intrinsics), np.mean(self.options.scale_mean), jnp.float32)
        centre = cameras.scene_centre(intrinsics, extrinsics, size, depth=depth)
        if self.mjd_config.multi_view:
            return centre
        return einops.rearrange(centre, "(b v) c -> b v c", v=self.options.views)

    def functions(
        self, params: Params, first: Array, *, guidance: float = 1.0, network: bool | None = None
    ) -> cycle.Functions:
        """Returns the loop's functions.

        Args:
          first: [b v 1 h w c], the reference latent.
          guidance: of MJD's calls, if the context has a null text; 1 is one branch.
          network: whether the aligner's network corrects its closed form; None: as the settings
            say.
        """
        network = self.settings.network if network is None else network
        return cycle.Functions(
            mjd=functools.partial(self.denoise, params, first, guidance),
            dpa=functools.partial(self.align, params, network=network),
            decode=functools.partial(self.motion.decode, params, first),
            warp=functools.partial(self.warp, params, first),
            encode=functools.partial(self.motion.encode, params),
            normalise=self.normalise,
            denormalise=self.denormalise,
            corrupt=self._corrupt,
            relocate=self.motion.relocate,
            sweep=functools.partial(self.sweep, params),
        )

    # MJD.

    def guides(self, context: Context) -> bool:
        """Whether sampling has a second branch, of the null text."""
        return self.options.guidance != 1.0 and context["null_text"] is not None

    def denoise(
        self,
        params: Params,
        first: Array,
        guidance: float,
        latents: Array,
        motion_t: Array | None,
        feedback: Array | None,
        t: Array,
        context: Context,
        *,
        memory: reuse.Memory | None = None,
        again: Array | None = None,
    ) -> cycle.Velocities:
        """See `cycle.Denoise`; before it what `functions` binds."""
        scales = (guidance,) * (guidance != 1.0 and context["null_text"] is not None)
        views = context["view_index"], context["extrinsics"], self._token_cameras(context)
        actions = (context["actions"], context.get("acts")) if self.mjd_config.actions else ()
        hidden = cycle.hidden_views(context)
        given = mjd.Inputs(latents, motion_t, t, feedback, *views, *actions)._replace(hidden=hidden)
        inputs = video.branch(given, 1 + len(scales))
        inputs = inputs._replace(t=inputs.t * flow.TRAIN_STEPS)
        if actions and scales:  # guidance is away from a robot that does nothing, too
            rows = len(inputs.t) // (1 + len(scales))
            inputs = inputs._replace(acts=jnp.arange(len(inputs.t)) < rows)
        model = self._mjd(params)
        run = functools.partial(model.run, placement=self.placement)
        text = self._text(context, branches=1 + len(scales))
        tokens = model.prepare(inputs, text, placement=self.placement)
        if memory is None:
            x = run(tokens)
        else:
            seen = model.first_input(tokens, placement=self.placement)
            rule = reuse.Rule(self.options.reuse_threshold, again)
            blocks = lambda x: run(tokens._replace(x=x))  # noqa: E731
            x, memory = reuse.step(blocks, tokens.x, seen, memory, rule=rule)
        out = model.read(x, tokens, placement=self.placement)
        guided = video.guide((out.velocity, out.motion_velocity), scales)
        scale = out.scale
        if scale is not None:  # the text's: guidance is for velocities
            mean, std = self.scale_statistics()
            scale = self._scale_origin(context) + mean + std * scale[: len(latents)]
        if self.options.prediction == "data":
            still = cycle.shown(first, context)  # no reference, no still clip of it
            guided = self._to_velocities(params["prior"], still, (latents, motion_t), guided, t)
        velocity, motion_velocity = guided
        return cycle.Velocities(velocity, motion_velocity, scale, memory)

    def _token_cameras(self, context: Context) -> Array | None:
        """Intrinsics [b v 3 3] of an image with a pixel a token, None without cameras."""
        if not self.mjd_config.camera_embedding or context["intrinsics"] is None:
            return None
        _, _, h, w, _ = self.latent_shape
        _, high, wide = self.mjd_config.patch
        whole = (0, 0, self.options.size[1], self.options.size[0])
        return cameras.crop_resize_intrinsics(context["intrinsics"], whole, (h // high, w // wide))

    def _text(self, context: Context, *, branches: int) -> mjd.Text | dit_block.Keys:
        """What MJD reads of the text; with two branches both as one batch.

        The keys of all blocks where they were computed before (`text_keys`): the same in all steps.
        """
        keys = context.get("text_keys")
        if keys is not None:
            rows = len(context["text"]) * branches
            return jax.tree.map(lambda x: x[:, :rows], keys)
        names = ("", "null_")[:branches]
        text = [context[f"{name}text"] for name in names]
        lengths = [context[f"{name}text_lengths"] for name in names]
        if branches == 1:
            return mjd.Text(text[0], lengths[0])
        count = max(x.shape[1] for x in text)
        text = [video.rows(x, count) for x in text]
        return mjd.Text(jnp.concatenate(text), jnp.concatenate(lengths))

    def _mjd(self, params: Params) -> mjd.MJD:
        model = module.bind(mjd.MJD, self.mjd_config, params["dit"])
        if "lora" in params:
            lora.attach(model, params["lora"], alpha=self.alpha)
        return model

    def text_keys(self, params: Params, context: Context, *, guided: bool) -> dit_block.Keys:
        """Returns keys and values of the text in all blocks [layers b l heads k], for `context`.

        Args:
          guided: those of the null text behind them, [layers 2b l heads k].
        """
        text = self._text(context, branches=1 + guided)
        model = self._mjd(params)
        return model.text_keys(*text, placement=self.placement)

    def empty_memory(self, rows: int) -> reuse.Memory:
        """Returns MJD's memory before the first of the steps, of `rows` views."""
        config, (_, *latents, _) = self.mjd_config, self.latent_shape
        dense = flops.tokens(config, tuple(latents)) * (1 + config.joint_motion)
        shape = (rows, self.placement.tokens(config.extra_tokens + dense), config.dim)
        tokens = jax.ShapeDtypeStruct(shape, config.residual_dtype)
        memory = reuse.empty(tokens, jax.ShapeDtypeStruct(shape, config.dtype))
        cut = lambda x: self.placement.constrain(x, mjd.MJD.token_axes)  # noqa: E731
        return memory._replace(seen=cut(memory.seen), moved=cut(memory.moved))

    def _to_velocities(self, prior, first, noisy, clean, t):
        """Velocities of video and motion whose network gives clean latents."""
        clean = clean[0] + video.still(prior, first), clean[1]
        return tuple(
            None if x_0 is None else (x_t - x_0) / flow.bounded_time(t, x_t)
            for x_t, x_0 in zip(noisy, clean, strict=True)
        )

    def scale_statistics(self) -> tuple[Array, Array]:
        """Mean and deviation of the scale, [1 1 2] metres each (A5)."""
        statistics = (self.options.scale_mean, self.options.scale_std)
        mean, std = (jnp.asarray(x, jnp.float32)[None, None] for x in statistics)
        return mean, std

    def _scale_origin(self, context: Context) -> Array | float:
        """The depth that the statistics of the scale count from: 0 or [b v 1] metres."""
        if self.options.scale_origin == "camera":
            return 0.0
        poses = cameras.at_first(context["extrinsics"], 2)
        return cameras.to_camera(context["centre"][:, None], poses)[..., 2:]

    # The way back.

    def warp(
        self, params: Params, first: Array, frame0: Array, scale: Array, context: Context
    ) -> cycle.Warp:
        """See `cycle.MakeWarp`; cut by the silhouette of the reference images `first`, if there is
        a network that reads it and none is given."""
        config = self.silhouette_config
        if config and context.get("mask") is None:
            mask = silhouette_task.mask(config, params["silhouette"], first)
            hidden = cycle.hidden_views(context)
            if hidden is not None:  # nothing says what to cut away
                mask = mask | einops.rearrange(hidden, "b v -> b v 1 1")
            context = {**context, "mask": self.motion.maps.mask(mask)}
        return self.motion.warp(frame0, scale, context)

    # The aligner.

    def align(
        self,
        params: Params,
        tracks_t: Array,
        coarse: cycle.Coarse,
        t: Array,
        context: Context,
        *,
        network: bool,
    ) -> Array:
        """See `cycle.Align`; without its network the aligner is its closed form."""
        views = tracks_t.shape[1]
        noisy = self.scenes(self.normalise(coarse.tracks, context))
        centre = context["centre"].reshape(-1, 3)
        t = jnp.repeat(t, noisy.shape[0] // t.shape[0])
        rays = world_tracks.point_rays(noisy, self.scenes(context["extrinsics"]), centre)
        velocity = dpa.align(
            self.dpa_config,
            params["dpa"],
            self.scenes(tracks_t),
            noisy,
            t,
            confidence=self.scenes(coarse.confidence),
            valid=self.scenes(self.valid_points(context, tracks_t)),
            rays=rays,
            network=network,
            placement=self.placement,
        )
        if self.mjd_config.multi_view:
            return velocity
        return einops.rearrange(velocity, "(b v) 1 n k c -> b v n k c", v=views)

    def pictures(self, params: Params, first: Array) -> Array:
        """The reference images [b v h w 3] in [-1, 1] of their latents [b v 1 h w c]."""
        return self.vae.decode(params, first)[:, :, 0]

    @jax.named_scope("sweep")
    def sweep(
        self, params: Params, tracks: cycle.Coarse, latents: Array, context: Context
    ) -> Array:
        """See `cycle.Sweep`; reads `pictures` of the context. Views by themselves tell nothing.

        Silhouettes are the autoencoder's, at the pictures' size, whatever makes maps elsewhere.
        """
        if not self.mjd_config.multi_view:
            return tracks.tracks
        hidden, view = cycle.hidden_views(context), context["anchor_view"]
        known = jnp.ones(latents.shape[:2], bool) if hidden is None else ~hidden
        asked = jnp.arange(latents.shape[1])[None, :, None] == view[:, None]
        pixels = jnp.sum(jnp.where(asked[..., None], context["anchors"], 0.0), axis=1)
        points = world_tracks.fuse(tracks.tracks, tracks.confidence)[:, 0]
        rig = sweep.Rig(context["intrinsics"], cameras.at_first(context["extrinsics"], 2), known)
        decoder = maps.Autoencoder(self.vae, self.options.size)
        frame0 = decoder.decode(params, latents, latents)[:, :, 0]
        inside = matching.foreground(frame0, matching.settings_for(*decoder.size))
        query = sweep.Asked(pixels, view, points)
        moved = jax.vmap(sweep.shifts)(context["pictures"], inside, rig, query)
        return tracks.tracks + moved[:, None, None]

    def scenes(self, x: Array) -> Array:
        """What the aligner takes as one scene: [b v ...], or [(b v) 1 ...] without multi_view."""
        return x if self.mjd_config.multi_view else einops.rearrange(x, "b v ... -> (b v) 1 ...")

    def valid_points(self, context: Context, tracks: Array) -> Array:
        """[b v n k] bool like tracks [b v n k 3]: points of true frames."""
        frames = einops.rearrange(context["frame_valid"], "b n -> b 1 n 1")
        return jnp.broadcast_to(frames, tracks.shape[:-1])

    def normalise(self, tracks: Array, context: Context) -> Array:
        """[b v n k 3] metres, world frame -> normalised units (A16)."""
        return self._by_centre(world_tracks.normalise, tracks, context)

    def denormalise(self, tracks: Array, context: Context) -> Array:
        """[b v n k 3] normalised units -> metres, world frame."""
        return self._by_centre(world_tracks.denormalise, tracks, context)

    @staticmethod
    def _by_centre(function, tracks, context):
        each = context["centre"].ndim == 3  # views have centres of their own
        return (jax.vmap(function) if each else function)(tracks, context["centre"])

    def _corrupt(self, tracks, t, context, rng):
        coarse, confidence = corruption.corrupt(
            tracks, context["extrinsics"], context["anchor_valid"], t, rng
        )
        return cycle.Coarse(coarse, confidence)
