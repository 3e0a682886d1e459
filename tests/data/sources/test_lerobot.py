"""LeRobot data sets with a code in every frame: no wrong frame, whatever the version and codec."""

import json
import shutil

import lerobot_sets as sets
import numpy as np
import pyarrow.parquet as pq
import pytest

from syncmv4d_jax.data.sources import lerobot, lerobot_writer, taco


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One set of each version and codec, made once."""
    made = {}

    def make(name):
        if name not in made:
            root, (version, codec) = tmp_path_factory.mktemp(name), name.split("-")
            made[name] = (sets.write_2 if version == "2" else sets.write_3)(root, codec)
        return made[name]

    return make


def codes(data, episode, camera, index):
    key = data.camera(camera)
    pictures, _ = data.pictures(data.episode(episode), key, np.asarray(index), key.size)
    return [sets.read_code(picture) for picture in pictures]


@pytest.mark.parametrize("name", ["2-h264", "2-av1", "3-h264", "3-av1"])
def test_no_frame_of_any_camera_is_wrong(folders, name):
    data = lerobot.open_dataset(folders(name))
    assert [e.length for e in data.episodes] == list(sets.LENGTHS)
    assert [e.text for e in data.episodes] == [sets.TASKS[i % 2] for i in range(4)]
    read = wrong = 0
    for e, first in enumerate(sets.starts()):
        for camera in sets.CAMERAS:
            index = np.arange(sets.LENGTHS[e])
            found = codes(data, e, camera, index)
            wrong += sum(x != (camera, first + i) for x, i in zip(found, index, strict=True))
            read += len(found)
    assert (read, wrong) == (3 * sum(sets.LENGTHS), 0)


def test_chosen_frames_of_a_later_file_are_right(folders):
    data = lerobot.open_dataset(folders("3-h264"))
    first = sets.starts()[2]
    index = [3, 7, 7, 30]
    for camera in sets.CAMERAS:
        assert codes(data, 2, camera, index) == [(camera, first + i) for i in index]


def test_numbers_and_statistics(folders):
    for name in ("2-h264", "3-h264"):
        data = lerobot.open_dataset(folders(name))
        np.testing.assert_array_equal(data.column(data.episode(2), "action"), sets.actions(2))
        np.testing.assert_allclose(data.stamps(data.episode(1)), np.arange(55) / 30, atol=1e-6)
        mean, std = lerobot.statistics(data, "action")
        wanted = sets.stats()["action"]
        np.testing.assert_allclose(mean, wanted["mean"])
        np.testing.assert_allclose(std, wanted["std"], rtol=1e-6)


def test_statistics_that_are_not_finite_are_named(folders, tmp_path):
    root = shutil.copytree(folders("3-h264"), tmp_path / "data")
    kept = json.loads((root / "meta/stats.json").read_text())
    kept["action"]["mean"][0] = None
    (root / "meta/stats.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="stats.json: action has statistics that are not finite"):
        lerobot.statistics(lerobot.open_dataset(root), "action")


def test_image_and_depth_cameras(tmp_path):
    count, size = sum(sets.LENGTHS), sets.CAMERAS["top"]
    rng = np.random.default_rng(0)
    depth = rng.integers(1, 4096, (count, *size))
    depth[:, 0, 0] = 0
    data = lerobot.open_dataset(sets.write_3(tmp_path, images=("left",), depth=depth))
    assert data.camera("left").kind == "image" and data.camera("observation.depth.top").kind == (
        "depth"
    )
    assert codes(data, 3, "left", [0, 46]) == [("left", 126), ("left", 172)]
    frame = data.depth(data.episode(1), data.cameras["observation.depth.top"], 5)
    q = depth[sets.starts()[1] + 5] / 4095
    low, high = np.log(0.01 + 3.5), np.log(10 + 3.5)
    wanted = np.exp(q * (high - low) + low) - 3.5
    wanted[0, 0] = 0
    np.testing.assert_allclose(frame, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="which"):
        data.camera("top")


def break_info(root, **changes):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | changes))


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    root = sets.write_3(tmp_path)
    data = lerobot.open_dataset(root)
    gone = root / "videos/observation.images.right/chunk-000/file-001.mp4"
    gone.rename(gone.with_suffix(".away"))
    with pytest.raises(taco.BadSequence, match="episode 3: not found: .*right.*file-001.mp4"):
        codes(data, 3, "right", [0])
    features = sets.features(action=3)
    features["observation.images.left"]["shape"] = [48, 80, 3]
    break_info(root, features=features)
    other = lerobot.open_dataset(root)
    with pytest.raises(taco.BadSequence, match=r"action: info.json says \[3\].*40, 2\]"):
        other.column(other.episode(0), "action")
    with pytest.raises(taco.BadSequence, match="info.json says 48 x 80 pixels, it has 48 x 64"):
        codes(other, 0, "left", [0])
    with pytest.raises(taco.BadSequence, match="no column 'velocity'"):
        other.column(other.episode(0), "velocity")
    with pytest.raises(taco.BadSequence, match="no episode 9"):
        other.episode(9)
    break_info(root, codebase_version="v1.6")
    with pytest.raises(ValueError, match="v1.6"):
        lerobot.open_dataset(root)


@pytest.mark.parametrize("fps", [15, 24])
def test_another_clock_is_refused(tmp_path, fps):
    root = sets.write_3(tmp_path)
    pictures = [image for e in (0, 1, 2) for image in sets.clip("right", e)]
    path = root / "videos/observation.images.right/chunk-000/file-000.mp4"
    sets.film(path, pictures, "h264", fps=fps)
    data = lerobot.open_dataset(root)
    with pytest.raises(taco.BadSequence, match="clock is not episode 0's"):
        codes(data, 0, "right", np.arange(40))
    with pytest.raises(taco.BadSequence, match="clock is not episode 0's"):
        codes(data, 0, "right", np.arange(0, 40, 4))  # each has a frame at its time


def test_a_file_that_ends_early_costs_what_lies_behind_its_end(tmp_path):
    root = sets.write_3(tmp_path)
    path = root / "videos/observation.images.right/chunk-000/file-001.mp4"
    sets.film(path, sets.clip("right", 3)[:30], "h264")
    data = lerobot.open_dataset(root)
    first = sets.starts()[3]
    assert codes(data, 3, "right", [0, 29]) == [("right", first), ("right", first + 29)]
    with pytest.raises(taco.BadSequence, match="clock is not episode 3's"):
        codes(data, 3, "right", [0, 31])


def test_calibration_of_cameras_that_stand_and_that_move(tmp_path):
    root = sets.write_3(tmp_path)
    camera = {"K": [80, 0, 47.5, 0, 80, 35.5, 0, 0, 1], "R": np.eye(3).ravel().tolist(),
              "T": [0, 0, 1.0], "imgSize": [96, 72]}  # fmt: skip
    sets.save(root / "meta/cameras.json", {"top": camera})
    data = lerobot.open_dataset(root)
    episode, top = data.episode(0), data.camera("top")
    assert data.poses(episode, top, "head").shape == (1, 3, 4)
    np.testing.assert_array_equal(data.intrinsics(episode, top, "head")[0], [80, 0, 47.5])
    assert data.poses(episode, data.camera("left"), "left") is None
    with pytest.raises(taco.BadSequence, match="add it to meta/cameras.json"):
        data.intrinsics(episode, data.camera("left"), "left")

    pose = np.tile(np.eye(3, 4, dtype=np.float32), (6, 1, 1))
    pose[:, 2, 3] = np.arange(6)
    videos = {"observation.images.left": np.zeros((6, 48, 64, 3), np.uint8)}
    numbers = {"observation.extrinsics.left": pose}
    made = [lerobot_writer.Take("move", videos, numbers)]
    lerobot_writer.write(tmp_path / "moving", made, fps=10)
    data = lerobot.open_dataset(tmp_path / "moving")
    np.testing.assert_array_equal(data.poses(data.episode(0), data.camera("left"), "left"), pose)
    mirrored = pose * np.array([-1, 1, 1], np.float32)[:, None]
    made = [lerobot_writer.Take("move", videos, {"observation.extrinsics.left": mirrored})]
    lerobot_writer.write(tmp_path / "mirrored", made, fps=10)
    data = lerobot.open_dataset(tmp_path / "mirrored")
    with pytest.raises(taco.BadSequence, match="mirrors"):
        data.poses(data.episode(0), data.camera("left"), "left")


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_what_is_written_is_read_again(tmp_path, codec):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (n, 48, 64, 3), np.uint8) for n in sets.LENGTHS]
    made = [
        lerobot_writer.Take(
            sets.TASKS[e % 2],
            {f"observation.images.{c}": np.stack(sets.clip(c, e)) for c in sets.CAMERAS}
            | {"observation.images.noise": noise[e]},
            {"action": sets.actions(e)},
        )
        for e in range(3)
    ]
    root = tmp_path / "out"
    assert lerobot_writer.write(root, made, fps=30, codec=codec, video_mb=0.01, data_mb=0.002) == 3
    data = lerobot.open_dataset(root)
    for e, first in enumerate(sets.starts()[:3]):
        for camera in sets.CAMERAS:
            found = codes(data, e, camera, range(sets.LENGTHS[e]))
            assert found == [(camera, first + i) for i in range(sets.LENGTHS[e])]
        np.testing.assert_array_equal(data.column(data.episode(e), "action"), sets.actions(e))
    files = {c: {data.episode(e).videos[f"observation.images.{c}"].path for e in range(3)}
             for c in (*sets.CAMERAS, "noise")}  # fmt: skip
    assert len(files["noise"]) == 3 > len(files["left"]), "every camera is cut by itself"
    with pytest.raises(FileExistsError):
        lerobot_writer.write(root, made, fps=30)
    other = made[0]._replace(numbers={"action": sets.actions(0)[:, :1]})
    with pytest.raises(ValueError, match="episode 1 differs from the first in .*action"):
        lerobot_writer.write(tmp_path / "wrong", [made[0], other], fps=30)
    assert not (tmp_path / "wrong").exists()


def test_the_form_is_that_of_version_3(tmp_path):
    """What the real library looks for: columns, types, paths, the pandas index of tasks."""
    videos = {"observation.images.head": np.zeros((7, 32, 48, 3), np.uint8)}
    made = [lerobot_writer.Take(text, videos, {"action": np.zeros((7, 4))}) for text in "aba"]
    root = tmp_path / "out"
    lerobot_writer.write(root, made, fps=8)
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 8
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 21, 2)
    assert info["splits"] == {"train": "0:3"}
    data = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    kinds = {field.name: str(field.type) for field in data.schema}
    assert kinds == {
        "timestamp": "float", "frame_index": "int64", "episode_index": "int64", "index": "int64",
        "task_index": "int64", "action": "fixed_size_list<element: float>[4]",
    }  # fmt: skip
    assert data["index"].to_pylist() == list(range(21))
    assert data["task_index"].to_pylist() == [0] * 7 + [1] * 7 + [0] * 7
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    (episode,) = [row for row in rows if row["episode_index"] == 1]
    key = "videos/observation.images.head"
    assert episode[f"{key}/from_timestamp"] == 7 / 8 and episode[f"{key}/to_timestamp"] == 14 / 8
    assert (episode["dataset_from_index"], episode["dataset_to_index"]) == (7, 14)
    assert episode["tasks"] == ["b"] and episode["length"] == 7
