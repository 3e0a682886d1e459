"""Training of the learned motion codec on our own pseudo videos and their latents.

    L = BCE(mask) + g |colours - true|_1 where painted     decoder, from latents + noise
      + |latents - true|^2                                  encoder, from the true maps

The noise on the latents, of random size up to `noise`, stands for the errors of a clean estimate in
the loop. A codec with a `guide` also sees the video's first latent frame in its own cells, which
says where edges are, but in some of the clips, as views without a reference have none. Batches have
the pseudo videos' pixels and, where they are cached, their latents and the videos'; else the frozen
autoencoder makes them. Parts: `codec` and, frozen, `vae`.
"""

import dataclasses
import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import schema
from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, video

Array = jax.Array
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the networks.

    Attributes:
      size, frames, views, points: of the records.
      noise: largest deviation of the noise on the decoder's input.
      guide_drop: share of clips whose guide is zero.
      colour_weight, latent_weight: of the loss terms beside the mask's.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    points: int = 1600
    noise: float = 0.3
    guide_drop: float = 0.1
    colour_weight: float = 20.0
    latent_weight: float = 1.0


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "MotionCodec":
    """Builds the task from `config.task`: `Options` and sections codec, vae.

    Raises:
      ValueError: an unknown key, or a codec that does not fit the autoencoder.
    """
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("codec", "vae")}
    return MotionCodec(
        section(Options, values, "config.task"),
        section(motion_codec.CodecConfig, parts["codec"], "config.task.codec"),
        vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae")),
        placement,
    )


def check(codec: motion_codec.CodecConfig, config: vae.VAEConfig) -> None:
    """Checks that the codec has the autoencoder's latents.

    Raises:
      ValueError: other strides or channels.
    """
    have, wanted = (codec.time, codec.space, codec.z_dim), (*config.stride, config.z_dim)
    if have != wanted:
        raise ValueError(
            f"task.codec: (time, space, z_dim) wanted {wanted} of the autoencoder, got {have}"
        )


def check_motion(codec: motion_codec.CodecConfig, config: vae.VAEConfig) -> None:
    """`check`, and that a guide is the reference images' latents.

    Raises:
      ValueError: other strides or channels, or a guide of another width.
    """
    check(codec, config)
    if codec.guide not in (0, config.z_dim):
        raise ValueError(
            f"task.codec.guide: wanted 0, or {config.z_dim} for the reference images' latents, got "
            f"{codec.guide}"
        )


