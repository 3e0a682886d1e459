"""Preparation from video files to records, on a tiny recording with known motion."""

import json
import os
import shutil

import av
import numpy as np
import pytest
import scipy.ndimage
import tiny

from syncmv4d_jax import schema
from syncmv4d_jax.data import (
    clips,
    pipeline,
    prepare,
    records,
    rigs,
    transforms,
)
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data import frames as clip_frames
from syncmv4d_jax.data.sources import recordings, taco, taco_writer
from syncmv4d_jax.geometry import (
    cameras,
    matching,
    pseudo_video,
)

SETTINGS = clips.Settings(size=(96, 144), frames=9, fps=15.0, points=128)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A root with one whole recording and one that is too short, of a held-out tool."""
    root = tmp_path_factory.mktemp("recordings")
    tiny.write(root, "seq0")
    tiny.write(root, "short", frames=6, tool="hammer", views=3)
    return root


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """(folder of records, summary)."""
    out = tmp_path_factory.mktemp("records")
    summary = prepare.run(recordings.folder_sources(data), out, SETTINGS)
    return out / "96x144", summary


def read(folder, name="seq0-0"):
    reader = records.Reader(folder)
    (window,) = [w for w in reader.windows if w.id == name]
    views = [reader.view(window, view) for view in window.views]
    views = [v | {k: records.decode(v[k]) for k in ("video", "motion")} for v in views]
    return window, reader.tracks(window), views


def test_every_camera_is_a_view_in_its_cluster(made):
    window, tracks, views = read(made[0])
    assert [v.cluster for v in window.views] == [0, 0, 1, 1, 2, 2]
    assert window.text == "A person uses a spoon to stir a bowl."
    assert tracks["tracks"].shape == (9, 128, 3) and tracks["frame_valid"].all()
    for view in views:
        assert view["video"].shape == view["motion"].shape == (9, 96, 144, 3)
        assert view["visibility"].shape == (9, 128) and view["anchor_valid"].any()
    assert (made[0] / "report.html").is_file() and (made[0] / "report" / "seq0-0.jpg").is_file()
    assert made[1]["sequences"] == 2 and made[1]["views"] == 9 and not made[1]["skipped"]


def test_training_sees_consistent_views_in_any_order(made):
    """Whatever the order and the turn, what a view says of itself and of the tracks agrees."""
    data = data_config.DataConfig(records=str(made[0]), split="", fps=15.0, augment=True)
    batches = pipeline.train_iterator(
        data, data_config.Wanted(), batch_size=2, seed=0, shard_index=0, shard_count=1
    )
    clusters = {}  # of each camera of either recording, by the pixels of its anchors
    for name in ("seq0-0", "short-0"):
        window, _, views = read(made[0], name)
        for view, values in zip(window.views, views, strict=True):
            clusters[values["anchors"].tobytes()] = view.cluster, values["video"]
    orders = set()
    for _, batch in zip(range(5), batches, strict=False):
        orders |= {tuple(row) for row in batch["view_index"].tolist()}
        for b, v in np.ndindex(2, 3):
            own = {key: batch[key][b, v] for key in schema.PER_VIEW if key in batch}
            cluster, video = clusters[own["anchors"].tobytes()]
            assert own["view_index"] == cluster and np.array_equal(own["video"], video)
            pixels, depth = cameras.project(
                batch["tracks"][b], own["intrinsics"], own["extrinsics"]
            )
            np.testing.assert_allclose(pixels[0], own["anchors"], atol=0.02)
            np.testing.assert_allclose([depth.min(), depth.max()], own["scale"], atol=1e-4)
    assert len(orders) > 2


def test_short_recordings_are_padded_and_held_out_ones_tested(made):
    window, tracks, views = read(made[0], "short-0")
    assert window.split == "test"
    np.testing.assert_array_equal(tracks["frame_valid"], np.arange(9) < 3)
    assert (tracks["tracks"][3:] == tracks["tracks"][3]).all()
    assert (views[0]["motion"][4] == views[0]["motion"][3]).all()


def test_dots_painted_in_the_videos_are_where_their_vertices_project(made):
    """Crop, resize and intrinsics agree: white dots lie within 1 px of their vertices."""
    window, tracks, views = read(made[0])
    posed, shapes = tiny.poses(18)["left"], tiny.solids()["left"][0][tiny.dots()]
    errors = []
    for view in views:
        for n in (0, 4, 8):
            pose = posed[tracks["source_frames"][n]]
            dots = shapes @ pose[:3, :3].T + pose[:3, 3]
            pixels, _ = cameras.project(dots, view["intrinsics"], view["extrinsics"])
            white = view["video"][n].min(-1) > 170
            labels, count = scipy.ndimage.label(white)
            weight = np.where(white, view["video"][n].min(-1) - 120.0, 0)
            centres = scipy.ndimage.center_of_mass(weight, labels, np.arange(1, count + 1))
            size = scipy.ndimage.sum_labels(white, labels, np.arange(1, count + 1))
            apart = np.linalg.norm(pixels[:, None] - pixels, axis=-1) + 99 * np.eye(len(pixels))
            for (y, x), area in zip(centres, size, strict=True):
                distance = np.linalg.norm(pixels - [x, y], axis=-1)
                if area >= 4 and apart[np.argmin(distance)].min() > 7:  # two dots may flow together
                    errors.append(distance.min())
    assert len(errors) > 14 and np.median(errors) < 0.3 and max(errors) < 1


def test_pseudo_videos_say_where_visible_points_came_from_and_how_deep_they_are(made):
    _, tracks, views = read(made[0])
    for view in views:
        low, high = view["scale"]
        pixels, depth = cameras.project(tracks["tracks"], view["intrinsics"], view["extrinsics"])
        np.testing.assert_allclose([depth.min(), depth.max()], [low, high], atol=1e-4)
        np.testing.assert_allclose(pixels[0], view["anchors"], atol=1e-2)
        near = np.round(pixels).astype(int).clip(0, [143, 95])
        seen = view["visibility"] & view["anchor_valid"][None]
        frames = np.broadcast_to(np.arange(9)[:, None], seen.shape)
        colour = view["motion"][frames, near[..., 1], near[..., 0]] / 255.0
        seen = seen & (colour.max(-1) > 0)  # rounding may leave the silhouette
        origin = colour[..., :2] * [144, 96]
        off = np.abs(origin - view["anchors"][None])[seen].max(-1)
        assert np.percentile(off, 80) < 1.5  # half a pixel of position, 0.3 px of 8 bit
        deep = np.abs(low + colour[..., 2] * (high - low) - depth)[seen]
        assert np.median(deep) < 0.003  # half a pixel on a slope


def test_visibility_agrees_with_the_surfaces(made, data):
    _, tracks, views = read(made[0])
    recording = recordings.read_folder(data / "seq0")
    shares = []
    for view in views[::3]:
        n = 4
        surfaces = [s.at(int(tracks["source_frames"][n])) for s in recording.surfaces]
        middle = np.stack([s.mean(0) for s in surfaces])[tracks["surface"]]
        eye = cameras.camera_centre(view["extrinsics"])
        outward = tracks["tracks"][n] - middle
        facing = np.sum(outward * (eye - tracks["tracks"][n]), axis=-1)
        facing = facing / np.linalg.norm(outward, axis=-1)
        visible = view["visibility"][n]
        np.testing.assert_array_equal(view["anchor_valid"], view["visibility"][0])
        assert not view["anchor_valid"].all()  # hidden points are tracked, but no anchors
        assert not visible[facing < -0.9].any()  # well on the far side
        shares.append(visible[facing > 0.5].mean())
    assert min(shares) > 0.5  # the rest is behind another solid


def test_records_are_decoded_back_to_their_tracks(made):
    """The codec of `motion` finds the tracks of a true record again."""
    _, tracks, views = read(made[0])
    view = views[2]
    settings = matching.settings_for(96, 144)
    decoded = pseudo_video.decode(
        view["motion"] / np.float32(255), view["anchors"], view["anchor_valid"], view["scale"],
        view["intrinsics"], view["extrinsics"], settings=settings,
    )  # fmt: skip
    good = np.asarray(decoded.visible) & view["visibility"]
    error = np.linalg.norm(np.asarray(decoded.tracks) - tracks["tracks"], axis=-1)[good]
    assert good.sum() > 0.3 * view["visibility"].sum()
    assert np.median(error) < 0.004


def files(folder):
    return {p.name: p.read_bytes() for p in (folder / "sequences").iterdir()}


def test_a_stopped_run_continues_to_the_same_bytes(made, data, tmp_path):
    def die(source, root, settings):
        if source.id == "short":
            (root / "sequences" / ".short.array_record.7.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return prepare.prepare_sequence(source, root, settings)

    with pytest.raises(KeyboardInterrupt):
        prepare.run(recordings.folder_sources(data), tmp_path, SETTINGS, work=die)
    assert not (tmp_path / "96x144" / "index.json").exists()
    summary = prepare.run(recordings.folder_sources(data), tmp_path, SETTINGS)
    assert (summary["prepared_now"], summary["there_before"]) == (1, 1)
    again = {k: v for k, v in files(tmp_path / "96x144").items() if not k.startswith(".")}
    assert again.keys() == files(made[0]).keys()
    for name, content in files(made[0]).items():
        assert again[name] == content, name


def test_another_making_is_refused(made, data):
    changed = clips.Settings(size=(96, 144), frames=9, fps=15.0, points=64)
    with pytest.raises(ValueError, match="points: was 128, is 64"):
        prepare.run(recordings.folder_sources(data), made[0].parent, changed)


def damage(folder, how):
    """Breaks a copy of a recording; returns what its reason must say."""
    surface = folder / "surfaces" / "tool.npz"
    if how == "truncated videos":
        for video in folder.glob("*.mp4"):
            video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        return "cannot be read as a video"
    if how == "no frames at the end":
        for video in folder.glob("*.mp4"):
            images = [np.full((*tiny.SIZE, 3), 90, np.uint8)] * 7
            tiny.write_video(video, images)
        return "wanted 18 frames, one a pose, got 7"
    if how == "nan poses":
        with np.load(surface) as file:
            values = dict(file)
        values["poses"][3, 0, 0] = np.nan
        np.savez(surface, **values)
        return "frame 3 has no finite pose"
    if how == "pickled surface":
        np.savez(surface, vertices=np.array([{}], object), faces=np.zeros((1, 3)))
        return "unreadable"
    calibration = json.loads((folder / "cameras.json").read_text())
    if how == "cameras look away":
        for entry in calibration.values():
            entry["T"] = [5.0, 0.0, 1.0]
        reason = "calibration"
    elif how == "two cameras":
        calibration = dict(list(calibration.items())[:2])
        reason = "at least 3 cameras"
    elif how == "another aspect":
        for entry in calibration.values():
            entry["imgSize"] = [500, 500]
        reason = "its camera 500 x 500"
    else:
        return {"no description": "recording.json", "no surfaces": "no <name>.npz"}[how]
    (folder / "cameras.json").write_text(json.dumps(calibration))
    return reason


BROKEN = (
    "truncated videos", "no frames at the end", "nan poses", "pickled surface",
    "cameras look away", "two cameras", "another aspect", "no surfaces",
)  # fmt: skip


def test_broken_recordings_are_listed_with_their_reasons_and_stop_nothing(data, tmp_path):
    root, expected = tmp_path / "in", {}
    for how in BROKEN:
        name = how.replace(" ", "_")
        shutil.copytree(data / "seq0", root / name)
        if how == "no surfaces":
            shutil.rmtree(root / name / "surfaces")
        expected[name] = damage(root / name, how)
    shutil.copytree(data / "seq0", root / "whole")
    (root / "one_view").mkdir()
    shutil.copytree(data / "seq0", root / "one_view", dirs_exist_ok=True)
    (root / "one_view" / "cam1.mp4").unlink()
    summary = prepare.run(recordings.folder_sources(root), tmp_path / "out", SETTINGS)
    reasons = {entry["sequence"]: entry["reason"] for entry in summary["skipped"]}
    assert reasons.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in reasons[name], (name, reasons[name])
    assert summary["sequences"] == 2
    assert [v["camera"] for v in summary["skipped_views"]] == ["cam1"]
    page = (tmp_path / "out" / "96x144" / "report.html").read_text()
    assert "nan_poses" in page and "cam1" in page


def exit_on_seq1(source, root, settings):
    """Work of a pool whose process dies on one sequence."""
    if source.id == "seq1":
        os._exit(9)
    return {"seconds": 0.0, "bytes": 0}


@pytest.mark.slow
def test_a_dying_process_costs_its_own_sequence_only(tmp_path):
    sources = [recordings.Source(f"seq{i}", ("a", "b", "c"), "folder", "none") for i in range(9)]
    (tmp_path / "96x144" / "sequences").mkdir(parents=True)
    summary = prepare.run(sources, tmp_path, SETTINGS, jobs=2, work=exit_on_seq1)
    assert [entry["sequence"] for entry in summary["skipped"]] == ["seq1"]
    assert "died" in summary["skipped"][0]["reason"] and summary["prepared_now"] == 8


def test_variants_start_elsewhere_with_other_crops(data, tmp_path):
    settings = clips.Settings(size=(96, 144), frames=5, fps=15.0, points=32, variants=2, val=0.0)
    source = recordings.folder_sources(data)[0]
    first = clips.make(source.open(), source.fps, settings, 0)
    second = clips.make(source.open(), source.fps, settings, 1)
    assert first.tracks["source_frames"][0] == 0
    assert any((a.box != b.box) for a, b in zip(first.views, second.views, strict=True))
    assert second.tracks["source_frames"][0] > 0 and second.tracks["source_frames"][-1] <= 17
    assert second.tracks["frame_valid"].all()


def test_first_cameras_have_the_longest_lens_and_fall_back(data, tmp_path):
    root = tmp_path / "in"
    shutil.copytree(data / "seq0", root / "seq0")
    path = root / "seq0" / "cameras.json"
    calibration = json.loads(path.read_text())
    calibration["cam0"]["K"][0] = calibration["cam0"]["K"][4] = 160.0  # cluster 2, wide
    path.write_text(json.dumps(calibration))
    (root / "seq0" / "cam2.mp4").unlink()  # of the middle cluster
    settings = clips.Settings(size=(96, 144), frames=5, fps=15.0, points=32, cameras="first")
    window = clips.make(recordings.read_folder(root / "seq0"), 30.0, settings)
    assert [view.cluster for view in window.views] == [0, 1, 2]
    assert "cam0" not in [v.serial for v in window.views] and window.views[1].serial == "cam3"


def test_split_is_by_sequence_and_depends_on_nothing_else():
    settings = clips.Settings(held_out_triplets=(("cut", "knife", "plate"),))
    names = [settings.split(f"{i}", ("stir", "spoon", "bowl")) for i in range(400)]
    assert 20 < names.count("val") < 65 and "test" not in names
    assert settings.split("1", ("hit", "hammer", "toy")) == "test"
    assert settings.split("1", ("measure", "ruler", "box")) == "test"
    assert settings.split("1", ("cut", "knife", "plate")) == "test"


def read_clip(path, index, box, size):
    return clip_frames.Video(path).read(index, box, size)


def test_clips_are_sought_to_the_exact_frame(tmp_path):
    path = tmp_path / "count.mp4"
    images = [np.full((64, 64, 3), 20 + 4 * i, np.uint8) for i in range(50)]
    tiny.write_video(path, images)
    index = np.array([26, 30, 30, 49])
    clip = read_clip(path, index, (0, 0, 64, 64), (32, 32))
    np.testing.assert_allclose(clip.mean((1, 2, 3)), 20 + 4 * index, atol=2)
    with pytest.raises(taco.BadSequence, match="the first is 50"):
        read_clip(path, np.array([48, 50]), (0, 0, 64, 64), (32, 32))


def test_videos_with_flipped_bits_are_refused_or_read_as_they_were(tmp_path):
    path, rng, refused = tmp_path / "whole.mp4", np.random.default_rng(0), 0
    image = np.kron(rng.integers(0, 255, (18, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    taco_writer.write_video(path, np.stack([np.roll(image, 2 * n, axis=1) for n in range(20)]))
    data, (index, box, size) = path.read_bytes(), (np.arange(0, 20, 3), (0, 0, 96, 72), (36, 48))
    whole = read_clip(path, index, box, size).astype(int)
    for i in range(60):
        damaged, other = bytearray(data), tmp_path / f"{i}.mp4"
        for place in rng.integers(len(data), size=10):
            damaged[place] ^= 1 << int(rng.integers(8))
        other.write_bytes(damaged)
        try:
            clip = read_clip(other, index, box, size)
            assert np.abs(clip - whole).max() < 8  # never a picture that the decoder made up
        except taco.BadSequence as error:
            assert "cannot be read as a video" in str(error) or "not there" in str(error)
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("box", [(40, 20, 640, 420), (-60, -40, 540, 360), (100, 80, 340, 240)])
def test_planes_that_are_cut_and_resized_give_the_picture(tmp_path, box):
    path, rng = tmp_path / "smooth.mp4", np.random.default_rng(0)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(480, 640, 3)), (8, 8, 0))
    image = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
    tiny.write_video(path, [image] * 2, pixels="yuv420p")
    (cut,) = read_clip(path, np.array([1]), box, (100, 150))
    error = cut - transforms.crop_resize(image, box, (100, 150)).astype(int)
    # Of colours converted first: mean 1.2, with a bias of -1.2.
    assert np.abs(error).mean() < 1 and abs(error.mean()) < 0.3 and np.abs(error).max() <= 8


def test_frames_that_are_not_wanted_are_skipped_without_changing_the_others(tmp_path):
    path, rng = tmp_path / "moving.mp4", np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.integers(0, 255, (96, 160, 3)), (2, 2, 0))
    frames = [np.roll(image, 2 * n, axis=1).astype(np.uint8) for n in range(40)]
    taco_writer.write_video(path, np.stack(frames))
    box, size = (0, 0, 160, 96), (48, 80)
    everything = read_clip(path, np.arange(40), box, size)
    some = np.array([0, 4, 8, 11, 15, 19, 23, 26, 30, 34, 38, 39])
    assert np.array_equal(read_clip(path, some, box, size), everything[some])
    with av.open(str(path)) as container:
        kinds = [
            av.video.frame.PictureType(frame.pict_type).name for frame in container.decode(video=0)
        ]
    assert "B" in kinds  # there was something to skip


def test_resized_copies_scale_their_intrinsics_row_by_row():
    camera = rigs.Camera("a", np.array([[9600.0, 0, 2048], [0, 9600, 1500], [0, 0, 1]]),
                         np.eye(3, 4), (3000, 4096))  # fmt: skip
    scaled = clip_frames.fit_intrinsics(camera, (376, 512), "x")
    np.testing.assert_allclose(np.diag(scaled)[:2], [1200, 9600 * 376 / 3000])
    crop = transforms.crop_box((100, 80, 300, 220), (376, 512), (96, 144))
    assert crop[0] >= 0 and crop[3] <= 376
