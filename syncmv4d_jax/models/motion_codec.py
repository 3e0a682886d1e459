"""A small learned codec of pseudo videos: latents <-> maps (u0, v0, d, mask) at reduced size.

The closed loop decodes motion latents only to match colours and encodes painted tracks only to feed
them back. Wan's autoencoder makes 480 x 704 pixels for that; this codec works on the latent grid
(docs/paper.md):

    decode   Linear -> residual blocks -> Linear -> sub-cells of time and space: maps
    encode   maps -> cells of time and space -> Linear -> residual blocks -> Linear

A block mixes 3 x 3 cells and three latent frames. The first latent frame stands for one video
frame, the others for `time` frames each, as in the autoencoder. A map's pixel (j, i) is the video's
pixel (reduction j + reduction // 2, ...), and its colours are places in the map's own pixels:
`reduce_video`, `reduce_pixels`, `enlarge_pixels`.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers
from syncmv4d_jax.models.wan import vae_layers

CHANNELS = 4  # u0 / W, v0 / H, depth code, mask logit
FOREGROUND = 20 / 255  # of max(u0 / W, v0 / H), as in matching


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Sizes.

    Attributes:
      z_dim: channels of the latents.  time, space: strides of the autoencoder.
      reduction: video pixels a map pixel stands for; divides `space`.
      width: of the blocks.  depth: blocks of the encoder and of the decoder.
      guide: channels of what is known of frame 0, in each latent cell, that the decoder sees beside
        the latents: these do not say where in a cell an edge is.
      places: whether the decoder is told where each cell is, and what it gives of u0 and v0 counts
        from the map pixel's own place: nothing of what stands still.
      dtype: of activations.
    """

    z_dim: int = 48
    time: int = 4
    space: int = 16
    reduction: int = 4
    width: int = 256
    depth: int = 8
    guide: int = 0
    places: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.space % self.reduction:
            raise ValueError(
                f"CodecConfig: wanted a reduction that divides space={self.space}, "
                f"got {self.reduction}"
            )

    @property
    def cell(self) -> int:
        """Map pixels along a side of a latent cell."""
        return self.space // self.reduction


class Block(nnx.Module):
    """x + mix over three frames of (GELU of a 3 x 3 convolution of LN(x)); starts as identity."""

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        d = config.width
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=(0, 1, 2))
        self.norm = layers.LayerNorm(d, rngs=rngs)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, d, d), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))
        self.mix = layers.Linear(3 * d, d, kernel_init=layers.ZEROS_INIT, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b f h w d] -> [b f h w d]."""
        kernel = self.kernel[...][None]
        y = vae_layers.convolve(
            self.norm(x), kernel, pads=((1, 1), (1, 1)), how=vae_layers.small_form()
        )
        y = layers.gelu(y + layers.along_last(self.bias[...].astype(y.dtype), y))
        padded = jnp.pad(y, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        near = jnp.concatenate([padded[:, :-2], y, padded[:, 2:]], axis=-1)
        return x + self.mix(near)


class Trunk(nnx.Module):
    """Linear, blocks, norm, Linear."""

    def __init__(self, config: CodecConfig, d_in: int, d_out: int, *, rngs: nnx.Rngs):
        self.enter = layers.Linear(d_in, config.width, rngs=rngs)
        self.blocks = nnx.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.depth))
        self.norm = layers.LayerNorm(config.width, rngs=rngs)
        self.leave = layers.Linear(config.width, d_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b f h w d_in] -> [b f h w d_out]."""
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), self.enter(x), self.blocks)
        return self.leave(self.norm(x))


