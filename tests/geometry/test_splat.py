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
    image, covered, _ = drawn(source, *still(view[1:], 1), size=views.SIZE)
    assert covered.mean() >= 0.995
    assert (np.asarray(image[0]) == colours).all(-1).mean() >= 0.995


def test_what_is_nearer_wins_and_holes_open_behind_it():
    view, tracks, colours = views.scene()
    source = cloud_of(view, tracks, colours)
    image, covered, _ = splat.render(source, *still(view[1:], 5), size=views.SIZE)
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
    _, covered, _ = splat.render(source, *still((view.intrinsics, forward), 1), size=(40, 60))
    assert covered[0, 2:-2, 2:-2].all()
    # With points of one size there are holes: the discs are what closes them.
    small = source._replace(edge=jnp.ones_like(source.edge))
    _, covered, _ = splat.render(small, *still((view.intrinsics, forward), 1), size=(40, 60))
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
    one, seen_one, _ = splat.render(clouds[0], *middle, size=views.SIZE)
    two, seen_two, _ = splat.render(clouds[1], *middle, size=views.SIZE)
    both, seen, _ = splat.render(splat.merge(clouds), *middle, size=views.SIZE)
    np.testing.assert_array_equal(seen, seen_one | seen_two)
    assert seen.sum() > seen_one.sum()
    common = np.asarray(seen_one & seen_two)
    assert np.abs(np.asarray(one - two))[common].mean() < 8
    assert np.abs(np.asarray(both - one))[common].mean() < 8


def test_cameras_must_fit_the_frames_and_invalid_points_are_not_drawn():
    view, tracks, colours = views.scene()
    source = cloud_of(view, tracks, colours, valid=view.depth < 1.0)
    _, covered, _ = splat.render(source, *still(view[1:], 5), size=views.SIZE)
    np.testing.assert_array_equal(covered[0], view.depth < 1.0)
    with pytest.raises(ValueError, match="wanted a camera a frame"):
        splat.render(source, *still(view[1:], 4), size=views.SIZE)
    broken = source._replace(points=source.points.at[:, 0].set(jnp.nan))
    image, *_ = splat.render(broken, *still(view[1:], 5), size=views.SIZE)
    assert np.isfinite(np.asarray(image, np.float32)).all()


def beside(view, tracks, colours):
    """The scene's cloud and a camera that sees past its block, behind which nothing is known."""
    return cloud_of(view, tracks[:1], colours), views.camera(eye=(0.75, -0.6, 0.8))


def test_what_no_source_sees_may_stand_before_a_point():
    """By Eq. 3 at 1000 places of each way, in frame 0."""
    view, tracks, colours = views.scene()
    source, (lens, pose) = beside(view, tracks, colours)
    own = splat.render(source, *still(view[1:], 1), size=views.SIZE)
    np.testing.assert_array_equal(own.sure, own.covered)
    ids = np.arange(1.0, 1.0 + view.depth.size).reshape(view.depth.shape)
    named = source._replace(colours=jnp.asarray(np.repeat(ids.reshape(-1, 1), 3, 1)))
    seen = splat.render(named, *still((lens, pose), 1), size=views.SIZE)
    found, covered = np.asarray(seen.sure[0]), np.asarray(seen.covered[0])
    points = tracks[0].reshape(-1, 3)[np.asarray(seen.image[0, ..., 0]).astype(int) - 1]
    centre = cameras.camera_centre(pose.astype(np.float64))
    hidden = np.zeros(views.SIZE, bool)
    for share in (np.arange(1000) + 0.5) / 1000:
        place = centre + share * (points - centre)
        at, depth = cameras.project(place, view.intrinsics, view.extrinsics)
        x, y = (np.round(at[..., i]).astype(int) for i in (0, 1))
        inside = (depth > 0) & (x >= 0) & (x < views.SIZE[1]) & (y >= 0) & (y < views.SIZE[0])
        nearest = view.depth[np.where(inside, y, 0), np.where(inside, x, 0)]
        hidden |= inside & (depth > (1 + splat.MARGIN) * nearest)
    assert not found[~covered].any() and 0.03 < 1 - found[covered].mean() < 0.5
    assert (found == ~hidden)[covered].mean() > 0.97


def test_a_place_that_another_source_sees_is_free():
    view, tracks, colours = views.scene()
    source, other = beside(view, tracks, colours)
    one = splat.render(source, *still(other, 1), size=views.SIZE)
    lens, pose = other
    depth = jnp.full(views.SIZE, 5.0)  # it looks into the open
    free = splat.Sight(jnp.asarray(lens), jnp.asarray(pose), depth[None])
    both = splat.render(source._replace(sights=(*source.sights, free)), *still(other, 1),
                        size=views.SIZE)  # fmt: skip
    np.testing.assert_array_equal(both.sure, both.covered)
    blind = free._replace(depth=jnp.full_like(free.depth, jnp.inf))  # no points: nothing known
    none = splat.render(source._replace(sights=(*source.sights, blind)), *still(other, 1),
                        size=views.SIZE)  # fmt: skip
    np.testing.assert_array_equal(none.sure, one.sure)


def test_trust_is_half_where_points_cover_without_being_sure():
    covered, sure = np.array([[False, True, True]]), np.array([[False, False, True]])
    np.testing.assert_array_equal(splat.trust(covered, sure), [[0, 0.5, 1]])
