"""Actions of recordings in the plain layout, and what else could have followed a first frame."""

import importlib
import json
import shutil

import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import clips, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.metrics import scene

FRAMES = 9
TOLD = {"names": ["x", "grip"], "mean": [1.0, 0.0], "std": [2.0, 0.5]}
ROWS = np.stack([np.arange(FRAMES), np.ones(FRAMES)], 1).astype(np.float32)


def describe(folder, rows=ROWS, told=TOLD):
    path = folder / "recording.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"actions": told}))
    np.savez(folder / "actions.npz", actions=rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(recordings, records): one recording, and one that begins alike and goes another way."""
    root, out = tmp_path_factory.mktemp("recordings"), tmp_path_factory.mktemp("records")
    one = tiny.write(root, "s_0", frames=FRAMES, views=3)
    describe(one)
    shutil.copytree(one, root / "s_0x")
    np.savez(root / "s_0x/actions.npz", actions=-ROWS)
    for path in (root / "s_0x/surfaces").glob("*.npz"):  # frame 0 again and again
        with np.load(path) as file:
            values = {key: file[key] for key in file}
        values["poses"] = np.repeat(values["poses"][:1], FRAMES, 0)
        np.savez(path, **values)
    words = ["--folder", root, "--out", out, "--size", "48x72", "--frames", 5, "--fps", 15,
             "--points", 32, "--val-share", 1, "--actions", "--jobs", 1]  # fmt: skip
    script = importlib.import_module("data_prep.prepare_taco")
    assert script.main([str(word) for word in words]) == 0
    return root, out


def test_actions_are_kept_by_frame_and_standardised(made):
    reader = records.Reader(made[1], "val")
    own = reader.tracks(next(w for w in reader.windows if w.sequence == "s_0"))
    np.testing.assert_array_equal(own["actions"], ROWS[::2])
    config = data_config.DataConfig(records=str(made[1]), split="val", fps=15.0)
    found = dict(pipeline.examples(config, data_config.Wanted(), "val"))
    np.testing.assert_allclose(found["s_0-0"]["actions"], (ROWS[::2] - [1, 0]) / [2, 0.5])


def test_what_begins_alike_is_a_course_of_records_with_actions(made):
    config = data_config.DataConfig(records=str(made[1]), split="val", fps=15.0)
    found = dict(pipeline.examples(config, data_config.Wanted(), "val"))
    ((video, mask),) = found["s_0-0"]["courses"]()
    assert mask is None
    np.testing.assert_array_equal(video, found["s_0x-0"]["video"])


@pytest.mark.parametrize("change, wrong", [
    (lambda f: (f / "actions.npz").unlink(), "wanted actions"),
    (lambda f: np.savez(f / "actions.npz", actions=ROWS[:-1]), r"wanted finite actions \(9, 2\)"),
    (lambda f: np.savez(f / "actions.npz", actions=ROWS * np.nan), "finite"),
    (lambda f: describe(f, told=TOLD | {"std": [1.0, 0.0]}), "std above 0"),
    (lambda f: describe(f, told=TOLD | {"mean": [1.0]}), "a name, a mean and a std"),
])  # fmt: skip
def test_actions_that_do_not_fit_are_refused(made, tmp_path, change, wrong):
    shutil.copytree(made[0] / "s_0", tmp_path / "s_0")
    change(tmp_path / "s_0")
    with pytest.raises(ValueError, match=wrong):
        recordings.read_folder(tmp_path / "s_0")


def test_recordings_of_other_actions_are_not_mixed(made, tmp_path):
    shutil.copytree(made[0] / "s_0", tmp_path / "s_0")
    shutil.copytree(made[0] / "s_0", tmp_path / "s_1")
    describe(tmp_path / "s_1", told=TOLD | {"std": [1.0, 1.0]})
    sources = recordings.folder_sources(tmp_path)
    with pytest.raises(ValueError, match="actions of one kind.*s_0.*s_1"):
        recordings.actions_of(sources)
    own = {f"action_{key}": tuple(x) for key, x in TOLD.items()}
    describe(tmp_path / "s_1", rows=ROWS[:, :1], told={k: x[:1] for k, x in TOLD.items()})
    settings = clips.Settings(size=(48, 72), frames=9, fps=30.0, points=32, **own)
    summary = prepare.run(sources, tmp_path / "out", settings)
    assert "wanted 2 actions a frame, got 1" in summary["skipped"][0]["reason"]


def test_a_video_that_follows_its_own_actions_has_a_margin():
    rng = np.random.default_rng(0)
    way = rng.integers(0, 200, (6, 1, 1, 1))
    true = np.full((2, 6, 24, 32, 3), 90, np.uint8)
    true[:, :, 4:16, 4:16] = way
    other = np.full_like(true, 90)
    other[:, :, 4:16, 16:28] = way[::-1]
    own = scene.swapped(true, true, [other])
    wrong = scene.swapped(other, true, [other])
    assert own["model"] > 0.5 and wrong["model"] < -0.5
    both = true.copy()
    both[:, :, 4:16, 16:28] = other[:, :, 4:16, 16:28]  # as much the one as the other
    assert abs(scene.swapped(both, true, [other])["model"]) < 0.1
    assert own["frame_0"] is None or abs(own["frame_0"]) < 0.01
