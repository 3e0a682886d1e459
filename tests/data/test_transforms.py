"""Time, view, crop and point rules: identities on examples."""

import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax.data import transforms
from syncmv4d_jax.geometry import cameras

K = np.array([[500.0, 0, 159.5], [0, 480.0, 119.5], [0, 0, 1]])


def camera_at(x, y):
    return cameras.look_at(np.array([x, y, 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))


def test_49_frames_at_8_fps_span_181_frames_at_30():
    index, valid = transforms.frame_index(181, source_fps=30, fps=8, frames=49)
    assert index[:5].tolist() == [0, 4, 8, 11, 15] and index[-1] == 180 and valid.all()
    index, valid = transforms.frame_index(100, source_fps=30, fps=8, frames=49, start=2)
    assert index.max() == 99 and valid.sum() == np.sum(
        2 + np.floor(3.75 * np.arange(49) + 0.5) < 100
    )
    with pytest.raises(ValueError, match="start"):
        transforms.frame_index(10, source_fps=30, fps=8, frames=5, start=10)
    with pytest.raises(ValueError, match="rate"):
        transforms.frame_index(10, source_fps=5, fps=8, frames=5)


def test_a_latent_frame_is_valid_when_all_its_frames_are():
    valid = np.arange(13) < 7
    assert transforms.latent_valid(valid).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="n = 4"):
        transforms.latent_valid(valid[:12])


def test_draws_depend_on_names_only():
    first = transforms.seeded(0, "a", 1).random()
    assert first == transforms.seeded(0, "a", 1).random() != transforms.seeded(0, "a", 2).random()


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_clusters_go_from_the_viewers_left(count):
    x = np.array([0.3, -1.0, 1.2, 0.9, -0.4, 0.1, 1.5])
    poses = np.stack([camera_at(value, 1.5) for value in x])
    found = transforms.view_clusters(poses, count)
    assert sorted(set(found)) == list(range(count))
    assert (np.diff(found[np.argsort(-x)]) >= 0).all()
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    with pytest.raises(ValueError, match="at least 9"):
        transforms.view_clusters(poses, 9)


def test_bounds_hold_every_projection_and_ignore_what_is_behind():
    rng = np.random.default_rng(0)
    cloud, pose = rng.uniform(-0.2, 0.2, (50, 3)), camera_at(0.5, 1.5)
    pixels, _ = cameras.project(cloud, K, pose)
    behind = np.array([[0.6, 3.0, 1.8]])
    bounds = transforms.projected_bounds(
        [cloud[:20], np.concatenate([cloud[20:], behind])], K, pose
    )
    np.testing.assert_allclose(bounds, [*pixels.min(0), *pixels.max(0)])
    with pytest.raises(ValueError, match="behind"):
        transforms.projected_bounds([behind], K, pose)


@pytest.mark.parametrize(
    "bounds", [(100, 80, 180, 160), (0, 0, 60, 200), (10, 10, 310, 230), (-50, 100, 400, 120)]
)
def test_boxes_keep_the_bounds_the_aspect_and_the_image(bounds):
    size = (64, 96)
    x0, y0, x1, y1 = transforms.crop_box(bounds, (240, 320), size)
    assert abs((x1 - x0) / (y1 - y0) - 1.5) < 1.5 * 2 / (y1 - y0)
    low, high = np.maximum(bounds[:2], [-80, -60]), np.minimum(bounds[2:], [400, 300])
    assert (x0 <= low[0] and y0 <= low[1]) and (x1 > high[0] and y1 > high[1])
    if x1 - x0 <= 320:
        assert x0 >= 0 and x1 <= 320
    if y1 - y0 <= 240:
        assert y0 >= 0 and y1 <= 240


