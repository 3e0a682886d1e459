"""What both generators share: Wan's transformer with conditions, its loss and its sampler.

    x_t = (1 - t) x_0 + t e;   v = network([x_t, conditions], t, text)
    L   = w(t) mean W (v - (e - x_0))^2

With `prediction="data"` the network gives x_0, or what x_0 is more than a prior; v = (x_t - x_0)
/ t, the error counts in x_0 and w = 1, over times shift(U(0, 1)). Where frame 0 is given its latent
stays clean, at t = 0, and does not count. Clips are [b f h w c]: views are clips of their own.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.configuration import at_least, one_of, section, shares
from syncmv4d_jax.models import conditioned, flops, lora, perception
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video

Array = jax.Array
Params = dict[str, Any]
TEXT = ("text", "text_lengths", "null_text", "null_text_lengths")
PREDICTIONS = ("velocity", "data")


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size, frames, views: of the records.
      prediction: "velocity" or "data".
      time_shift: of the training times.
      text_drop, condition_drop: shares of samples trained with the null text, without a condition.
      sampler, sample_steps, sample_shift, guidance: of sampling; guidance 1 needs no null text.
      run_steps: at most so many sampling steps between two calls of `progress`.
      vae_batch, vae_chunk: clips, and latents along time, that the autoencoder takes at once.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    prediction: str = "velocity"
    time_shift: float = 5.0
    text_drop: float = 0.1
    condition_drop: float = 0.02
    sampler: str = "unipc"
    sample_steps: int = 50
    sample_shift: float = 5.0
    guidance: float = 5.0
    run_steps: int = 5
    vae_batch: int = 1
    vae_chunk: int = 0

    def __post_init__(self):
        one_of("task", self, prediction=PREDICTIONS)
        shares("task", self, "text_drop", "condition_drop")
        at_least(1, "task", self, "views", "sample_steps", "run_steps", "vae_batch")


class Inputs(NamedTuple):
    """What the network reads beside the noisy latents; of g branches where there are several.

    condition: [b f h w c]; text: [b l d]; lengths: [b]; first: [b] bool, latent frame 0 is clean;
    perceived: [layers b p 4 d] or None; prior: [b f h w c] or None, of `prediction="data"`.
    """

    condition: Array
    text: Array
    lengths: Array
    first: Array
    perceived: Array | None = None
    prior: Array | None = None


@dataclasses.dataclass(frozen=True)
class Generator:
    """The networks of a generator, with the sizes of its clips."""

    options: Options
    dit_config: conditioned.ConditionedConfig
    vae_config: vae.VAEConfig
    lora_config: lora.LoRAConfig
    perception_config: perception.PerceptionConfig | None
    placement: protocol.Placement

    def __post_init__(self):
        o = self.options
        video.check_sizes(o.frames, o.size, self.dit_config, self.vae_config)

    @property
    def vae(self) -> video.FrozenVAE:
        """The autoencoder."""
        o = self.options
        return video.FrozenVAE(self.vae_config, self.placement, o.vae_batch, o.vae_chunk)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of one sample's latents."""
        return self.vae.latent_shape(self.options.views, self.options.frames, self.options.size)

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a latent frame in patches."""
        _, _, h, w, _ = self.latent_shape
        return h // self.dit_config.patch[1], w // self.dit_config.patch[2]

    @property
    def trained(self) -> str:
        """The regex of what is trained: in full, or adapters and all that Wan does not have."""
        if self.lora_config.ranks:
            return r"^lora/|^perception/|^dit/condition_embedding/|^dit/patch_embedding/"
        return r"^(dit|perception)/"

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`; a transformer that only has adapters trained must be given."""
        return ("vae",)

    def init(self, rng: Array) -> Params:
        """Returns {"dit", "vae"} and, where there are some, {"perception", "lora"}."""
        keys = jax.random.split(rng, 4)
        params = {
            "dit": module.init(conditioned.ConditionedDiT, self.dit_config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[1]),
        }
        if self.perception_config is not None:
            made = module.init(perception.Perception, self.perception_config, keys[2])
            params["perception"] = made
        if self.lora_config.ranks:
            shapes = module.shapes(conditioned.ConditionedDiT, self.dit_config)
            params["lora"] = lora.init(self.lora_config, shapes, keys[3])
        return params

    @jax.named_scope("perception")
    def perceived(self, params: Params, feature: Array) -> Array | None:
        """What blocks read of a feature [b h w c] of frame 0; None without the module."""
        if self.perception_config is None:
            return None
        made = module.bind(perception.Perception, self.perception_config, params["perception"])
        return made(feature, self.grid)

    def velocity(self, params: Params, x: Array, t: Array, inputs: Inputs) -> Array:
        """Runs the transformer: x [b f h w c], t [b] of flow.py's Eq. 1 -> [b f h w c] float32."""
        model = module.bind(conditioned.ConditionedDiT, self.dit_config, params["dit"])
        if "lora" in params:
            lora.attach(model, params["lora"], alpha=self.lora_config.alpha)
        out = model(
            jnp.concatenate([x, inputs.condition.astype(x.dtype)], axis=-1),
            t * flow.TRAIN_STEPS,
            inputs.text,
            context_lengths=inputs.lengths,
            first_frame=inputs.first,
            placement=self.placement,
            perceived=inputs.perceived,
        )
        if self.options.prediction == "data":
            out = out if inputs.prior is None else out + inputs.prior
            out = (x - out) / flow.bounded_time(t, x)
        return out

    def times(self, rng: Array, count: int) -> tuple[Array, Array]:
        """Training times [b] and their weights [b]."""
        if self.options.prediction == "data":
            t = flow.sample_uniform(rng, (count,), shift=self.options.time_shift)
            return t, jnp.ones_like(t)
        return flow.sample_table(rng, (count,), shift=self.options.time_shift)

    def diffusion_loss(
        self, params: Params, data: Array, inputs: Inputs, weight: Array, rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss [] and scalars.

        Args:
          data: [b f h w c].
          weight: W, broadcasts against it; what is not counted is 0.
        """
        time, noise_key = jax.random.split(rng)
        t, w = self.times(time, len(data))
        noise = jax.random.normal(noise_key, data.shape)
        clean = inputs.first[:, None] & (jnp.arange(data.shape[1]) == 0)[None]
        clean = clean[:, :, None, None, None]
        x = jnp.where(clean, data, flow.interpolate(data, noise, t))
        velocity = self.velocity(params, x, t, inputs)
        error = velocity - flow.velocity(data, noise)
        if self.options.prediction == "data":
            error = error * flow.bounded_time(t, error)
        counted = (weight > 0) & ~clean
        error = video.mean_square(
            error, weight * ~clean, counted=counted.astype(jnp.float32), axes=(1, 2, 3, 4)
        )
        return jnp.mean(w * error), {"error": jnp.mean(error), "time": jnp.mean(t)}

    # Sampling.

    @property
    def sampling(self) -> base.Sampling:
        """How a sample is made."""
        o = self.options
        return base.Sampling(
            o.sampler, o.sample_steps, o.sample_shift, o.guidance, prediction=o.prediction
        )

    def schedule(self) -> flow.Schedule:
        """The sampler's steps."""
        o = self.options
        return flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)

    def branches(self, batch: base.Batch, views: int) -> tuple[Array, Array]:
        """Text [(g b v) l d] and lengths of a batch; g = 2 with guidance."""
        texts = [(batch["text"], batch["text_lengths"])]
        if self.options.guidance != 1.0:
            texts.append(video.null_text(batch, f"task.guidance={self.options.guidance}"))
        count = max(text.shape[1] for text, _ in texts)
        text = jnp.concatenate([jnp.repeat(video.rows(x, count), views, 0) for x, _ in texts])
        return text, jnp.concatenate([jnp.repeat(x, views, 0) for _, x in texts])

    def sample(
        self,
        params: Params,
        noise: Array,
        inputs: Inputs,
        held: Array | None,
        *,
        progress: base.Progress | None = None,
    ) -> Array:
        """Samples latents.

        Args:
          noise: [b f h w c].
          inputs: of all branches: text and lengths are [(g b) ...], the rest [b ...].
          held: [b 1 h w c] the clean latent of frame 0, or None.
          progress: called with (steps done, steps) after each run of steps.

        Returns:
          [b f h w c] float32.
        """
        o, schedule = self.options, self.schedule()
        first = {} if held is None else {"video": held.astype(jnp.float32)}
        x = flow.hold_first(noise, first["video"]) if first else noise
        state = video.start(schedule, {"video": x})
        length = next(n for n in range(o.run_steps, 0, -1) if o.sample_steps % n == 0)
        for begin in range(0, o.sample_steps, length):
            rows = schedule.rows(begin, begin + length)
            state = run_steps(self, params, state, rows, (inputs, first))
            if progress is not None:
                jax.block_until_ready(state)
                progress(begin + length, o.sample_steps)
        return state.latents["video"]

    # Costs.

    def forward_cost(self) -> tuple[int, dict[str, int]]:
        """Tokens of a clip, and FLOPs of a forward pass over it."""
        config = self.dit_config
        tokens = flops.tokens(config, self.latent_shape[1:4])
        whole = dataclasses.replace(config, in_channels=config.all_channels)
        return tokens, flops.wan_dit(whole, tokens, timesteps=2)

    def work(self, *, views: int, training: bool) -> base.Work:
        """What a step does to a sample of so many clips."""
        (tokens, one), config = self.forward_cost(), self.dit_config
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


