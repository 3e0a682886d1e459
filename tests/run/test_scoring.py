"""Samples of flow and of drawn points, evaluated: rows, bars and files, by what a sample holds."""

import json
from types import SimpleNamespace

import fake_samples
import ml_collections
import more4d_tiny as tiny
import numpy as np
import pytest

from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, drawn, evaluate, inputs, scoring
from syncmv4d_jax.tasks import base

NAMES = ("a-0", "b-0")


def example(seed):
    """An unbatched example with flow: two cameras that stand, one that moves."""
    found = {k: np.asarray(x[0]) for k, x in tiny.batch().items()}
    still = np.repeat(found["extrinsics"], tiny.FRAMES, 1)
    moves = still[:1].copy()
    moves[0, :, 0, 3] += 0.02 * np.arange(tiny.FRAMES)
    twice = ("video", "flow", "flow_valid", "depth0", "intrinsics")
    found |= {key: np.concatenate([found[key], found[key][:1]]) for key in twice}
    return found | {
        "extrinsics": np.concatenate([still, moves]), "video": ramps(found["video"].shape, seed),
        "motion": np.zeros_like(found["video"]), "frame_valid": np.ones(tiny.FRAMES, bool),
        "prompt": "x", "triplet": ("pour", f"jug {seed}", "cup"),
    }  # fmt: skip


def ramps(shape, seed):
    """Smooth pictures that grow brighter over time, on the right faster; [v n h w 3] uint8."""
    v, n, y, x = np.ogrid[: shape[0], : shape[1], : shape[2], : shape[3]]
    grey = 30 + 10 * seed + 5 * v + (3 + 0.3 * x) * 3 * n + 2 * y
    return np.repeat(grey[..., None], 3, -1).astype(np.uint8)


TRUTH = {name: example(i) for i, name in enumerate(NAMES)}


class Plain:
    """What a synthesis task is asked for before it samples."""

    clip = base.Clip(tiny.FRAMES, tiny.SIZE, 1)

    def fold(self, covered):
        return covered


def evaluated(workdir, monkeypatch, rebuilt=lambda truth: None):
    monkeypatch.setattr(scoring, "Rebuilder", lambda settings, workdir: rebuilt)
    evaluate.run(fake_samples.config(), workdir, examples=lambda *_: TRUTH.items())
    assert "NaN" not in (workdir / "eval.json").read_text()
    return json.loads((workdir / "eval.json").read_text())


def write_flow(folder, name, truth, share=1.0):
    flow = truth["flow"].astype(np.float32) * share
    result = {"video": flow_map.compand(flow, 8.0), "flow": flow, "depth0": truth["depth0"],
              "images": truth["video"][:, 0]}  # fmt: skip
    cameras = {"intrinsics": truth["intrinsics"], "extrinsics": truth["extrinsics"][:, :1]}
    samples.write(folder / name, result, cameras, {"id": name, "fps": 8.0})


def write_drawn(folder, name, truth):
    """The true videos as what was made of the points of one view; returns what it was given."""
    given = drawn.across(truth, Plain(), name)
    lenses = np.repeat(given["intrinsics"][:, None], tiny.FRAMES, 1)
    shown = [v for v in range(len(truth["video"])) if v != given["source_view"]]
    result = {"video": truth["video"][shown] / 127.5 - 1, "path_intrinsics": lenses,
              "path_extrinsics": given["extrinsics"]}  # fmt: skip
    result |= drawn.told(drawn.Views(*(given[key] for key in drawn.Views._fields)))
    samples.write(folder / name, result, given, {"id": name, "fps": 8.0})
    return given


