"""Nearest-neighbour and radius graphs of a point cloud as jraph GraphsTuples of static size.

Nodes are the p points and one padding node (row p). Edges run from neighbour (sender) to centre
(receiver), k of them a point, in the order of centres; an edge that does not exist joins the
padding node to itself, and `edge_mask` tells. The tuple is one graph of p + 1 nodes and p k edges.
"""

import einops
import jax
import jax.numpy as jnp
import jraph
from jax import lax

_BLOCK = 512  # centres a chunk: bounds the distance matrix to block x p


def knn_graph(points: jax.Array, valid: jax.Array, *, k: int) -> jraph.GraphsTuple:
    """Joins every valid point to its k nearest valid points (itself included).

    Args:
      points: [p 3] float.  valid: [p] bool.  k: neighbours, at most p.

    Returns:
      GraphsTuple with nodes {"position" [p+1 3], "valid" [p+1]} and edges {"offset" [p*k 3],
      "distance" [p*k]}.

    Raises:
      ValueError: shapes that do not fit, or k > p.
    """
    return _graph(points, valid, k, jnp.inf)


def radius_graph(
    points: jax.Array, valid: jax.Array, *, radius: float, max_neighbours: int
) -> jraph.GraphsTuple:
    """Joins every valid point to the valid points within `radius`, the nearest `max_neighbours`
    of them.

    Arguments, result and errors as in `knn_graph`; radius in the unit of points.
    """
    return _graph(points, valid, max_neighbours, radius)


def edge_mask(graph: jraph.GraphsTuple) -> jax.Array:
    """Returns [e] bool: the edges that exist."""
    return graph.receivers < graph.nodes["position"].shape[0] - 1


def _graph(points, valid, k, radius):
    if points.ndim != 2 or points.shape[1] != 3 or valid.shape != points.shape[:1]:
        raise ValueError(f"wanted points [p 3] and valid [p], got {points.shape} and {valid.shape}")
    size = points.shape[0]
    if not 1 <= k <= size:
        raise ValueError(f"neighbours: wanted 1..{size} (the number of points), got {k}")
    valid = valid & jnp.all(jnp.isfinite(points), axis=-1)
    points = jnp.where(valid[:, None], points, 0.0)

    def nearest(centre):
        offset = centre[:, None, :] - points[None, :, :]
        square = jnp.where(valid[None, :], jnp.sum(offset**2, axis=-1), jnp.inf)
        negative, index = lax.top_k(-square, k)
        return index, -negative

    padded = jnp.pad(points, ((0, -size % _BLOCK), (0, 0)))
    index, square = lax.map(
        nearest, einops.rearrange(padded, "(c p) x -> c p x", p=min(_BLOCK, len(padded)))
    )
    index, square = (einops.rearrange(x, "c p k -> (c p) k")[:size] for x in (index, square))
    real = valid[:, None] & (square <= jnp.minimum(radius**2, jnp.finfo(points.dtype).max))
    senders = jnp.where(real, index, size).reshape(-1)
    receivers = jnp.where(real, jnp.arange(size)[:, None], size).reshape(-1)
    position = jnp.concatenate([points, jnp.zeros((1, 3), points.dtype)])
    offset = position[senders] - position[receivers]
    square = jnp.sum(offset**2, axis=-1)
    distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return jraph.GraphsTuple(
        nodes={"position": position, "valid": jnp.append(valid, False)},
        edges={"offset": offset, "distance": distance},
        senders=senders.astype(jnp.int32),
        receivers=receivers.astype(jnp.int32),
        n_node=jnp.array([size + 1], jnp.int32),
        n_edge=jnp.array([size * k], jnp.int32),
        globals=None,
    )