class Decoder(nnx.Module):
    """The decoder alone; see the module docstring."""

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        self.config = config
        seen = config.z_dim + config.guide + 2 * config.places
        self.decoder = Trunk(config, seen, self.packed, rngs=rngs)

    @property
    def packed(self) -> int:
        """Channels of a cell of maps."""
        return self.config.time * self.config.cell**2 * CHANNELS

    def decode(self, latents: jax.Array, guide: jax.Array | None = None) -> jax.Array:
        """latents: [b f h w z] normalised -> maps [b n h' w' 4] float32, n = time (f - 1) + 1.

        Args:
          guide: [b h w g] of frame 0, for a codec with `guide` channels.
        """
        c, x = self.config, latents.astype(self.config.dtype)
        if c.guide:
            assert guide is not None, "a decoder with a guide wants it"
            known = jnp.broadcast_to(guide.astype(c.dtype)[:, None], (*x.shape[:4], c.guide))
            x = jnp.concatenate([x, known], axis=-1)
        if c.places:
            cells = jnp.broadcast_to(_places(*x.shape[2:4]), (*x.shape[:4], 2))
            x = jnp.concatenate([x, (2 * cells - 1).astype(c.dtype)], axis=-1)
        x = self.decoder(x).astype(jnp.float32)
        x = einops.rearrange(
            x, "b f h w (t i j c) -> b (f t) (h i) (w j) c", t=c.time, i=c.cell, j=c.cell
        )
        if c.places:
            own = jnp.pad(_places(*x.shape[2:4]), ((0, 0), (0, 0), (0, CHANNELS - 2)))
            x = x + own[None, None]
        return x[:, c.time - 1 :]  # the first latent frame is one frame


class Codec(Decoder):
    """Encoder and decoder; see the module docstring."""

    def __init__(self, config: CodecConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.encoder = Trunk(config, self.packed, config.z_dim, rngs=rngs)

    def encode(self, maps: jax.Array) -> jax.Array:
        """maps: [b n h' w' 4], colours and mask in {0, 1} -> latents [b f h w z] float32.

        Raises:
          ValueError: n is not time (f - 1) + 1, or a side is no multiple of a cell.
        """
        c, (_, n, h, w, _) = self.config, maps.shape
        if n % c.time != 1 % c.time or h % c.cell or w % c.cell:
            raise ValueError(
                f"motion codec: wanted {c.time} m + 1 frames and sides divisible by {c.cell}, got "
                f"{n} x {h} x {w}"
            )
        first = einops.repeat(maps[:, :1], "b one h w c -> b (t one) h w c", t=c.time - 1)
        x = jnp.concatenate([first, maps], axis=1).astype(c.dtype)
        x = einops.rearrange(
            x, "b (f t) (h i) (w j) c -> b f h w (t i j c)", t=c.time, i=c.cell, j=c.cell
        )
        return self.encoder(x).astype(jnp.float32)


def _places(height: int, width: int) -> jax.Array:
    """(x / width, y / height) of the pixels of an image [h w 2]."""
    x, y = jnp.meshgrid(jnp.arange(width) / width, jnp.arange(height) / height)
    return jnp.stack([x, y], axis=-1)


def reduce_pixels(pixels: jax.Array, reduction: int) -> jax.Array:
    """Pixels of the video [...] -> pixels of the map [...]."""
    return (pixels - reduction // 2) / reduction


def enlarge_pixels(pixels: jax.Array, reduction: int) -> jax.Array:
    """Pixels of the map [...] -> pixels of the video [...]."""
    return pixels * reduction + reduction // 2


def reduce_intrinsics(intrinsics: jax.Array, reduction: int) -> jax.Array:
    """intrinsics [... 3 3] of the video -> those of the map."""
    rows = intrinsics[..., :2, :] / reduction
    offset = jnp.zeros(rows.shape[-1:]).at[2].set(reduction // 2 / reduction)
    rows = rows - layers.along_last(offset, rows)
    return jnp.concatenate([rows, intrinsics[..., 2:, :]], axis=-2)


def reduce_mask(mask: jax.Array, reduction: int) -> jax.Array:
    """mask [... h w] of the video -> [... h' w'] of the map."""
    half = reduction // 2
    return mask[..., half::reduction, half::reduction]


def reduce_video(pseudo: jax.Array, reduction: int) -> tuple[jax.Array, jax.Array]:
    """A pseudo video at the map's size.

    Args:
      pseudo: [b n h w 3] in [0, 1].

    Returns:
      (colours [b n h' w' 3], places in the map's own pixels, 0 where nothing is painted; mask
      [b n h' w'] bool).
    """
    half = reduction // 2
    small = pseudo[:, :, half::reduction, half::reduction]
    mask = jnp.max(small[..., :2], axis=-1) > FOREGROUND
    height, width = pseudo.shape[2:4]
    shift = jnp.array([half / width, half / height, 0.0], jnp.float32)
    colours = jnp.clip(small - layers.along_last(shift, small), 0, 1)
    return jnp.where(mask[..., None], colours, 0.0), mask