def test_crops_and_intrinsics_agree_to_a_tenth_of_a_pixel():
    """A dot lands where the adjusted camera projects its point, for boxes in and over the edge."""
    pose, size = camera_at(0.2, 1.5), (96, 144)
    y, x = np.mgrid[:240, :320]
    for point in np.random.default_rng(1).uniform(-0.08, 0.08, (4, 3)):
        (u, v), _ = cameras.project(point[None], K, pose)[0][0], None
        dot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 4.0**2))
        image = np.repeat(np.round(dot).astype(np.uint8)[..., None], 3, axis=-1)
        for box in [(60, 40, 260, 173), (-20, 10, 340, 250)]:
            cut = transforms.crop_resize(image, box, size)[..., 0].astype(float)
            assert cut.shape == size
            rows, columns = np.mgrid[: size[0], : size[1]]
            seen = np.array([(cut * columns).sum(), (cut * rows).sum()]) / cut.sum()
            small = cameras.crop_resize_intrinsics(K, box, size)
            pixel = cameras.project(point[None], small, pose)[0][0]
            assert np.abs(seen - pixel).max() < 0.1


def test_the_edge_is_repeated_outside_of_the_image():
    image = np.full((20, 30, 3), 7, np.uint8)
    image[:, 0] = 200
    cut = transforms.crop_resize(image, (-30, 0, 30, 40), (40, 60))
    assert (cut[:, :29] > 190).all() and (cut[:, 33:] == 7).all()
    assert Image.fromarray(cut).size == (60, 40)


def spheres(count):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True) * 0.1


def test_points_are_exactly_k_distinct_vertices_spread_over_space():
    dense, sparse = spheres(4000), spheres(300) + np.array([0.4, 0, 0])
    faces = [np.zeros((1, 3), int)] * 2
    chosen = transforms.select_points([dense, sparse], faces, 200, np.random.default_rng(0))
    at = chosen.positions([dense, sparse])
    assert at.shape == (200, 3) and len(np.unique(at, axis=0)) == 200
    assert 40 < (chosen.mesh == 1).sum() < 120  # not the 7% of vertices it has
    gap = np.sort(np.linalg.norm(at[:, None] - at[None], axis=-1), axis=1)[:, 1]
    assert gap.min() > 0.0005 and np.median(gap) > 0.01
    moved = chosen.positions([dense + 1.0, sparse - 1.0])
    np.testing.assert_allclose(
        moved - at, np.where(chosen.mesh == 0, 1.0, -1.0)[:, None] * np.ones(3)
    )


def test_few_vertices_give_points_on_the_faces():
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    chosen = transforms.select_points(
        [triangle], [np.array([[0, 1, 2]])], 100, np.random.default_rng(0)
    )
    at = chosen.positions([triangle])
    assert len(np.unique(at, axis=0)) == 100
    assert (at >= 0).all() and (at[:, :2].sum(1) <= 1 + 1e-9).all() and not at[:, 2].any()
    with pytest.raises(ValueError, match="extent"):
        transforms.select_points(
            [triangle * 0], [np.array([[0, 1, 2]])], 8, np.random.default_rng(0)
        )


def test_turning_the_world_changes_no_projection():
    rng = np.random.default_rng(0)
    tracks = rng.uniform(-0.2, 0.2, (3, 7, 3)).astype(np.float32)
    poses = np.stack([camera_at(x, 1.5) for x in (-1.0, 0.5)]).astype(np.float32)
    turned, moved = transforms.rotate_world(tracks, poses, 0.7, [0.1, 0.2, 0.3])
    assert turned.dtype == moved.dtype == np.float32
    assert np.abs(turned - tracks).max() > 0.05
    np.testing.assert_allclose(turned[..., 2], tracks[..., 2], atol=1e-6)
    for pose, other in zip(poses, moved, strict=True):
        wanted, depth = cameras.project(tracks, K.astype(np.float32), pose)
        got, same = cameras.project(turned, K.astype(np.float32), other)
        np.testing.assert_allclose(got, wanted, atol=1e-2)
        np.testing.assert_allclose(same, depth, atol=1e-5)
