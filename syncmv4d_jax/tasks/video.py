"""What tasks that make videos share: the frozen autoencoder, text, a weighted mean, one sampler.

Sampling is a scan over rows of a schedule (`flow.Schedule`). A network may denoise several latents
together, each with a solver of its own, and may keep what it likes from step to step:

    v, carried = denoise(state, row, given);   x = flow.step(x, v, ...);   frame 0 is put back

Guidance runs g branches, conditions that differ, as one batch [(g b) ...]; `guide` joins them by

    v = v_g + s_{g-1} (v_{g-1} - v_g) + ... + s_1 (v_1 - v_2)

of which two branches, a text and the null text, are classifier-free guidance.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base

Array = jax.Array
Latents = dict[str, Array]
Params = dict[str, Any]
Tree = Any
AGREE = 5  # pixels, of `detailed`


@dataclasses.dataclass(frozen=True)
class FrozenVAE:
    """Wan's autoencoder, between pixels and latents of clips of several views.

    Attributes:
      config: of the network; its parameters are the part `vae`.
      placement: spreads views over devices.
      batch: clips that a device takes at once.
      chunk: latent frames of a clip taken at once, 0 for all: less memory, the same numbers.
    """

    config: vae.VAEConfig
    placement: protocol.Placement = protocol.LOCAL
    batch: int = 1
    chunk: int = 0

    def latent_shape(
        self, views: int, frames: int, size: tuple[int, int]
    ) -> tuple[int, int, int, int, int]:
        """(v, f, h, w, c) of the latents of clips of so many views, frames and pixels."""
        time, space = self.config.stride
        f = (frames - 1) // time + 1
        return (views, f, size[0] // space, size[1] // space, self.config.z_dim)

    @jax.named_scope("vae_encode")
    def encode(self, params: Params, pixels: Array) -> Array:
        """pixels [b v n h w 3] in [-1, 1] -> latents [b v f h w c]."""
        return self._run(params, "encode", pixels)

    @jax.named_scope("vae_decode")
    def decode(self, params: Params, latents: Array) -> Array:
        """latents [b v f h w c] -> pixels [b v n h w 3] in [-1, 1], not clamped."""
        return self._run(params, "decode", latents)

    def _run(self, params: Params, method: str, x: Array) -> Array:
        def one(weights, clip):
            model = module.bind(vae.VAE, self.config, weights)
            return getattr(model, method)(clip[None], chunk=self.chunk)[0]

        return self.placement.each(one, params["vae"], x, at_once=self.batch)

    def encode_bytes(self, params: Params, pixels: Array) -> Array:
        """pixels [b v n h w 3] uint8 -> latents [b v f h w c]."""
        return self.encode(params, pixels.astype(jnp.float32) / 127.5 - 1)


def first_latents(codec: FrozenVAE, params: Params, batch: Mapping[str, Array]) -> Array:
    """First latent frames [b v 1 h w c] of a batch's videos: of the cache, or of their pixels."""
    if "video_latents" in batch:
        return batch["video_latents"][:, :, :1].astype(jnp.float32)
    return codec.encode_bytes(params, batch["video"][:, :, :1])


@functools.partial(jax.jit, static_argnums=0)
def encode(codec: FrozenVAE, weights: Params, pixels: Array) -> Array:
    """`FrozenVAE.encode_bytes`, compiled; weights: of the part `vae`."""
    return codec.encode_bytes({"vae": weights}, pixels)


@functools.partial(jax.jit, static_argnums=0)
def decode(codec: FrozenVAE, weights: Params, latents: Array) -> Array:
    """`FrozenVAE.decode`, compiled; weights: of the part `vae`."""
    return codec.decode({"vae": weights}, latents)


