"""Neighbours of a point cloud as jraph GraphsTuples of static size, and what they tell of motion.

Nodes are the p points and one padding node (row p). Edges run from neighbour (sender) to centre
(receiver), `max_neighbours` of them a point; an edge that does not exist joins the padding node to
itself, and `edge_mask` tells. The tuple is one graph of p + 1 nodes and p k edges.

    stretch of point i in frame n = mean_j | |x_i(n) - x_j(n)| - |x_i(0) - x_j(0)| |,  j near i at 0
"""

import functools

import einops
import jax
import jax.numpy as jnp
import jraph
from jax import lax

_BLOCK = 512  # centres a chunk: bounds the distance matrix to block x p


def radius_graph(
    points: jax.Array, valid: jax.Array, *, radius: float, max_neighbours: int
) -> jraph.GraphsTuple:
    """Joins every valid point to the valid points within `radius` (itself included), the nearest
    `max_neighbours` of them.

    Args:
      points: [p 3] float.
      valid: [p] bool; a point that is not finite does not count either.
      radius: in the unit of points.
      max_neighbours: at most p.

    Returns:
      GraphsTuple with nodes {"position" [p+1 3], "valid" [p+1]} and edges {"offset" [e 3],
      "distance" [e]}, e = p max_neighbours.

    Raises:
      ValueError: shapes that do not fit, or more neighbours than points.
    """
    if points.ndim != 2 or points.shape[1] != 3 or valid.shape != points.shape[:1]:
        raise ValueError(f"wanted points [p 3] and valid [p], got {points.shape} and {valid.shape}")
    size = points.shape[0]
    if not 1 <= max_neighbours <= size:
        raise ValueError(
            f"neighbours: wanted 1..{size} (the number of points), got {max_neighbours}"
        )
    valid = valid & jnp.all(jnp.isfinite(points), axis=-1)
    points = jnp.where(valid[:, None], points, 0.0)

    def nearest(centre):
        offset = centre[:, None, :] - points[None, :, :]
        square = jnp.where(valid[None, :], jnp.sum(offset**2, axis=-1), jnp.inf)
        negative, index = lax.top_k(-square, max_neighbours)
        return index, -negative

    padded = jnp.pad(points, ((0, -size % _BLOCK), (0, 0)))
    index, square = lax.map(nearest, einops.rearrange(padded, "(c p) x -> c p x", p=_BLOCK))
    index, square = (einops.rearrange(x, "c p k -> (c p) k")[:size] for x in (index, square))
    real = valid[:, None] & (square <= radius**2)
    senders = jnp.where(real, index, size).reshape(-1)
    receivers = jnp.where(real, jnp.arange(size)[:, None], size).reshape(-1)
    position = jnp.concatenate([points, jnp.zeros((1, 3), points.dtype)])
    offset = position[senders] - position[receivers]
    return jraph.GraphsTuple(
        nodes={"position": position, "valid": jnp.append(valid, False)},
        edges={"offset": offset, "distance": _length(offset)},
        senders=senders.astype(jnp.int32),
        receivers=receivers.astype(jnp.int32),
        n_node=jnp.array([size + 1], jnp.int32),
        n_edge=jnp.array([size * max_neighbours], jnp.int32),
        globals=None,
    )


def edge_mask(graph: jraph.GraphsTuple) -> jax.Array:
    """Returns [e] bool: the edges that exist."""
    return graph.receivers < graph.nodes["position"].shape[0] - 1


@functools.partial(jax.jit, static_argnames=("radius", "max_neighbours"))
def stretch(
    tracks: jax.Array, *, radius: float, max_neighbours: int
) -> tuple[jax.Array, jax.Array]:
    """How much the distances to a point's neighbours of frame 0 change: 0 for a rigid motion.

    Args:
      tracks: [n p 3], metres; a point that is not finite in every frame has no neighbours.
      radius, max_neighbours: as in `radius_graph`, the point itself not counted.

    Returns:
      (stretch [n p], metres; [p] bool, whether the point has neighbours).
    """
    size = tracks.shape[1]
    finite = jnp.all(jnp.isfinite(tracks), axis=(0, 2))
    graph = radius_graph(tracks[0], finite, radius=radius, max_neighbours=max_neighbours + 1)
    edges = edge_mask(graph) & (graph.senders != graph.receivers)

    def over_neighbours(value):
        return jraph.segment_sum(jnp.where(edges, value, 0), graph.receivers, size + 1)[:size]

    count = over_neighbours(jnp.ones(edges.shape))

    def change(frame):
        moved = _length(frame[graph.senders] - frame[graph.receivers])
        total = over_neighbours(jnp.abs(moved - graph.edges["distance"]))
        return total / jnp.maximum(count, 1)

    tracks = jnp.pad(jnp.where(finite[:, None], tracks, 0), ((0, 0), (0, 1), (0, 0)))
    return lax.map(change, tracks), count > 0


def _length(offset: jax.Array) -> jax.Array:
    """|x| of [... 3], whose gradient at zero is zero."""
    square = jnp.sum(offset**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
