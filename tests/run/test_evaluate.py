"""Evaluation of samples on disk: known answers, baselines, checks, what is wrong or missing."""

import json

import fake_samples
import numpy as np
import pytest

from syncmv4d_jax.metrics import definitions, scene, summary
from syncmv4d_jax.run import evaluate

SCENES = {f"scene-{i}": fake_samples.truth(i) for i in range(3)}


def examples(config, split):
    assert split == "test"
    yield from SCENES.items()


def evaluated(workdir, config=None):
    evaluate.run(config or fake_samples.config(), workdir, examples=examples)
    text = (workdir / "eval.json").read_text()
    assert "NaN" not in text
    return json.loads(text)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    for i, (name, truth) in enumerate(SCENES.items()):
        fake_samples.write(workdir / "samples", name, truth, seed=i)
    return workdir, evaluated(workdir)


def test_every_number_says_what_it_is(result):
    _, found = result
    assert found["scenes"] == 3 and found["fps"] == 8.0 and found["resolution"] == [48, 64]
    for metric, cell in found["rows"]["model"].items():
        assert cell["definition"] == definitions.DEFINITIONS[metric].id
        assert cell["n"] == 3 and cell["se"] is not None
        assert set(cell["per_sample"]) == set(SCENES)
        assert np.mean(list(cell["per_sample"].values())) == pytest.approx(cell["value"])
        assert found["definitions"][metric]["preprocessing"]
    assert set(found["rows"]["model"]) == set(definitions.DEFINITIONS)


def test_a_good_sample_beats_every_baseline_but_few_scenes_pass_no_check(result):
    _, found = result
    rows = found["rows"]
    for metric in ("mv_rpe", "mv_rpe_cross_truth", "chamfer", "error_mm"):
        for row in ("held", "time_mean", "oracle"):
            assert rows["model"][metric]["value"] < rows[row][metric]["value"]
            assert found["paired"][row][metric]["better_beyond_2se"]
    for row in ("frame_0", "frame_0_blurred", "time_mean", "held"):
        assert rows["model"]["psnr_moving"]["value"] > rows[row]["psnr_moving"]["value"]
    assert rows["frame_0_blurred"]["psnr_moving"]["value"] > rows["frame_0"]["psnr_moving"]["value"]
    assert rows["model"]["temporal_correlation"]["value"] > 0.6
    assert rows["held"]["temporal_std_ratio"]["value"] == 0
    assert rows["oracle"]["mv_rpe_cross"]["value"] < 1e-6
    assert found["checks"] and not any(c["passed"] for c in found["checks"])
    assert all("3 of 16 scenes" in c["why_not"] for c in found["checks"])


def test_tables_and_page_are_written(result):
    workdir, _ = result
    text = (workdir / "eval.md").read_text()
    assert "| model |" in text and "SyncMV4D (paper)" in text and "| comparable | no" in text
    assert r"\toprule" in (workdir / "eval.tex").read_text()
    assert "scene-2" in (workdir / "report.html").read_text()


def test_the_truth_against_itself_is_perfect():
    truth = SCENES["scene-0"]
    copies = np.broadcast_to(truth["tracks"], (3, *truth["tracks"].shape))
    sample = truth | {"tracks_per_view": copies, "meta": {}}
    scores, _ = scene.score(sample, truth, "x")
    perfect = scores["model"]
    for metric in ("rpe", "mv_rpe", "mv_rpe_cross", "chamfer", "error_mm", "gmsd"):
        assert perfect[metric] == pytest.approx(0, abs=1e-5)
    for metric in ("object_correlation", "temporal_correlation", "temporal_std_ratio", "ssim"):
        assert perfect[metric] == pytest.approx(1)
    assert perfect["pi"] == 100 and perfect["psnr"] == 100


def test_padded_frames_are_left_out():
    truth = SCENES["scene-0"]
    valid = np.arange(len(truth["tracks"])) < 6
    spoilt = truth["tracks"].copy()
    spoilt[6:] = 1e3
    sample = truth | {"tracks_per_view": np.tile(truth["tracks"], (3, 1, 1, 1)), "meta": {}}
    scores, _ = scene.score(sample, truth | {"tracks": spoilt, "frame_valid": valid}, "x")
    assert scores["model"]["mv_rpe"] == pytest.approx(0, abs=1e-5)


