"""Wan2.2-TI2V-5B alone: text or image to video, sampled and fine-tuned, in full or by LoRA.

Training (facts of DiffSynth-Studio's recipe; Wan's own is not public). With t and its weight w(t)
drawn from Wan's shifted table of 1000 times (flow.time_table) and c = "latent frame 0 is given":

    x_t = (1 - t) x_0 + t e,   x_t[frame 0] = x_0[frame 0] and tokens of frame 0 get t = 0, where c
    L   = w(t) mean |v(x_t) - (e - x_0)|^2     over valid latent frames, without frame 0 where c

Sampling is the official pipeline's: UniPC over shift(linspace(0.999, 0)), integer timesteps,
guidance against the negative prompt with both branches in one batch, frame 0 put back after every
step; guidance and solver in float32. Views are clips of their own, folded into the batch.

Parts of the parameters: `dit` (the same paths in every task, so that stages merge), `vae`
(frozen) and, with `task.lora.ranks`, `lora`: then only the adapters are trained.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow, schema
from syncmv4d_jax.configuration import at_least, section, shares
from syncmv4d_jax.models import flops, lora
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, vae
from syncmv4d_jax.tasks import base, video

Array = jax.Array
Params = dict[str, Any]
FOLD = "b v f h w c -> (b v) f h w c"
TEXT = ("text", "text_lengths", "null_text", "null_text_lengths")


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size: (height, width) of the videos, pixels; multiples of the VAE's stride times the patch.
      frames: 4 n + 1.
      views: clips of a sample that are trained on (or sampled) each for itself.
      time_shift: of the training times' table.
      text_drop: share of samples trained with the null text (guidance).
      image_share: share of samples trained with a clean first latent frame; the others are text to
        video.
      sampler, sample_steps, sample_shift, guidance: of sampling; guidance 1 needs no null text.
      run_steps: at most so many sampling steps between two calls of `progress`.
      vae_batch, vae_chunk: clips, and latents along time, that the autoencoder takes at once; 0
        latents is all of a clip. The numbers are the same.
    """

    size: tuple[int, int] = (704, 1280)
    frames: int = 121
    views: int = 1
    time_shift: float = 5.0
    text_drop: float = 0.1
    image_share: float = 1.0
    sampler: str = "unipc"
    sample_steps: int = 50
    sample_shift: float = 5.0
    guidance: float = 5.0
    run_steps: int = 5
    vae_batch: int = 1
    vae_chunk: int = 0

    def __post_init__(self):
        shares("task", self, "text_drop", "image_share")
        at_least(1, "task", self, "views", "sample_steps", "run_steps", "vae_batch")


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "WanTI2V":
    """Builds the task from `config.task`: `Options` and sections dit, vae, lora."""
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("dit", "vae", "lora")}
    return WanTI2V(
        options=section(Options, values, "config.task"),
        dit_config=section(wan_config.DiTConfig, parts["dit"], "config.task.dit"),
        vae_config=vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae")),
        lora_config=section(lora.LoRAConfig, parts["lora"], "config.task.lora"),
        placement=placement,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WanTI2V(base.Grown, video.Coded):
    """The task; see `tasks.base.Task`. `cameras`: sampling inputs have none."""

    name = "wan_ti2v"
    cameras = False

    options: Options
    dit_config: wan_config.DiTConfig
    vae_config: vae.VAEConfig
    lora_config: lora.LoRAConfig = lora.LoRAConfig()
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        o = self.options
        video.check_sizes(o.frames, o.size, self.dit_config, self.vae_config)

    @property
    def trainable(self) -> str:
        """The adapters where there are some, else the transformer."""
        return r"^lora/" if self.lora_config.ranks else r"^dit/"

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return ("dit", "vae") if self.lora_config.ranks else ("vae",)

    @property
    def clip(self) -> base.Clip:
        """Sizes of a sample."""
        return base.Clip(self.options.frames, self.options.size, self.options.views)

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        o = self.options
        return base.Sampling(o.sampler, o.sample_steps, o.sample_shift, o.guidance)

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        o = self.options
        return video.FrozenVAE(self.vae_config, self.placement, o.vae_batch, o.vae_chunk)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        o = self.options
        return self.vae.latent_shape(o.views, o.frames, o.size)

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts.

        Raises:
          ValueError: `task.lora.ranks` that do not fit the transformer.
        """
        keys = jax.random.split(rng, 3)
        params = {
            "dit": module.init(dit.DiT, self.dit_config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[1]),
        }
        if self.lora_config.ranks:
            shapes = module.shapes(dit.DiT, self.dit_config)
            params["lora"] = lora.init(self.lora_config, shapes, keys[2])
        return params

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch."""
        clips, (tokens, one) = batch["text"].shape[0] * self.options.views, self.forward()
        return {"tokens": clips * tokens, "flops": float(clips * flops.train(one))}

    def forward(self) -> tuple[int, dict[str, int]]:
        """Tokens of a clip, and FLOPs of a forward pass over it."""
        tokens = flops.tokens(self.dit_config, self.latent_shape[1:4])
        return tokens, flops.wan_dit(self.dit_config, tokens, timesteps=2)

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on cached latents, and a guided step of sampling."""
        own = dataclasses.replace(self, vae_config=video.ahead(self.vae_config))
        parts = ("dit", "lora") if self.lora_config.ranks else ("dit",)
        program = functools.partial(base.Program, own, parts)
        return {
            "train_step": program(None, own._batch, functools.partial(own._work, training=True)),
            "sample_step": program(
                functools.partial(sample_run, own),
                own._step_inputs,
                functools.partial(own._work, training=False),
            ),
        }

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        v, f, h, w, c = self.latent_shape
        sizes = {"b": samples, "v": v, "f": f, "hl": h, "wl": w, "c": c, "l0": 1}
        sizes |= {"l": self.dit_config.text_len, "d": self.dit_config.text_dim}
        return (base.shapes(("video_latents", "latent_valid", *TEXT), **sizes),)

    def _step_inputs(self, samples: int) -> tuple[base.Shapes, ...]:
        (batch,) = self._batch(samples)
        given = {key: batch[key] for key in TEXT} | {"first": batch["video_latents"]}
        given["first"] = jax.eval_shape(lambda x: x[:, :, :1], given["first"])
        state, conditions = jax.eval_shape(self._begin, given, jax.random.key(0))
        row = jax.eval_shape(lambda: self._schedule().rows(0, 1))
        return state, row, conditions

    def _work(self, *, training: bool) -> base.Work:
        (tokens, one), config, views = self.forward(), self.dit_config, self.options.views
        remat = config.remat != "none"
        passes = 3 + remat if training else 1 + (self.options.guidance != 1.0)
        return base.Work(
            {"dit": float(views * passes * flops.total(one))},
            heads=config.heads,
            tokens=views * tokens,
            width=config.dim,
            layers=config.layers,
            residual=jnp.dtype(config.residual_dtype).itemsize,
            remat=remat,
        )

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o, text = self.options, (self.dit_config.text_dim, self.dit_config.text_len)
        return base.Scenes(size=o.size, frames=o.frames, text=text, vae=self.vae_config)

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss [] float32 and scalars for a batch of schema.BATCH.

        Of the batch are read video_latents [b v f hl wl c] or video [b v n h w 3] uint8, text,
        text_lengths, null_text, null_text_lengths and latent_valid [b f].

        Raises:
          ValueError: latents of another size, or no null text where text is dropped.
        """
        names = ("time", "noise", "text", "image")
        keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
        params = {**frozen, **trainable}
        data = self.clean_latents(params, batch)
        b, (v, f, *_) = data.shape[0] // self.options.views, self.latent_shape
        t, weight = flow.sample_table(keys["time"], (b * v,), shift=self.options.time_shift)
        noise = jax.random.normal(keys["noise"], data.shape)
        given = self.given(keys["image"], len(t))
        clean = given[:, None] & (jnp.arange(f) == 0)[None]  # [(b v) f]
        x = flow.interpolate(data, noise, t)
        x = jnp.where(einops.rearrange(clean, "b f -> b f 1 1 1"), data, x)
        text, lengths = video.drop_text(batch, keys["text"], share=self.options.text_drop)
        velocity = self.velocity(
            params,
            x,
            t * flow.TRAIN_STEPS,
            self.per_view(text),
            lengths=self.per_view(lengths),
            first_frame=given,
        )
        valid = einops.repeat(batch["latent_valid"], "b f -> (b v) f", v=v)
        counted = einops.rearrange(valid & ~clean, "b f -> b f 1 1 1").astype(jnp.float32)
        error = velocity - flow.velocity(data, noise)
        error = video.mean_square(error, counted, axes=(1, 2, 3, 4))
        return jnp.mean(weight * error), {"error": jnp.mean(error), "time": jnp.mean(t)}

    def given(self, rng: Array, clips: int) -> Array:
        """[clips] bool: which are trained with a clean first latent frame."""
        drawn = jax.random.uniform(rng, (clips,)) < self.options.image_share
        return drawn & (self.latent_shape[1] > 1)  # an image alone is text to image

    def clean_latents(self, params: Params, batch: dict[str, Array]) -> Array:
        """Latents [(b v) f h w c] of a batch, from the cache or from pixels."""
        if "video_latents" in batch:
            latents = batch["video_latents"].astype(jnp.float32)
        elif "video" in batch:
            latents = jax.lax.stop_gradient(self.vae.encode_bytes(params, batch["video"]))
        else:
            raise ValueError(f"wan_ti2v: wanted video_latents or video, got {sorted(batch)}")
        if latents.shape[1:] != self.latent_shape:
            raise ValueError(
                f"wan_ti2v: wanted latents [b {' '.join(map(str, self.latent_shape))}] for "
                f"{self.options.frames} frames of {self.options.size}, got {latents.shape}"
            )
        return einops.rearrange(latents, FOLD)

    def per_view(self, x: Array) -> Array:
        """x [b ...] -> [(b v) ...], the same for every view."""
        return jnp.repeat(x, self.options.views, axis=0)

    # The networks.

    def velocity(
        self,
        params: Params,
        latents: Array,
        timestep: Array,
        text: Array,
        *,
        lengths: Array,
        first_frame: Array,
    ) -> Array:
        """Runs the transformer, with its adapters where there are any.

        Args:
          latents: [b f h w c]; timestep: [b] in 0..1000; text: [b l d]; lengths: [b];
          first_frame: [b] bool, whether latent frame 0 is clean.

        Returns:
          [b f h w c] float32.
        """
        model = module.bind(dit.DiT, self.dit_config, params["dit"])
        if "lora" in params:
            lora.attach(model, params["lora"], alpha=self.lora_config.alpha)
        return model(
            latents,
            timestep,
            text,
            context_lengths=lengths,
            first_frame=first_frame,
            placement=self.placement,
        )

    # Sampling.

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """Samples videos.

        Args:
          params: all parts.
          inputs: text [b l d] and text_lengths [b], null_text and null_text_lengths (of the
            negative prompt) unless guidance is 1, and for image to video `first`
            [b v 1 h w c], the image's latents.
          rng: key; the initial noise is jax.random.normal(rng, (b, v, f, h, w, c)).
          progress: called with (steps done, steps) after each run of steps.

        Returns:
          The sample, its latents float32.

        Raises:
          ValueError: a reference of another size or with values that are not finite, no negative
            prompt for guidance.
        """
        o, first = self.options, inputs.get("first")
        v, _, h, w, c = self.latent_shape
        axes = {key: schema.BATCH[key].axes for key in TEXT} | {"first": "b v 1 hl wl c"}
        base.check(
            f"task {self.name}, sample", inputs, axes, v=v, hl=h, wl=w, c=c,
            d=self.dit_config.text_dim,
        )  # fmt: skip
        if first is None or isinstance(first, jax.core.Tracer):
            known = True  # as far as can be told
        else:
            known = bool(jnp.isfinite(first).all())
        if not known:
            raise ValueError("wan_ti2v: the input image has values that are not finite (NaN)")
        state, conditions = self._begin(inputs, rng)
        schedule = self._schedule()
        length = next(n for n in range(o.run_steps, 0, -1) if o.sample_steps % n == 0)
        for begin in range(0, o.sample_steps, length):
            state = run_steps(self, params, state, schedule.rows(begin, begin + length), conditions)
            if progress is not None:
                jax.block_until_ready(state)
                progress(begin + length, o.sample_steps)
        latents = einops.rearrange(
            state.latents["video"], "(b v) f h w c -> b v f h w c", v=o.views
        )
        return base.Sample(latents)

    def _schedule(self) -> flow.Schedule:
        o = self.options
        return flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)

    def _begin(self, inputs: dict[str, Array], rng: Array) -> tuple[video.State, dict[str, Any]]:
        """The state before the first step, and the conditions of all steps.

        Conditions: text [(g b v) l d] and lengths [(g b v)], g = 2 branches with guidance; first
        {"video": [(b v) 1 h w c]}, empty without an image.
        """
        texts = [(inputs["text"], inputs["text_lengths"])]
        if self.options.guidance != 1.0:
            texts.append(video.null_text(inputs, f"task.guidance={self.options.guidance}"))
        count = max(text.shape[1] for text, _ in texts)
        first = inputs.get("first")
        held = {} if first is None else {"video": einops.rearrange(first, FOLD)}
        conditions = {
            "text": jnp.concatenate([self.per_view(video.rows(x, count)) for x, _ in texts]),
            "lengths": jnp.concatenate([self.per_view(x) for _, x in texts]),
            "first": jax.tree.map(lambda x: x.astype(jnp.float32), held),
        }
        x = jax.random.normal(rng, (len(inputs["text"]), *self.latent_shape))
        x = einops.rearrange(x, FOLD)
        x = flow.hold_first(x, conditions["first"]["video"]) if held else x
        return video.start(self._schedule(), {"video": x}), conditions


def sample_run(
    task: WanTI2V,
    params: Params,
    state: video.State,
    steps: flow.Schedule,
    conditions: dict[str, Any],
) -> video.State:
    """A run of sampling steps; latents are {"video": [(b v) f h w c]}."""
    lengths, first = conditions["lengths"], conditions["first"]
    branches = len(lengths) // len(state.latents["video"])
    scales = (task.options.guidance,) * (branches - 1)

    def denoise(state, row, _):
        x = video.branch(state.latents["video"], branches)
        velocity = task.velocity(
            params,
            x,
            jnp.full(lengths.shape, row.timestep),
            conditions["text"],
            lengths=lengths,
            first_frame=jnp.full(lengths.shape, bool(first)),
        )
        return {"video": video.guide(velocity, scales)}, None

    return video.scan(denoise, state, steps, first=first)


run_steps = jax.jit(sample_run, static_argnums=0)
