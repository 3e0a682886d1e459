"""Cameras: round trips at TACO's scale, numpy and jax agree, crops, rays, the scene centre."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras


def rig(views=3, focal=3000.0, size=(480, 704)):
    """Narrow cameras about 2 m away that look at a point off the origin."""
    angle = np.linspace(-0.9, 0.9, views)
    target = np.array([0.3, 0.5, 0.1])
    eye = target + 2.0 * np.stack([np.sin(angle), -np.cos(angle), 0.5 + 0 * angle], -1)
    shape = (views, 3)
    extrinsics = cameras.look_at(
        eye, np.broadcast_to(target, shape), np.broadcast_to([0.0, 0.0, 1.0], shape)
    )
    k = [[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]]
    intrinsics = np.broadcast_to(np.array(k), (views, 3, 3))
    return intrinsics.astype(np.float32), extrinsics.astype(np.float32), target


def points(rng, lead=(5, 40)):
    return (np.array([0.3, 0.5, 0.1]) + rng.uniform(-0.15, 0.15, (*lead, 3))).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_round_trip_within_the_stated_bounds(convert):
    intrinsics, extrinsics, _ = (convert(x) for x in rig())
    world = convert(np.broadcast_to(points(np.random.default_rng(0)), (3, 5, 40, 3)))
    pixels, depth = cameras.project(world, intrinsics, extrinsics)
    back = cameras.unproject(pixels, depth, intrinsics, extrinsics)
    again, _ = cameras.project(back, intrinsics, extrinsics)
    assert isinstance(back, type(world)) and pixels.shape == (3, 5, 40, 2)
    assert np.max(np.abs(np.asarray(again) - np.asarray(pixels))) <= 1e-3
    error = np.linalg.norm(np.asarray(back) - np.asarray(world), axis=-1)
    assert np.max(error / np.asarray(depth)) <= 1e-5


def test_projection_follows_the_definition_with_skew():
    intrinsics, extrinsics, _ = rig()
    intrinsics = intrinsics.copy()
    intrinsics[:, 0, 1] = 7.0
    world = points(np.random.default_rng(1), (1, 9))[0].astype(np.float64)
    homogeneous = np.concatenate([world, np.ones((9, 1))], -1)
    for k, pose in zip(intrinsics.astype(np.float64), extrinsics.astype(np.float64), strict=True):
        wanted = homogeneous @ (k @ pose).T
        pixels, depth = cameras.project(world, k, pose)
        np.testing.assert_allclose(depth, wanted[:, 2], rtol=1e-12)
        np.testing.assert_allclose(pixels, wanted[:, :2] / wanted[:, 2:], rtol=1e-10)
        np.testing.assert_allclose(cameras.unproject(pixels, depth, k, pose), world, atol=1e-6)


def test_points_behind_the_camera_stay_finite():
    intrinsics, extrinsics, _ = rig(1)
    behind = cameras.camera_centre(extrinsics)
    pixels, depth = cameras.project(jnp.asarray(behind), jnp.asarray(intrinsics), extrinsics)
    assert np.isfinite(pixels).all() and abs(float(depth[0])) < 1e-4


def test_crop_then_resize_keeps_pixels_where_they_show():
    intrinsics, extrinsics, _ = rig(1)
    world = points(np.random.default_rng(2))
    box, size = (100, 40, 400, 240), (256, 384)
    pixels, _ = cameras.project(world, intrinsics[0], extrinsics[0])
    cut = cameras.crop_resize_intrinsics(intrinsics[0], box, size)
    moved, _ = cameras.project(world, cut, extrinsics[0])
    scale = np.array([384 / 300, 256 / 200])
    np.testing.assert_allclose(moved, (pixels - [100, 40] + 0.5) * scale - 0.5, atol=2e-3)
    with pytest.raises(ValueError, match="x1 > x0"):
        cameras.crop_resize_intrinsics(intrinsics, (5, 0, 5, 9), size)


def test_scene_centre_is_where_the_views_look():
    intrinsics, extrinsics, target = rig()
    np.testing.assert_allclose(
        cameras.scene_centre(intrinsics, extrinsics, (480, 704)), target, atol=1e-4
    )
    batch = jax.jit(jax.vmap(lambda k, e: cameras.scene_centre(k, e, (480, 704))))
    both = batch(jnp.stack([intrinsics] * 2), jnp.stack([extrinsics] * 2))
    np.testing.assert_allclose(both, np.stack([target] * 2), atol=1e-4)


def test_scene_centre_of_one_view_needs_a_depth():
    intrinsics, extrinsics, _ = rig(1)
    with pytest.raises(ValueError, match="one view"):
        cameras.scene_centre(intrinsics, extrinsics, (480, 704))
    centre = cameras.scene_centre(intrinsics, extrinsics, (480, 704), depth=np.float32(1.5))
    pixel, depth = cameras.project(centre, intrinsics[0], extrinsics[0])
    np.testing.assert_allclose(pixel, [351.5, 239.5], atol=1e-3)
    np.testing.assert_allclose(depth, 1.5, rtol=1e-6)


def test_parallel_rays_give_a_finite_centre():
    intrinsics, extrinsics, _ = rig(1)
    twice = np.concatenate([extrinsics] * 2)
    assert np.isfinite(cameras.scene_centre(np.repeat(intrinsics, 2, 0), twice, (480, 704))).all()


def test_wrong_shapes_are_named():
    intrinsics, extrinsics, _ = rig()
    with pytest.raises(ValueError, match=r"intrinsics: wanted \[\.\.\. 3 3\]"):
        cameras.project(np.zeros((3, 4, 3)), extrinsics, extrinsics)
    with pytest.raises(ValueError, match="more leading axes"):
        cameras.project(np.zeros(3), intrinsics, extrinsics)
