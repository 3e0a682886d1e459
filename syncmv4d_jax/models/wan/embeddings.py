"""What stands before and after the blocks of Wan's diffusion transformer.

Time, time projection and text MLPs, the head, and the patch layout.
"""

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers
from syncmv4d_jax.models.wan import config as wan_config


class TimeEmbedding(nnx.Module):
    """sincos, Linear, SiLU, Linear; float32 throughout."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        self.freq_dim = config.freq_dim
        init = nnx.initializers.normal(0.02)
        self.linear_0 = layers.Linear(config.freq_dim, config.dim, kernel_init=init, rngs=rngs)
        self.linear_2 = layers.Linear(config.dim, config.dim, kernel_init=init, rngs=rngs)

    def __call__(self, t: jax.Array) -> jax.Array:
        """t: [b j] in 0..1000 -> e [b j d] float32."""
        x = layers.sincos(t, width=self.freq_dim)
        return self.linear_2(jax.nn.silu(self.linear_0(x)))


class TimeProjection(nnx.Module):
    """SiLU, Linear d -> 6 d, split with the six vectors outermost; float32."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        self.linear_1 = layers.Linear(config.dim, 6 * config.dim, rngs=rngs)

    def __call__(self, e: jax.Array) -> jax.Array:
        """e: [b j d] float32 -> e0 [b j 6 d] float32."""
        return einops.rearrange(self.linear_1(jax.nn.silu(e)), "b j (m d) -> b j m d", m=6)


class TextEmbedding(nnx.Module):
    """Pads text with zero rows to `text_len` (attended as any other), Linear, tanh-GELU, Linear."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        self.text_len, self.dtype = config.text_len, config.dtype
        init = nnx.initializers.normal(0.02)
        self.linear_0 = layers.Linear(config.text_dim, config.dim, kernel_init=init, rngs=rngs)
        self.linear_2 = layers.Linear(config.dim, config.dim, kernel_init=init, rngs=rngs)

    def __call__(self, context: jax.Array, context_lengths: jax.Array | None = None) -> jax.Array:
        """context: [b l d_text], context_lengths: [b] (rows beyond are zeroed) -> [b text_len d].

        Raises:
          ValueError: more than text_len rows.
        """
        rows = context.shape[1]
        if rows > self.text_len:
            raise ValueError(f"text: wanted at most {self.text_len} rows, got {context.shape}")
        if context_lengths is not None:
            valid = jnp.arange(rows)[None] < context_lengths[:, None]
            context = jnp.where(valid[..., None], context, 0)
        context = jnp.pad(context, ((0, 0), (0, self.text_len - rows), (0, 0)))
        return self.linear_2(layers.gelu(self.linear_0(context.astype(self.dtype))))


class Head(nnx.Module):
    """Modulated layer norm and Linear to patches; float32. It is modulated by e, not by e0."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        d, d_out = config.dim, config.patch_size * config.out_channels
        self.eps = config.eps
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (1, 2, d)) / d**0.5)
        self.head = layers.Linear(d, d_out, kernel_init=layers.ZEROS_INIT, rngs=rngs)

    def __call__(self, x: jax.Array, e: jax.Array) -> jax.Array:
        """x: [b s d], e: [b 1|s d] -> patches [b s (pf ph pw c)] float32."""
        shift, scale = (self.modulation[...][:, i, None] + e for i in range(2))
        return self.head(layers.modulate(x, shift, scale, eps=self.eps))


def patchify(latents: jax.Array, patch: tuple[int, int, int]) -> jax.Array:
    """latents: [b f h w c] -> patches [b s (pf ph pw c)].

    Raises:
      ValueError: f, h or w is not a multiple of the patch.
    """
    if any(n % p for n, p in zip(latents.shape[1:4], patch, strict=True)):
        raise ValueError(f"patchify: wanted f h w multiples of {patch}, got {latents.shape}")
    return einops.rearrange(
        latents,
        "b (f pf) (h ph) (w pw) c -> b (f h w) (pf ph pw c)",
        pf=patch[0],
        ph=patch[1],
        pw=patch[2],
    )


def unpatchify(
    patches: jax.Array, grid: tuple[int, int, int], patch: tuple[int, int, int]
) -> jax.Array:
    """Inverse of patchify: patches [b s (pf ph pw c)] of a token grid (f, h, w) -> [b f h w c]."""
    return einops.rearrange(
        patches,
        "b (f h w) (pf ph pw c) -> b (f pf) (h ph) (w pw) c",
        f=grid[0],
        h=grid[1],
        w=grid[2],
        pf=patch[0],
        ph=patch[1],
        pw=patch[2],
    )
