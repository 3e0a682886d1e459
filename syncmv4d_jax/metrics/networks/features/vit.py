"""Vision transformers as image features: DINO ViT-B/16 and CLIP's image tower.

    x_0 = [cls; patches(image)] + position          (CLIP: then a layer norm)
    x  <- x + attention(LN1(x));  x <- x + mlp(LN2(x))
    feature = LN(x)[cls]                            (CLIP: times a projection)

Sources: facebookresearch/dino, vision_transformer.py (Caron et al. 2021); openai/CLIP,
clip/model.py (Radford et al. 2021). DINO reads images of any size: positions are resized by a
cubic.

NOTE(parity): DINO's resize of positions takes the scale (patches + 0.1) / 14 and not patches / 14
(vision_transformer.py, interpolate_pos_encoding); so does this.
"""

import dataclasses
import math

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import image_layers as pixels
from syncmv4d_jax.models.nn import layers

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes; `clip`: pre-norm, quick GELU, no patch bias, and `projection` > 0."""

    dim: int = 768
    layers: int = 12
    heads: int = 12
    patch: int = 16
    image: int = 224
    eps: float = 1e-6
    clip: bool = False
    projection: int = 0


DINO_B16 = ViTConfig()
CLIP_B32 = ViTConfig(patch=32, eps=1e-5, clip=True, projection=512)
CLIP_L14 = ViTConfig(
    dim=1024, layers=24, heads=16, patch=14, eps=1e-5, clip=True, projection=768
)  # fmt: skip


class Attention(nnx.Module):
    """Full self-attention; q, k, v come from one kernel, in this order."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.heads = config.heads
        self.qkv = layers.Linear(config.dim, 3 * config.dim, rngs=rngs)
        self.proj = layers.Linear(config.dim, config.dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b s d] -> [b s d]."""
        q, k, v = einops.rearrange(self.qkv(x), "b s (n h d) -> n b h s d", n=3, h=self.heads)
        score = jnp.einsum("bhsd,bhtd->bhst", q, k) / math.sqrt(q.shape[-1])
        y = jnp.einsum("bhst,bhtd->bhsd", jax.nn.softmax(score, axis=-1), v)
        return self.proj(einops.rearrange(y, "b h s d -> b s (h d)"))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.clip = config.clip
        self.norm1 = layers.LayerNorm(config.dim, eps=config.eps, rngs=rngs)
        self.attn = Attention(config, rngs=rngs)
        self.norm2 = layers.LayerNorm(config.dim, eps=config.eps, rngs=rngs)
        self.fc1 = layers.Linear(config.dim, 4 * config.dim, rngs=rngs)
        self.fc2 = layers.Linear(4 * config.dim, config.dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b s d] -> [b s d]."""
        x = x + self.attn(self.norm1(x))
        y = self.fc1(self.norm2(x))
        y = y * jax.nn.sigmoid(1.702 * y) if self.clip else jax.nn.gelu(y, approximate=False)
        return x + self.fc2(y)


class ViT(nnx.Module):
    """Images to one feature vector each."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        d, p = config.dim, config.patch
        init = nnx.initializers.normal(0.02)
        self.patch_embed = pixels.Conv(
            3, d, kernel=(p, p), stride=p, padding="VALID", use_bias=not config.clip, rngs=rngs
        )
        tokens = 1 + (config.image // p) ** 2
        self.cls_token = nnx.Param(init(rngs.params(), (d,), jnp.float32))
        self.pos_embed = nnx.Param(init(rngs.params(), (tokens, d), jnp.float32))
        self.pre_norm = layers.LayerNorm(d, eps=config.eps, rngs=rngs) if config.clip else None
        self.blocks = nnx.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.layers))
        self.norm = layers.LayerNorm(d, eps=config.eps, rngs=rngs)
        last = config.projection
        self.projection = layers.Linear(d, last, use_bias=False, rngs=rngs) if last else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features of normalised images.

        Args:
          images: [b h w 3] float32, at least one patch each way; of CLIP exactly config.image.

        Returns:
          [b d] float32, not normalised.

        Raises:
          ValueError: an image smaller than a patch, or of another size than CLIP's.
        """
        x = self.tokens(images)[:, 0]
        return x if self.projection is None else self.projection(x)

    def tokens(self, images: jax.Array) -> jax.Array:
        """The class token and all patches, row by row, normalised: [b 1+s d] float32.

        Args, raises: as `__call__`.
        """
        self._check(images.shape)
        x = self.patch_embed(images)
        position = self._position((images.shape[1], images.shape[2]), (x.shape[1], x.shape[2]))
        x = einops.rearrange(x, "b h w d -> b (h w) d")
        first = jnp.broadcast_to(self.cls_token[...][None, None], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + position[None]
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return self.norm(x)

    def _check(self, shape: tuple[int, ...]) -> None:
        p, side = self.config.patch, self.config.image
        if min(shape[1:3]) < p or (self.config.clip and shape[1:3] != (side, side)):
            wanted = f"exactly {side} x {side}" if self.config.clip else f"at least {p} x {p}"
            raise ValueError(f"ViT: wanted images [b h w 3] of {wanted}, got {shape}")

    def _position(self, image: tuple[int, int], grid: tuple[int, int]) -> jax.Array:
        """Position embeddings [1 + s, d] of a grid of patches."""
        own = self.config.image // self.config.patch
        position = self.pos_embed[...]
        if grid == (own, own) and image[0] == image[1]:
            return position
        rows, columns = (pixels.cubic_weights(own, n, scale=(n + 0.1) / own) for n in grid)
        patches = einops.rearrange(position[1:], "(h w) d -> h w d", h=own)
        patches = jnp.einsum("hwd,ih,jw->ijd", patches, rows, columns, precision="highest")
        return jnp.concatenate([position[:1], einops.rearrange(patches, "h w d -> (h w) d")])


def dino_pixels(frames: jax.Array) -> jax.Array:
    """VBench's preprocessing: short side to 224, linear without antialiasing, ImageNet's mean.

    Args:
      frames: [b h w 3], 0..255.

    Returns:
      [b h w 3] float32; 480 x 704 gives 224 x 328.
    """
    h, w = frames.shape[1:3]
    size = (224, int(224 * w / h)) if h <= w else (int(224 * h / w), 224)
    x = pixels.resize(frames, size) / 255
    mean, std = (np.array(v, np.float32).reshape(1, 1, 1, 3) for v in IMAGENET)
    return (x - mean) / std