@dataclasses.dataclass(frozen=True)
class MotionCodec(base.Grown):
    """The task; see `tasks.base.Task`."""

    name = "motion_codec"
    trainable = "^codec/"
    frozen_parts = ("vae",)

    options: Options
    config: motion_codec.CodecConfig
    vae_config: vae.VAEConfig
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        check_motion(self.config, self.vae_config)

    def init(self, rng: Array) -> Params:
        """Returns {"codec", "vae"}."""
        keys = jax.random.split(rng)
        return {
            "codec": module.init(motion_codec.Codec, self.config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[1]),
        }

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and scalars for a batch of schema.BATCH with `motion` pixels.

        Raises:
          ValueError: a batch without pixels.
        """
        if "motion" not in batch:
            raise ValueError("motion_codec: wanted pixels (config.data.raw=True), got latents only")
        names = ("motion", "motion_latents", "video", "video_latents")
        axes = {key: schema.BATCH[key].axes for key in names}
        base.check(f"task {self.name}, loss", batch, axes)
        pixels = einops.rearrange(batch["motion"], "b v n h w c -> (b v) n h w c")
        pixels = pixels.astype(jnp.float32) / 255
        latents = jax.lax.stop_gradient(self._latents(frozen, batch, pixels))
        colours, mask = motion_codec.reduce_video(pixels, self.config.reduction)
        size, noise, coin = jax.random.split(rng, 3)
        size = self.options.noise * jax.random.uniform(size, (len(latents), 1, 1, 1, 1))
        noisy = latents + size * jax.random.normal(noise, latents.shape)
        codec = module.bind(motion_codec.Codec, self.config, trainable["codec"])
        maps = codec.decode(noisy, self._guide(frozen, batch, coin))
        sign = jnp.where(mask, 1.0, -1.0)
        mask_loss = jnp.mean(jax.nn.softplus(-sign * maps[..., 3]))
        gap = jnp.abs(maps[..., :3] - colours) * mask[..., None]
        painted = jnp.maximum(jnp.sum(mask), 1)
        colour_loss = jnp.sum(gap) / painted
        encoded = codec.encode(jnp.concatenate([colours, mask[..., None]], -1))
        latent_loss = jnp.mean(jnp.square(encoded - latents))
        total = mask_loss + self.options.colour_weight * colour_loss
        total = total + self.options.latent_weight * latent_loss
        both = jnp.sum(mask & (maps[..., 3] > 0)) / jnp.maximum(
            jnp.sum(mask | (maps[..., 3] > 0)), 1
        )
        scalars = {"mask": mask_loss, "colour": colour_loss, "latent": latent_loss}
        scalars |= {"iou": both, "pixels": jnp.sum(gap[..., 0]) / painted * pixels.shape[3]}
        return total, scalars

    def _latents(self, frozen, batch, pixels):
        if "motion_latents" in batch:
            return einops.rearrange(batch["motion_latents"], "b v f h w c -> (b v) f h w c")
        model = module.bind(vae.VAE, self.vae_config, frozen["vae"])
        return jax.lax.map(lambda clip: model.encode(clip[None] * 2 - 1)[0], pixels)

    def _guide(self, frozen, batch, coin) -> Array | None:
        """First latent frames of the videos [(b v) h w c], zero in some."""
        if not self.config.guide:
            return None
        codec = video.FrozenVAE(self.vae_config, self.placement)
        first = jax.lax.stop_gradient(video.first_latents(codec, frozen, batch))
        first = einops.rearrange(first, "b v 1 h w c -> (b v) h w c")
        dropped = jax.random.uniform(coin, (len(first), 1, 1, 1)) < self.options.guide_drop
        return jnp.where(dropped, 0.0, first)

    def reconstruct(
        self, params: Params, latents: Array, guide: Array | None = None
    ) -> tuple[Array, Array]:
        """Decodes motion latents [b f h w c] and encodes again: maps [b n h' w' 4], latents.

        guide: [b h w c], of a codec that has one.
        """
        codec = module.bind(motion_codec.Codec, self.config, params["codec"])
        maps = codec.decode(latents, guide)
        mask = (maps[..., 3:] > 0).astype(jnp.float32)
        return maps, codec.encode(jnp.concatenate([maps[..., :3] * mask, mask], -1))

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns latent cells, as tokens, and FLOPs of one batch, without the autoencoder's."""
        clips, (_, *grid, _) = batch["motion"].shape[0] * self.options.views, self._latent_shape()
        return {"tokens": clips * math.prod(grid), "flops": 3.0 * clips * self._forward}

    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        o = self.options
        return video.FrozenVAE(self.vae_config).latent_shape(o.views, o.frames, o.size)

    @functools.cached_property
    def _forward(self) -> float:
        """FLOPs of decoding and encoding the latents of one clip, counted from the jaxpr."""
        _, f, h, w, c = self._latent_shape()
        given = [jax.ShapeDtypeStruct((1, f, h, w, c), jnp.float32)]
        if self.config.guide:
            given.append(jax.ShapeDtypeStruct((1, h, w, c), jnp.float32))
        weights = {"codec": module.shapes(motion_codec.Codec, self.config)}
        return float(flops.count(self.reconstruct, weights, *given))

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on pixels with cached latents."""
        return {"train_step": base.Program(self, ("codec",), None, self._batch, self._work)}

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        (v, f, h, w, c), o = self._latent_shape(), self.options
        sizes = {"n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h, "wl": w, "c": c}
        names = ("motion", "motion_latents", *["video_latents"] * bool(self.config.guide))
        return (base.shapes(names, b=samples, v=v, **sizes),)

    def _work(self) -> base.Work:
        views, (height, width) = self.options.views, self.options.size
        pixels = 4 * self.options.frames * height * width * 3  # of one clip, float32
        return base.Work({"codec": 3 * views * self._forward}, clip=float(views * pixels))

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o = self.options
        return base.Scenes(size=o.size, frames=o.frames, points=o.points, vae=self.vae_config)
