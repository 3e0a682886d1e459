"""Neighbour graphs against brute force."""

import functools

import jax
import numpy as np
import pytest

from syncmv4d_jax.models.points import graphs


@pytest.mark.parametrize("size", [40, 700])
def test_nearest_neighbours_equal_brute_force(size):
    rng = np.random.default_rng(0)
    points, valid = rng.random((size, 3)).astype(np.float32), rng.random(size) < 0.9
    make = functools.partial(graphs.radius_graph, radius=10.0, max_neighbours=5)
    graph = jax.jit(make)(points, valid)
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


def test_a_rigid_motion_does_not_stretch_and_a_growing_one_does_by_its_factor():
    rng = np.random.default_rng(0)
    points = rng.random((60, 3)) * 0.1
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    far = np.array([[9.0, 9.0, 9.0], [np.nan, 0.0, 0.0]])  # no neighbour; not finite
    tracks = np.stack([points, points @ turn.T + 1.0, 1.5 * points])
    tracks = np.concatenate([tracks, np.tile(far, (3, 1, 1))], 1).astype(np.float32)
    found, has = graphs.stretch(tracks, radius=0.04, max_neighbours=4)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) + 9 * np.eye(60)
    near = np.sort(distance, axis=1)[:, :4]
    near = np.where(near <= 0.04, near, np.nan)
    assert has.sum() == (near[:, 0] <= 0.04).sum() and not has[60:].any()
    np.testing.assert_allclose(found[:2], 0, atol=1e-6)
    rows = np.flatnonzero(has[:60])
    np.testing.assert_allclose(found[2][rows], 0.5 * np.nanmean(near[rows], 1), atol=1e-5)


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
    four = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"wanted 1\.\.4 .* got 5"):
        graphs.radius_graph(four, np.ones(4, bool), radius=1.0, max_neighbours=5)
    with pytest.raises(ValueError, match="wanted points"):
        graphs.radius_graph(four, np.ones(3, bool), radius=1.0, max_neighbours=2)
