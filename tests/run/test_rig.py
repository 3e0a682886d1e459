"""What is said of a user's cameras before sampling."""

import json
import types

import numpy as np
from PIL import Image

from syncmv4d_jax.run import inputs, rig
from syncmv4d_jax.tasks import base

CAMERA = {"K": [50, 0, 23.5, 0, 50, 15.5, 0, 0, 1], "R": [1, 0, 0, 0, 1, 0, 0, 0, 1]}


def folder(tmp_path, names):
    made = tmp_path / "mine"
    made.mkdir()
    rigs = {}
    for v, name in enumerate(names):
        rigs[name] = CAMERA | {"T": [0.1 * v, 0, 0], "imgSize": [48, 32]}
        Image.fromarray(np.full((32, 48, 3), 40 * v, np.uint8)).save(made / f"{name}.png")
    (made / "cameras.json").write_text(json.dumps(rigs))
    return made


def test_views_and_what_is_left_out_are_said_with_a_sheet(tmp_path, monkeypatch):
    task = types.SimpleNamespace(cameras=True, clip=base.Clip(5, (16, 24), 2))
    given, sheet = folder(tmp_path, ["left", "top", "spare"]), tmp_path / "out/mine_rig.png"
    lines = rig.show(given, task, sheet)
    assert lines[:3] == ["view 0: left", "view 1: top",
                         "left out: spare (the model takes 2 views)"]  # fmt: skip
    assert str(sheet) in lines[3]
    assert rig.show(given, task, None) == lines[:3]
    with Image.open(sheet) as image:
        assert image.size[0] > 2 * image.size[1]
    assert inputs._images(str(given), task)["views"] == "left\ntop"
    alone = types.SimpleNamespace(cameras=False, clip=task.clip)
    assert rig.show(given, alone, sheet) == []
    assert rig.show(tmp_path / "one.png", task, sheet) == []
    monkeypatch.chdir(given)
    assert rig.show("", task, sheet) == []  # no images: not those that happen to lie here