def test_a_flow_is_scored_beside_what_its_latents_lose(tmp_path, monkeypatch):
    for name, truth in TRUTH.items():
        write_flow(tmp_path / "samples", name, truth, share=0.9)

    def rebuild(truth):
        return base.Sample(None, flow=0.5 * truth["flow"][None].astype(np.float32))

    found = evaluated(tmp_path, monkeypatch, rebuild)
    value = {row: cells["flow_epe_moving_mm"]["value"] for row, cells in found["rows"].items()}
    assert set(value) == {"model", "held", "true_velocity", "codec"}
    assert value["model"] == pytest.approx(0.1 * value["held"], rel=1e-2)
    assert value["codec"] == pytest.approx(0.5 * value["held"], rel=1e-2)
    assert found["clusters"] == 2 and "psnr" not in found["rows"]["model"]
    names = [check["name"] for check in found["checks"]]
    assert names[0].startswith("C1") and names[-1].startswith("S4") and len(names) == 8
    assert found["definitions"]["flow_epe_mm"]["preprocessing"]
    text = (tmp_path / "eval.md").read_text()
    assert "Other metrics: flow" in text and "(paper)" not in text.split("**")[2]
    page = (tmp_path / "report.html").read_text()
    assert '"true_video":[' not in page  # a picture of flow has no true video beside it


def test_drawn_points_are_scored_for_the_record_s_cameras(tmp_path, monkeypatch):
    for name, truth in TRUTH.items():
        given = write_drawn(tmp_path / "samples", name, truth)
        assert given["render"].shape == (2, tiny.FRAMES, *tiny.SIZE, 3)
    found = evaluated(tmp_path, monkeypatch)
    rows = found["rows"]
    for suffix in ("", "_path"):  # the truth itself but for the codec of the mp4
        assert rows["model"][f"psnr_view{suffix}"]["value"] > 25
        assert rows["model"][f"psnr_hole{suffix}"]["value"] > rows["splat"][f"psnr_hole{suffix}"][
            "value"]  # fmt: skip
        assert 0 < rows["model"][f"hole_share{suffix}"]["value"] < 100
    assert found["best_fill_sigma"] and not [row for row in rows if "/" in row]
    assert rows["fill_blur"]["psnr_hole"]["n"] == 2
    assert [check["name"][:2] for check in found["checks"]][:2] == ["V1", "V2"]
    assert '"true_video":[' in (tmp_path / "report.html").read_text()


def test_what_is_seen_along_a_path_belongs_to_its_sample(tmp_path, monkeypatch):
    name, folder = NAMES[0], tmp_path / "samples"
    truth = TRUTH[name]
    write_flow(folder, name, truth)
    rig = {"path_intrinsics": np.repeat(truth["intrinsics"][:1, None], tiny.FRAMES, 1),
           "path_extrinsics": truth["extrinsics"][:1]}  # fmt: skip
    seen = {"video": truth["video"][:1] / 127.5 - 1, **rig}
    covered = np.ones((1, tiny.FRAMES, *tiny.SIZE), bool)
    seen |= drawn.told(drawn.Views(truth["video"][:1], covered, covered))
    meta = {"id": name, "fps": 8.0, "own_views": [True], "camera_path": "static"}
    samples.write(folder / f"{name}_path", seen, {}, meta)
    found = evaluated(tmp_path, monkeypatch)
    cells = found["rows"]["model"]
    assert cells["own_view_correlation"]["value"] > 0.9 and "flow_epe_mm" in cells
    assert found["not_evaluated"] == []
    assert [check["name"][:2] for check in found["checks"]][-1] == "E1"
    assert list(dict(inputs._finished(str(folder)))) == [name]  # a path is not seen again


def test_samples_of_other_cameras_are_not_scored(tmp_path, monkeypatch, caplog):
    name = NAMES[0]
    off = np.zeros((3, 4), np.float32)
    off[:, 3] = 0.01
    moved = TRUTH[name] | {"extrinsics": TRUTH[name]["extrinsics"] + off}
    write_drawn(tmp_path / "samples", name, moved)
    with pytest.raises(ValueError, match="none of the split 'test'"):
        evaluated(tmp_path, monkeypatch)
    assert f"sample {name}: none of its cameras is one of the record's" in caplog.text


def test_points_are_from_the_middle_camera_that_stands():
    truth = TRUTH[NAMES[0]]
    shift = np.array([0.0, 3.0, 1.0])  # where the cameras are along x
    poses = np.repeat(truth["extrinsics"][:1], 3, 0) + 0
    poses[:, :, 0, 3] = shift[:, None]
    assert drawn.middle_view(poses) == 2
    poses[2, :, 1, 3] += np.arange(tiny.FRAMES)
    assert drawn.middle_view(poses) in (0, 1)  # that one moves


