"""Cameras that move in embedded scenes: what they film, records of them, flow from frame 0."""

import numpy as np
import pytest

from syncmv4d_jax.data import clips, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, recordings
from syncmv4d_jax.geometry import cameras, flow_map

FRAMES, SIZE = 16, (32, 48)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("moving")
    hand.write(made / "mano")
    spec = scene.specify(0, seed=0, held_out=False)
    scene.write_scene(
        made / "taco", spec, mano.load_hands(made / "mano"), frames=FRAMES, size=(48, 64),
        names=scene.THREE, drawn=8.0, moving=("orbit", "head"),
    )  # fmt: skip
    sources = recordings.taco_sources(made / "taco", made / "mano")
    settings = clips.Settings(
        size=SIZE, frames=5, points=16, val=0.0, fields=("flow",), paths=("orbit", "head"),
        held_out_triplets=scene.HELD_OUT,
    )  # fmt: skip
    prepare.run(sources, made / "records", settings)
    return made


def test_the_orbit_turns_about_the_work_area():
    path = scene.orbit_camera((48, 64), 9)
    pivot = scene.WORK + [0, 0, 0.06]
    pixels = [cameras.project(pivot, c.intrinsics, c.extrinsics)[0] for c in path]
    np.testing.assert_allclose(pixels, np.repeat(pixels[:1], 9, 0), atol=1e-2)
    arms = np.stack([cameras.camera_centre(c.extrinsics) - pivot for c in (path[0], path[-1])])
    angles = np.degrees(np.arctan2(arms[:, 1], arms[:, 0]))
    assert (angles[1] - angles[0]) % 360 == pytest.approx(30, abs=0.01)


def test_recordings_know_their_moving_cameras(root):
    (source,) = recordings.taco_sources(root / "taco", root / "mano")
    recording = source.open()
    assert set(recording.paths) == {"orbit", "head"} and "orbit" not in recording.cameras
    assert recording.paths["orbit"].extrinsics.shape == (FRAMES, 3, 4)
    assert recording.video_path("orbit").name == "orbit.mp4"


def views_of(root, views):
    config = data_config.DataConfig(records=str(root / "records"), cameras="fixed", raw=True,
                                    fields=("flow",))  # fmt: skip
    wanted = data_config.Wanted(size=SIZE, frames=5, views=views)
    return pipeline.Examples(config, wanted, "train").get(0, None)


def test_a_moving_camera_is_a_view_like_any_other(root):
    example = views_of(root, 5)
    assert example["extrinsics"].shape == (5, 5, 3, 4) and example["flow"].shape[:2] == (5, 5)
    still = np.ptp(example["extrinsics"], axis=1).max((1, 2))
    assert (still[:3] == 0).all() and (still[3:] > 1e-3).all()
    three = views_of(root, 3)
    assert three["extrinsics"].shape == (3, 1, 3, 4)  # all stand still
    with pytest.raises(ValueError, match="3 clusters and 2 moving cameras"):
        views_of(root, 6)


def test_its_flow_is_in_the_frame_of_its_first_camera(root):
    """Tracks of the moving view and of a still one are the same surface's."""
    example = views_of(root, 4)
    worlds = []
    for view in (1, 3):  # the orbit starts at the middle camera; crops differ
        camera = flow_map.Camera(*(example[k][view] for k in ("depth0", "intrinsics")),
                                 example["extrinsics"][view, 0])  # fmt: skip
        worlds.append(flow_map.inverse(example["flow"][view].astype(np.float32), camera))
    moving = np.abs(example["flow"][3][-1]).max(-1) > 0.01
    assert moving.sum() > 20
    y, x = np.argwhere(moving & example["flow_valid"][3])[10]
    point = worlds[1][:, y, x]
    gap = np.linalg.norm(worlds[0][0] - point[0], axis=-1)
    near = np.unravel_index(np.argmin(gap), gap.shape)
    assert gap.min() < 0.02  # metres
    ways = worlds[0][-1][near] - worlds[0][0][near], point[-1] - point[0]
    np.testing.assert_allclose(ways[0], ways[1], atol=0.02)


def test_visibility_and_pseudo_video_follow_the_camera(root):
    """A point that a moving view shows is painted with its colour where it projects then."""
    reader = records.Reader(root / "records")
    window = reader.windows[0]
    view = next(v for v in window.views if v.serial == "orbit")
    values, own = reader.view(window, view), reader.tracks(window)
    poses, motion = records.poses(values), records.decode(values["motion"])
    pixels, _ = cameras.project(own["tracks"], np.repeat(values["intrinsics"][None], 5, 0), poses)
    seen = values["visibility"][4] & values["anchor_valid"]
    hits = 0
    for k in np.flatnonzero(seen):
        x, y = np.round(pixels[4, k]).astype(int)
        painted = motion[4, y, x, :2] / 255 * [SIZE[1], SIZE[0]]
        hits += np.abs(painted - values["anchors"][k]).max() < 2.0
    assert seen.sum() >= 4 and hits >= 0.7 * seen.sum()


def test_a_camera_that_is_not_there_is_named(root):
    settings = clips.Settings(size=SIZE, frames=5, points=16, paths=("spiral",))
    (source,) = recordings.taco_sources(root / "taco", root / "mano")
    with pytest.raises(Exception, match="no moving camera 'spiral'"):
        clips.make(source.open(), source.fps, settings)
