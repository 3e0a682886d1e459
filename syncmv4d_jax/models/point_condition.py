"""Clouds over time as conditions of a video: a feature of every latent cell, Z_points.

    p   = Linear(LN(blocks(Linear(GELU(Linear(67 features))))))     per frame, Point Transformer V3
    pixel (x, y) -> cell (x + .5) / stride - .5, bilinear weights q of four cells
    z0  = nearest depth of the points with q > .1 in a cell; none: the cell stays zero
    front  = sum w p / sum w,    w = q exp(-max(z - z0, 0) / tau),    tau = .08 u
    behind = sum q p / sum q     over the points with z > z0 + 3 tau
    cell   = [front, behind, log(1 + sum w), log(1 + sum q behind)]
    Z   = Linear(cell of frame 0);   Linear(cells of four frames, joined)

Encoded once in a frame of its own (geometry/point_features.py), splatted into every view, by the
camera of every frame. Points nearer than .2 u, or more than a cell outside, do not count.

The reading `tokens` encodes a frame's cloud into a set of latents (3DShape2VecSet, Zhang et al.
2023: farthest points are queries of one cross-attention over all points, then GEGLU), which has no
grid: the latents are sorted by where their points are seen, into rows by y and columns by x, and
resized to the cells.
"""

import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.geometry import cameras, point_features
from syncmv4d_jax.models.nn import layers, protocol
from syncmv4d_jax.models.points import voxel_hash
from syncmv4d_jax.models.ptv3 import layers as ptv3

Array = jax.Array
READINGS = ("splat", "tokens")
VOXEL, DEPTH, LIMIT = 0.04, 9, 10.0  # units; levels of the curves; where coordinates are clipped
COUNTED = 0.1  # bilinear weight from which a point's depth counts
TAU, NEAR = 0.08, 0.2  # units
BEHIND = 3.0  # tau


@dataclasses.dataclass(frozen=True)
class PointConfig:
    """Sizes.

    Attributes:
      reading: of READINGS.
      width, depth, heads, cpe_channels, patch: of the blocks.
      channels: of a point's feature.
      out_channels: of Z, the latents' channels.
      time, stride: video frames of a latent frame, pixels of a latent cell.
      token_width: of "tokens".  token_grid: rows and columns of its latents.
      dtype: of activations.
    """

    reading: str = "splat"
    width: int = 256
    depth: int = 4
    heads: int = 4
    cpe_channels: int = 64
    patch: int = 256
    channels: int = 64
    out_channels: int = 48
    time: int = 4
    stride: int = 16
    token_width: int = 768
    token_grid: tuple[int, int] = (16, 32)
    dtype: str = "float32"

    def __post_init__(self):
        if self.reading not in READINGS:
            raise ValueError(f"points: wanted a reading of {READINGS}, got {self.reading!r}")
        if self.width % self.heads:
            raise ValueError(f"points: width {self.width} is not {self.heads} heads x an integer")

    @property
    def cells(self) -> int:
        """Channels of a cell before time is folded."""
        return 2 * self.channels + 2


class PointSequenceEncoder(nnx.Module):
    """Features of points, frame by frame."""

    def __init__(self, config: PointConfig, *, rngs: nnx.Rngs):
        w = config.width
        self.config = config
        self.embed_0 = layers.Linear(point_features.FEATURES, w, rngs=rngs)
        self.embed_1 = layers.Linear(w, w, rngs=rngs)
        self.blocks = nnx.vmap(
            lambda r: ptv3.Block(
                w, config.heads, patch=config.patch, channels=config.cpe_channels, rngs=r
            )
        )(rngs.split(config.depth))
        self.norm = layers.LayerNorm(w, eps=ptv3.EPS, rngs=rngs)
        self.out = layers.Linear(w, config.channels, rngs=rngs)

    def __call__(
        self, place: Array, features: Array, valid: Array, *, placement: protocol.Placement
    ) -> Array:
        """place: [g p 3] units; features: [g p 67]; valid: [g p] bool -> [g p channels] float32."""
        place = jnp.clip(place, -LIMIT, LIMIT)
        grid, valid = voxel_hash.quantise(
            place, valid, cell=VOXEL, origin=-LIMIT, cells=int(2 * LIMIT / VOXEL)
        )
        geometry = jax.lax.stop_gradient(ptv3.build(grid, valid, depth=DEPTH))
        x = jax.nn.gelu(self.embed_0(features.astype(self.config.dtype)), approximate=False)
        x = self.embed_1(x)

        def step(x, inputs):
            block, index = inputs
            along = geometry.along(index % geometry.order.shape[0])
            return block(x, along, placement=placement), None

        step = jax.checkpoint(step, prevent_cse=False)
        x, _ = jax.lax.scan(step, x, (self.blocks, jnp.arange(self.config.depth)))
        return self.out(self.norm(x)).astype(jnp.float32) * valid[..., None]