def test_a_synthesis_is_given_drawn_points_and_no_picture():
    name, made = inputs._across((NAMES[0], TRUTH[NAMES[0]]), Plain())
    assert name == NAMES[0] and made["prompt"] == "x" and "images" not in made
    assert made["hole_mask"].shape == (2, tiny.FRAMES, *tiny.SIZE)
    assert made["extrinsics"].shape == (2, tiny.FRAMES, 3, 4) and made["render"].dtype == np.uint8
    grey = made["render"][~made["covered"]]
    assert len(grey) and (grey == drawn.HOLE).all()
    without = {k: x for k, x in TRUTH[name].items() if k != "flow"}
    with pytest.raises(ValueError, match=r"record a: wanted the flow of the record's pixels"):
        drawn.across(without, Plain(), "record a")


def test_points_alone_are_other_reference_views():
    """Of three first frames one is given, with its depth; what it does not show is grey."""
    truth = TRUTH[NAMES[0]]
    arrays = {"images": truth["video"][:, 0], **{k: truth[k] for k in ("depth0", "intrinsics")}}
    arrays["extrinsics"] = truth["extrinsics"]
    own = SimpleNamespace(references="points", seed=0)
    name, made = inputs._of_one("a", arrays, own, None)
    source = drawn.middle_view(truth["extrinsics"])
    np.testing.assert_array_equal(made["images"][source], arrays["images"][source])
    other = made["images"][1 - source]
    holes = (other == drawn.HOLE).all(-1)
    assert name == "a" and made["references"] == "points" and 0 < holes.mean() < 0.9
    colours = {tuple(x) for x in arrays["images"][source].reshape(-1, 3)}
    assert all(tuple(x) in colours for x in other[~holes])
    with pytest.raises(ValueError, match="wanted the depth of its first frames"):
        inputs._of_one("a", {k: x for k, x in arrays.items() if k != "depth0"}, own, None)


def test_a_task_s_weights_are_read_for_its_rebuilt_truth_alone(tmp_path, monkeypatch, caplog):
    class Task:
        rebuilt_by = ("vae",)

        def rebuild(self, params, truth):
            return params, sorted(truth)

    asked = []

    def load(task, settings, workdir, *, parts):
        asked.append((workdir, parts))
        return "weights"

    config = ml_collections.ConfigDict({"task": {"name": "x"}})
    monkeypatch.setattr(assembly, "task", lambda config: Task())
    monkeypatch.setattr(assembly, "load_params", load)
    make = scoring.Rebuilder(SimpleNamespace(source=config), tmp_path)
    assert make({"video": np.zeros(2), "prompt": "x"}) == ("weights", ["video"])
    assert make({"video": np.zeros(2)})[0] == "weights" and asked == [(tmp_path, ("vae",))]

    def lost(*_, **__):
        raise FileNotFoundError("no weights for ['vae']")

    monkeypatch.setattr(assembly, "load_params", lost)
    assert scoring.Rebuilder(SimpleNamespace(source=config), tmp_path)({}) is None
    assert "no row of what the latents lose: no weights for ['vae']" in caplog.text
    monkeypatch.setattr(assembly, "task", lambda config: object())
    assert scoring.Rebuilder(SimpleNamespace(source=config), tmp_path)({}) is None


def test_criteria_are_of_the_metrics_that_there_are():
    cell = {"value": 1.0, "se": None, "n": 1, "clusters": 1, "per_sample": {"a": 1.0}}
    told = {
        (): "PSNR moving", ("psnr",): "PSNR moving", ("flow_epe_mm", "error_mm"): "S4",
        ("psnr", "follow"): "B3 Swap", ("psnr", "follow", "error_mm"): "Temporal corr.",
        ("psnr_view",): "V1", ("psnr", "psnr_view_path"): "V4", ("flow_epe_mm", "psnr_view"): "C1",
    }  # fmt: skip
    for metrics, wanted in told.items():
        found = scoring.checks({"model": dict.fromkeys(metrics, cell)})
        names = " ".join(check["name"] for check in found)
        assert wanted in names
        assert ("PSNR moving" in names) == ("psnr" in metrics or not metrics)
        assert ("B1" in names) == (metrics == ("psnr", "follow"))
        assert ("E1" in names) == any("view" in metric for metric in metrics)
