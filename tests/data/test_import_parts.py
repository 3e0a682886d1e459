"""Importers by parts (--shard): the same files whoever makes them, and an index of all."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from workbooks import write as write_workbook

from data_prep import import_taste_rob, import_trajscene
from syncmv4d_jax.data import one_camera, prepare, reconstructed, records
from syncmv4d_jax.data.sources import dense

SETTINGS = one_camera.Settings((16, 24), 5, 8.0, points=8)
ORDERS = [(0, 1), (1, 0)]


def clip(name):
    depth = np.full((16, 24), 1.0, np.float32)
    k = np.array([[20.0, 0, 11.5], [0, 20.0, 7.5], [0, 0, 1]])
    y, x = np.mgrid[:16, :24]
    start = np.stack([(x - 11.5) / 20, (y - 7.5) / 20, np.ones_like(x)], -1).reshape(-1, 3)
    points = (start + 0.01 * np.arange(5)[:, None, None]).astype(np.float32)
    video = np.full((5, 16, 24, 3), 90, np.uint8)
    poses = np.repeat(np.eye(3, 4)[None], 5, 0)
    return dense.Clip(name, f"text {name}", 8.0, False, video, k, poses, depth, points, (16, 24))


CLIPS = [(f"c{i}", clip(f"c{i}") if i != 2 else ValueError("c2: damaged")) for i in range(5)]


def files(root):
    found = {p.name: p.read_bytes() for p in (root / "16x24/sequences").iterdir()}
    return found | {"index.json": (root / "16x24/index.json").read_bytes()}


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_clips_of_one_camera_make_the_whole(tmp_path, order):
    one_camera.write(tmp_path / "one", CLIPS, SETTINGS)
    for i in order:
        index = one_camera.write(tmp_path / "two", CLIPS[i::2], SETTINGS, shard=(i, 2))
    assert files(tmp_path / "two") == files(tmp_path / "one") and len(index["windows"]) == 4
    assert index["skipped"] == [{"sequence": "c2", "reason": "c2: damaged"}]
    fewer = one_camera.write(tmp_path / "two", CLIPS[0:1], SETTINGS, shard=(0, 2))
    assert fewer["left_out"] == ["c4"]  # its part lists it no more


@pytest.mark.parametrize("order", ORDERS)
def test_parts_of_real_clips_make_the_whole(tmp_path, order, monkeypatch):
    def part(folder, root, settings):
        if folder.name == "c2":
            raise ValueError("masks are empty")
        file = f"sequences/{folder.name}.array_record"
        size = records.write_file(root / file, [{"text": folder.name}])
        window = {"id": f"{folder.name}-0", "sequence": folder.name, "file": file, "record": 0}
        return {"windows": [window], "bytes": size}

    monkeypatch.setattr(reconstructed, "_part", part)
    for i in range(5):
        (tmp_path / f"in/c{i}").mkdir(parents=True)
        (tmp_path / f"in/c{i}/clip.json").write_text(json.dumps({"i": i}))
    clips = sorted((tmp_path / "in").iterdir())
    settings = reconstructed.Settings((16, 24), frames=5)
    reconstructed.run(clips, tmp_path / "one", settings)
    for i in order:
        index = reconstructed.run(clips, tmp_path / "two", settings, shard=(i, 2))
    assert files(tmp_path / "two") == files(tmp_path / "one") and len(index["windows"]) == 4
    assert [x["sequence"] for x in index["skipped"]] == ["c2"]


def test_a_part_that_another_process_makes_is_left_to_it(tmp_path):
    root = tmp_path / "16x24"
    with prepare.recipe.Lock(root, prepare.lock_name((0, 2))):
        one_camera.write(tmp_path, CLIPS[1::2], SETTINGS, shard=(1, 2))
        with pytest.raises(prepare.recipe.Held):
            one_camera.write(tmp_path, CLIPS[0::2], SETTINGS, shard=(0, 2))


def test_archives_are_shared_out(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"a{i}").mkdir()
    monkeypatch.setattr(import_trajscene.trajscene, "samples", lambda path: [(path.name, None)])
    names = [[x for x, _ in import_trajscene.archives(tmp_path, (i, 3))] for i in range(3)]
    assert names == [["a0", "a3"], ["a1", "a4"], ["a2"]]
    seen = []
    monkeypatch.setattr(
        one_camera, "write",
        lambda out, found, settings, shard: seen.append((list(found), shard))
        or {"windows": [1], "skipped": []},
    )  # fmt: skip
    flags = ["--trajscene", str(tmp_path), "--out", str(tmp_path / "out"), "--shard", "2/3"]
    assert import_trajscene.main(flags) == 0 and seen == [([("a2", None)], (2, 3))]


def test_videos_of_taste_rob_are_shared_out(tmp_path, capsys):
    write_workbook(tmp_path / "taste/captions.xlsx")
    place = tmp_path / "taste/SingleHand/Kitchen"
    place.mkdir(parents=True)
    for name in ("17", "18"):
        tiny.write_video(place / f"{name}.mp4", [np.full((32, 48, 3), 9, np.uint8)] * 3, fps=15)
    flags = ["--taste", str(tmp_path / "taste"), "--out", str(tmp_path / "clips")]
    for part, names in (("1/2", {"18"}), ("0/2", {"17", "18"})):
        assert import_taste_rob.main([*flags, "--shard", part]) == 0
        made = {path.name.partition("_")[2] for path in (tmp_path / "clips").iterdir()}
        assert made == names and "1 clips, 0 left out" in capsys.readouterr().out


def test_settings_of_a_clip_that_is_in_two_parts_are_one(tmp_path):
    one_camera.write(tmp_path, CLIPS[:1], SETTINGS, shard=(0, 2))
    other = dataclasses.replace(SETTINGS, points=9)
    with pytest.raises(prepare.recipe.Other, match="points"):
        one_camera.write(tmp_path, CLIPS[1:2], other, shard=(1, 2))
