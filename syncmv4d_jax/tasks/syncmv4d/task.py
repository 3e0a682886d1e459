"""SyncMV4D: MJD and DPA trained and sampled in the closed loop of `cycle`.

Losses (paper Eq. 3 and 5, all weights 1 by default):

    L = |dv^V|^2 + |dv^M|^2 + |ds|^2 + |dv^DPA|^2 + Chamfer(M-, M)  [+ LPIPS(D(z^_0), D(z_0))]

over valid latent frames; video frame 0 is given and not in the loss (A15). The scale is regressed
in standardised metres (A5). The last term, off by default, is of the video's decoded clean estimate
against what the autoencoder makes of the true latents, of one view a sample, at t below 0.5 in a
quarter of the steps (PERCEPTUAL): there the estimate is a picture, and edges are what is left.

Parts of the parameters: `dit` (MJD; Wan's weights load by the same paths), `dpa`, `vae` (frozen),
with `prediction="data"` `prior` and, frozen, `codec` and `silhouette` where such networks are in
the loop, `lpips` where that is in the loss. With `prediction="data"` the loss is on clean latents.

The task is made of a `Loop` (networks as the functions that `cycle` joins) and functions over it:
sampling.py, cost.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow, schema, tree
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.models import flops, lora, motion_codec, silhouette
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import warm_start
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, perceptual, video
from syncmv4d_jax.tasks import motion_codec as codec_task
from syncmv4d_jax.tasks import silhouette as silhouette_task
from syncmv4d_jax.tasks.syncmv4d import cost as costs
from syncmv4d_jax.tasks.syncmv4d import cycle, loop, maps, sampling
from syncmv4d_jax.tasks.syncmv4d import options as task_options

Array = jax.Array
Params = dict[str, Any]
CLIPS = ("video", "motion")  # latents of a cache may stand for them
READ = (
    "video_latents", "motion_latents", "text", "text_lengths", "null_text", "null_text_lengths",
    "tracks", "visibility", "anchors", "anchor_valid", "intrinsics", "extrinsics", "scale",
    "frame_valid", "latent_valid", "view_index",
)  # fmt: skip
PERCEPTUAL = (0.25, 0.5)  # share of the steps, time below which
SWITCHES = {  # of the loop: least, most, what it does
    "cycle": (False, True, "refined tracks are fed back to the network that makes the video"),
    "refine_every": (1, 100, "tracks are decoded, aligned and fed back at every n-th step"),
    "refine_last": (1, 100, "and at each of the last n steps"),
    "network": (False, True, "the aligner's network corrects what it finds in closed form"),
}
AXES = {key: schema.BATCH[key].axes for key in (*CLIPS, *READ, "actions", "hidden")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyncMV4D(video.Coded):
    """The task; see `tasks.base.Task`.

    codec_config, silhouette_config: of networks in the loop, trained by tasks of their own.
    lora_config: adapters of MJD, which alone are trained where there are some.
    """

    name = "syncmv4d"

    options: task_options.Options
    mjd_config: mjd_config.MJDConfig
    dpa_config: dpa_config.AlignerConfig
    vae_config: vae.VAEConfig
    settings: cycle.Settings
    codec_config: motion_codec.CodecConfig | None = None
    silhouette_config: silhouette.SilhouetteConfig | None = None
    lora_config: lora.LoRAConfig = lora.LoRAConfig()
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        if self.settings.joint_motion != self.mjd_config.joint_motion:
            raise ValueError(
                f"config.task.cycle.joint_motion={self.settings.joint_motion} and "
                f"config.task.dit.joint_motion={self.mjd_config.joint_motion} differ"
            )
        if self.options.motion_repr == "das_tracking" and self.settings.dpa:
            raise ValueError("motion_repr=das_tracking has no depth over time: switch dpa off")
        alone = not self.mjd_config.multi_view or self.options.views == 1
        if self.options.scale_origin == "centre" and self.settings.joint_motion and alone:
            raise ValueError(
                "task.scale_origin=centre: wanted views whose rays meet, got "
                f"{self.options.views} with task.dit.multi_view={self.mjd_config.multi_view}"
            )
        if self.codec_config:
            codec_task.check_motion(self.codec_config, self.vae_config)
        if self.silhouette_config:
            silhouette_task.check(self.silhouette_config, self.vae_config)

    @property
    def cameras(self) -> bool:
        """Whether it can do nothing without cameras; views of a video alone need none."""
        return self.settings.joint_motion or self.mjd_config.camera_embedding

    @functools.cached_property
    def loop(self) -> loop.Loop:
        """The networks as the loop's functions."""
        o, place = self.options, self.placement
        frozen = video.FrozenVAE(self.vae_config, place, o.vae_batch, o.vae_chunk)
        way: maps.Maps = maps.Autoencoder(frozen, o.size)
        if self.codec_config:
            way = maps.Codec(self.codec_config, o.size, place)
        return loop.Loop(
            o,
            self.settings,
            self.mjd_config,
            self.dpa_config,
            frozen,
            maps.Motion(way, o.points, place),
            place,
            self.silhouette_config,
            self.lora_config.alpha,
        )

    @property
    def trainable(self) -> str:
        """Regex over parameter paths."""
        return r"^lora/" if self.lora_config.ranks else rf"^({'|'.join(self._networks)})/"

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        given = {"codec": self.codec_config, "silhouette": self.silhouette_config}
        adapted = self._networks if self.lora_config.ranks else ()
        return ("vae", *adapted, *(part for part, config in given.items() if config), *self.judges)

    @property
    def judges(self) -> tuple[str, ...]:
        """See `tasks.base.Judged`."""
        return (perceptual.PART,) * bool(self.options.perceptual_weight)

    @property
    def _networks(self) -> tuple[str, ...]:
        """Parts that are trained where there are no adapters."""
        data = self.options.prediction == "data"
        return ("dit", *["dpa"] * self.settings.dpa, *["prior"] * data)

    @property
    def hides_views(self) -> bool:
        """See `tasks.base.Hiding`."""
        return self.mjd_config.multi_view and self.options.views > 1

    @property
    def clip(self) -> base.Clip:
        """Sizes of a sample."""
        return base.Clip(self.options.frames, self.options.size, self.options.views)

    @property
    def switches(self) -> tuple[base.Switch, ...]:
        """What a call may change: the loop's, where there is one."""
        return tuple(
            base.Switch(name, f"cycle.{name}", getattr(self.settings, name), *row)
            for name, row in SWITCHES.items()
            if self.settings.dpa
        )

    @property
    def compares(self) -> bool:
        """Whether every view has tracks of its own to compare."""
        reads = self.settings.joint_motion and self.options.motion_repr == "point_tracks"
        return reads and self.options.views > 1

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        o = self.options
        return base.Sampling(o.sampler, o.sample_steps, o.sample_shift, o.guidance, o.prediction)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        return self.loop.latent_shape

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts; `codec`, `silhouette` are meant to be loaded."""
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
        if self.codec_config:
            params["codec"] = module.init(motion_codec.Codec, self.codec_config, rng)
        if self.silhouette_config:
            params["silhouette"] = module.init(silhouette.Silhouette, self.silhouette_config, rng)
        params |= {part: perceptual.init(rng) for part in self.judges}
        if self.lora_config.ranks:
            key = jax.random.fold_in(rng, 1)
            params["lora"] = lora.init(self.lora_config, params["dit"], key)
        return params

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns parameters whose new parts of MJD start from given Wan weights (A12, A13).

        Args:
          given: names ("dit/...") that came from weights; they stay as they are.
        """
        flat = tree.flatten(params["dit"])
        if not any(f"dit/{name}" in given for name in flat):
            return params
        grown = tree.flatten(warm_start.warm_start(self.mjd_config, params["dit"], params["dit"]))
        own = {n: x if f"dit/{n}" in given else grown[n] for n, x in flat.items()}
        return {**params, "dit": tree.unflatten(own)}

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and its terms for a batch of schema.BATCH (latents or raw video).

        Raises:
          ValueError: a batch of other sizes, or without null text where text is dropped.
        """
        keys = jax.random.split(rng, 3)
        targets = self.targets(frozen, batch)
        t = flow.sample_uniform(keys[0], targets.latents.shape[:1], shift=self.options.time_shift)
        text, lengths = video.drop_text(batch, keys[1], share=self.options.text_drop)
        context = {**self.loop.context(batch), "text": text, "text_lengths": lengths}
        if self.options.view_drop and self.hides_views:
            hidden = self._hidden(jax.random.fold_in(keys[1], 1), len(t))
            context = {**context, "hidden": hidden}
        if self.mjd_config.actions and self.options.text_drop:  # with the text: guided by both
            share = self.options.text_drop
            context["acts"] = ~video.drops(keys[1], len(lengths), share=share)
        stopped, first = jax.lax.stop_gradient(trainable), targets.latents[:, :, :1]
        out = cycle.train_step(
            self.loop.functions({**frozen, **trainable}, first, network=True),
            self.loop.functions({**frozen, **stopped}, first),
            targets,
            t,
            context,
            keys[2],
            settings=self.settings,
        )
        terms = self.latent_terms(out, targets, t, context, batch)
        if self.options.perceptual_weight:
            key = jax.random.fold_in(keys[1], 2)
            valid = batch["latent_valid"]
            terms["perceptual"] = self._perceptual(
                frozen, out.video, targets.latents, t, valid, context["hidden"], key
            )
        if out.tracks:
            terms |= self._track_terms(out, targets, t, context)
        weights = {
            "video": self.options.video_weight,
            "motion": self.options.motion_weight,
            "scale": self.options.scale_weight,
            "dpa": self.options.dpa_weight,
            "chamfer": self.options.chamfer_weight,
            "perceptual": self.options.perceptual_weight,
        }
        total = sum(weights[name] * value for name, value in terms.items())
        scalars = {f"loss_{name}": value for name, value in terms.items()}
        if self.settings.cycle:
            scalars |= self._feedback_errors(out, targets, t)
        return jnp.asarray(total), scalars

    def _hidden(self, rng: Array, samples: int) -> Array:
        """[b v] bool: one view each of a share `view_drop` of the samples."""
        coin, which = jax.random.split(rng)
        views = self.options.views
        chosen = jax.nn.one_hot(jax.random.randint(which, (samples,), 0, views), views, dtype=bool)
        return chosen & video.drops(coin, samples, share=self.options.view_drop)[:, None]

    def _feedback_errors(self, out, targets, t) -> dict[str, Array]:
        """How far z~ is from the true motion latents, and MJD's own estimate beside it (A22).

        Means over all steps of which `feedback_share` closed the loop: divide by it.
        """
        share = jnp.any(out.feedback != 0).astype(jnp.float32)
        own = flow.to_data(out.motion.noisy, out.motion.velocity, t)
        far = lambda x: share * jnp.mean(jnp.square(x - targets.motion_latents))  # noqa: E731
        found = share, far(out.feedback), far(own)
        names = ("feedback_share", "feedback_error", "estimate_error")
        return jax.lax.stop_gradient(dict(zip(names, found, strict=True)))

    def targets(self, frozen: Params, batch: dict[str, Array]) -> cycle.Targets:
        """Clean data of a batch: latents of the cache, or of its pixels.

        Raises:
          ValueError: as `loss`.
        """
        self._check("loss", batch, AXES)

        def latents(name):
            if f"{name}_latents" in batch:
                return batch[f"{name}_latents"].astype(jnp.float32)
            return jax.lax.stop_gradient(self.loop.vae.encode_bytes(frozen, batch[name]))

        if not self.settings.joint_motion:
            return cycle.Targets(latents("video"), None, None, None)
        tracks = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=self.options.views)
        return cycle.Targets(latents("video"), latents("motion"), tracks, batch["scale"])

    def latent_terms(
        self,
        out: cycle.Prediction,
        targets: cycle.Targets,
        t: Array,
        context: dict[str, Any],
        batch: dict[str, Array],
    ) -> dict[str, Array]:
        """The terms of MJD: video and, with joint motion, motion and scale."""
        weights = self.latent_weights(context, batch)

        def term(diffused, data, weight):
            error = diffused.velocity - flow.velocity(data, diffused.noise)
            if self.options.prediction == "data":
                error = error * flow.bounded_time(t, error)
            return video.mean_square(error, weight)

        terms = {"video": term(out.video, targets.latents, weights["video"])}
        if out.motion:
            terms["motion"] = term(out.motion, targets.motion_latents, weights["motion"])
            _, std = self.loop.scale_statistics()
            terms["scale"] = jnp.mean(jnp.square((out.scale - targets.scale) / std))
        return terms

    def latent_weights(self, context: dict[str, Any], batch: dict[str, Array]) -> dict[str, Array]:
        """Weights [b v f hl wl 1], or what broadcasts to it, of the errors of both latents."""
        weight = batch["latent_valid"].astype(jnp.float32)[:, None, :, None, None, None]
        weight = weight * self._foreground(context, batch)
        not_first = (jnp.arange(weight.shape[2]) > 0).astype(jnp.float32)
        not_first = einops.rearrange(not_first, "f -> 1 1 f 1 1 1")
        hidden = cycle.hidden_views(context)
        if hidden is not None:  # what is generated is in the loss
            hidden = einops.rearrange(hidden, "b v -> b v 1 1 1 1")
            not_first = jnp.maximum(not_first, hidden)
        first = self.options.frame0_gain * (jnp.arange(weight.shape[2]) == 0)
        more = einops.rearrange(1.0 + first, "f -> 1 1 f 1 1 1")
        return {"video": weight * not_first, "motion": weight * more}

    def _perceptual(
        self,
        frozen: Params,
        out: cycle.Diffused,
        latents: Array,
        t: Array,
        valid: Array,
        hidden: Array | None,
        rng: Array,
    ) -> Array:
        """LPIPS of one view a sample, mean over the samples below PERCEPTUAL's time, 0 without.

        valid: [b f] latent frames that are not padding.
        """
        coin, which = jax.random.split(rng)
        share, latest = PERCEPTUAL
        early = t < latest
        clean = flow.to_data(out.noisy, out.velocity, t)
        clean = flow.hold_first(clean, latents[:, :, :1], hidden)
        clean = jnp.where(valid[:, None, :, None, None, None], clean, latents)
        view = jax.random.randint(which, t.shape, 0, self.options.views)
        one = lambda x: jnp.take_along_axis(x, view[:, None, None, None, None, None], 1)  # noqa: E731

        def far(pair: tuple[Array, Array]) -> Array:
            pixels, wanted = (self.loop.vae.decode(frozen, one(x))[:, 0] for x in pair)
            each = perceptual.distance(frozen[perceptual.PART], pixels, wanted)
            return jnp.sum(early * each) / jnp.maximum(jnp.sum(early), 1)

        due = (jax.random.uniform(coin) < share) & jnp.any(early)
        return jax.lax.cond(due, far, lambda _: jnp.float32(0), (clean, latents))

    def _track_terms(self, out, targets, t, context) -> dict[str, Array]:
        scenes, (tracks_t, noise, velocity) = self.loop.scenes, out.tracks
        clean = self.loop.normalise(targets.tracks, context)
        tracks = scenes(clean)
        # What no view measured cannot be placed: it would be most of the loss.
        valid = scenes(self.loop.valid_points(context, tracks_t))
        _, terms = aligner.loss(
            scenes(velocity),
            target=scenes(flow.velocity(clean, noise)),
            tracks_t=scenes(tracks_t),
            tracks=tracks[:, 0],
            t=jnp.repeat(t, tracks.shape[0] // t.shape[0]),
            valid=valid & aligner.known(scenes(out.confidence)),
            placement=self.placement,
        )
        return {"dpa": terms["velocity"], "chamfer": terms["chamfer"]}

    def _foreground(self, context, batch) -> Array:
        """Loss weights [b v f hl wl 1]: 1, and more where tracked points pass (foreground_gain)."""
        v, f, h, w, _ = self.latent_shape
        b = batch["view_index"].shape[0]
        if not self.options.foreground_gain:
            return jnp.ones((b, 1, 1, 1, 1, 1), jnp.float32)
        points = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=v)
        pixels, _ = cameras.project(points, context["intrinsics"], context["extrinsics"])
        step, stride = self.vae_config.stride
        cell = jnp.floor((pixels + 0.5) / stride).astype(jnp.int32)
        x, y = cell[..., 0], cell[..., 1]
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        latent = jnp.asarray((np.arange(self.options.frames) + step - 1) // step)
        frame = einops.rearrange(latent, "n -> 1 1 n 1")
        index = jnp.where(inside, (frame * h + y) * w + x, f * h * w)

        def mark(index):
            return jnp.zeros((f * h * w + 1,)).at[index.ravel()].set(1.0)[:-1]

        marked = jax.vmap(jax.vmap(mark))(index)
        marked = einops.rearrange(marked, "b v (f h w) -> b v f h w 1", f=f, h=h)
        return 1.0 + self.options.foreground_gain * marked

    def _check(self, door: str, arrays: dict[str, Array], axes: dict[str, str]) -> None:
        wanted: tuple[str, ...] = schema.CAMERAS if self.cameras else ()
        if door == "loss" and (self.settings.joint_motion or self.options.foreground_gain):
            wanted = (*schema.CAMERAS, *schema.TRACKED)
        if self.mjd_config.actions and arrays.get("actions") is None:
            raise ValueError(
                f"task {self.name}, {door}: config.task.dit.actions="
                f"{self.mjd_config.actions}, but there are no actions [b n a]: import them with "
                "import_lerobot.py or prepare_taco.py, --actions (docs/robots.md)"
            )
        if missing := [key for key in wanted if arrays.get(key) is None]:
            raise ValueError(
                f"task {self.name}, {door}: no {', '.join(missing)} (records of videos alone?): "
                "motion wants tracks and cameras. Add calibration and surfaces (docs/robots.md), "
                "or switch it off: --config=configs/ablations/multi_view.py, "
                "config.task.foreground_gain=0"
            )
        base.check(f"task {self.name}, {door}", arrays, axes, **self._sizes())

    def _sizes(self) -> dict[str, int]:
        v, f, h, w, c = self.latent_shape
        o = self.options
        sizes = {"v": v, "n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h}
        sizes |= {"a": self.mjd_config.actions} if self.mjd_config.actions else {}
        return sizes | {"wl": w, "c": c, "d": self.mjd_config.text_dim, "k": o.points}

    # Sampling.

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        return self.loop.vae

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """See `watch`."""
        return self.watch(params, inputs, rng, progress=progress)

    def watch(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
        look: base.Look | None = None,
    ) -> base.Sample:
        """See `sampling.sample`.

        Raises:
          ValueError: inputs of other sizes.
        """
        axes = {key: AXES[key] for key in schema.CONDITIONS} | {"first": "b v 1 hl wl c"}
        self._check("sample", inputs, axes)
        return sampling.sample(self.loop, params, inputs, rng, progress=progress, look=look)

    # Cost and plans.

    @functools.cached_property
    def _each(self) -> dict[str, float]:
        return costs.parts(self.loop)

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch (cost.py).

        What rematerialisation computes again does not count.
        """
        v, *latents, _ = self.latent_shape
        dense = flops.tokens(self.mjd_config, tuple(latents)) * (1 + self.settings.joint_motion)
        samples = batch["text"].shape[0]
        raw = "video_latents" not in batch
        once = costs.training(self.loop, self._each, raw=raw, recomputed=False)
        tokens = samples * v * (dense + self.mjd_config.extra_tokens)
        return {"tokens": tokens, "flops": samples * sum(once.values())}

    def programs(self) -> dict[str, base.Program]:
        """Returns the steps: MJD alone, with the loop closed, and a refining step of sampling.

        Without an aligner there is no loop to close, and sampling's step is a plain one.
        """
        own = dataclasses.replace(self, vae_config=video.ahead(self.vae_config))
        open_loop = dataclasses.replace(self.settings, cycle=False, dpa=False)
        alone = dataclasses.replace(own, settings=open_loop)
        steps = {"mjd_step": alone._program(None, alone._batch)}
        if self.settings.dpa:
            steps["closed_loop_step"] = own._program(None, own._batch)
            one: Callable[..., Any] = sampling.refine_step
        else:
            one = sampling.plain_run
        step = functools.partial(one, own.loop, own.options.guidance)
        return steps | {"sample_step": own._program(step, own._step_inputs)}

    def _program(self, step: Any, inputs: Any) -> base.Program:
        """A step without the aligner reads no autoencoder: latents are cached."""
        parts = set(jax.eval_shape(self.init, jax.random.key(0)))
        way = {self.loop.motion.maps.part, "silhouette"} if self.settings.dpa else set()
        way |= {"vae", *self.judges} if self.judges and step is None else set()
        parts -= set(self.frozen_parts) - way - set(self._networks)
        work = functools.partial(self._work, training=step is None)
        return base.Program(self, tuple(sorted(parts)), step, inputs, work)

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        """A batch with cached latents, null text of one row."""
        sizes = {"b": samples, "l": self.mjd_config.text_len, "l0": 1, **self._sizes()}
        return (base.shapes((*READ, *["actions"] * bool(self.mjd_config.actions)), **sizes),)

    def _step_inputs(self, samples: int) -> tuple[base.Shapes, ...]:
        (batch,) = self._batch(samples)
        first = jax.eval_shape(lambda x: x[:, :, :1], batch["video_latents"])
        inputs = {key: batch[key] for key in schema.CONDITIONS if key in batch}
        inputs["first"] = first
        inputs["null_text"] = inputs["text"]  # both branches are encoded to one length
        made = sampling.plan(self.loop)
        params = jax.eval_shape(self.init, jax.random.key(0))
        start = lambda *given: sampling.begin(self.loop, made, *given)[:2]  # noqa: E731
        state, context = jax.eval_shape(start, params, inputs, jax.random.key(0))
        if self.settings.dpa:
            row = jax.eval_shape(lambda: made.schedule.row(0))
            numbers = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((), bool)
            return state, row, *numbers, first, context
        row = jax.eval_shape(lambda: made.schedule.rows(0, 1))
        return state, row, jax.ShapeDtypeStruct((1,), bool), first, context

    def _work(self, *, training: bool) -> base.Work:
        v, f, h, w, _ = self.latent_shape
        config, o = self.mjd_config, self.options
        if training:
            flops_of = costs.training(self.loop, self._each)
        else:
            branches = 2 if o.guidance != 1.0 else 1
            flops_of = {k: x for k, x in self._each.items() if k != "pixels"}
            flops_of["mjd"] *= branches
        share = min(1.0, o.vae_chunk * self.vae_config.stride[0] / o.frames or 1.0)
        clip = 4 * o.frames * o.size[0] * o.size[1] * self.vae_config.dec_dim * share
        return base.Work(
            flops_of,
            views=v,
            heads=config.heads,
            tokens=v * (config.extra_tokens + 2 * flops.tokens(config, (f, h, w))),
            width=config.dim,
            layers=config.layers,
            residual=jnp.dtype(config.residual_dtype).itemsize,
            remat=config.remat != "none",
            clip=clip / self.vae_config.patch**2 if self.settings.dpa else 0.0,
        )

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o, text = self.options, (self.mjd_config.text_dim, self.mjd_config.text_len)
        return base.Scenes(
            size=o.size, frames=o.frames, points=o.points, motion=o.motion_repr, text=text,
            vae=self.vae_config,
        )  # fmt: skip
