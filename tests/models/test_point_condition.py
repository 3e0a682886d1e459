"""Points as features of latent cells: known places and weights, hiding, order, empty clouds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.geometry import cameras, point_features
from syncmv4d_jax.models import point_condition
from syncmv4d_jax.models.nn import module

TINY = point_condition.PointConfig(
    width=16, depth=2, cpe_channels=8, patch=16, channels=4, out_channels=6, stride=8
)
TOKENS = point_condition.PointConfig(
    reading="tokens", token_width=16, token_grid=(3, 4), out_channels=6, stride=8
)
SIZE = (32, 48)


def test_parameters_at_full_size():
    count = lambda **how: tree.count(  # noqa: E731
        module.shapes(point_condition.PointCondition, point_condition.PointConfig(**how))
    )
    assert count() == 3_867_520
    assert count(reading="tokens") == 9_526_320
    assert count(width=64, depth=2, cpe_channels=32, patch=128, channels=16) == 181_904


def cells(points, *, unit=1.0, features=None, valid=None):
    """Cells 4 x 6 of points (x, y, z) seen at pixels (x, y)."""
    points = np.asarray(points, np.float32)
    features = np.eye(len(points), 3, dtype=np.float32) if features is None else features
    valid = np.ones(len(points), bool) if valid is None else valid
    return np.asarray(
        point_condition.splat(
            jnp.asarray(features), jnp.asarray(points[:, :2]), jnp.asarray(points[:, 2]),
            jnp.asarray(valid), jnp.float32(unit), stride=8, grid=(4, 6),
        )
    )  # fmt: skip


def test_a_point_lands_in_its_cells_with_the_known_weights():
    """Pixel (21.5, 13.5) is cell (2.25, 1.25): a quarter of the way to the next column and row."""
    found = cells([[21.5, 13.5, 1.0]])
    weights = {(1, 2): 9 / 16, (1, 3): 3 / 16, (2, 2): 3 / 16, (2, 3): 1 / 16}
    for (y, x), weight in np.ndenumerate(found[..., 6]):
        wanted = weights.get((y, x), 0.0)
        wanted = wanted if wanted > 0.1 else 0.0  # too little of it to know the cell's depth
        np.testing.assert_allclose(weight, np.log1p(wanted), atol=1e-6)
        np.testing.assert_allclose(found[y, x, 0], float(wanted > 0), atol=1e-6)
    assert not found[..., 3:6].any() and not found[..., 7].any()


def test_the_nearer_point_wins_the_front():
    """Both in the middle of cell (1, 2), 10 cm apart: tau is 2 cm."""
    found = cells([[19.5, 11.5, 1.0], [19.5, 11.5, 1.1]], unit=0.25)[1, 2]
    share = np.exp(-5) / (1 + np.exp(-5))
    np.testing.assert_allclose(found[:3], [1 - share, share, 0], atol=1e-4)
    np.testing.assert_allclose(found[3:6], [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(found[6:], np.log1p([1 + np.exp(-5), 1.0]), atol=1e-4)
    near = cells([[19.5, 11.5, 1.0], [19.5, 11.5, 1.05]], unit=0.25)[1, 2]
    assert not near[3:6].any()  # less than 3 tau behind: still the front


def test_points_out_of_sight_do_not_count():
    outside = [
        [-12.5, 8, 1.0],
        [60.5, 8, 1.0],
        [8, -13, 1.0],
        [8, 44.5, 1],
        [8, 8, -1],
        [8, 8, 0.1],
    ]
    assert not cells(outside, features=np.ones((6, 3), np.float32)).any()
    assert cells([[-3.0, 8, 1.0]]).any()  # less than a cell outside
    assert not cells([[8, 8, 1.0]], valid=np.zeros(1, bool)).any()


def scene(points=40, views=2, frames=5, seed=0):
    rng = np.random.default_rng(seed)
    cloud = rng.normal(size=(1, frames, points, 3)) * 0.05 + np.array([0.2, 0.9, 0.4])
    eyes = np.array([[0.8, 1.7, 0.9], [0.2, 1.9, 1.0]])[:views]
    target = np.broadcast_to([0.2, 0.9, 0.4], eyes.shape)
    poses = cameras.look_at(eyes, target, np.broadcast_to([0, 0, 1.0], eyes.shape))
    k = np.array([[90, 0, 23.5], [0, 90, 15.5], [0, 0, 1]])
    told = np.zeros((1, frames, points, 13))
    told[..., 0] = told[..., 6] = told[..., 8] = told[..., 9] = 1
    return {
        "points": cloud.astype(np.float32),
        "valid": rng.uniform(size=(1, frames, points)) < 0.9,
        "told": told.astype(np.float32),
        "ids": np.ones(1, bool),
        "metric": np.ones(1, bool),
        "intrinsics": np.broadcast_to(k, (1, views, 3, 3)).astype(np.float32),
        "extrinsics": poses[None, :, None].astype(np.float32),
    }


def condition(arrays, config=TINY):
    arrays = {key: jnp.asarray(x) for key, x in arrays.items()}
    params = module.init(point_condition.PointCondition, config, jax.random.key(0))
    model = module.bind(point_condition.PointCondition, config, params)
    points, valid, told = (arrays.pop(key) for key in ("points", "valid", "told"))
    run = jax.jit(lambda *a, **k: model(*a, size=SIZE, **k))
    return np.asarray(run(points, valid, told, **arrays))


@pytest.mark.parametrize("config", [TINY, TOKENS], ids=["splat", "tokens"])
def test_shapes_frames_and_padding(config):
    whole = scene()
    found = condition(whole, config)
    assert found.shape == (1, 2, 2, 4, 6, 6) and np.isfinite(found).all()
    padded = dict(whole)
    wide = ((0, 0), (0, 0), (0, 7))
    for key, pad in (("points", (*wide, (0, 0))), ("told", (*wide, (0, 0))), ("valid", wide)):
        fill = np.nan if key == "points" else 0
        padded[key] = np.pad(whole[key], pad, constant_values=fill)
    np.testing.assert_allclose(condition(padded, config), found, atol=1e-4)
    first = {k: whole[k][:, :1] for k in ("points", "valid", "told")}
    alone = condition(whole | first, config)
    assert alone.shape == (1, 2, 1, 4, 6, 6)
    np.testing.assert_allclose(alone[:, :, 0], found[:, :, 0], atol=1e-4)


@pytest.mark.slow
def test_the_order_of_points_does_not_matter():
    """Of points in voxels of their own; those of one voxel change places along the curve."""
    whole = scene()
    grid = np.random.default_rng(1).permutation(1000)[:40]
    places = np.stack(np.unravel_index(grid, (10, 10, 10)), -1) * 0.02
    whole["points"] = np.broadcast_to(places - 0.1 + [0.2, 0.9, 0.4], (1, 5, 40, 3)).astype(
        np.float32
    )
    order = np.random.default_rng(2).permutation(40)
    other = {k: whole[k][:, :, order] for k in ("points", "valid", "told")}
    np.testing.assert_allclose(condition(whole | other), condition(whole), atol=2e-4)


@pytest.mark.slow
def test_an_empty_cloud_is_the_same_as_none():
    whole = scene()
    params = module.init(point_condition.PointCondition, TINY, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1, params)
    model = module.bind(point_condition.PointCondition, TINY, params)
    arrays = {key: jnp.asarray(x) for key, x in whole.items()}
    points, valid, told = (arrays.pop(key) for key in ("points", "valid", "told"))
    empty = model(points, valid & False, told, size=SIZE, **arrays)
    np.testing.assert_array_equal(empty, model.nothing(1, 2, 5, (4, 6)))
    assert np.isfinite(empty).all() and np.abs(empty).max() > 0


def test_two_views_see_one_cloud_where_they_project_it():
    """The cell with most of a cluster's weight is the one that its centre projects into."""
    whole = scene()
    whole["points"] = whole["points"] * 0.05 + 0.95 * np.array([0.23, 0.88, 0.42], np.float32)
    arrays = jax.tree.map(jnp.asarray, whole)
    seen = jnp.broadcast_to(arrays["points"][:, None], (1, 2, *arrays["points"].shape[1:]))
    pixels, depth = cameras.project(seen, arrays["intrinsics"], arrays["extrinsics"])
    centre = np.asarray(pixels).mean(3)[0, :, 0]
    for view in range(2):
        found = point_condition.splat(
            jnp.ones((40, 4)), pixels[0, view, 0], depth[0, view, 0], jnp.ones(40, bool),
            jnp.float32(0.25), stride=8, grid=(4, 6),
        )  # fmt: skip
        mass = np.asarray(found[..., -2])
        y, x = np.unravel_index(mass.argmax(), mass.shape)
        assert (x, y) == tuple(np.round((centre[view] + 0.5) / 8 - 0.5).astype(int))


