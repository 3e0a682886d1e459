"""Neighbour graphs against brute force."""

import jax
import numpy as np
import pytest

from syncmv4d_jax.models.points import graphs


@pytest.mark.parametrize("size", [40, 700])
def test_knn_equals_brute_force(size):
    rng = np.random.default_rng(0)
    points, valid = rng.random((size, 3)).astype(np.float32), rng.random(size) < 0.9
    graph = jax.jit(lambda x, m: graphs.knn_graph(x, m, k=5))(points, valid)
    assert int(graph.n_edge[0]) == size * 5 and int(graph.n_node[0]) == size + 1
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    distance[:, ~valid] = np.inf
    senders = np.asarray(graph.senders).reshape(size, 5)
    wanted = np.argsort(distance, axis=1)[:, :5]
    for i in np.flatnonzero(valid):
        np.testing.assert_allclose(
            np.sort(distance[i, senders[i]]), np.sort(distance[i, wanted[i]]), atol=1e-6
        )
    mask = np.asarray(graphs.edge_mask(graph)).reshape(size, 5)
    np.testing.assert_array_equal(mask, np.broadcast_to(valid[:, None], mask.shape))
    np.testing.assert_allclose(
        np.asarray(graph.edges["distance"]).reshape(size, 5)[valid][:, 0], 0.0, atol=1e-6
    )


def test_radius_graph_keeps_only_near_points_and_few_points_leave_padding():
    points = np.array([[0, 0, 0], [0.1, 0, 0], [5, 0, 0], [np.nan, 0, 0]], np.float32)
    graph = graphs.radius_graph(points, np.ones(4, bool), radius=0.2, max_neighbours=4)
    edges = np.stack([graph.senders, graph.receivers], -1)[np.asarray(graphs.edge_mask(graph))]
    assert sorted(map(tuple, edges.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    grad = jax.grad(
        lambda x: (
            graphs.radius_graph(x, np.ones(3, bool), radius=0.2, max_neighbours=3)
            .edges["distance"]
            .sum()
        )
    )(points[:3])
    assert np.isfinite(grad).all()


def test_bad_input_says_what_was_wanted():
    with pytest.raises(ValueError, match=r"wanted 1\.\.4 .* got 5"):
        graphs.knn_graph(np.zeros((4, 3), np.float32), np.ones(4, bool), k=5)
    with pytest.raises(ValueError, match="wanted points"):
        graphs.knn_graph(np.zeros((4, 3), np.float32), np.ones(3, bool), k=2)
