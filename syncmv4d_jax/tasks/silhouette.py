"""Training of the silhouette network on reference images and frame 0 of their pseudo videos.

    L = BCE(network(latent of frame 0), whether frame 0 of the pseudo video is painted)

Occluders are never painted, so the network learns where tracked surfaces are seen. Batches have the
pseudo videos' pixels and, where they are cached, the videos' latents; else the frozen autoencoder
makes those of frame 0. Parts: `silhouette` and, frozen, `vae`.
"""

import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import schema
from syncmv4d_jax.configuration import section
from syncmv4d_jax.models import flops, motion_codec, silhouette
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
      noise: deviation of the noise on the latents, against learning scenes by heart.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    views: int = 3
    points: int = 1600
    noise: float = 0.05


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "SilhouetteTask":
    """Builds the task from `config.task`: `Options` and sections silhouette, vae.

    Raises:
      ValueError: an unknown key, or a network that does not fit the autoencoder.
    """
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("silhouette", "vae")}
    return SilhouetteTask(
        section(Options, values, "config.task"),
        section(silhouette.SilhouetteConfig, parts["silhouette"], "config.task.silhouette"),
        vae.released(section(vae.VAEConfig, parts["vae"], "config.task.vae")),
        placement,
    )


def check(config: silhouette.SilhouetteConfig, vae_config: vae.VAEConfig) -> None:
    """Checks that the network reads the autoencoder's latents.

    Raises:
      ValueError: another stride or other channels.
    """
    have, wanted = (config.space, config.z_dim), (vae_config.stride[1], vae_config.z_dim)
    if have != wanted:
        raise ValueError(
            f"task.silhouette: (space, z_dim) wanted {wanted} of the autoencoder, got {have}"
        )


def mask(config: silhouette.SilhouetteConfig, weights: Params, first: Array) -> Array:
    """Returns the foreground [b v h w] bool of reference latents [b v 1 hl wl c]."""
    network = module.bind(silhouette.Silhouette, config, weights)
    logits = network(einops.rearrange(first, "b v f h w c -> (b v) f h w c"))
    return einops.rearrange(logits > 0, "(b v) h w -> b v h w", v=first.shape[1])


@dataclasses.dataclass(frozen=True)
class SilhouetteTask(base.Grown):
    """The task; see `tasks.base.Task`."""

    name = "silhouette"
    trainable = "^silhouette/"
    frozen_parts = ("vae",)

    options: Options
    config: silhouette.SilhouetteConfig
    vae_config: vae.VAEConfig
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        check(self.config, self.vae_config)

    def init(self, rng: Array) -> Params:
        """Returns {"silhouette", "vae"}."""
        keys = jax.random.split(rng)
        return {
            "silhouette": module.init(silhouette.Silhouette, self.config, keys[0]),
            "vae": module.init(vae.VAE, self.vae_config, keys[1]),
        }

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and scalars for a batch of schema.BATCH with `motion` pixels.

        `iou` is the share of the union of both silhouettes that they have in common.

        Raises:
          ValueError: a batch without pixels.
        """
        if "motion" not in batch:
            raise ValueError("silhouette: wanted pixels (config.data.raw=True), got latents only")
        names = ("motion", "video", "video_latents")
        axes = {key: schema.BATCH[key].axes for key in names}
        base.check(f"task {self.name}, loss", batch, axes)
        first = jax.lax.stop_gradient(self._latents(frozen, batch))
        noise = jax.random.normal(rng, first.shape)
        network = module.bind(silhouette.Silhouette, self.config, trainable["silhouette"])
        logits = network(first + self.options.noise * noise)
        true = einops.rearrange(batch["motion"][:, :, 0], "b v h w c -> (b v) h w c")
        true = jnp.max(true[..., :2].astype(jnp.float32), -1) / 255 > motion_codec.FOREGROUND
        loss = jnp.mean(jax.nn.softplus(jnp.where(true, -1.0, 1.0) * logits))
        both, either = (jnp.sum(x) for x in (true & (logits > 0), true | (logits > 0)))
        return loss, {"iou": both / jnp.maximum(either, 1)}

    def _latents(self, frozen, batch):
        codec = video.FrozenVAE(self.vae_config, self.placement)
        first = video.first_latents(codec, frozen, batch)
        return einops.rearrange(first, "b v f h w c -> (b v) f h w c")

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns latent cells, as tokens, and FLOPs of one batch, without the autoencoder's."""
        images = batch["motion"].shape[0] * self.options.views
        _, _, h, w, _ = self._latent_shape()
        return {"tokens": images * h * w, "flops": 3.0 * images * self._forward()}

    def _latent_shape(self) -> tuple[int, int, int, int, int]:
        o = self.options
        return video.FrozenVAE(self.vae_config).latent_shape(o.views, o.frames, o.size)

    def _forward(self) -> float:
        """FLOPs of one image, counted from the jaxpr."""
        _, _, *grid = self._latent_shape()
        weights = module.shapes(silhouette.Silhouette, self.config)
        run = lambda p, x: module.bind(silhouette.Silhouette, self.config, p)(x)  # noqa: E731
        return float(flops.count(run, weights, jax.ShapeDtypeStruct((1, 1, *grid), jnp.float32)))

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step on pixels with cached latents."""
        return {"train_step": base.Program(self, ("silhouette",), None, self._batch, self._work)}

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        (v, f, h, w, c), o = self._latent_shape(), self.options
        sizes = {"n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h, "wl": w, "c": c}
        return (base.shapes(("motion", "video_latents"), b=samples, v=v, **sizes),)

    def _work(self) -> base.Work:
        return base.Work({"silhouette": 3 * self.options.views * self._forward()})

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        o = self.options
        return base.Scenes(size=o.size, frames=o.frames, points=o.points, vae=self.vae_config)