class VecsetEncoder(nnx.Module):
    """A set of latents of a cloud, one for each of its farthest points."""

    def __init__(self, config: PointConfig, *, rngs: nnx.Rngs):
        w = config.token_width
        linear = lambda d_in, d_out, bias=True: layers.Linear(  # noqa: E731
            d_in, d_out, use_bias=bias, rngs=rngs
        )
        self.embed = linear(6 * point_features.OCTAVES + 3, w)
        self.norm_q = layers.LayerNorm(w, eps=ptv3.EPS, rngs=rngs)
        self.norm_k = layers.LayerNorm(w, eps=ptv3.EPS, rngs=rngs)
        self.q, self.kv = linear(w, w, False), linear(w, 2 * w, False)
        self.o = linear(w, w)
        self.norm = layers.LayerNorm(w, eps=ptv3.EPS, rngs=rngs)
        self.gate, self.down = linear(w, 8 * w), linear(4 * w, w)

    def __call__(
        self, place: Array, chosen: Array, valid: Array, *, placement: protocol.Placement
    ) -> Array:
        """place: [g p 3] units; chosen: [g l] of them; valid: [g p] -> [g l width]."""
        x = self.embed(jnp.concatenate([point_features.fourier(place), place], axis=-1))
        x = x.astype(jnp.float32)
        query = jnp.take_along_axis(x, chosen[..., None], axis=1)
        k, v = jnp.split(self.kv(self.norm_k(x)), 2, axis=-1)
        q = self.q(self.norm_q(query))
        one = lambda a: a[:, :, None]  # noqa: E731  # a single head
        seen = valid | ~jnp.any(valid, axis=1, keepdims=True)  # of an empty cloud: masked later
        y = placement.attend(one(q), one(k), one(v), mask=seen[:, None, None], kind="patches")
        query = query + self.o(y[:, :, 0])
        wide, gate = jnp.split(self.gate(self.norm(query)), 2, axis=-1)
        return query + self.down(wide * jax.nn.gelu(gate, approximate=False))


class PointCondition(nnx.Module):
    """Clouds -> Z."""

    def __init__(self, config: PointConfig, *, rngs: nnx.Rngs):
        c = config.out_channels
        self.config = config
        if config.reading == "tokens":
            self.encoder: Any = VecsetEncoder(config, rngs=rngs)
            self.out = layers.Linear(config.token_width, c, rngs=rngs)
            return
        self.encoder = PointSequenceEncoder(config, rngs=rngs)
        self.first = layers.Linear(config.cells, c, rngs=rngs)
        self.fold = layers.Linear(config.time * config.cells, c, rngs=rngs)

    def __call__(
        self,
        points: Array,
        valid: Array,
        told: Array,
        *,
        ids: Array,
        metric: Array,
        intrinsics: Array,
        extrinsics: Array,
        size: tuple[int, int],
        placement: protocol.Placement = protocol.LOCAL,
    ) -> Array:
        """Returns Z [b v f hl wl c] float32.

        Args:
          points: [b n p 3]; valid: [b n p] bool; told: [b n p 13]; ids, metric: [b] bool, all as in
            schema.BATCH. Points that are not finite do not count.
          intrinsics: [b v 3 3] pixels.  extrinsics: [b v 1|n 3 4].
          size: (height, width) of the views.
        """
        finite = jnp.all(jnp.isfinite(points), axis=-1)
        valid, points = valid & finite, jnp.where(finite[..., None], points, 0.0)
        own = point_features.frame(points, valid, extrinsics[:, 0, 0], metric)
        place, features = point_features.features(points, valid, told, ids, own)
        fold = lambda x: einops.rearrange(x, "b n ... -> (b n) ...")  # noqa: E731
        seen = jnp.broadcast_to(points[:, None], (*intrinsics.shape[:2], *points.shape[1:]))
        pixels, depth = cameras.project(seen, intrinsics, extrinsics)
        if self.config.reading == "tokens":
            return self._tokens(fold(place), fold(valid), pixels, size, placement)
        p = self.encoder(fold(place), fold(features), fold(valid), placement=placement)
        p = einops.rearrange(p, "(b n) p s -> b n p s", b=len(points))
        spread = lambda x, like: jnp.broadcast_to(x[:, None], (*like.shape[:2], *x.shape[1:]))  # noqa: E731
        unit = jnp.broadcast_to(own.unit[:, None, None], pixels.shape[:3])
        arrays = spread(p, pixels), pixels, depth, spread(valid, pixels), unit
        grid = size[0] // self.config.stride, size[1] // self.config.stride

        def view(_, frames):
            one = lambda frame: splat(*frame, stride=self.config.stride, grid=grid)  # noqa: E731
            return jax.lax.map(one, frames)

        return self._folded(placement.each(view, None, arrays))

    def nothing(self, b: int, v: int, n: int, grid: tuple[int, int]) -> Array:
        """Z of clouds without a point, [b v f hl wl c] float32, of n video frames."""
        if self.config.reading == "tokens":
            f = (n - 1) // self.config.time + 1
            return jnp.zeros((b, v, f, *grid, self.config.out_channels), jnp.float32)
        return self._folded(jnp.zeros((b, v, n, *grid, self.config.cells), jnp.float32))

    def _folded(self, cells: Array) -> Array:
        """cells: [b v n hl wl c] -> [b v f hl wl c_out]."""
        first = self.first(cells[:, :, :1])
        if cells.shape[2] == 1:
            return first
        later = einops.rearrange(
            cells[:, :, 1:], "b v (f t) h w c -> b v f h w (t c)", t=self.config.time
        )
        return jnp.concatenate([first, self.fold(later)], axis=2)

    def _tokens(self, place, valid, pixels, size, placement):
        """The set's latents in rows and columns, resized, frames of a latent frame averaged."""
        rows, columns = self.config.token_grid
        chosen = jax.vmap(farthest, in_axes=(0, 0, None))(place, valid, rows * columns)
        x = self.out(self.encoder(place, chosen, valid, placement=placement))
        x = jnp.where(jnp.any(valid, axis=1)[:, None, None], x, 0.0)
        b, v, n = pixels.shape[:3]
        grid = size[0] // self.config.stride, size[1] // self.config.stride
        chosen, x = (einops.rearrange(a, "(b n) ... -> b n ...", b=b) for a in (chosen, x))

        def one(pixels, chosen, x):  # [p 2], [l], [l c]
            at = pixels[chosen]
            order = jnp.argsort(at[:, 1]).reshape(rows, columns)
            order = jnp.take_along_axis(order, jnp.argsort(at[order, 0], axis=1), axis=1)
            return jax.image.resize(x[order], (*grid, x.shape[-1]), "bilinear")

        over_frames = jax.vmap(one)
        over_views = jax.vmap(over_frames, in_axes=(0, None, None))
        cells = jax.vmap(over_views)(pixels, chosen, x)
        first = cells[:, :, :1]
        later = einops.reduce(
            cells[:, :, 1:], "b v (f t) h w c -> b v f h w c", "mean", t=self.config.time
        )
        return jnp.concatenate([first, later], axis=2) if n > 1 else first


