"""Pairs of rollouts of one reset (data_prep/metaworld_pairs.py): alike at first, apart later."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
import tiny

FRAMES = 9
ROOM = np.random.default_rng(0).uniform(-0.2, 0.2, (5, 3)).astype(np.float32)
unlike = importlib.import_module("data_prep.metaworld_pairs").unlike


def tracks(way):
    """[n k 3]: points that go along x."""
    shift = way * np.arange(FRAMES)[:, None, None] * np.array([1.0, 0, 0])
    return (ROOM + shift).astype(np.float32)


@pytest.fixture
def pair(tmp_path):
    """(one, other): copies of a recording whose tracks part."""
    one = tiny.write(tmp_path, "s_0", frames=FRAMES, views=3)
    shutil.copytree(one, tmp_path / "s_0x")
    for folder, way in ((one, 0.01), (tmp_path / "s_0x", -0.01)):
        np.savez(folder / "tracks.npz", tracks=tracks(way))
    return one, tmp_path / "s_0x"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def turn(cameras):
    name = sorted(cameras)[0]
    cameras[name]["T"] = [1.0, 0.0, 0.0]


def film(path):
    """Another first picture."""
    others = [x for x in path.parent.glob("*.mp4") if x != path]
    shutil.copy(sorted(others)[0], path)


def later(folder):
    """The same first picture, other poses of a camera after it: no fault."""

    def change(cameras):
        for camera in cameras.values():
            camera["R"] = [np.ravel(camera["R"]).tolist(), np.eye(3).ravel().tolist()]
            camera["T"] = [np.ravel(camera["T"]).tolist(), [0.0, 0.0, 9.0]]

    edit(folder / "cameras.json", change)


def test_a_pair_that_begins_alike_and_parts_has_no_fault(pair):
    assert unlike(*pair) == ""
    later(pair[1])
    assert unlike(*pair) == ""


@pytest.mark.parametrize("change, wrong", [
    (lambda f: edit(f / "recording.json", lambda x: x.update(text="Push it.")),
     r"recording.json differs in \['text'\]"),
    (lambda f: edit(f / "cameras.json", turn), "cameras of frame 0 differ"),
    (lambda f: film(sorted(f.glob("*.mp4"))[-1]), "first pictures of .* differ"),
    (lambda f: np.savez(f / "tracks.npz", tracks=tracks(-0.01) + np.float32(1e-4)),
     "tracks of frame 0 differ"),
    (lambda f: np.savez(f / "tracks.npz", tracks=tracks(0.0101)), "both move alike"),
])  # fmt: skip
def test_what_is_no_pair_is_told(pair, change, wrong):
    change(pair[1])
    assert re.search(wrong, unlike(*pair))