def sample_run(
    generator: Generator,
    params: Params,
    state: video.State,
    steps: flow.Schedule,
    given: tuple[Inputs, video.Latents],
) -> video.State:
    """A run of sampling steps; latents are {"video": [b f h w c]}."""
    inputs, first = given
    count = len(inputs.lengths) // len(state.latents["video"])
    scales = (generator.options.guidance,) * (count - 1)
    perceived = inputs.perceived
    if perceived is not None and count > 1:
        perceived = jnp.concatenate([perceived] * count, axis=1)
    wide = inputs._replace(
        condition=video.branch(inputs.condition, count),
        first=video.branch(inputs.first, count),
        perceived=perceived,
        prior=video.branch(inputs.prior, count),
    )

    def denoise(state, row, _):
        x = video.branch(state.latents["video"], count)
        velocity = generator.velocity(params, x, jnp.full(len(x), row.t), wide)
        return {"video": video.guide(velocity, scales)}, None

    return video.scan(denoise, state, steps, first=first)


run_steps = jax.jit(sample_run, static_argnums=0)


def generator(
    config: Any,
    values: dict[str, Any],
    options: type,
    *,
    channels: int,
    placement: protocol.Placement,
) -> Generator:
    """Builds a generator from `config.task`: options and sections dit, vae, lora, perception.

    A motion module whose source is "none" is none.

    Args:
      values: of `config.task`, without what the task itself has taken.
      options: the dataclass of the task's options.
      channels: of the conditions, in latents' channels.
    """
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("dit", "vae", "lora")}
    sees = dict(values.pop("perception", {"source": "none"}))
    vae_config = vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae"))
    sizes = {"condition_channels": channels, **dict(parts["dit"])}
    dit_config = section(conditioned.ConditionedConfig, sizes, "config.task.dit")
    seen = None
    if sees.get("source") != "none":
        sees = {"dim": dit_config.dim, "layers": dit_config.layers, **sees}
        seen = section(perception.PerceptionConfig, sees, "config.task.perception")
    return Generator(
        section(options, values, "config.task"),
        dit_config,
        vae_config,
        section(lora.LoRAConfig, parts["lora"], "config.task.lora"),
        seen,
        placement,
    )


def ahead(made: Generator) -> Generator:
    """The generator for programs of other machines."""
    return dataclasses.replace(made, vae_config=video.ahead(made.vae_config))
