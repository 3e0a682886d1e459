"""Point Transformer V3 (Wu et al., CVPR 2024) on static shapes: the block; unet.py has the network.

    x = x + LN(Linear(SubMConv(x)))     positional encoding by convolution over voxels (xCPE)
    x = x + Attention(LN(x))            in patches of points sorted along a space-filling curve
    x = x + MLP(LN(x))

Clouds are groups: features [g p d] with a mask of valid points. Everything that depends on
coordinates (voxels, neighbour table, orders) is a `Geometry`, built once and shared by all
blocks. Points that share a voxel are averaged for the convolution; with one point a voxel this is
the published block.

NOTE(parity): reference github.com/Pointcept/PointTransformerV3 @3229e9b, model.py.
- A cloud's last patch is completed there with points of the patch before, as keys too (`borrow`);
  the aligner masks instead, which keeps the orders bijections.
- Orders are not shuffled (the reference draws a random permutation at every pooling, at test time
  too).
- After unpooling the reference's first decoder block convolves the skip branch alone, because its
  copy of the features is stale (issues #65, #149); `stale_skip` does so, as released weights want.
- BatchNorm is an affine map by given statistics (`mean`, `var` are parameters): for inference.
- The curves' depth is fixed here; there it follows the largest coordinate.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers, protocol
from syncmv4d_jax.models.points import serialization, sparse_conv, voxel_hash

EPS = 1e-5


class Geometry(NamedTuple):
    """What coordinates tell the blocks.

    voxels: which points share a voxel, leading axis g.  table: [g p 27] neighbours of voxels.
    order, inverse: [o g p] int32, valid points first.  valid: [g p] bool.
    """

    voxels: voxel_hash.Voxels
    table: jax.Array
    order: jax.Array
    inverse: jax.Array
    valid: jax.Array

    def along(self, index: jax.Array | int) -> "Geometry":
        """Returns the same geometry with one order, order and inverse [g p]."""
        return self._replace(order=self.order[index], inverse=self.inverse[index])


def build(
    grid: jax.Array,
    valid: jax.Array,
    *,
    depth: int,
    orders: tuple[str, ...] = serialization.ORDERS,
    method: str = "sort",
) -> Geometry:
    """Builds the geometry of clouds whose voxels and curves use the same cells.

    Args:
      grid: [g p 3] int32 cells in [0, min(2**depth, voxel_hash.CELLS)).
      valid: [g p] bool.
      depth: levels of the curves.
      orders: curves, see models/points/serialization.py.
      method: of the neighbour table, see voxel_hash.neighbours.
    """
    voxels = jax.vmap(voxel_hash.voxelise)(grid, valid)
    table = jax.vmap(lambda keys: voxel_hash.neighbours(keys, method=method))(voxels.keys)
    pairs = [serialization.permutation(grid, valid, depth=depth, order=name) for name in orders]
    order, inverse = (jnp.stack(x) for x in zip(*pairs, strict=True))
    return Geometry(voxels, table, order, inverse, valid)


class SubMConv(nnx.Module):
    """Submanifold convolution over voxels: kernel [taps c_in c_out], offsets in C order."""

    def __init__(
        self, c_in: int, c_out: int, *, width: int = 3, use_bias: bool = True, rngs: nnx.Rngs
    ):
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=(0, 1))
        self.kernel = nnx.Param(init(rngs.params(), (width**3, c_in, c_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((c_out,), jnp.float32)) if use_bias else None

    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        """x: [g p c_in], table: [g p taps] -> [g p c_out]."""
        bias = None if self.bias is None else self.bias[...]
        return sparse_conv.subm_conv(x, table, self.kernel[...], bias)


class CPE(nnx.Module):
    """Conditional positional encoding: voxel means, convolution (at `channels`, if given),
    Linear, LN.
    """

    def __init__(self, d: int, *, channels: int | None = None, rngs: nnx.Rngs):
        c = d if channels is None else channels
        self.reduce = None if channels is None else layers.Linear(d, c, rngs=rngs)
        self.conv = SubMConv(c, c, rngs=rngs)
        self.linear = layers.Linear(c, d, rngs=rngs)
        self.norm = layers.LayerNorm(d, eps=EPS, rngs=rngs)

    def __call__(self, x: jax.Array, geometry: Geometry) -> jax.Array:
        """x: [g p d] -> [g p d], to be added to x."""
        x = x if self.reduce is None else self.reduce(x)
        x = self.conv(sparse_conv.pool_mean(x, geometry.voxels), geometry.table)
        return self.norm(self.linear(sparse_conv.spread(x, geometry.voxels)))


def to_patches(x: jax.Array, geometry: Geometry, *, patch: int, borrow: bool = False) -> jax.Array:
    """Sorts points along the curve and cuts them into patches.

    Args:
      x: [g p d].  geometry: of one order (`Geometry.along`).
      patch: points a patch; one patch of p if p is smaller.
      borrow: complete a cloud's last patch with the points one patch earlier; else with zeros.

    Returns:
      [(g m) s d].
    """
    x = sparse_conv.permute(x, geometry.order, geometry.inverse)
    size = min(patch, x.shape[1])
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0)))
    if borrow:
        own, padded = (m[..., None] for m in _places(geometry.valid, x.shape[1], size))
        x = jnp.where(own, x, jnp.where(padded, jnp.roll(x, size, axis=1), 0))
    return einops.rearrange(x, "g (m s) d -> (g m) s d", s=size)


def patch_mask(
    mask: jax.Array, geometry: Geometry, *, patch: int, borrow: bool = False
) -> jax.Array:
    """Returns which keys of each patch count: mask [g p] bool -> [(g m) s] bool."""
    mask = jnp.take_along_axis(mask & geometry.valid, geometry.order, axis=1)
    size = min(patch, mask.shape[1])
    mask = jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % size)))
    if borrow:
        own, padded = _places(geometry.valid, mask.shape[1], size)
        mask = jnp.where(own, mask, padded & jnp.roll(mask, size, axis=1))
    return einops.rearrange(mask, "g (m s) -> (g m) s", s=size)


def from_patches(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Inverse of `to_patches`: [(g m) s d] -> [g p d]; borrowed copies are dropped."""
    groups, points = geometry.valid.shape
    x = einops.rearrange(x, "(g m) s d -> g (m s) d", g=groups)[:, :points]
    return sparse_conv.permute(x, geometry.inverse, geometry.order)