@functools.partial(jax.jit, static_argnums=(0, 5))
def detailed(
    codec: FrozenVAE, weights: Params, made: Array, given: Array, share: Array, width: float
) -> Array:
    """A decoded video x that has a given one's details, lost by the autoencoder, where it agrees
    with it:

        x + s w (g - x),    w = exp(-(d / width)^2)

    d is the mean, over channels and the AGREE x AGREE pixels around, of |x - D(E(g))|: what is left
    between two videos that both went through the autoencoder. A reading of our own.

    Args:
      weights: of the part `vae`.
      made: x, [b v n h w 3] in [-1, 1].  given: g, the same.
      share: s, [b v n h w] in 0..1; where it is 0 g is not known, and x stands for it.
      width: in the colours' unit.
    """
    filled = jnp.where(share[..., None] > 0, given, jnp.clip(made, -1, 1))
    rebuilt = codec.decode({"vae": weights}, codec.encode({"vae": weights}, filled))
    apart = jnp.mean(jnp.abs(jnp.clip(made, -1, 1) - jnp.clip(rebuilt, -1, 1)), axis=-1)
    window = (*(1 for _ in apart.shape[:-2]), AGREE, AGREE)
    apart = jax.lax.reduce_window(
        apart, 0.0, jax.lax.add, window, (1,) * apart.ndim, padding="SAME"
    )
    high, wide = (np.convolve(np.ones(n), np.ones(AGREE), "same") for n in apart.shape[-2:])
    apart = apart / np.float32(high[:, None] * wide).reshape(*window[:-2], *apart.shape[-2:])
    weight = share * jnp.exp(-jnp.square(apart / width))
    return made + weight[..., None] * (given - made)


class Coded:
    """`encode` and `decode` of a task whose samples are latents of its autoencoder, `vae`."""

    @property
    def vae(self) -> FrozenVAE:
        """The autoencoder."""
        raise NotImplementedError

    @property
    def details(self) -> float:
        """The width of `detailed`, of samples with a given video."""
        return 0.0

    def encode(self, params: Params, pixels: Array) -> Array:
        """pixels [b v n h w 3] uint8 -> latents [b v f h w c]; compiled."""
        return encode(self.vae, params["vae"], pixels)

    def decode(self, params: Params, sample: base.Sample) -> base.Sample:
        """Returns the sample with the pixels of its video and motion; compiled."""
        codec, weights, motion = self.vae, params["vae"], sample.motion_latents
        pixels = decode(codec, weights, sample.latents)
        if sample.given is not None and self.details:
            pixels = detailed(
                codec, weights, pixels, sample.given, sample.given_share, self.details
            )
        motion = None if motion is None else decode(codec, weights, motion)
        return dataclasses.replace(
            sample, pixels=pixels, motion_pixels=motion, given=None, given_share=None
        )


def check_sizes(
    frames: int, size: tuple[int, int], dit: wan_config.DiTConfig, config: vae.VAEConfig
) -> None:
    """Checks that clips fit the autoencoder and the transformer, and these each other.

    Raises:
      ValueError: a number of frames, a side or a number of channels that does not.
    """
    step, stride = config.stride
    if frames < 1 or (frames - 1) % step:
        raise ValueError(f"task.frames: wanted {step} n + 1 frames, got {frames}")
    whole = tuple(stride * patch for patch in dit.patch[1:])
    for side, unit, name in zip(size, whole, ("height", "width"), strict=True):
        if side < unit or side % unit:
            raise ValueError(
                f"task.size: wanted a {name} divisible by {unit} (the VAE's stride {stride} times "
                f"the patch), got {side} in {size}"
            )
    if dit.in_channels != config.z_dim or dit.out_channels != config.z_dim:
        raise ValueError(
            f"task.dit: wanted {config.z_dim} channels in and out, as the autoencoder has, got "
            f"{dit.in_channels} and {dit.out_channels}"
        )


def ahead(config: vae.VAEConfig) -> vae.VAEConfig:
    """Returns the configuration for programs of other machines: convolutions not as here."""
    return dataclasses.replace(config, conv="native") if config.conv == "auto" else config


# Text.


def rows(text: Array, count: int) -> Array:
    """Pads text [b l d] with zero rows to [b count d]."""
    return jnp.pad(text, ((0, 0), (0, count - text.shape[1]), (0, 0)))


def null_text(batch: Mapping[str, Any], reason: str) -> tuple[Array, Array]:
    """Returns null_text [b l0 d] and null_text_lengths [b] of a batch.

    Raises:
      ValueError: it has none; says what for.
    """
    text, lengths = batch.get("null_text"), batch.get("null_text_lengths")
    if text is None or lengths is None:
        given = sorted(key for key, x in batch.items() if x is not None)
        raise ValueError(f"{reason} needs null_text, null_text_lengths; got {given}")
    return text, lengths


def drops(rng: Array, rows: int, *, share: float) -> Array:
    """[b] bool: which of a batch's samples lose their conditions; `drop_text` draws the same."""
    return jax.random.uniform(rng, (rows,)) < share


