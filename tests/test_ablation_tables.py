"""The tables of benchmarks/ablations.py: paired verdicts, the colour gap, shared stages."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("ablations", FOLDER / "ablations.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ablations", module)
    spec.loader.exec_module(module)
    return module


def scenes(values):
    return {f"s{i}": x for i, x in enumerate(values)}


def test_verdicts_are_paired_by_scene(ablations):
    rng = np.random.default_rng(0)
    easy = rng.uniform(1, 100, 40)  # scenes differ far more than rows do
    worse = {"mv_rpe": scenes(easy), "psnr_moving": scenes(easy)}
    better = {
        "mv_rpe": scenes(easy - rng.uniform(0.1, 0.3, 40)),
        "psnr_moving": scenes(easy + rng.normal(0, 1, 40)),
    }
    found = ablations.compare(better, worse, "mv_rpe")
    assert found["verdict"] == "holds" and 0.15 < found["gain"] < 0.25 and found["n"] == 40
    assert ablations.compare(worse, better, "mv_rpe")["verdict"] == "reversed"
    assert ablations.compare(better, worse, "psnr_moving")["verdict"] == "not resolved"
    assert ablations.compare(better, worse, "colour_gap") is None
    one = {"mv_rpe": scenes([1.0, None, 3.0])}
    assert ablations.compare(one, {"mv_rpe": scenes([2.0, 2.0, 4.0])}, "mv_rpe")["n"] == 2


def test_colour_gap_of_views_that_differ_by_ten_levels(ablations):
    video = np.full((2, 3, 8, 8, 3), 100, np.uint8)
    video[1] += 10
    video[:, 0] = [[[[0]]], [[[255]]]]  # frame 0 is given
    tracks = np.zeros((3, 4, 3)) + [0, 0, 2.0]
    views = {
        "visibility": np.ones((2, 3, 4), bool),
        "intrinsics": np.tile([[4.0, 0, 4], [0, 4, 4], [0, 0, 1]], (2, 1, 1)),
        "extrinsics": np.tile(np.eye(4)[:3], (2, 1, 1)),
    }
    assert ablations.colour_gap(video, tracks, views) == pytest.approx(10)
    video[1, 2] += 20  # in one frame of two: sqrt((10^2 + 30^2) / 2)
    assert ablations.colour_gap(video, tracks, views) == pytest.approx(500**0.5)


def test_a_shared_stage_is_copied_once_it_is_finished(ablations, tmp_path):
    source, own = tmp_path / "a", tmp_path / "b"
    (source / "checkpoints" / "video" / "7").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="stage video is not finished"):
        ablations.share("video", source, own)
    (source / "video.safetensors").write_text("x")
    ablations.share("video", source, own)
    assert (own / "checkpoints" / "video" / "7").is_dir()
    assert (own / "video.safetensors").read_text() == "x"


def test_every_ordering_names_rows_and_columns(ablations):
    assert set(ablations.ORDER) == set(ablations.ROWS)
    for better, worse, metric, _ in ablations.ORDERINGS:
        assert {better, worse} <= set(ablations.ROWS) and metric in ablations.METRICS
    names = list(ablations.ROWS)
    for name, row in ablations.ROWS.items():  # what a row takes over is trained before it
        assert all(names.index(source) < names.index(name) for source in row.shares.values())