def _places(valid, rows, size):
    """Which of `rows` sorted places [g rows] hold own points, which belong to a filled patch."""
    count = jnp.sum(valid, axis=1, keepdims=True)
    place = jnp.arange(rows)[None]
    end = jnp.where(count > size, -(-count // size) * size, count)
    return place < count, place < end


class PatchAttention(nnx.Module):
    """Multi-head attention within patches."""

    def __init__(self, d: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = layers.Linear(d, 3 * d, rngs=rngs)
        self.proj = layers.Linear(d, d, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        geometry: Geometry,
        *,
        patch: int,
        borrow: bool = False,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """x: [g p d], geometry of one order -> [g p d]."""
        qkv = to_patches(self.qkv(x), geometry, patch=patch, borrow=borrow)
        q, k, v = einops.rearrange(qkv, "m s (three h d) -> three m s h d", three=3, h=self.heads)
        mask = patch_mask(geometry.valid, geometry, patch=patch, borrow=borrow)
        # Valid points are sorted first, so of every patch the first ones count.
        x = placement.attend(q, k, v, lengths=jnp.sum(mask, axis=1), kind="patches")
        return self.proj(from_patches(einops.rearrange(x, "m s h d -> m s (h d)"), geometry))


class MLP(nnx.Module):
    """fc2(GELU(fc1(x))), GELU by the error function."""

    def __init__(self, d: int, *, ratio: int = 4, rngs: nnx.Rngs):
        self.fc1 = layers.Linear(d, ratio * d, rngs=rngs)
        self.fc2 = layers.Linear(ratio * d, d, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d] -> [... d]."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """The published block, pre-norm."""

    def __init__(
        self,
        d: int,
        heads: int,
        *,
        patch: int = 1024,
        ratio: int = 4,
        channels: int | None = None,
        borrow: bool = False,
        rngs: nnx.Rngs,
    ):
        self.patch, self.borrow = patch, borrow
        self.cpe = CPE(d, channels=channels, rngs=rngs)
        self.norm1 = layers.LayerNorm(d, eps=EPS, rngs=rngs)
        self.attn = PatchAttention(d, heads, rngs=rngs)
        self.norm2 = layers.LayerNorm(d, eps=EPS, rngs=rngs)
        self.mlp = MLP(d, ratio=ratio, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        geometry: Geometry,
        *,
        convolved: jax.Array | None = None,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """x: [g p d], geometry of one order -> [g p d]; `convolved` replaces x in the
        convolution.
        """
        x = x + self.cpe(x if convolved is None else convolved, geometry)
        x = x + self.attn(
            self.norm1(x), geometry, patch=self.patch, borrow=self.borrow, placement=placement
        )
        return x + self.mlp(self.norm2(x))