def drop_text(batch: Mapping[str, Any], rng: Array, *, share: float) -> tuple[Array, Array]:
    """Returns text [b l d] and lengths [b] of a batch, null text in a share of its samples.

    Raises:
      ValueError: a batch without null text, and a share above 0.
    """
    text, lengths = batch["text"], batch["text_lengths"]
    if not share:
        return text, lengths
    null, null_lengths = null_text(batch, f"task.text_drop={share}")
    count = max(text.shape[1], null.shape[1])
    drop = drops(rng, len(lengths), share=share)
    text = jnp.where(drop[:, None, None], rows(null, count), rows(text, count))
    return text, jnp.where(drop, null_lengths, lengths)


# Networks that give the clean latents less a still clip, v = (x_t - x_0) / t.


def still(prior: Params, first: Array) -> Array:
    """The still clip that a reference latent [b v 1 h w c] predicts, linearly; the same shape."""
    return first @ prior["kernel"] + prior["bias"][None, None, None, None, None]


# The loss.


def mean_square(
    error: Array, weight: Array, *, counted: Array | None = None, axes: Sequence[int] | None = None
) -> Array:
    """Returns sum(weight error^2) / sum(counted), at least over one.

    Args:
      error: [b ...], e.g. of a velocity.
      weight: a field that broadcasts against `error`: valid frames, times what counts more.
      counted: what the mean is over, as `weight`; None: the weights themselves.
      axes: summed over; None: all.
    """
    counted = weight if counted is None else counted
    weight, counted = (jnp.broadcast_to(x, error.shape) for x in (weight, counted))
    total = jnp.sum(weight * jnp.square(error), axis=axes)
    return total / jnp.maximum(jnp.sum(counted, axis=axes), 1.0)


# Sampling.


class State(NamedTuple):
    """Carried through sampling.

    latents: {name: [b ... f h w c] float32}; solver: {name: its memory}; carried: what the network
    keeps from step to step, any pytree.
    """

    latents: Latents
    solver: dict[str, flow.State]
    carried: Tree = None


class Denoise(Protocol):
    """A network with its conditions bound."""

    def __call__(self, state: State, row: flow.Schedule, given: Tree, /) -> tuple[Latents, Tree]:
        """Returns velocities of `state.latents`, and what it carries on.

        Args:
          row: of the schedule: time and sigma of this step.
          given: of this step, from `scan`.
        """
        ...


def start(schedule: flow.Schedule, latents: Latents, carried: Tree = None) -> State:
    """Returns the state before the first step: noise, empty solvers."""
    return State(latents, {k: flow.start(schedule, x) for k, x in latents.items()}, carried)


@jax.named_scope("step")
def step(
    denoise: Denoise,
    state: State,
    row: flow.Schedule,
    *,
    first: Latents,
    given: Tree = None,
    hidden: Array | None = None,
) -> tuple[State, Latents]:
    """One step: returns the next state, and the velocities.

    Args:
      first: {name: [... 1 h w c]} frames 0 that are given, and put back; others are generated.
      hidden: [...] bool, those of them that are generated all the same.
    """
    velocities, carried = denoise(state, row, given)
    latents, solver = {}, {}
    with jax.named_scope("solver"):
        for name, x in state.latents.items():
            x, solver[name] = flow.step(x, velocities[name], state.solver[name], row)
            latents[name] = flow.hold_first(x, first[name], hidden) if name in first else x
    return State(latents, solver, carried), velocities


def scan(
    denoise: Denoise,
    state: State,
    steps: flow.Schedule,
    *,
    first: Latents,
    given: Tree = None,
    hidden: Array | None = None,
) -> State:
    """Runs consecutive steps as one scan.

    Args:
      steps: rows of the schedule.
      first, hidden: see `step`.
      given: pytree of [steps ...], of which each step gets its own.
    """

    def body(state, inputs):
        row, own = inputs
        return step(denoise, state, row, first=first, given=own, hidden=hidden)[0], None

    return jax.lax.scan(body, state, (steps, given))[0]


def branch(tree: Tree, count: int) -> Tree:
    """[b ...] -> [(g b) ...]: the same for every one of `count` branches; None stays None."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * count), tree) if count > 1 else tree


@jax.named_scope("guidance")
def guide(tree: Tree, scales: Sequence[float]) -> Tree:
    """[(g b) ...] -> [b ...] by the formula above; without scales there is one branch."""
    if not scales:
        return tree
    count = len(scales) + 1
    return jax.tree.map(lambda x: flow.guide(jnp.split(x, count), scales), tree)
