"""Flow maps: an exact inverse, what scale and crops leave alone, companding, the gain."""

import jax.numpy as jnp
import numpy as np
import pytest
import views

from syncmv4d_jax.geometry import cameras, flow_map


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("form", flow_map.FORMS)
def test_the_inverse_is_exact(convert, form):
    view, tracks, _ = views.scene()
    view = flow_map.Camera(*map(convert, view))
    flow = flow_map.forward(convert(tracks), view, form=form)
    back = flow_map.inverse(flow, view, form=form)
    gap = np.linalg.norm(np.asarray(back) - tracks, axis=-1)
    assert np.max(gap / np.asarray(view.depth)) <= 1e-5
    assert not np.asarray(flow[0]).any() and np.abs(flow[1:]).max() > 0.05
    assert isinstance(flow, type(view.depth))


def test_the_flow_is_the_way_in_the_image_where_depth_stays():
    """By its definition, for a motion across the axis, and for one along it."""
    view, tracks, _ = views.scene(frames=2)
    local = flow_map.start(view)
    across = cameras.to_world(local + np.array([0.05, -0.02, 0.0]), view.extrinsics)
    flow = flow_map.forward(np.stack([tracks[0], across]).astype(np.float32), view)[1]
    pixels, _ = cameras.project(across, view.intrinsics, view.extrinsics)
    y, x = np.mgrid[: views.SIZE[0], : views.SIZE[1]]
    np.testing.assert_allclose(flow[..., 0] * views.SIZE[1], pixels[..., 0] - x, atol=1e-3)
    np.testing.assert_allclose(flow[..., 1] * views.SIZE[0], pixels[..., 1] - y, atol=1e-3)
    nearer = cameras.to_world(local - np.array([0, 0, 0.1]), view.extrinsics)
    flow = flow_map.forward(np.stack([tracks[0], nearer]).astype(np.float32), view)[1]
    np.testing.assert_allclose(flow[..., 2], -0.1 / view.depth, atol=1e-5)
    assert np.abs(flow[..., :2]).max() < 1e-5


def test_a_larger_scene_and_a_resized_crop_have_the_same_flow():
    view, tracks, _ = views.scene()
    flow = flow_map.forward(tracks, view)
    pose = view.extrinsics.copy()
    pose[:, 3] *= 3
    larger = flow_map.Camera(3 * view.depth, view.intrinsics, pose)
    np.testing.assert_allclose(flow_map.forward(3 * tracks, larger), flow, atol=2e-6)
    # Twice as wide and high: every second pixel is one of the smaller image.
    lens = view.intrinsics * np.array([[2], [2], [1]], np.float32)  # pixel 2 i shows what i did
    fine = flow_map.Camera(np.repeat(np.repeat(view.depth, 2, 0), 2, 1), lens, view.extrinsics)
    wide = np.repeat(np.repeat(tracks, 2, 1), 2, 2)
    again = flow_map.forward(wide, fine)[:, ::2, ::2]
    np.testing.assert_allclose(again, flow, atol=1e-5)


def test_pixels_without_depth_do_not_move():
    view, tracks, _ = views.scene()
    depth = view.depth.copy()
    depth[3, 4] = 0
    for form in flow_map.FORMS:
        flow = flow_map.forward(tracks, view._replace(depth=depth), form=form)
        assert not flow[:, 3, 4].any() and np.isfinite(flow).all()
    with pytest.raises(ValueError, match="wanted a form of"):
        flow_map.units(view, form="width")


def test_companding_is_undone_up_to_its_limit():
    flow = np.linspace(-0.6, 0.6, 101)
    for gain in (1.0, 8.0):
        values = flow_map.compand(flow, gain)
        assert np.abs(values).max() < 1
        np.testing.assert_allclose(flow_map.expand(values, gain), flow, atol=1e-6)
    assert np.isfinite(flow_map.expand(np.array([-1.0, 1.0, 5.0]), 8.0)).all()
    limit = 2 / 8.0 * np.arctanh(flow_map.LIMIT)
    np.testing.assert_allclose(flow_map.expand(np.array([1.0]), 8.0), limit)


def test_the_gain_fits_what_moves():
    flow = np.zeros((1, 2, 4, 5, 3), np.float32)
    flow[0, 1, :2] = 0.25
    valid = np.ones((1, 4, 5), bool)
    assert flow_map.gain(flow, valid) == pytest.approx(8.0)
    assert flow_map.gain(flow, ~valid) == 1.0


def test_depth_is_relative_log_and_far_where_unknown():
    depth = jnp.array([[[0.5, 1.0], [2.0, 0.0]]])
    picture = flow_map.depth_picture(depth)[0]
    np.testing.assert_allclose(picture[..., 0], [[-1, 0], [1, 1]], atol=1e-6)
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    np.testing.assert_allclose(flow_map.depth_picture(3 * depth)[0], picture, atol=1e-6)
    flat = flow_map.depth_picture(jnp.full((1, 2, 2), 0.7))
    assert np.isfinite(flat).all()