def test_generated_anchors_have_no_point_errors():
    truth = SCENES["scene-0"]
    tracks = truth["tracks"][:, :40]
    sample = truth | {
        "tracks": tracks,
        "tracks_per_view": np.tile(tracks, (3, 1, 1, 1)),
        "meta": {"anchors": "generated"},
    }
    scores, _ = scene.score(sample, truth, "x")
    assert "rpe" not in scores["model"] and scores["model"]["chamfer"] > 0
    assert scores["oracle"]["mv_rpe"] > 0


def test_still_scenes_and_two_frames_are_defined():
    truth = {k: x[:, :2] if k in ("video", "motion", "visibility") else x
             for k, x in SCENES["scene-0"].items()}  # fmt: skip
    truth |= {"tracks": np.tile(truth["tracks"][:1], (2, 1, 1)), "frame_valid": np.ones(2, bool)}
    truth["video"] = np.repeat(truth["video"][:, :1], 2, axis=1)
    sample = truth | {"tracks_per_view": np.tile(truth["tracks"], (3, 1, 1, 1)), "meta": {}}
    scores, blurred = scene.score(sample, truth, "x")
    for metric in ("temporal_correlation", "psnr_moving", "object_correlation", "smoothness"):
        assert scores["model"][metric] is None
    scene.best_blur({"x": scores}, {"x": blurred})
    found = evaluate.assemble({"x": scores})
    assert found["rows"]["model"]["psnr_moving"]["undefined"] == 1
    json.dumps(found, allow_nan=False)


def test_a_nan_in_a_sample_is_a_miss_not_a_nan():
    truth = SCENES["scene-0"]
    broken = np.tile(truth["tracks"], (3, 1, 1, 1))
    broken[0, 3, :10] = np.nan
    sample = truth | {"tracks": broken[0], "tracks_per_view": broken, "meta": {}}
    scores, _ = scene.score(sample, truth, "x")
    assert 0 < scores["model"]["mv_rpe"] < 10 and scores["model"]["error_mm"] is None
    json.dumps(scores, allow_nan=False)


def test_checks_pass_with_enough_good_scenes():
    cells = {"temporal_correlation": 0.7, "temporal_std_ratio": 0.9, "object_correlation": 0.95,
             "psnr_moving": 20.0, "mv_rpe": 5.0, "mv_rpe_cross_truth": 2.0}  # fmt: skip
    worse = {"psnr_moving": 15.0, "mv_rpe": 9.0, "mv_rpe_cross_truth": 1.9}
    rng = np.random.default_rng(0)
    jitter = lambda row: {m: x + rng.normal(0, 0.05 * x / 5) for m, x in row.items()}  # noqa: E731
    scores = {str(i): {"model": jitter(cells), "held": jitter(worse)} for i in range(16)}
    found = evaluate.assemble(scores)
    passed = {c["name"]: c["passed"] for c in found["checks"]}
    assert passed.pop("MV RPE cross/truth: better than held") is False
    assert passed and all(passed.values())
    assert summary.gain("temporal_std_ratio", 0.9, 1.3) == pytest.approx(0.2)


def test_samples_without_a_ground_truth_get_a_page_only(tmp_path):
    fake_samples.write(tmp_path / "samples", "own", SCENES["scene-0"])
    evaluate.run(fake_samples.config(split=""), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '"own"' in page
    shown = json.loads(page.split('id="sample-0">')[1].split("</script>")[0])
    assert shown["scene"] and not shown.get("true_video")
    assert not (tmp_path / "eval.json").exists()


def test_what_is_missing_or_does_not_fit_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.mode=sample"):
        evaluated(tmp_path)
    fake_samples.write(tmp_path / "samples", "stranger", SCENES["scene-0"])
    with pytest.raises(ValueError, match="none of the split 'test'"):
        evaluated(tmp_path)
    (tmp_path / "samples/stranger").rename(tmp_path / "samples/scene-0")
    (tmp_path / "samples/scene-0/tracks.npz").rename(tmp_path / "away.npz")
    with pytest.raises(FileNotFoundError, match="tracks.npz"):
        evaluated(tmp_path)
    truth = SCENES["scene-0"]
    small = truth | {"video": truth["video"][:, :, :32], "meta": {}}
    with pytest.raises(ValueError, match="another size"):
        scene.score(small, truth, "scene-0")
