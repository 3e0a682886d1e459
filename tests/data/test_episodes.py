"""Records of robots: windows, views by name, missing views, actions, splits, what is skipped."""

import json

import export_lerobot
import import_lerobot
import lerobot_sets as sets
import numpy as np
import pytest

from syncmv4d_jax import schema
from syncmv4d_jax.data import cache, episodes, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import lerobot, taco
from syncmv4d_jax.results import samples

NAMES = (("head", "top"),)
SETTINGS = {
    "views": ("head", "right", "left"), "cameras": NAMES, "size": (48, 64), "frames": 9,
    "fps": 15.0, "every": 0.5, "val": 0.0, "test": 0.0,
}  # fmt: skip


def run(root, out, **changes):
    settings = episodes.with_actions(episodes.Settings(**SETTINGS | changes), root, "action")
    episodes.check(settings, root)
    made = prepare.run(episodes.sources(root), out, settings, work=episodes.prepare_episode)
    return out / "48x64", made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of records, summary) of a set whose third episode lacks a view."""
    root = sets.write_3(tmp_path_factory.mktemp("set"))
    (root / "videos/observation.images.right/chunk-000/file-001.mp4").unlink()
    return run(root, tmp_path_factory.mktemp("records"))


def test_windows_of_all_episodes_show_their_frames(made):
    folder, summary = made
    reader = records.Reader(folder)
    assert summary["sequences"] == 4 and not summary["skipped"]
    # 9 frames at 15 a second are 16 frames of 30 and the last: whole ones every 15 frames.
    starts = {}
    for window in reader.windows:
        starts.setdefault(window.sequence, []).append(
            int(reader.tracks(window)["source_frames"][0])
        )
    assert list(starts.values()) == [[0, 15], [0, 15, 30], [0], [0, 15, 30]]
    wrong = count = 0
    for window in reader.windows:
        own, first = reader.tracks(window), sets.starts()[int(window.sequence[-6:])]
        assert own["frame_valid"].all() and window.text in sets.TASKS
        for view in window.views:
            values = reader.view(window, view)
            camera = {"head": "top"}.get(view.serial, view.serial)
            assert view.cluster == ("head", "right", "left").index(view.serial)
            for picture, frame in zip(
                records.decode(values["video"]), own["source_frames"], strict=True
            ):
                wrong += sets.read_code(picture) != (camera, first + frame)
                count += 1
            assert "motion" not in values and "extrinsics" not in values
    assert wrong == 0 and count == 9 * (3 * 9 - 3)


def test_a_missing_view_costs_itself_alone(made):
    reader = records.Reader(made[0])
    lacking = [w for w in reader.windows if w.sequence == "episode_000003"]
    assert all([v.serial for v in w.views] == ["head", "left"] for w in lacking)
    reasons = [x["reason"] for x in made[1]["skipped_views"]]
    assert len(reasons) == 3 and all("not found" in reason for reason in reasons)


def batches(folder, views, **more):
    config = data_config.DataConfig(records=str(folder), split="train", fps=15.0, **more)
    wanted = data_config.Wanted(views=views, size=(48, 64), frames=9, representation="point_tracks")
    return pipeline.train_iterator(
        config, wanted, batch_size=2, seed=1, shard_index=0, shard_count=1
    )


def test_batches_have_videos_actions_and_views_by_name(made):
    seen = set()
    for _, batch in zip(range(6), batches(made[0], 2, augment=True), strict=False):
        assert schema.check(batch, where="test")["v"] == 2
        assert not batch.keys() & {*schema.CAMERAS, *schema.TRACKED, "motion"}
        for clip, slots, actions in zip(
            batch["video"], batch["view_index"], batch["actions"], strict=True
        ):
            mean, std = (np.array(sets.stats()["action"][k], np.float32) for k in ("mean", "std"))
            frames = np.rint(actions * std + mean)[:, 0]
            for view, slot in zip(clip, slots, strict=True):
                codes = [sets.read_code(picture) for picture in view]
                assert codes == [(("top", "right", "left")[slot], frame) for frame in frames]
            seen.add(tuple(sorted(slots)))
    assert len(seen) > 1, "which of three views are taken is drawn"


def test_clips_with_too_few_views_are_left_out(made):
    config = data_config.DataConfig(records=str(made[0]), fps=15.0)
    assert len(pipeline.Examples(config, data_config.Wanted(views=2), "train")) == 9
    assert len(pipeline.Examples(config, data_config.Wanted(views=3), "train")) == 6


def test_the_cache_holds_latents_of_videos_alone(made, tmp_path):
    folder = cache.run(
        made[0],
        tmp_path,
        encode_video=lambda clip: np.zeros((3, 6, 8, 4), np.float32),
        encode_text=lambda texts: (np.zeros((len(texts), 2, 8), np.float32), [1] * len(texts)),
        weights_hash="",
    )
    batch = next(iter(batches(made[0], 2, cache=str(folder))))
    assert batch["video_latents"].shape == (2, 2, 3, 6, 8, 4) and "motion_latents" not in batch
    assert "video" not in batch


def test_splits_are_by_episode_and_by_task(tmp_path):
    root = sets.write_3(tmp_path / "set")
    folder, summary = run(root, tmp_path / "out", held_out=(sets.TASKS[1],), test=0.0)
    reader = records.Reader(folder)
    assert {w.split for w in reader.windows if w.text == sets.TASKS[1]} == {"test"}
    assert {w.split for w in reader.windows if w.text == sets.TASKS[0]} == {"train"}
    settings = episodes.Settings(views=("head",), val=0.3, test=0.3)
    drawn = [settings.split(f"episode_{i:06d}", "text") for i in range(300)]
    assert all(60 < drawn.count(split) < 125 for split in ("train", "val", "test"))


def test_windows_of_time_stamps():
    settings = episodes.Settings(views=("head",), frames=5, fps=5.0)
    stamps = np.array([0, 0.1, 0.21, 0.3, 0.38, 0.5, 0.6, 0.9, 1.0])  # two are missing
    ((start, index, valid),) = episodes.windows(stamps, 10.0, settings)
    assert (start, index.tolist(), valid.tolist()) == (0, [0, 2, 4, 6, 7], [True] * 5)
    with pytest.raises(taco.BadSequence, match="2 frames in 0.1 s are 1 of a clip's 9"):
        episodes.windows(
            np.arange(2) / 10, 10.0, episodes.Settings(views=("head",), frames=9, fps=5.0)
        )
    with pytest.raises(taco.BadSequence, match="lower --fps"):
        episodes.windows(np.arange(30) / 4, 4.0, settings)
    # What info.json says is not believed where the time stamps say otherwise.
    ((_, index, _),) = episodes.windows(np.arange(30) / 20, 10.0, settings)
    assert index.tolist() == [0, 4, 8, 12, 16]


def test_an_episode_that_is_too_short_is_skipped_with_its_reason(tmp_path):
    root = sets.write_3(tmp_path / "set")
    _, summary = run(root, tmp_path / "out", frames=49, fps=10.0, every=0.0)
    reasons = {x["sequence"]: x["reason"] for x in summary["skipped"]}
    assert list(reasons) == ["episode_000002"] and "31 frames" in reasons["episode_000002"]


def test_names_that_nothing_has_are_refused_at_once(tmp_path):
    root = sets.write_3(tmp_path)
    for changes, text in (
        ({"cameras": (("head", "front"),)}, "no camera 'front' for view 'head'.*images.left"),
        ({"views": ("a", "b"), "cameras": ()}, "none of the views"),
        ({"depth": (("head", "top"),)}, "is no depth camera"),
        ({"actions": "torque"}, "no feature 'torque'"),
    ):
        with pytest.raises(ValueError, match=text):
            episodes.check(episodes.Settings(**SETTINGS | changes), root)
    with pytest.raises(ValueError, match="unknown views.*up"):
        episodes.Settings(views=("head",), cameras=(("up", "top"),))
    with pytest.raises(ValueError, match="no feature 'torque'"):
        episodes.with_actions(episodes.Settings(**SETTINGS), root, "torque")


def test_command_lines_import_and_export(tmp_path, monkeypatch, capsys):
    root = sets.write_2(tmp_path / "set")
    flags = ["--lerobot", str(root), "--out", str(tmp_path / "out"), "--views", "head,left,right"]
    flags += ["--cameras", "head=observation.images.top", "--size", "48x64", "--frames", "9"]
    assert import_lerobot.main([*flags, "--fps", "15", "--actions", "action", "--jobs", "1"]) == 0
    assert "4 clips of 4 episodes" in capsys.readouterr().out
    index = json.loads((tmp_path / "out/48x64/index.json").read_text())
    assert index["settings"]["action_names"] == ["j0", "j1"]
    with pytest.raises(SystemExit, match="wanted names of views"):
        import_lerobot.main([*flags[:4], "--views", "a,a"])


def test_samples_are_exported_as_a_data_set(tmp_path, capsys):
    """What a run made is read by the importer's own reader: frames, prompts, cameras."""
    rng = np.random.default_rng(0)
    for i in range(2):
        video = np.repeat(rng.uniform(-1, 1, (2, 5, 1, 1, 3)), 32, 2).repeat(48, 3)
        pose = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1, 1))
        pose[:, 0, 2, 3] = i + 1
        rig = {"intrinsics": np.tile(np.diag([40.0, 40, 1]), (2, 1, 1)), "extrinsics": pose}
        meta = {"fps": 8.0, "prompt": f"text {i}"}
        samples.write(tmp_path / f"samples/s{i}", {"video": video}, rig, meta)
    flags = ["--samples", str(tmp_path / "samples"), "--out", str(tmp_path / "out")]
    assert export_lerobot.main([*flags, "--views", "head,hand"]) == 0
    assert "2 episodes, 2 cameras" in capsys.readouterr().out
    data = lerobot.open_dataset(tmp_path / "out")
    assert [e.text for e in data.episodes] == ["text 0", "text 1"] and data.fps == 8
    camera, episode = data.camera("hand"), data.episode(1)
    clip, _ = data.pictures(episode, camera, np.arange(5), (32, 48))
    wanted = samples.read(tmp_path / "samples/s1")["video"][1]
    assert np.abs(clip.astype(int) - wanted).mean() < 4
    assert data.poses(episode, camera, "hand")[4, 2, 3] == 2
    np.testing.assert_array_equal(data.intrinsics(episode, camera, "hand"), np.diag([40.0, 40, 1]))
    with pytest.raises(ValueError, match="wanted 1 views"):
        list(export_lerobot.takes(samples.find(tmp_path / "samples"), ("head",)))
    with pytest.raises(SystemExit, match="is there already"):
        export_lerobot.main([*flags, "--views", "head,hand"])
