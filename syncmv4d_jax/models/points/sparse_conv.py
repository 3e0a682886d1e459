"""Submanifold sparse convolution and means over voxels; backward passes gather, never scatter.

    out[a] = bias + sum_j features[table[a, j]] @ weight[j]          (Graham & van der Maaten, 2017)

NOTE(parity): a submanifold table is symmetric, table[a, j] = b exactly when table[b, J-1-j] = a.
Hence

    d/d features [b] = sum_j g[table[b, j]] @ weight[J-1-j]^T        the same convolution, mirrored
    d/d weight  [j]  = sum_b features[b]^T g[table[b, J-1-j]]

Both loop over offsets with one gathered copy of the features alive, instead of J. Autodiff would
emit a scatter-add of J copies, slow on GPUs and the larger part of the memory. The symmetry needs
unique voxels (`voxel_hash` makes them).

All functions take leading group axes: [... p c] with tables and indices of the same leading axes.
"""

import functools

import einops
import jax
import jax.numpy as jnp
import jraph
from jax import lax

from syncmv4d_jax.models.points import voxel_hash

CHUNK = 16384  # rows at once in larger clouds: their sums then stay in a processor's cache


def subm_conv(
    features: jax.Array, table: jax.Array, weight: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Convolves voxel features with the neighbours that exist.

    Args:
      features: [... p c].
      table: [... p j] int32 rows in 0..p, p = no neighbour; symmetric (voxel_hash.neighbours).
      weight: [j c d], offsets in C order of (dx, dy, dz); cross-correlation, no flip.
      bias: [d] or None; added to every row, empty ones too.

    Returns:
      [... p d], in the dtype of features; sums are float32.

    Raises:
      ValueError: shapes that do not fit.
    """
    taps = weight.shape[0]
    if table.shape != (*features.shape[:-1], taps) or weight.shape[1] != features.shape[-1]:
        raise ValueError(
            f"wanted features [... p c], table [... p j], weight [j c d]; "
            f"got {features.shape}, {table.shape}, {weight.shape}"
        )
    groups, (rows, width) = features.shape[:-2], features.shape[-2:]
    out = _conv(features.reshape(-1, rows, width), table.reshape(-1, rows, taps), weight)
    out = out.reshape(*groups, rows, -1)
    if bias is None:
        return out
    return out + lax.broadcast_in_dim(bias, out.shape, (out.ndim - 1,)).astype(out.dtype)


def take(x: jax.Array, index: jax.Array) -> jax.Array:
    """Returns x[index] per group: x [g p c], index [g q] in 0..p-1 -> [g q c]."""
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(x, index)


def _pad(x):
    return jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=1)


def _chunks(x, fill):
    """Cuts [g p ...] into [m g CHUNK ...]; `fill` completes the last chunk."""
    size = min(CHUNK, x.shape[1])
    pad = ((0, 0), (0, -x.shape[1] % size)) + ((0, 0),) * (x.ndim - 2)
    x = jnp.pad(x, pad, constant_values=fill)
    return einops.rearrange(x, "g (m p) ... -> m g p ...", p=size)


def _joined(x, rows):
    return einops.rearrange(x, "m g p ... -> g (m p) ...")[:, :rows]


def _correlate(x, table, weight):
    rows, x = x.shape[1], _pad(x)
    weight = weight.astype(x.dtype)

    def chunk(table):
        def step(total, tap):
            index, kernel = tap
            part = jnp.einsum(
                "g p c, c d -> g p d", take(x, index), kernel, preferred_element_type=jnp.float32
            )
            return total + part, None

        start = jnp.zeros((*table.shape[:2], weight.shape[-1]), jnp.float32)
        total, _ = lax.scan(step, start, (jnp.moveaxis(table, -1, 0), weight))
        return total.astype(x.dtype)

    if rows <= CHUNK:
        return chunk(table)
    return _joined(lax.map(chunk, _chunks(table, rows)), rows)


@jax.custom_vjp
def _conv(x, table, weight):
    return _correlate(x, table, weight)


def _conv_fwd(x, table, weight):
    return _correlate(x, table, weight), (x, table, weight)


def _conv_bwd(saved, g):
    """Gathers g once an offset, for both: d weight[J-1-j] = sum_b x[b]^T g[table[b, j]]."""
    x, table, weight = saved
    rows, padded = x.shape[1], _pad(g)
    mirrored = jnp.swapaxes(weight[::-1], 1, 2).astype(g.dtype)

    def chunk(inputs):
        x, table = inputs

        def step(total, tap):
            index, kernel = tap
            g_near = take(padded, index)
            part = jnp.einsum(
                "g p d, d c -> g p c", g_near, kernel, preferred_element_type=jnp.float32
            )
            d_kernel = jnp.einsum(
                "g p c, g p d -> c d", x, g_near, preferred_element_type=jnp.float32
            )
            return total + part, d_kernel

        start = jnp.zeros(x.shape, jnp.float32)
        d_x, d_weight = lax.scan(step, start, (jnp.moveaxis(table, -1, 0), mirrored))
        return d_x.astype(x.dtype), d_weight

    if rows <= CHUNK:
        d_x, d_weight = chunk((x, table))
    else:

        def add(total, inputs):
            d_x, d_weight = chunk(inputs)
            return total + d_weight, d_x

        d_weight, d_x = lax.scan(
            add, jnp.zeros(weight.shape, jnp.float32), (_chunks(x, 0), _chunks(table, rows))
        )
        d_x = _joined(d_x, rows)
    return d_x, None, d_weight[::-1].astype(weight.dtype)


_conv.defvjp(_conv_fwd, _conv_bwd)


@jax.custom_vjp
def permute(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns x[order] per group, with a backward pass that gathers by `inverse`.

    Args:
      x: [g p d].  order, inverse: [g p] int32, bijections, order[inverse] = 0..p-1.
    """
    return take(x, order)


permute.defvjp(
    lambda x, order, inverse: (take(x, order), (order, inverse)),
    lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)


@jax.custom_vjp
def pool_mean(x: jax.Array, voxels: voxel_hash.Voxels) -> jax.Array:
    """Averages the points of each voxel.

    Args:
      x: [g p d] features of points.  voxels: fields with leading axis g.

    Returns:
      [g p d] features of voxels; zeros in empty rows.
    """
    return _sum(x, voxels) * _weights(voxels, x.dtype)


def _pool_bwd(voxels, g):
    return spread(g * _weights(voxels, g.dtype), voxels), None


pool_mean.defvjp(lambda x, voxels: (pool_mean(x, voxels), voxels), _pool_bwd)


@jax.custom_vjp
def spread(x: jax.Array, voxels: voxel_hash.Voxels) -> jax.Array:
    """Gives each point the feature of its voxel: [g p d] voxels -> [g p d] points, zeros where
    not valid.
    """
    return take(_pad(x), voxels.row)


spread.defvjp(
    lambda x, voxels: (spread(x, voxels), voxels), lambda voxels, g: (_sum(g, voxels), None)
)


def pool_max(x: jax.Array, voxels: voxel_hash.Voxels) -> jax.Array:
    """Takes the maximum over the points of each voxel: [g p d] -> [g p d], zeros in empty rows."""
    ordered = permute(x, voxels.order, voxels.inverse)
    size = x.shape[1]

    def one(values, rows):
        return jraph.segment_max_or_constant(
            values, rows, size, indices_are_sorted=True, constant=0.0
        )

    return jax.vmap(one)(ordered, voxels.sorted_row)


def _weights(voxels, dtype):
    return (1.0 / jnp.maximum(voxels.counts, 1))[..., None].astype(dtype)


def _sum(x, voxels):
    """Sums each voxel's points in float32: a sorted segment sum, on GPUs a segmented scan."""
    ordered = take(x, voxels.order).astype(jnp.float32)
    total = lax.platform_dependent(
        ordered, voxels.sorted_row, voxels.end, voxels.counts, cuda=_sum_scan, default=_sum_jraph
    )
    return total.astype(x.dtype)


def _sum_jraph(x, rows, end, counts):
    one = functools.partial(jraph.segment_sum, num_segments=x.shape[1], indices_are_sorted=True)
    return jax.vmap(one)(x, rows)


def _sum_scan(x, rows, end, counts):
    """Segmented inclusive scan, read at each segment's end: no atomics (float scatter-adds
    crawl on GPUs).
    """
    first = jnp.concatenate([jnp.ones_like(rows[:, :1], bool), rows[:, 1:] != rows[:, :-1]], axis=1)

    def combine(a, b):
        return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]

    flags = jnp.broadcast_to(first[..., None], x.shape)
    total, _ = lax.associative_scan(combine, (x, flags), axis=1)
    return jnp.where((counts > 0)[..., None], take(total, end), 0.0)