def splat(
    features: Array,
    pixels: Array,
    depth: Array,
    valid: Array,
    unit: Array,
    *,
    stride: int,
    grid: tuple[int, int],
) -> Array:
    """The cells of one frame of one view; see the module docstring.

    Args:
      features: [p s]. pixels: [p 2], (x, y). depth: [p]. valid: [p] bool. unit: [].
      stride: pixels of a cell. grid: (hl, wl).

    Returns:
      [hl wl 2s+2] float32.
    """
    (h, w), tau = grid, TAU * unit
    at = (pixels + 0.5) / stride - 0.5
    limit = jnp.asarray([w, h], jnp.float32)[None]
    inside = jnp.all((at > -1.5) & (at < limit + 0.5), axis=-1)
    valid = valid & inside & (depth > NEAR * unit)
    at = jnp.where(valid[:, None], at, 0.0)
    low = jnp.floor(at)
    part = at - low
    places, weights = [], []
    for y in (0, 1):
        for x in (0, 1):
            column, row = (low[:, i] + step for i, step in ((0, x), (1, y)))
            there = valid & (column >= 0) & (column < w) & (row >= 0) & (row < h)
            places.append(jnp.where(there, row * w + column, h * w).astype(jnp.int32))
            q = (part[:, 0] if x else 1 - part[:, 0]) * (part[:, 1] if y else 1 - part[:, 1])
            weights.append(jnp.where(there, q, 0.0))
    index, q = jnp.concatenate(places), jnp.concatenate(weights)
    z = jnp.where(index < h * w, jnp.tile(depth, 4), 0.0)
    counted = jnp.where(q > COUNTED, z, jnp.inf)
    nearest = jnp.full(h * w + 1, jnp.inf).at[index].min(counted)
    nearest = nearest.at[h * w].set(jnp.inf)
    known = jnp.isfinite(nearest)
    z0 = jnp.where(known, nearest, 0.0)[index]
    q = jnp.where(known[index], q, 0.0)
    front = q * jnp.exp(-jnp.maximum(z - z0, 0.0) / tau)
    behind = jnp.where(z > z0 + BEHIND * tau, q, 0.0)
    tiled, layer = jnp.tile(features, (4, 1)), []
    for share in (front, behind):
        total = jnp.zeros(h * w + 1).at[index].add(share)[:-1]
        mean = jnp.zeros((h * w + 1, features.shape[1])).at[index].add(share[:, None] * tiled)
        layer.append((mean[:-1] / jnp.maximum(total, 1e-6)[:, None], jnp.log1p(total)[:, None]))
    cells = jnp.concatenate([layer[0][0], layer[1][0], layer[0][1], layer[1][1]], axis=-1)
    return einops.rearrange(cells, "(h w) c -> h w c", h=h)


def farthest(points: Array, valid: Array, count: int) -> Array:
    """Indices [count] of points [p 3] far from each other, the first valid one first.

    With fewer valid points than `count` some come again.
    """

    def step(distance, _):
        index = jnp.argmax(distance).astype(jnp.int32)
        gap = jnp.sum(jnp.square(points - points[index][None]), axis=-1)
        return jnp.minimum(distance, jnp.where(valid, gap, -1.0)), index

    start = jnp.where(valid, jnp.inf, -1.0)
    return jax.lax.scan(step, start, length=count)[1]
