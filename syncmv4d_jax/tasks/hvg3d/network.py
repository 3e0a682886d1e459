"""The networks of HVG-3D by their configurations, as functions of parameters and a batch.

The backbone with its branch (backbone.py), the conditions Z (sources.py) and the autoencoder,
for training and sampling alike.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.models import control, point_condition
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.hvg3d import backbone as backbones
from syncmv4d_jax.tasks.hvg3d import conditions as sources
from syncmv4d_jax.tasks.hvg3d import options as task_options

Array = jax.Array
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """See the module docstring."""

    options: task_options.Options
    dit_config: wan_config.DiTConfig
    vae_config: vae.VAEConfig
    point_config: point_condition.PointConfig
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        step, stride = self.vae_config.stride
        if (self.options.frames - 1) % step:
            raise ValueError(f"task.frames: wanted {step} n + 1 frames, got {self.options.frames}")
        whole = [stride * patch for patch in self.dit_config.patch[1:]]
        if any(size % unit for size, unit in zip(self.options.size, whole, strict=True)):
            raise ValueError(f"task.size: wanted multiples of {whole}, got {self.options.size}")
        if self.dit_config.in_channels != self.vae_config.z_dim:
            raise ValueError(
                f"task.dit: wanted {self.vae_config.z_dim} channels in, as the autoencoder has, "
                f"got {self.dit_config.in_channels}"
            )
        self.control_config  # noqa: B018 - a stride that does not divide is told here

    @property
    def control_config(self) -> control.ControlConfig:
        """Of the branch: Wan's sizes, whatever else the backbone has."""
        fields = (field.name for field in dataclasses.fields(wan_config.DiTConfig))
        own = wan_config.DiTConfig(**{name: getattr(self.dit_config, name) for name in fields})
        return control.ControlConfig(own, self.options.stride, self.options.copies)

    @functools.cached_property
    def backbone(self) -> backbones.Backbone:
        """The transformer and its branch."""
        if isinstance(self.dit_config, mjd_config.MJDConfig):
            return backbones.Joint(self.dit_config, self.control_config, self.placement)
        return backbones.Wan(self.dit_config, self.control_config, self.placement)

    @property
    def joint_motion(self) -> bool:
        """Whether the backbone denoises a motion video too."""
        own = self.dit_config
        return isinstance(own, mjd_config.MJDConfig) and own.joint_motion

    @functools.cached_property
    def conditions(self) -> sources.Conditions:
        """What makes Z."""
        o = self.options
        return sources.Conditions(self.point_config, o.size, o.frames, o.controls, self.placement)

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

    def control_latents(
        self, params: Params, batch: dict[str, Array], drop: sources.Drop | None = None
    ) -> Array:
        """Z [b v f hl wl 2c] of a batch.

        Raises:
          ValueError: shapes that do not fit, or points without what belongs to them.
        """
        sources.axes("task hvg3d", batch, **self.sizes())
        points = self.conditions.points(params, batch, drop)
        latents = batch.get("tracking_latents")
        if latents is None and batch.get("tracking") is not None:
            latents = self.vae.encode_bytes(params, batch["tracking"])
        black = batch.get("black_latents")
        if black is None:
            o = self.options
            black = self.vae.encode(params, -jnp.ones((len(points), 1, o.frames, *o.size, 3)))[:, 0]
        black = jnp.broadcast_to(black[:, None], points.shape)
        latents = None if latents is None else jax.lax.stop_gradient(latents)
        tracking = self.conditions.tracking(latents, jax.lax.stop_gradient(black), drop)
        return jnp.concatenate([points, tracking], axis=-1)

    def velocity(
        self,
        params: Params,
        latents: dict[str, Array],
        t: Array,
        text: backbones.Text | backbones.TextKeys,
        views: backbones.Views,
        z: Array | None,
        first: Array,
        *,
        scale: float = 1.0,
    ) -> dict[str, Array]:
        """Velocities of noisy latents {name: [b v f h w c]} at t [b] in 0..1, float32.

        Args:
          z: [b v f h w 2c], None for the backbone by itself.
          first: [b v 1 h w c], the reference images' latents.
          scale: of what the branch adds.
        """
        found, answer = self.backbone.denoise(params, latents, t, text, views, z, scale=scale)
        if self.options.prediction == "data":
            found["video"] = found["video"] + video.still(params["prior"], first)
            if answer is not None:
                found["video"] = answer.apply(found["video"], _tracking(z), scale)
            return {k: (latents[k] - x) / flow.bounded_time(t, x) for k, x in found.items()}
        if answer is not None:
            v = found["video"]
            clean = flow.to_data(latents["video"], v, t)
            more = answer.apply(clean, _tracking(z), scale) - clean
            found["video"] = v - more / flow.bounded_time(t, more)
        return found

    @staticmethod
    def views(batch: dict[str, Array]) -> backbones.Views:
        """What an MJD reads of the views: of cameras that move their poses in frame 0."""
        return backbones.Views(batch["view_index"], batch["extrinsics"][:, :, 0])

    def sizes(self) -> dict[str, int]:
        """Sizes of schema.BATCH's axes."""
        v, f, h, w, c = self.latent_shape
        o = self.options
        sizes = {"v": v, "n": o.frames, "h": o.size[0], "w": o.size[1], "f": f, "hl": h, "wl": w}
        return sizes | {"c": c, "d": self.dit_config.text_dim}


def _tracking(z: Array | None) -> Array:
    """The tracking video's half of Z, without which no branch answers."""
    assert z is not None
    return jnp.split(z, 2, axis=-1)[1]
