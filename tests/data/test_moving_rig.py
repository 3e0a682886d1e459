"""A rig one of whose cameras moves, from files to batches: the bounds of a rig that stands."""

import json

import numpy as np
import pytest
import scipy.ndimage
import tiny

from syncmv4d_jax import schema
from syncmv4d_jax.data import clips, pipeline, prepare, records, rigs, surfaces, user
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.geometry import cameras, matching, pseudo_video
from syncmv4d_jax.run import truth

SETTINGS = clips.Settings(size=(96, 144), frames=9, fps=15.0, points=128, surfaces="all", val=0.0)
HAND = "cam1"  # in the middle: those that move come last all the same


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of the recording, reader, window, its own values, {camera: values of the view})."""
    root, out = tmp_path_factory.mktemp("recordings"), tmp_path_factory.mktemp("records")
    folder = tiny.write(root, views=4, moving=(HAND,))
    summary = prepare.run(recordings.folder_sources(root), out, SETTINGS)
    assert not summary["skipped"] and not summary["skipped_views"]
    reader = records.Reader(out)
    (window,) = reader.windows
    views = {view.serial: reader.view(window, view) for view in window.views}
    return folder, reader, window, reader.tracks(window), views


def test_a_moving_camera_keeps_its_path_and_comes_last(made):
    _, _, window, own, views = made
    assert window.moves == (2,) and {v.serial: v.cluster for v in window.views}[HAND] == 2
    path = tiny.way(tiny.rig(4)[HAND][1], 18)[own["source_frames"]]
    np.testing.assert_allclose(views[HAND]["extrinsics"], path, atol=1e-6)
    assert all(x["extrinsics"].shape == (3, 4) for name, x in views.items() if name != HAND)


def test_dots_of_a_moving_view_are_where_their_vertices_project(made):
    """Reprojection in the video as it was stored: at most 1 px."""
    _, _, _, own, views = made
    posed, shapes = tiny.poses(18)["left"], tiny.solids()["left"][0][tiny.dots()]
    view, errors = views[HAND], []
    for n, picture in enumerate(records.decode(view["video"])):
        pose = posed[own["source_frames"][n]]
        dots = shapes @ pose[:3, :3].T + pose[:3, 3]
        pixels, _ = cameras.project(dots, view["intrinsics"], view["extrinsics"][n])
        white = picture.min(-1) > 150
        labels, count = scipy.ndimage.label(white)
        weight = np.where(white, picture.min(-1) - 120.0, 0)
        places = scipy.ndimage.center_of_mass(weight, labels, np.arange(1, count + 1))
        sizes = scipy.ndimage.sum_labels(white, labels, np.arange(1, count + 1))
        apart = np.linalg.norm(pixels[:, None] - pixels, axis=-1) + 99 * np.eye(len(pixels))
        for (y, x), area in zip(places, sizes, strict=True):
            distance = np.linalg.norm(pixels - [x, y], axis=-1)
            if area >= 2 and apart[np.argmin(distance)].min() > 6:
                errors.append(distance.min())
    assert len(errors) > 7 and np.median(errors) < 0.4 and max(errors) < 1


def test_pseudo_video_visibility_and_scale_follow_the_camera(made):
    _, _, _, own, views = made
    view = views[HAND]
    pixels, depth = cameras.project(own["tracks"], view["intrinsics"], view["extrinsics"])
    np.testing.assert_allclose([depth.min(), depth.max()], view["scale"], atol=1e-4)
    np.testing.assert_allclose(pixels[0], view["anchors"], atol=1e-2)
    near = np.round(pixels).astype(int).clip(0, [143, 95])
    seen = view["visibility"] & view["anchor_valid"][None]
    frames = np.broadcast_to(np.arange(9)[:, None], seen.shape)
    colour = records.decode(view["motion"])[frames, near[..., 1], near[..., 0]] / 255.0
    seen = seen & (colour.max(-1) > 0)
    assert seen[8].sum() > 20
    off = np.abs(colour[..., :2] * [144, 96] - view["anchors"][None])[seen].max(-1)
    low, high = view["scale"]
    deep = np.abs(low + colour[..., 2] * (high - low) - depth)[seen]
    assert np.percentile(off, 80) < 1.5 and np.median(deep) < 0.003


@pytest.mark.slow
def test_the_pseudo_video_of_a_moving_view_is_decoded_to_its_tracks(made):
    _, _, _, own, views = made
    view = views[HAND]
    decoded = pseudo_video.decode(
        records.decode(view["motion"]) / np.float32(255), view["anchors"], view["anchor_valid"],
        view["scale"], view["intrinsics"], view["extrinsics"],
        settings=matching.settings_for(96, 144),
    )  # fmt: skip
    good = np.asarray(decoded.visible) & view["visibility"]
    error = np.linalg.norm(np.asarray(decoded.tracks) - own["tracks"], axis=-1)[good]
    assert good.sum() > 0.3 * view["visibility"].sum() and np.median(error) < 0.004


def test_batches_have_a_pose_a_frame_and_agree_when_the_world_is_turned(made):
    _, reader, _, _, _ = made
    config = data_config.DataConfig(
        records=str(reader.root), split="", fps=15.0, augment=True, cameras="fixed"
    )
    batches = pipeline.train_iterator(
        config, data_config.Wanted(), batch_size=2, seed=0, shard_index=0, shard_count=1
    )
    batch = next(iter(batches))
    assert schema.check(batch, where="test")["n"] == 9
    assert batch["extrinsics"].shape == (2, 3, 9, 3, 4)
    points = np.broadcast_to(batch["tracks"][:, None], (2, 3, 9, 128, 3))
    pixels, _ = cameras.project(points, batch["intrinsics"], cameras.poses(batch["extrinsics"]))
    np.testing.assert_allclose(pixels[:, :, 0], batch["anchors"], atol=0.02)
    inside = ((pixels > 0) & (pixels < [143, 95])).all(-1)
    assert inside[batch["visibility"]].all()


def test_the_truth_of_query_pixels_follows_the_camera(made):
    _, reader, window, own, views = made
    found, order = reader.surfaces(window), [views["cam0"], views[HAND]]
    example = {
        "intrinsics": np.stack([v["intrinsics"] for v in order]),
        "extrinsics": np.stack([np.broadcast_to(records.poses(v), (9, 3, 4)) for v in order]),
        "video": np.zeros((2, 9, 96, 144, 3), np.uint8),
    }
    asked = np.flatnonzero(order[1]["anchor_valid"])[:20]
    sample = {
        "anchor_view": np.ones(len(asked), int), "meta": {"anchors": "own"},
        "anchors": np.stack([v["anchors"][asked] for v in order]),
        "anchor_valid": np.ones((2, len(asked)), bool),
    }  # fmt: skip
    met = truth.follow(sample, example, found)
    error = np.linalg.norm(met["tracks"] - own["tracks"][:, asked], axis=-1)
    assert np.median(error) < 0.002
    agrees = met["visibility"][1] == order[1]["visibility"][:, asked]
    assert agrees.mean() > 0.9
    assert isinstance(found[0], surfaces.Surface)


def test_paths_of_cameras_that_do_not_fit_are_refused(tmp_path, made):
    value = {"K": [80, 0, 31.5, 0, 80, 23.5, 0, 0, 1], "imgSize": [64, 48]}
    turns = np.tile(np.eye(3).ravel(), (4, 1))
    for r, t, text in (
        (turns, np.zeros((3, 3)), "4 rotations and 3 translations"),
        (turns * np.array([1, 1, 1, 1, 1, 1, 1, 1, -1]), np.zeros((4, 3)), "frame 0: .*mirrors"),
        (turns, np.full((4, 3), np.nan), "not finite"),
    ):
        with pytest.raises(ValueError, match=text):
            rigs.parse("hand", value | {"R": r.tolist(), "T": t.tolist()}, where="test")
    folder = tiny.write(tmp_path, "short", frames=6, views=3, moving=("cam2",))
    content = json.loads((folder / "cameras.json").read_text())
    content["cam2"]["R"], content["cam2"]["T"] = content["cam2"]["R"][:4], content["cam2"]["T"][:4]
    (folder / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="cam2.*moves for 4 frames, the surfaces for 6"):
        recordings.read_folder(folder)


def test_users_give_paths_of_cameras(tmp_path):
    from PIL import Image

    path = tiny.way(tiny.rig(3)["cam0"][1], 5)
    entry = {"K": [320, 0, 79.5, 0, 320, 59.5, 0, 0, 1], "imgSize": [160, 120]}
    content = {
        "a": entry | {"R": path[:, :, :3].reshape(5, 9).tolist(), "T": path[:, :, 3].tolist()},
        "b": entry | {"R": path[0, :, :3].ravel().tolist(), "T": [0.5, 0, 1.5]},
    }
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    for name in content:
        Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(tmp_path / f"{name}.png")
    views = user.read(tmp_path, views=2, size=(48, 64))
    assert views.extrinsics.shape == (2, 5, 3, 4)
    np.testing.assert_allclose(views.extrinsics[0], path, atol=1e-6)
    assert (views.extrinsics[1] == views.extrinsics[1, 0]).all()
