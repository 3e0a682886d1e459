"""The motion-sensitive module: what frame 0 shows modulates every block (arXiv 2512.05044, 3.3).

    F = conv(SiLU(conv(feature)))        of frame 0: DINO's patches [14 14 768], or latents through
                                         a linear layer; resized to the patch grid
    y = LN(x) (1 + scale) + shift        the block's own modulation, before attention and FFN
    y <- y (1 + g a) + g b,  (a, b) = Linear(SiLU(F)) at the token's place,  g zero at first

so that an untrained module changes nothing. A token of any latent frame reads its place in frame 0.

NOTE(parity): the released code (wan_transformer4d.py) starts both its Linear and its gate at zero
locally, which would not train, and a later initialisation makes the Linear xavier; so is it here.
It covers the first f h w tokens of a sequence that begins with reference tokens, so that its last
latent frame gets none: not taken.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers
from syncmv4d_jax.models.wan import block as dit_block
from syncmv4d_jax.models.wan import vae_layers

SOURCES = ("appearance", "latents")


@dataclasses.dataclass(frozen=True)
class PerceptionConfig:
    """Sizes.

    Attributes:
      source: "appearance", features of a pretrained network, or "latents" of frame 0.
      channels: of the source.
      width: of the feature; `channels` where the source is "appearance".
      dim, layers: of the transformer.
      pooled: one feature for the whole frame, its mean over places (an ablation).
      dtype: of the feature and of what blocks read.
    """

    source: str = "appearance"
    channels: int = 768
    width: int = 768
    dim: int = 3072
    layers: int = 30
    pooled: bool = False
    dtype: str = "bfloat16"

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"perception.source: wanted one of {SOURCES}, got {self.source!r}")
        if self.source == "appearance" and self.width != self.channels:
            raise ValueError(
                f"perception.width: wanted the {self.channels} channels of the features, got "
                f"{self.width}"
            )


class Convolution(nnx.Module):
    """3 x 3, as wide as its input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1, 2))
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, width, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w d] -> [b h w d]."""
        # One matrix product where XLA's gradient of a small convolution is slow.
        how = "columns" if jax.default_backend() == "cpu" else "native"
        kernel = self.kernel[...][None]
        y = vae_layers.convolve(x[:, None], kernel, pads=((1, 1), (1, 1)), how=how)[:, 0]
        return y + layers.along_last(self.bias[...].astype(y.dtype), y)


class Guide(nnx.Module):
    """What one block reads: for attention and for the FFN a scale and a shift, gated."""

    def __init__(self, config: PerceptionConfig, *, rngs: nnx.Rngs):
        self.self_attn = layers.Linear(config.width, 2 * config.dim, rngs=rngs)
        self.ffn = layers.Linear(config.width, 2 * config.dim, rngs=rngs)
        self.self_attn_gate = nnx.Param(jnp.zeros((config.dim,), jnp.float32))
        self.ffn_gate = nnx.Param(jnp.zeros((config.dim,), jnp.float32))

    def __call__(self, feature: jax.Array) -> jax.Array:
        """feature: [b p c] -> [b p 4 d]: scale, shift of attention, scale, shift of the FFN."""
        found = []
        for linear, gate in ((self.self_attn, self.self_attn_gate), (self.ffn, self.ffn_gate)):
            both = einops.rearrange(linear(feature), "b p (m d) -> b p m d", m=2)
            found.append(both * layers.along_last(gate[...].astype(both.dtype), both))
        return jnp.concatenate(found, axis=2)


class Perception(nnx.Module):
    """The module; see the module docstring."""

    def __init__(self, config: PerceptionConfig, *, rngs: nnx.Rngs):
        self.config = config
        if config.source == "latents":
            self.enter = layers.Linear(config.channels, config.width, rngs=rngs)
        self.conv_0 = Convolution(config.width, rngs=rngs)
        self.conv_2 = Convolution(config.width, rngs=rngs)
        self.blocks = nnx.vmap(lambda r: Guide(config, rngs=r))(rngs.split(config.layers))

    def __call__(self, feature: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Computed once a sample.

        Args:
          feature: [b h w channels].
          grid: (height, width) in patches.

        Returns:
          [layers b (h w) 4 d], for `PerceivedBlock`.
        """
        x = feature.astype(self.config.dtype)
        if self.config.source == "latents":
            x = self.enter(x)
        if self.config.pooled:
            x = jnp.broadcast_to(jnp.mean(x, axis=(1, 2), keepdims=True), x.shape)
        x = self.conv_2(jax.nn.silu(self.conv_0(x)))
        x = jax.image.resize(x, (len(x), *grid, x.shape[-1]), "bilinear", antialias=False)
        x = jax.nn.silu(einops.rearrange(x, "b h w c -> b (h w) c"))
        return jax.lax.scan(lambda _, guide: (None, guide(x)), None, self.blocks)[1]


class PerceivedBlock(dit_block.Block):
    """Wan's block, modulated once more by what frame 0 shows; without it the same block."""

    def __call__(  # type: ignore[override]  # one input more
        self,
        x: jax.Array,
        context: jax.Array | dit_block.Keys,
        *,
        time: jax.Array,
        spread,
        rotation,
        lengths=None,
        placement,
        perceived: jax.Array | None = None,
    ) -> jax.Array:
        """As `Block`; perceived: [b p 4 d] of the p places of a latent frame, or None."""
        vectors = self.modulation[...][None] + time
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            spread(vectors[:, :, i]) for i in range(6)
        )
        if perceived is not None:
            own = self.per_token(perceived, x.shape[1])
            shift, scale = self.join(shift, scale, own[:, :, 0], own[:, :, 1])
            ffn_shift, ffn_scale = self.join(ffn_shift, ffn_scale, own[:, :, 2], own[:, :, 3])
        x = self.attend(
            x,
            shift=shift,
            scale=scale,
            gate=gate,
            rotation=rotation,
            lengths=lengths,
            placement=placement,
        )
        x = self.cross(x, context, placement=placement)
        return self.feed(x, shift=ffn_shift, scale=ffn_scale, gate=ffn_gate)

    @staticmethod
    def per_token(perceived: jax.Array, tokens: int) -> jax.Array:
        """[b p 4 d] of places -> [b s 4 d] float32 of tokens: every latent frame has them all."""
        frames = tokens // perceived.shape[1]
        spread = einops.repeat(perceived, "b p m d -> b (f p) m d", f=frames)
        rest = tokens - spread.shape[1]  # padding, at the end
        return jnp.pad(spread, ((0, 0), (0, rest), (0, 0), (0, 0))).astype(jnp.float32)

    @staticmethod
    def join(shift: jax.Array, scale: jax.Array, a: jax.Array, b: jax.Array):
        """(LN(x) (1 + scale) + shift) (1 + a) + b as one shift and scale; exact where a = b = 0."""
        return shift + shift * a + b, scale + a * (1 + scale)
