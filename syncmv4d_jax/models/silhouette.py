"""The silhouette network: which pixels of a reference image belong to tracked surfaces.

The closed loop warps frame 0 of a decoded pseudo video, whose own silhouette is soft and too large;
the reference image is clean and shows where hand and objects end. The loop holds that image as its
latent, so the network reads the latent: residual 3 x 3 blocks over the cells, and a readout of all
pixels of a cell at once.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers
from syncmv4d_jax.models.wan import vae_layers


@dataclasses.dataclass(frozen=True)
class SilhouetteConfig:
    """Sizes.

    Attributes:
      z_dim: channels of the latents.  space: pixels along a side of a latent cell.
      width: of the blocks.  depth: their number.
      dtype: of activations.
    """

    z_dim: int = 48
    space: int = 16
    width: int = 128
    depth: int = 4
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("z_dim", "space", "width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"SilhouetteConfig.{name}: wanted at least 1, got {getattr(self, name)}"
                )


class Block(nnx.Module):
    """x + Linear of (GELU of a 3 x 3 convolution of LN(x)); starts as identity."""

    def __init__(self, config: SilhouetteConfig, *, rngs: nnx.Rngs):
        d = config.width
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1, 2))
        self.norm = layers.LayerNorm(d, rngs=rngs)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, d, d), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))
        self.leave = layers.Linear(d, d, kernel_init=layers.ZEROS_INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b 1 h w d] -> [b 1 h w d]."""
        kernel = self.kernel[...][None]
        how = vae_layers.small_form()
        y = vae_layers.convolve(self.norm(x), kernel, pads=((1, 1), (1, 1)), how=how)
        return x + self.leave(layers.gelu(y + layers.along_last(self.bias[...].astype(y.dtype), y)))


class Silhouette(nnx.Module):
    """See the module docstring."""

    def __init__(self, config: SilhouetteConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.enter = layers.Linear(config.z_dim, config.width, rngs=rngs)
        self.blocks = nnx.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.depth))
        self.norm = layers.LayerNorm(config.width, rngs=rngs)
        self.leave = layers.Linear(config.width, config.space**2, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        """latents: [b 1 hl wl z] of images -> logits [b h w] float32, above 0 where it is tracked.

        Raises:
          ValueError: latents of more than one frame.
        """
        if latents.shape[1] != 1:
            raise ValueError(f"silhouette: wanted latents [b 1 hl wl z], got {latents.shape}")
        x = self.enter(latents.astype(self.config.dtype))
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        x = self.leave(self.norm(x)).astype(jnp.float32)
        return einops.rearrange(
            x, "b 1 h w (i j) -> b (h i) (w j)", i=self.config.space, j=self.config.space
        )
