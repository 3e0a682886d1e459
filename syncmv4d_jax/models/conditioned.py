"""Wan's transformer with channels of conditions beside the noisy latents, and a motion module.

    x = patches(z_t) W_p + patches(conditions) W_c + bias

is a patch embedding of more input channels, its new rows kept by themselves: what Wan's checkpoint
has keeps its shape and path, and W_c, zero at first, changes nothing. Rows of W_c are in the order
(pf ph pw c), as those of W_p. Blocks read what models/perception.py makes, where it is given.
"""

import dataclasses
import functools

import jax
from flax import nnx

from syncmv4d_jax.models import perception
from syncmv4d_jax.models.nn import layers, protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit


@dataclasses.dataclass(frozen=True)
class ConditionedConfig(wan_config.DiTConfig):
    """Sizes; `condition_channels`: beside the `in_channels` of the noisy latents."""

    condition_channels: int = 96

    @property
    def all_channels(self) -> int:
        """Input channels of the patch embedding, both parts."""
        return self.in_channels + self.condition_channels


class ConditionedDiT(dit.DiT):
    """The network; latents are [b f h w c], conditions last."""

    config: ConditionedConfig

    def __init__(self, config: ConditionedConfig, *, rngs: nnx.Rngs):
        super().__init__(config, perception.PerceivedBlock, rngs=rngs)
        self.condition_embedding = layers.Linear(
            config.patch_size * config.condition_channels,
            config.dim,
            use_bias=False,
            kernel_init=layers.ZEROS_INIT,
            rngs=rngs,
        )

    def __call__(self, *arguments, perceived: jax.Array | None = None, **options) -> jax.Array:
        """As `DiT`; perceived: [layers b p 4 d] of `perception.Perception`, or None."""
        if perceived is not None:
            options["blocks"] = functools.partial(self.run_blocks, each={"perceived": perceived})
        return super().__call__(*arguments, **options)

    def embed(
        self, latents: jax.Array, *, placement: protocol.Placement = protocol.LOCAL
    ) -> tuple[jax.Array, tuple[int, int, int]]:
        """As `DiT.embed`, of latents with their conditions."""
        config, c = self.config, self.config.in_channels
        if latents.ndim != 5 or latents.shape[-1] != config.all_channels:
            raise ValueError(
                f"dit: wanted latents and conditions [b f h w {c} + {config.condition_channels}], "
                f"got {latents.shape}"
            )
        x, grid = super().embed(latents[..., :c], placement=placement)
        return x + self.embed_patches(latents[..., c:], self.condition_embedding, placement), grid
