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
from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import flops, lora
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, vae
from syncmv4d_jax.tasks import base

Array = jax.Array
Params = dict[str, Any]
FOLD = "b v f h w c -> (b v) f h w c"


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
        for name in ("text_drop", "image_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"task.{name}: wanted 0..1, got {getattr(self, name)}")
        for name in ("views", "sample_steps", "run_steps", "vae_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name}: wanted at least 1, got {getattr(self, name)}")


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
class WanTI2V(base.Grown):
    """The task; see `tasks.base.Task`. `cameras`: sampling inputs have none."""

    name = "wan_ti2v"
    cameras = False

    options: Options
    dit_config: wan_config.DiTConfig
    vae_config: vae.VAEConfig
    lora_config: lora.LoRAConfig = lora.LoRAConfig()
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        _check_sizes(self.options, self.dit_config, self.vae_config)

    @property
    def trainable(self) -> str:
        """The adapters where there are some, else the transformer."""
        return r"^lora/" if self.lora_config.ranks else r"^dit/"

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return ("dit", "vae") if self.lora_config.ranks else ("vae",)

    @functools.cached_property
    def _run(self) -> Callable:
        return jax.jit(self.sample_run)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        o, (step, stride) = self.options, self.vae_config.stride
        f = (o.frames - 1) // step + 1
        return (o.views, f, o.size[0] // stride, o.size[1] // stride, self.vae_config.z_dim)

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
        _, *latents, _ = self.latent_shape
        clips = batch["text"].shape[0] * self.options.views
        tokens = flops.tokens(self.dit_config, tuple(latents))
        one = flops.wan_dit(self.dit_config, tokens, timesteps=2)
        return {"tokens": clips * tokens, "flops": float(clips * flops.train(one))}

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
        data = self._latents(params, batch)
        b, (v, f, *_) = data.shape[0] // self.options.views, self.latent_shape
        t, weight = flow.sample_table(keys["time"], (b * v,), shift=self.options.time_shift)
        noise = jax.random.normal(keys["noise"], data.shape)
        given = jax.random.uniform(keys["image"], t.shape) < self.options.image_share
        given = given & (f > 1)  # an image alone is text to image
        clean = given[:, None] & (jnp.arange(f) == 0)[None]  # [(b v) f]
        x = flow.interpolate(data, noise, t)
        x = jnp.where(einops.rearrange(clean, "b f -> b f 1 1 1"), data, x)
        text, lengths = self._training_text(batch, keys["text"])
        velocity = self.velocity(
            params, x, t * flow.TRAIN_STEPS, text, lengths=lengths, first_frame=given
        )
        error = jnp.square(velocity - flow.velocity(data, noise))
        valid = einops.repeat(batch["latent_valid"], "b f -> (b v) f", v=v)
        counted = (valid & ~clean).astype(jnp.float32)
        error = jnp.mean(error, axis=(2, 3, 4)) * counted
        error = jnp.sum(error, axis=1) / jnp.maximum(jnp.sum(counted, axis=1), 1.0)
        return jnp.mean(weight * error), {"error": jnp.mean(error), "time": jnp.mean(t)}

    def _latents(self, params: Params, batch: dict[str, Array]) -> Array:
        if "video_latents" in batch:
            latents = batch["video_latents"].astype(jnp.float32)
        elif "video" in batch:
            latents = jax.lax.stop_gradient(self.encode_pixels(params, batch["video"]))
        else:
            raise ValueError(f"wan_ti2v: wanted video_latents or video, got {sorted(batch)}")
        if latents.shape[1:] != self.latent_shape:
            raise ValueError(
                f"wan_ti2v: wanted latents [b {' '.join(map(str, self.latent_shape))}] for "
                f"{self.options.frames} frames of {self.options.size}, got {latents.shape}"
            )
        return einops.rearrange(latents, FOLD)

    def _training_text(self, batch: dict[str, Array], rng: Array) -> tuple[Array, Array]:
        """Text [(b v) l d] and lengths [(b v)]; some samples have the null text."""
        text, lengths = batch["text"], batch["text_lengths"]
        if self.options.text_drop:
            null = self._null_text(batch, f"task.text_drop={self.options.text_drop}")
            rows = max(text.shape[1], null[0].shape[1])
            drop = jax.random.uniform(rng, lengths.shape) < self.options.text_drop
            text = jnp.where(drop[:, None, None], _rows(null[0], rows), _rows(text, rows))
            lengths = jnp.where(drop, null[1], lengths)
        return self._per_view(text), self._per_view(lengths)

    def _null_text(self, batch: dict[str, Array], reason: str) -> tuple[Array, Array]:
        null = batch.get("null_text"), batch.get("null_text_lengths")
        if any(x is None for x in null):
            raise ValueError(f"{reason} needs null_text, null_text_lengths; got {sorted(batch)}")
        return null

    def _per_view(self, x: Array) -> Array:
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

    def _vae(self, params: Params, method: str, x: Array) -> Array:
        """Applies VAE.encode or VAE.decode to [b v ...], `vae_batch` clips at a time."""
        b, v = x.shape[:2]
        model = module.bind(vae.VAE, self.vae_config, params["vae"])
        chunk = self.options.vae_chunk
        one = lambda clip: getattr(model, method)(clip[None], chunk=chunk)[0]  # noqa: E731
        x = einops.rearrange(x, "b v n h w c -> (b v) n h w c")
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
        progress: Callable[[int, int], Any] | None = None,
    ) -> dict[str, Array]:
        """Samples videos.

        Args:
          params: all parts.
          inputs: text [b l d] and text_lengths [b], null_text and null_text_lengths (of the
            negative prompt) unless guidance is 1, and for image to video `first`
            [b v 1 h w c], the image's latents.
          rng: key; the initial noise is jax.random.normal(rng, (b, v, f, h, w, c)).
          progress: called with (steps done, steps) after each run of steps.

        Returns:
          video: latents [b v f h w c] float32.

        Raises:
          ValueError: a reference of another size or with values that are not finite, no negative
            prompt for guidance.
        """
        b, first = inputs["text"].shape[0], inputs.get("first")
        v, f, h, w, c = self.latent_shape
        o = self.options
        conditions = self._conditions(inputs, first)
        x = jax.random.normal(rng, (b, v, f, h, w, c))
        x = einops.rearrange(x, FOLD)
        if first is not None:
            x = flow.hold_first(x, conditions["first"])
        schedule = flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)
        state = flow.start(schedule, x)
        length = next(n for n in range(o.run_steps, 0, -1) if o.sample_steps % n == 0)
        for begin in range(0, o.sample_steps, length):
            rows = schedule.rows(begin, begin + length)
            x, state = self._run(params, x, state, rows, conditions)
            if progress is not None:
                jax.block_until_ready(x)
                progress(begin + length, o.sample_steps)
        return {"video": einops.rearrange(x, "(b v) f h w c -> b v f h w c", b=b)}

    def _conditions(self, inputs: dict[str, Array], first: Array | None) -> dict[str, Array]:
        """text [g (b v) l d], lengths [g (b v)], g = 2 with guidance; first [(b v) 1 h w c]."""
        v, _, h, w, c = self.latent_shape
        texts, lengths = [inputs["text"]], [inputs["text_lengths"]]
        if self.options.guidance != 1.0:
            null = self._null_text(inputs, f"task.guidance={self.options.guidance}")
            texts, lengths = [texts[0], null[0]], [lengths[0], null[1]]
        rows = max(x.shape[1] for x in texts)
        conditions = {
            "text": jnp.stack([self._per_view(_rows(x, rows)) for x in texts]),
            "lengths": jnp.stack([self._per_view(x) for x in lengths]),
        }
        if first is not None:
            wanted = (texts[0].shape[0], v, 1, h, w, c)
            if first.shape != wanted:
                raise ValueError(f"wan_ti2v: wanted first latents {wanted}, got {first.shape}")
            if not isinstance(first, jax.core.Tracer) and not bool(jnp.isfinite(first).all()):
                raise ValueError("wan_ti2v: the input image has values that are not finite (NaN)")
            conditions["first"] = einops.rearrange(first, FOLD).astype(jnp.float32)
        return conditions

    def sample_run(
        self,
        params: Params,
        x: Array,
        state: flow.State,
        rows: flow.Schedule,
        conditions: dict[str, Array],
    ) -> tuple[Array, flow.State]:
        """A run of sampling steps. x: [b f h w c] float32 -> the same, and the solver's memory."""
        first, text = conditions.get("first"), conditions["text"]
        branches = text.shape[0]
        fold = functools.partial(einops.rearrange, pattern="g b ... -> (g b) ...")
        text, lengths = fold(text), fold(conditions["lengths"])
        given = jnp.full(lengths.shape, first is not None)

        def body(carry, row):
            x, state = carry
            both = jnp.concatenate([x] * branches)
            t = jnp.full(lengths.shape, row.timestep)
            v = self.velocity(params, both, t, text, lengths=lengths, first_frame=given)
            if branches == 2:
                v = flow.guide(*jnp.split(v, 2), self.options.guidance)
            x, state = flow.step(x, v, state, row)
            return (x if first is None else flow.hold_first(x, first), state), None

        return jax.lax.scan(body, (x, state), rows)[0]


def _rows(text: Array, rows: int) -> Array:
    """Pads text [b l d] with zero rows to [b rows d]."""
    return jnp.pad(text, ((0, 0), (0, rows - text.shape[1]), (0, 0)))


def _check_sizes(
    options: Options, dit_config: wan_config.DiTConfig, vae_config: vae.VAEConfig
) -> None:
    step, stride = vae_config.stride
    if options.frames < 1 or (options.frames - 1) % step:
        raise ValueError(f"task.frames: wanted {step} n + 1 frames, got {options.frames}")
    whole = tuple(stride * patch for patch in dit_config.patch[1:])
    for size, unit, name in zip(options.size, whole, ("height", "width"), strict=True):
        if size < unit or size % unit:
            raise ValueError(
                f"task.size: wanted a {name} divisible by {unit} (the VAE's stride {stride} times "
                f"the patch), got {size} in {options.size}"
            )
    if dit_config.in_channels != vae_config.z_dim or dit_config.out_channels != vae_config.z_dim:
        raise ValueError(
            f"task.dit: wanted {vae_config.z_dim} channels in and out, as the autoencoder has, got "
            f"{dit_config.in_channels} and {dit_config.out_channels}"
        )
