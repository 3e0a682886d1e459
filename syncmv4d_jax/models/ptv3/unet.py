"""The U-Net of Point Transformer V3, for published weights (Pointcept point_transformer_v3m1)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers, protocol
from syncmv4d_jax.models.points import serialization, sparse_conv, voxel_hash
from syncmv4d_jax.models.ptv3 import layers as ptv3_layers

ORDERS = serialization.ORDERS  # as released: block i of a stage goes along order i modulo four


class BatchNorm(nnx.Module):
    """Normalisation by stored statistics (inference); eps 1e-3."""

    def __init__(self, d: int, *, rngs: nnx.Rngs):
        del rngs
        self.scale, self.bias = nnx.Param(jnp.ones(d)), nnx.Param(jnp.zeros(d))
        self.mean, self.var = nnx.Param(jnp.zeros(d)), nnx.Param(jnp.ones(d))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d] -> [... d]."""
        gain = self.scale[...] * jax.lax.rsqrt(self.var[...] + 1e-3)
        shift = self.bias[...] - self.mean[...] * gain
        y = x.astype(jnp.float32) * layers.along_last(gain, x) + layers.along_last(shift, x)
        return y.astype(x.dtype)


class Projection(nnx.Module):
    """GELU(BatchNorm(Linear(x))) of the U-Net's joints."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs):
        self.proj = layers.Linear(d_in, d_out, rngs=rngs)
        self.norm = BatchNorm(d_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d_in] -> [... d_out]."""
        return jax.nn.gelu(self.norm(self.proj(x)), approximate=False)


class Embedding(nnx.Module):
    """The stem: 5-wide convolution, BatchNorm, GELU."""

    def __init__(self, c_in: int, d: int, *, rngs: nnx.Rngs):
        self.conv = ptv3_layers.SubMConv(c_in, d, width=5, use_bias=False, rngs=rngs)
        self.norm = BatchNorm(d, rngs=rngs)

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """x: [g p c_in], table: [g p 125] -> [g p d]."""
        return jax.nn.gelu(self.norm(self.conv(x, table)), approximate=False)


class Stage(nnx.Module):
    """Blocks of one level, block i along order i modulo the number of orders; perhaps a joint
    before them.
    """

    def __init__(
        self, d: int, heads: int, depth: int, patch: int, config: "PTv3Config", *, rngs: nnx.Rngs
    ):
        self.depth = depth
        for i in range(depth):
            block = ptv3_layers.Block(
                d,
                heads,
                patch=patch,
                ratio=config.mlp_ratio,
                borrow=config.borrow,
                rngs=rngs,
            )
            setattr(self, f"block{i}", block)

    def __call__(
        self, x: jax.Array, geometry: ptv3_layers.Geometry, *, convolved=None, placement
    ) -> jax.Array:
        """x: [g p d] -> [g p d]."""
        for i in range(self.depth):
            along = geometry.along(i % geometry.order.shape[0])
            block = getattr(self, f"block{i}")
            x = block(x, along, convolved=convolved if i == 0 else None, placement=placement)
        return x


@dataclasses.dataclass(frozen=True)
class PTv3Config:
    """The published default, 46.158 M parameters.

    patches: points of a patch in each stage, encoder and decoder alike.
    depth: levels of the finest grid.
    """

    in_channels: int = 4
    enc_depths: tuple[int, ...] = (2, 2, 2, 6, 2)
    enc_channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    enc_heads: tuple[int, ...] = (2, 4, 8, 16, 32)
    dec_depths: tuple[int, ...] = (2, 2, 2, 2)
    dec_channels: tuple[int, ...] = (64, 64, 128, 256)
    dec_heads: tuple[int, ...] = (4, 4, 8, 16)
    patches: tuple[int, ...] = (1024, 1024, 1024, 1024, 1024)
    mlp_ratio: int = 4
    depth: int = 10
    borrow: bool = True
    stale_skip: bool = True


class PTv3(nnx.Module):
    """The U-Net; every pooling halves the grid. Static capacity: every level has p rows."""

    def __init__(self, config: PTv3Config, *, rngs: nnx.Rngs):
        if len(config.patches) != len(config.enc_depths):
            raise ValueError(
                f"ptv3: wanted a patch size for each of {len(config.enc_depths)} stages, "
                f"got {config.patches}"
            )
        self.config = config
        width = config.enc_channels
        self.embedding = Embedding(config.in_channels, width[0], rngs=rngs)
        for s, (d, heads, depth) in enumerate(
            zip(width, config.enc_heads, config.enc_depths, strict=True)
        ):
            stage = Stage(d, heads, depth, config.patches[s], config, rngs=rngs)
            setattr(self, f"enc{s}", stage)
            if s:
                setattr(self, f"down{s}", Pooling(width[s - 1], d, rngs=rngs))
        above = (*config.dec_channels[1:], width[-1])
        for s, d in enumerate(config.dec_channels):
            setattr(self, f"up{s}", Projection(above[s], d, rngs=rngs))
            setattr(self, f"skip{s}", Projection(width[s], d, rngs=rngs))
            heads, depth = config.dec_heads[s], config.dec_depths[s]
            stage = Stage(d, heads, depth, config.patches[s], config, rngs=rngs)
            setattr(self, f"dec{s}", stage)

    def __call__(
        self,
        x: jax.Array,
        grid: jax.Array,
        valid: jax.Array,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """Runs the network.

        Args:
          x: [g p c] features.
          grid: [g p 3] int32 cells, one point a cell, in [0, min(2**depth, voxel_hash.CELLS)).
          valid: [g p] bool.

        Returns:
          [g p d] with d = dec_channels[0]; zeros where not valid.
        """
        config, levels = self.config, len(self.config.enc_depths)
        geometries = [ptv3_layers.build(grid, valid, depth=config.depth)]
        fine = geometries[0].voxels
        table = jax.vmap(lambda keys: voxel_hash.neighbours(keys, kernel=5))(fine.keys)
        x = self.embedding(sparse_conv.pool_mean(x, fine), table)
        x = sparse_conv.spread(x, fine)
        skips, pools = [], []
        for s in range(levels):
            if s:
                skips.append(x)
                pools.append(jax.vmap(voxel_hash.voxelise)(grid >> 1, geometries[-1].valid))
                keys = pools[-1].keys
                grid = voxel_hash.unpack(keys)
                geometries.append(
                    ptv3_layers.build(grid, keys != voxel_hash.EMPTY, depth=config.depth - s)
                )
                x = getattr(self, f"down{s}")(x, pools[-1])
            x = getattr(self, f"enc{s}")(x, geometries[s], placement=placement)
        for s in reversed(range(levels - 1)):
            skip = getattr(self, f"skip{s}")(skips[s])
            x = skip + sparse_conv.spread(getattr(self, f"up{s}")(x), pools[s])
            stale = skip if config.stale_skip else None
            stage = getattr(self, f"dec{s}")
            x = stage(x, geometries[s], convolved=stale, placement=placement)
        return jnp.where(valid[..., None], x, 0)


class Pooling(nnx.Module):
    """GELU(BatchNorm(max over the voxel of Linear(x)))."""

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs):
        self.proj = layers.Linear(d_in, d_out, rngs=rngs)
        self.norm = BatchNorm(d_out, rngs=rngs)

    def __call__(self, x: jax.Array, voxels: voxel_hash.Voxels) -> jax.Array:
        """x: [g p d_in] of the finer level -> [g p d_out] of the coarser."""
        x = sparse_conv.pool_max(self.proj(x), voxels)
        return jax.nn.gelu(self.norm(x), approximate=False)
