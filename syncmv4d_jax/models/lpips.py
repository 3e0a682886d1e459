"""LPIPS: learned distance of image patches (Zhang et al. 2018, arXiv:1801.03924), version 0.1.

    f_l(x) = features after a ReLU of layer l, each pixel's vector divided by its length + 1e-10
    d(x, y) = sum_l mean_hw  w_l . (f_l(x) - f_l(y))^2

A metric, and differentiable for a loss. Backbones: AlexNet (5 layers) and VGG16 (5 layers),
ImageNet weights of torchvision.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import image_layers
from syncmv4d_jax.models.nn import layers as dense

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


@dataclasses.dataclass(frozen=True)
class LPIPSConfig:
    """convs: (kernel, stride, padding, channels, max pool before (size, 0 none), a feature?)."""

    convs: tuple[tuple[int, int, int, int, int, bool], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature."""
        return tuple(conv[3] for conv in self.convs if conv[5])

    @property
    def smallest(self) -> int:
        """The smallest image side that leaves every layer a pixel."""
        side = 1
        while not self._fits(side):
            side += 1
        return side

    def _fits(self, side: int) -> bool:
        for kernel, stride, padding, _, pool, _ in self.convs:
            if pool:
                side = (side - pool) // 2 + 1
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                return False
        return True


ALEX = LPIPSConfig(
    ((11, 4, 2, 64, 0, True), (5, 1, 2, 192, 3, True), (3, 1, 1, 384, 3, True),
     (3, 1, 1, 256, 0, True), (3, 1, 1, 256, 0, True))
)  # fmt: skip
VGG = LPIPSConfig(
    tuple(
        (3, 1, 1, width, 2 if stage and not i else 0, i == count - 1)
        for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)])
        for i in range(count)
    )
)


class LPIPS(nnx.Module):
    """Distance of pairs of images."""

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        c_in = 3
        for i, (kernel, stride, padding, width, _, _) in enumerate(config.convs):
            conv = image_layers.Conv(
                c_in, width, kernel=(kernel, kernel), stride=stride,
                padding=((padding, padding),) * 2, rngs=rngs,
            )  # fmt: skip
            setattr(self, f"conv_{i}", conv)
            c_in = width
        for i, width in enumerate(config.widths):
            setattr(self, f"head_{i}", dense.Linear(width, 1, use_bias=False, rngs=rngs))

    def features(self, images: jax.Array) -> list[jax.Array]:
        """Features of images [b h w 3] in -1..1, list of [b h w c]."""
        shift, scale = (np.array(v, np.float32).reshape(1, 1, 1, 3) for v in (SHIFT, SCALE))
        x, found = (images - shift) / scale, []
        for i, (*_, pool, kept) in enumerate(self.config.convs):
            if pool:
                x = image_layers.max_pool(x, (pool, pool), stride=2)
            x = jax.nn.relu(getattr(self, f"conv_{i}")(x))
            if kept:
                found.append(x)
        return found

    def __call__(self, pred: jax.Array, true: jax.Array) -> jax.Array:
        """Distance [b] of images [b h w 3], float32 in -1..1; 0 (to rounding) where identical.

        Raises:
          ValueError: images smaller than `config.smallest`.
        """
        if pred.shape != true.shape or min(pred.shape[1:3]) < self.config.smallest:
            raise ValueError(
                f"LPIPS: wanted two [b h w 3] of at least {self.config.smallest} pixels a side, "
                f"got {pred.shape} and {true.shape}"
            )
        total = jnp.zeros(len(pred), jnp.float32)
        for i, (a, b) in enumerate(zip(self.features(pred), self.features(true), strict=True)):
            square = jnp.square(_unit(a) - _unit(b))
            total += jnp.mean(getattr(self, f"head_{i}")(square), axis=(1, 2, 3))
        return total


def _unit(x: jax.Array) -> jax.Array:
    # Of a vector of zeros the gradient is NaN here, and 0 behind `jax.nn.relu`.
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + 1e-10)
