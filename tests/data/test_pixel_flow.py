"""Flow of frame 0's pixels in records: rays into surfaces, backgrounds, what is not known."""

import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import clips, pixel_flow, surfaces
from syncmv4d_jax.geometry import cameras, flow_map

FRAMES = [0, 4, 8]


@pytest.fixture(scope="module")
def found():
    moves, result = tiny.poses(18), []
    for name, (vertices, faces) in tiny.solids().items():
        result.append(surfaces.Surface(name, faces, vertices, moves[name]))
    return result


@pytest.fixture(scope="module")
def camera():
    return tiny.rig()["cam2"]


def video(change=None):
    clip = np.full((len(FRAMES), *tiny.SIZE, 3), 90, np.uint8)
    if change:
        clip[1:, change[0], change[1]] = 200
    return clip


def table():
    points = np.array([[x, y, 0.0] for x in (-2, 2) for y in (-2, 2)], float)
    faces = np.array([[0, 1, 3], [0, 3, 2]])
    poses = np.tile(np.eye(4), (18, 1, 1))
    return surfaces.Surface("table", faces, points, poses, surfaces.OCCLUDER)


def test_the_flow_of_a_pixel_is_the_way_of_the_surface_it_shows(found, camera):
    made = pixel_flow.of_view([*found, table()], FRAMES, video(), *camera)
    view = flow_map.Camera(made["depth0"], *(x.astype(np.float32) for x in camera))
    world = flow_map.inverse(made["flow"], view)
    y, x = 60, 78
    true, tracked = surfaces.tracks([*found, table()], np.array([[x, y], [2.0, 2.0]]), *camera)
    assert tracked.tolist() == [True, False]
    np.testing.assert_allclose(world[:, y, x], true[FRAMES, 0], atol=1e-4)
    assert np.abs(made["flow"][2, y, x]).max() > 0.003
    np.testing.assert_allclose(world[:, 2, 2], true[FRAMES, 1], atol=1e-4)
    assert not made["flow"][:, 2, 2].any() and made["flow_valid"][2, 2]
    np.testing.assert_array_equal(made["flow_valid"], made["depth0"] > 0)


def test_without_occluders_the_background_is_a_plane_but_where_it_changes(found, camera):
    made = pixel_flow.of_view(found, FRAMES, video((20, 30)), *camera)
    y, x = np.mgrid[18:23, 28:33]
    assert not made["flow_valid"][y, x].any()  # grown by two pixels
    assert made["flow_valid"][20, 33] and made["flow_valid"][15, 30]
    low = min(s.at(0)[:, 2].min() for s in found)
    point = cameras.unproject(np.array([33.0, 20.0]), made["depth0"][20, 33], *camera)
    assert abs(point[2] - low) < 0.02
    on = made["flow"].any((0, 3))
    assert on.sum() > 200 and made["flow_valid"][on].all()


def test_a_depth_file_is_fitted_to_the_surfaces(found, camera):
    true = pixel_flow.of_view([*found, table()], FRAMES, video(), *camera)["depth0"]
    given = np.where(true > 0, (true - 0.2) / 2, 0)
    made = pixel_flow.of_view(found, FRAMES, video(), *camera, depth=given.astype(np.float32))
    np.testing.assert_allclose(made["depth0"][true > 0], true[true > 0], atol=1e-3)


def test_a_plane_is_met_in_front_only(camera):
    lens, pose = camera
    depth = pixel_flow.plane_depth(np.array([0.0, 0, 1, 0]), lens, pose, tiny.SIZE)
    points = cameras.unproject(np.array([40.0, 100.0]), depth[100, 40], lens, pose)
    assert abs(points[2]) < 1e-9
    above = pixel_flow.plane_depth(np.array([0.0, 0, 1, -5.0]), lens, pose, tiny.SIZE)
    assert (above >= 0).all() and not above[100].any()


@pytest.mark.parametrize("size", [(32, 48), (240, 36)])
def test_packed_fields_come_back(size):
    rng = np.random.default_rng(0)
    depth = np.full(size, 1.0, np.float32)
    depth[:, size[1] // 2 :] = 2.0
    flow = np.zeros((3, *size, 3), np.float32)
    y, x = np.mgrid[: size[0], : size[1]]
    flow[1:] = (0.001 * (y + 2 * x) + (depth > 1.5) * 0.3)[None, ..., None]
    fields = {"flow": flow, "flow_valid": rng.random(size) < 0.8, "depth0": depth}
    if size[0] >= pixel_flow.LARGE:
        fields["flow_valid"][:] = True
    packed = pixel_flow.pack(fields)
    back = pixel_flow.unpack(packed)
    np.testing.assert_array_equal(back["flow_valid"], fields["flow_valid"])
    np.testing.assert_array_equal(back["depth0"], depth)
    assert back["flow"].shape == flow.shape and back["flow"].dtype == np.float16
    large = size[0] >= pixel_flow.LARGE
    assert packed["flow"].shape[1] == (size[0] // 2 if large else size[0])
    gap = np.abs(back["flow"].astype(np.float32) - flow)
    assert gap.max() < 4e-3 + 4e-3 * large  # linear inside, never across the edge of depth


def test_depth_files_that_cannot_be(tmp_path):
    file, box, size = tmp_path / "a.npz", (0, 0, 8, 6), (3, 4)
    with pytest.raises(FileNotFoundError, match="no depth of this view"):
        pixel_flow.read_depth(file, box, size)
    np.savez(file, depth=np.arange(48.0).reshape(6, 8) + 1)
    assert pixel_flow.read_depth(file, box, size).tolist()[0] == [10, 12, 14, 16]
    np.savez(file, z=np.ones((6, 8)))
    with pytest.raises(ValueError, match=r"wanted an array depth \[h w\]"):
        pixel_flow.read_depth(file, box, size)
    np.savez(file, depth=np.full((6, 8), np.inf))
    with pytest.raises(ValueError, match="not finite"):
        pixel_flow.read_depth(file, box, size)


def test_fields_are_named():
    with pytest.raises(ValueError, match="wanted fields of"):
        clips.Settings(fields=("flows",))
