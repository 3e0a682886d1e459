"""Inception-v3 as FID takes it: 2048 features of the weights of 2015 (TensorFlow 1).

Szegedy et al. 2015 (arXiv:1512.00567), Heusel et al. 2017 (arXiv:1706.08500). It departs from the
later networks of that name: means beside a border count true pixels only, the last block takes a
maximum where the others take a mean, images are resized by TensorFlow 1's rule and scaled as
(x - 128) / 128. Source: torch-fidelity, feature_extractor_inceptionv3.py.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import image_layers as layers

SIDE = 299


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """No choices: the network is what its weights are."""


# A branch: ((name, channels, kernel, stride), ...); stride 2 goes without padding.
_ONE = (1, 1)
_S, _R, _C = (3, 3), (1, 7), (7, 1)


def _block_a(pool: int) -> dict:
    return {
        "branch1x1": (("branch1x1", 64, _ONE, 1),),
        "branch5x5": (("branch5x5_1", 48, _ONE, 1), ("branch5x5_2", 64, (5, 5), 1)),
        "branch3x3dbl": (
            ("branch3x3dbl_1", 64, _ONE, 1), ("branch3x3dbl_2", 96, _S, 1),
            ("branch3x3dbl_3", 96, _S, 1),
        ),
        "mean": (("branch_pool", pool, _ONE, 1),),
    }  # fmt: skip


def _block_c(c: int) -> dict:
    return {
        "branch1x1": (("branch1x1", 192, _ONE, 1),),
        "branch7x7": (
            ("branch7x7_1", c, _ONE, 1), ("branch7x7_2", c, _R, 1), ("branch7x7_3", 192, _C, 1),
        ),
        "branch7x7dbl": (
            ("branch7x7dbl_1", c, _ONE, 1), ("branch7x7dbl_2", c, _C, 1),
            ("branch7x7dbl_3", c, _R, 1), ("branch7x7dbl_4", c, _C, 1),
            ("branch7x7dbl_5", 192, _R, 1),
        ),
        "mean": (("branch_pool", 192, _ONE, 1),),
    }  # fmt: skip


STEM = (
    ("Conv2d_1a_3x3", 32, _S, 2, "VALID"), ("Conv2d_2a_3x3", 32, _S, 1, "VALID"),
    ("Conv2d_2b_3x3", 64, _S, 1, None), ("pool", 0, _S, 2, None),
    ("Conv2d_3b_1x1", 80, _ONE, 1, None), ("Conv2d_4a_3x3", 192, _S, 1, "VALID"),
    ("pool", 0, _S, 2, None),
)  # fmt: skip
BLOCKS = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": {
        "branch3x3": (("branch3x3", 384, _S, 2),),
        "branch3x3dbl": (
            ("branch3x3dbl_1", 64, _ONE, 1), ("branch3x3dbl_2", 96, _S, 1),
            ("branch3x3dbl_3", 96, _S, 2),
        ),
        "halve": (),
    },
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": {
        "branch3x3": (("branch3x3_1", 192, _ONE, 1), ("branch3x3_2", 320, _S, 2)),
        "branch7x7x3": (
            ("branch7x7x3_1", 192, _ONE, 1), ("branch7x7x3_2", 192, _R, 1),
            ("branch7x7x3_3", 192, _C, 1), ("branch7x7x3_4", 192, _S, 2),
        ),
        "halve": (),
    },
}  # fmt: skip


class ConvNorm(nnx.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, kernel, stride=1, padding=None, rngs: nnx.Rngs):
        self.conv = layers.Conv(
            c_in, c_out, kernel=kernel, stride=stride, padding=padding, use_bias=False, rngs=rngs
        )
        self.bn = layers.BatchNorm(c_out, eps=1e-3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b ... c_in] -> [b ... c_out]."""
        return jax.nn.relu(self.bn(self.conv(x)))


class Mixed(nnx.Module):
    """Branches side by side, of BLOCKS; "mean" and "halve" begin with a pool."""

    def __init__(self, c_in: int, branches: dict, *, rngs: nnx.Rngs):
        self.order = tuple(
            (name, tuple(step[0] for step in steps)) for name, steps in branches.items()
        )
        self.width = 0
        for steps in branches.values():
            c = c_in
            for name, width, kernel, stride in steps:
                conv = ConvNorm(
                    c, width, kernel=kernel, stride=stride,
                    padding="VALID" if stride > 1 else None, rngs=rngs,
                )  # fmt: skip
                setattr(self, name, conv)
                c = width
            self.width += c  # a pool that halves passes its input's channels on

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w c] -> [b h w width]."""
        found = []
        for branch, names in self.order:
            y = x
            if branch == "mean":
                y = layers.mean_pool(y, (3, 3), stride=1, padding=layers.same((3, 3)))
            elif branch == "halve":
                y = layers.max_pool(y, (3, 3), stride=2)
            for name in names:
                y = getattr(self, name)(y)
            found.append(y)
        return jnp.concatenate(found, axis=-1)


class MixedLast(nnx.Module):
    """Mixed_7b and 7c: branches that fork into 1 x 3 and 3 x 1."""

    def __init__(self, c_in: int, *, pool: str, rngs: nnx.Rngs):
        def conv(c, width, kernel=_ONE):
            return ConvNorm(c, width, kernel=kernel, rngs=rngs)

        self.pool = pool
        self.branch1x1 = conv(c_in, 320)
        self.branch3x3_1 = conv(c_in, 384)
        self.branch3x3_2a = conv(384, 384, (1, 3))
        self.branch3x3_2b = conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = conv(c_in, 448)
        self.branch3x3dbl_2 = conv(448, 384, _S)
        self.branch3x3dbl_3a = conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = conv(384, 384, (3, 1))
        self.branch_pool = conv(c_in, 192)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w c] -> [b h w 2048]."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = layers.mean_pool if self.pool == "mean" else layers.max_pool
        pooled = pool(x, (3, 3), stride=1, padding=layers.same((3, 3)))
        parts = [
            self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled),
        ]  # fmt: skip
        return jnp.concatenate(parts, axis=-1)


class Inception(nnx.Module):
    """Images to FID's features."""

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        del config
        c = 3
        for name, width, kernel, stride, padding in STEM:
            if name != "pool":
                conv = ConvNorm(c, width, kernel=kernel, stride=stride, padding=padding, rngs=rngs)
                setattr(self, name, conv)
                c = width
        for name, branches in BLOCKS.items():
            block = Mixed(c, branches, rngs=rngs)
            setattr(self, name, block)
            c = block.width
        self.Mixed_7b = MixedLast(c, pool="mean", rngs=rngs)
        self.Mixed_7c = MixedLast(2048, pool="max", rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Features of images [b h w 3], 0..255, any size -> [b 2048] float32."""
        x = layers.resize(images, (SIDE, SIDE), half_pixel=False)
        x = (x - 128) / 128
        for name, *_ in STEM:
            if name == "pool":
                x = layers.max_pool(x, (3, 3), stride=2)
            else:
                x = getattr(self, name)(x)
        for name in BLOCKS:
            x = getattr(self, name)(x)
        return jnp.mean(self.Mixed_7c(self.Mixed_7b(x)), axis=(1, 2))
