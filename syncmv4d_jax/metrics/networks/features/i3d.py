"""I3D: Inception-v1 inflated to three dimensions, trained on Kinetics-400; FVD's features.

Carreira & Zisserman 2017 (arXiv:1705.07750), Unterthiner et al. 2018 (arXiv:1812.01717). Padding is
TensorFlow's "SAME" everywhere. Features are the 400 logits, the mean over the remaining frames.
Source: cd-fvd's copy of pytorch-i3d.

NOTE(parity): its batch norms add 1e-5 to the variance, where pytorch-i3d's own add 1e-3.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import image_layers as layers

SIDE, FRAMES = 224, 16


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """No choices: the network is what its weights are."""


# Channels of each block's branches: b0, b1a, b1b, b2a, b2b, b3b; a pool stands before "4" and "5".
BLOCKS = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS = {"Mixed_4b": 3, "Mixed_5b": 2}


class Unit(nnx.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, size: int, stride: int = 1, rngs: nnx.Rngs):
        self.conv3d = layers.Conv(
            c_in,
            c_out,
            kernel=(size,) * 3,
            stride=stride,
            padding="SAME",
            use_bias=False,
            rngs=rngs,
        )
        self.bn = layers.BatchNorm(c_out, eps=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b n h w c_in] -> [b n h w c_out]."""
        return jax.nn.relu(self.bn(self.conv3d(x)))


class Mixed(nnx.Module):
    """Four branches: 1, 1-3, 1-3, pool-1."""

    def __init__(self, c_in: int, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(c_in, b0, size=1, rngs=rngs)
        self.b1a = Unit(c_in, b1a, size=1, rngs=rngs)
        self.b1b = Unit(b1a, b1b, size=3, rngs=rngs)
        self.b2a = Unit(c_in, b2a, size=1, rngs=rngs)
        self.b2b = Unit(b2a, b2b, size=3, rngs=rngs)
        self.b3b = Unit(c_in, b3b, size=1, rngs=rngs)
        self.width = b0 + b1b + b2b + b3b

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b n h w c] -> [b n h w width]."""
        pooled = layers.max_pool(x, (3, 3, 3), stride=1, padding="SAME")
        parts = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return jnp.concatenate(parts, axis=-1)


class I3D(nnx.Module):
    """Clips to FVD's features."""

    def __init__(self, config: I3DConfig, *, rngs: nnx.Rngs):
        del config
        self.Conv3d_1a_7x7 = Unit(3, 64, size=7, stride=2, rngs=rngs)
        self.Conv3d_2b_1x1 = Unit(64, 64, size=1, rngs=rngs)
        self.Conv3d_2c_3x3 = Unit(64, 192, size=3, rngs=rngs)
        c = 192
        for name, widths in BLOCKS.items():
            block = Mixed(c, widths, rngs=rngs)
            setattr(self, name, block)
            c = block.width
        self.logits = layers.Conv(c, 400, kernel=(1, 1, 1), rngs=rngs)

    def __call__(self, clips: jax.Array) -> jax.Array:
        """Logits of clips.

        Args:
          clips: [b n h w 3] float32 in -1..1; n at least 9, h = w = 224.

        Returns:
          [b 400] float32.

        Raises:
          ValueError: another size, or fewer frames than the last mean takes.
        """
        if clips.shape[2:] != (SIDE, SIDE, 3) or clips.shape[1] < 9:
            raise ValueError(f"I3D: wanted clips [b n>=9 {SIDE} {SIDE} 3], got {clips.shape}")
        x = self.Conv3d_1a_7x7(clips)
        x = layers.max_pool(x, (1, 3, 3), stride=(1, 2, 2), padding="SAME")
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = layers.max_pool(x, (1, 3, 3), stride=(1, 2, 2), padding="SAME")
        for name in BLOCKS:
            if name in POOLS:
                x = layers.max_pool(x, (POOLS[name],) * 3, stride=2, padding="SAME")
            x = getattr(self, name)(x)
        x = layers.mean_pool(x, (2, 7, 7), stride=1)
        return jnp.mean(self.logits(x), axis=(1, 2, 3))


def windows(frames: np.ndarray) -> np.ndarray:
    """Cuts a video [n h w 3] into clips [b 16 h w 3]; what does not fill the last is left out."""
    count = len(frames) // FRAMES
    return frames[: count * FRAMES].reshape(count, FRAMES, *frames.shape[1:])


def clip_pixels(clips: jax.Array) -> jax.Array:
    """What `I3D` takes of clips [b n h w 3], 0..255: [b n 224 224 3], linear, -1..1."""
    x = layers.resize(einops.rearrange(clips, "b n h w c -> (b n) h w c"), (SIDE, SIDE))
    return einops.rearrange(x, "(b n) h w c -> b n h w c", n=clips.shape[1]) / 127.5 - 1
