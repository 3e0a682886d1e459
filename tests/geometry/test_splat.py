"""The splatter: the source's own view, what is nearer, no holes when enlarged, several sources."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import views

from syncmv4d_jax.geometry import cameras, flow_map, splat


def cloud_of(view, tracks, colours, valid=None):
    valid = np.ones(view.depth.shape, bool) if valid is None else valid
    view = flow_map.Camera(*map(jnp.asarray, view))
    return splat.cloud(jnp.asarray(tracks), jnp.asarray(colours), view, jnp.asarray(valid))


def still(camera, frames):
    return (jnp.repeat(jnp.asarray(x)[None], frames, 0) for x in camera)


def wall(size=(40, 60), depth=1.0, focal=60.0):
    lens, pose = views.camera(size, focal)
    view = flow_map.Camera(np.full(size, depth, np.float32), lens, pose)
    tracks = cameras.to_world(flow_map.start(view), pose).astype(np.float32)[None]
    return view, tracks


def test_the_source_camera_sees_its_own_frame():
    view, tracks, colours = views.scene()
    source = cloud_of(view, tracks[:1], colours)
    drawn = jax.jit(splat.render, static_argnames="size")
    image, covered = drawn(source, *still(view[1:], 1), size=views.SIZE)
    assert covered.mean() >= 0.995
    assert (np.asarray(image[0]) == colours).all(-1).mean() >= 0.995


def test_what_is_nearer_wins_and_holes_open_behind_it():
    view, tracks, colours = views.scene()
    source = cloud_of(view, tracks, colours)
    image, covered = splat.render(source, *still(view[1:], 5), size=views.SIZE)
    pixels, depth = cameras.project(tracks[4], view.intrinsics, view.extrinsics)
    block = view.depth < 1.0
    y, x = (np.round(pixels[..., i]).astype(int) for i in (1, 0))
    inner = block & (abs(pixels - np.round(pixels)).max(-1) < 0.3)
    hit = [tuple(image[4, y[at], x[at]].tolist()) for at in zip(*np.nonzero(inner), strict=True)]
    near = {tuple(c) for c in colours[block].tolist()}
    assert len(hit) > 10 and all(colour in near for colour in hit)  # never the wall behind
    assert covered[0].all() and 0.5 < covered[4].mean() < 1.0
    assert not np.asarray(image)[~np.asarray(covered)].any()


def test_a_surface_seen_from_half_as_far_has_no_holes():
    view, tracks = wall()
    colours = np.full((*view.depth.shape, 3), 200, np.uint8)
    forward = view.extrinsics.copy()
    forward[2, 3] -= 0.5
    source = cloud_of(view, tracks, colours)
    _, covered = splat.render(source, *still((view.intrinsics, forward), 1), size=(40, 60))
    assert covered[0, 2:-2, 2:-2].all()
    # With points of one size there are holes: the discs are what closes them.
    small = source._replace(edge=jnp.ones_like(source.edge))
    _, covered = splat.render(small, *still((view.intrinsics, forward), 1), size=(40, 60))
    assert covered[0, 2:-2, 2:-2].mean() < 0.8


def test_points_beside_an_edge_of_depth_stay_small():
    view, _, _ = views.scene()
    found = np.asarray(splat.edges(jnp.asarray(view.depth)))
    block = view.depth < 1.0
    beside = np.zeros_like(block)
    for axis in (0, 1):
        for step in (-1, 1):
            beside |= np.roll(block, step, axis) != block
    np.testing.assert_array_equal(found, beside)


def test_several_sources_agree_and_each_shows_what_the_other_does_not():
    left, right = (views.camera(eye=(x, -1.0, 0.8)) for x in (-0.3, 0.3))
    clouds = []
    for rig in (left, right):
        lens, pose = rig
        y, x = np.mgrid[: views.SIZE[0], : views.SIZE[1]]
        rays = cameras.bearings(np.stack([x, y], -1).astype(np.float32), lens)
        centre, turned = cameras.camera_centre(pose), rays @ pose[:, :3]
        depth = -centre[2] / turned[..., 2]  # a floor at z = 0
        points = centre + depth[..., None] * turned
        colours = np.round(100 + 60 * np.sin(5 * points[..., :2].sum(-1, keepdims=True)))
        view = flow_map.Camera(depth.astype(np.float32), lens, pose)
        colours = np.repeat(colours, 3, -1).astype(np.float32)
        clouds.append(cloud_of(view, points[None].astype(np.float32), colours))
    middle = still(views.camera(eye=(0.0, -1.0, 0.8)), 1)
    middle = tuple(middle)
    one, seen_one = splat.render(clouds[0], *middle, size=views.SIZE)
    two, seen_two = splat.render(clouds[1], *middle, size=views.SIZE)
    both, seen = splat.render(splat.merge(clouds), *middle, size=views.SIZE)
    np.testing.assert_array_equal(seen, seen_one | seen_two)
    assert seen.sum() > seen_one.sum()
    common = np.asarray(seen_one & seen_two)
    assert np.abs(np.asarray(one - two))[common].mean() < 8
    assert np.abs(np.asarray(both - one))[common].mean() < 8


def test_cameras_must_fit_the_frames_and_invalid_points_are_not_drawn():
    view, tracks, colours = views.scene()
    source = cloud_of(view, tracks, colours, valid=view.depth < 1.0)
    _, covered = splat.render(source, *still(view[1:], 5), size=views.SIZE)
    np.testing.assert_array_equal(covered[0], view.depth < 1.0)
    with pytest.raises(ValueError, match="wanted a camera a frame"):
        splat.render(source, *still(view[1:], 4), size=views.SIZE)
    broken = source._replace(points=source.points.at[:, 0].set(jnp.nan))
    image, _ = splat.render(broken, *still(view[1:], 5), size=views.SIZE)
    assert np.isfinite(np.asarray(image, np.float32)).all()