def test_frame_of_reference_and_features():
    whole = scene()
    arrays = jax.tree.map(jnp.asarray, whole)
    valid = jnp.ones((1, 5, 40), bool)
    own = point_features.frame(
        arrays["points"], valid, arrays["extrinsics"][:, 0, 0], jnp.array([True])
    )
    first = np.asarray(whole["points"][0, 0])
    np.testing.assert_allclose(own.centre[0], np.median(first, axis=0), atol=1e-6)
    assert float(own.unit[0]) == 0.25
    scaled = point_features.frame(
        3 * arrays["points"], valid, arrays["extrinsics"][:, 0, 0], jnp.array([False])
    )
    plain = point_features.frame(
        arrays["points"], valid, arrays["extrinsics"][:, 0, 0], jnp.array([False])
    )
    np.testing.assert_allclose(scaled.unit, 3 * plain.unit, rtol=1e-5)
    near = np.linalg.norm(plain.normalise(arrays["points"])[0, 0], axis=-1)
    np.testing.assert_allclose(np.percentile(near, 90), 1.2, rtol=1e-4)
    place, found = point_features.features(
        arrays["points"], valid, arrays["told"], arrays["ids"], own
    )
    assert found.shape == (1, 5, 40, 67)
    turn = np.asarray(whole["extrinsics"][0, 0, 0, :, :3])
    wanted = (first - np.median(first, axis=0)) @ turn.T / 0.25
    np.testing.assert_allclose(place[0, 0], wanted, atol=1e-5)
    np.testing.assert_allclose(found[0, 0, :, 48:51], wanted, atol=1e-5)
    np.testing.assert_allclose(found[0, 0, :, 51:54], np.tile(turn[:, 0], (40, 1)), atol=1e-6)
    step = (whole["points"][0, 1] - first) @ turn.T / 0.02
    np.testing.assert_allclose(found[0, 1, :, 57:60], step, atol=1e-3)
    assert not found[0, 0, :, 57:60].any() and not found[0, 0, :, 62].any()
    assert np.all(found[0, 1:, :, 62] == 1) and np.all(found[..., 63] == 1)
    unknown = point_features.features(
        arrays["points"], valid, arrays["told"], jnp.array([False]), own
    )[1]
    assert not unknown[..., 57:60].any() and not unknown[..., 62].any()


def test_farthest_points_are_far():
    points = jnp.asarray([[0.0, 0, 0], [0.1, 0, 0], [5, 0, 0], [9, 9, 9], [0, 3, 0]])
    valid = jnp.array([True, True, True, False, True])
    chosen = point_condition.farthest(points, valid, 3)
    assert chosen.tolist() == [0, 2, 4]
    assert set(point_condition.farthest(points, valid, 8).tolist()) == {0, 1, 2, 4}


def test_latents_of_a_set_stand_where_their_points_are_seen():
    """One latent whose point is at the top left is in the top left cell."""
    whole = scene(points=12)
    found = condition(whole, TOKENS)
    assert found[:, :, :1].std() > 0
    whole["valid"][:] = False
    assert not condition(whole, TOKENS).any()
