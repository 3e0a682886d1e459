"""Evaluation of samples on disk: known answers, baselines, checks, what is wrong or missing."""

import json
import re
import shutil

import fake_samples
import numpy as np
import pytest

from syncmv4d_jax.metrics import actions, definitions, priors, scene, summary
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
        if metric == "error_hidden_mm":  # nothing is hidden
            assert cell["n"] == 0 and cell["undefined"] == 3
            continue
        assert cell["n"] == 3 and cell["se"] is not None
        assert set(cell["per_sample"]) == set(SCENES)
        assert np.mean(list(cell["per_sample"].values())) == pytest.approx(cell["value"])
        assert found["definitions"][metric]["preprocessing"]
        assert cell["clusters"] == 3
    own = {m for m, d in definitions.DEFINITIONS.items() if d.kind in ("tracks", "video")}
    assert set(found["rows"]["model"]) == own - {"action_named"}  # no training scenes


def test_a_good_sample_beats_every_baseline_but_few_scenes_pass_no_check(result):
    _, found = result
    rows = found["rows"]
    for metric in ("mv_rpe", "mv_rpe_cross_truth", "chamfer", "error_mm"):
        for row in ("held", "time_mean", "true_held"):
            assert rows["model"][metric]["value"] < rows[row][metric]["value"]
            assert found["paired"][row][metric]["better_beyond_2se"]
    for row in ("frame_0", "frame_0_blurred", "time_mean", "held"):
        assert rows["model"]["psnr_moving"]["value"] > rows[row]["psnr_moving"]["value"]
    assert rows["frame_0_blurred"]["psnr_moving"]["value"] > rows["frame_0"]["psnr_moving"]["value"]
    assert rows["model"]["temporal_correlation"]["value"] > 0.6
    assert rows["held"]["temporal_std_ratio"]["value"] == 0
    assert rows["true_held"]["mv_rpe_cross"]["value"] < 1e-6
    assert found["checks"] and not any(c["passed"] for c in found["checks"])
    why = [c["why_not"] for c in found["checks"]]
    assert why.count("3 of 16 scenes, 3 of 8 triplets") == 5
    assert why.count("not shown: no values") == 3  # no training scenes (two), no network


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
    scores, _ = scene.score(sample, truth, "x", points=truth)
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
    truth = truth | {"tracks": spoilt, "frame_valid": valid}
    scores, _ = scene.score(sample, truth, "x", points=truth)
    assert scores["model"]["mv_rpe"] == pytest.approx(0, abs=1e-5)


def test_points_without_a_truth_have_no_point_errors():
    truth = SCENES["scene-0"]
    tracks = truth["tracks"][:, :40]
    sample = truth | {"tracks": tracks, "tracks_per_view": np.tile(tracks, (3, 1, 1, 1))}
    scores, _ = scene.score(sample, truth, "x", points=None)
    assert "rpe" not in scores["model"] and scores["model"]["chamfer"] > 0
    assert "error_mm" not in scores["model"] and not scores["true_held"]


def test_a_view_without_its_first_frame_is_reported_apart(tmp_path):
    """Its own video and its own copy of the tracks, on points that it sees; the others beside."""
    truth = dict(SCENES["scene-0"])
    truth["anchor_valid"] = truth["anchor_valid"].copy()
    truth["anchor_valid"][1, :60] = False  # the hidden view sees the last 30 points alone
    off = np.zeros((3, 1, truth["tracks"].shape[1], 3), np.float32)
    off[1, :, :60, 0], off[1, :, 60:, 0], off[[0, 2], ..., 0] = 1.0, 0.03, 0.01
    video = truth["video"].copy()
    video[1] = video[1, :, :1, :1]  # grey
    sample = truth | {"tracks_per_view": truth["tracks"] + off, "video": video}
    found = scene.apart(sample, truth, truth, 1)
    assert found["hidden_view"]["error_mm"] == pytest.approx(30, rel=1e-4)
    assert found["shown_views"]["error_mm"] == pytest.approx(10, rel=1e-4)
    assert found["hidden_view"]["gradient_energy"] == 0
    assert found["shown_views"]["gradient_energy"] == pytest.approx(1)
    assert found["hidden_view"]["psnr_moving"] < 30 < found["shown_views"]["psnr_moving"]
    for name, example in SCENES.items():
        fake_samples.write(tmp_path / "samples", name, example, meta={"hidden_view": 2})
    rows = evaluated(tmp_path)["rows"]
    assert rows["hidden_view"]["error_mm"]["n"] == rows["shown_views"]["psnr_moving"]["n"] == 3
    assert "| hidden_view |" in (tmp_path / "eval.md").read_text()


@pytest.mark.parametrize("missing", ["anchor_confidence", "anchors"])
def test_samples_that_do_not_say_how_their_points_were_chosen_are_refused(tmp_path, missing):
    truth = SCENES["scene-0"]
    fake_samples.write(tmp_path / "samples", "scene-0", truth, meta={"anchors": "record"}
                       if missing == "anchors" else {})  # fmt: skip
    if missing == "anchor_confidence":
        path = tmp_path / "samples/scene-0/tracks.npz"
        with np.load(path) as arrays:
            kept = {k: arrays[k] for k in arrays if k != missing}
        np.savez(path, **kept)
    with pytest.raises(ValueError, match="sample scene-0: wanted anchors of .* sample it again"):
        evaluated(tmp_path)


def test_still_scenes_and_two_frames_are_defined():
    truth = {k: x[:, :2] if k in ("video", "motion", "visibility") else x
             for k, x in SCENES["scene-0"].items()}  # fmt: skip
    truth |= {"tracks": np.tile(truth["tracks"][:1], (2, 1, 1)), "frame_valid": np.ones(2, bool)}
    truth["video"] = np.repeat(truth["video"][:, :1], 2, axis=1)
    sample = truth | {"tracks_per_view": np.tile(truth["tracks"], (3, 1, 1, 1)), "meta": {}}
    scores, blurred = scene.score(sample, truth, "x", points=truth)
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
    scores, _ = scene.score(sample, truth, "x", points=truth)
    assert 0 < scores["model"]["mv_rpe"] < 10 and scores["model"]["error_mm"] is None
    json.dumps(scores, allow_nan=False)


MODEL = {"temporal_correlation": 0.7, "temporal_std_ratio": 0.9, "psnr_moving": 20.0,
         "error_mm": 10.0, "action_named": 60.0}  # fmt: skip
OTHERS = {
    "truth": {"action_named": 68.0},
    "held": {"psnr_moving": 15.0, "error_mm": 40.0, "action_named": 25.0},
    "mean_path": {"error_mm": 20.0}, "crop_ridge": {"error_mm": 18.0},
    "true_held": {"error_mm": 30.0},
    "coarse": {"error_mm": 30.0}, "closed_form": {"error_mm": 12.0}, "network": {"error_mm": 9.0},
}  # fmt: skip
NAMES = ("Temporal corr.", "Temporal std", "PSNR moving: better than held",
         "Error: better than crop_ridge", "Error: below 0.8 x mean_path",
         "Error: below 0.5 x true_held", "Error of network: better than closed_form",
         "Action named: as often as of true videos")  # fmt: skip


def checked(changes, *, scenes=16, triplets=8):
    """{check: passed} of scenes with the values of MODEL and OTHERS, changed, and some noise."""
    rng = np.random.default_rng(0)
    jitter = lambda row: {m: x * (1 + rng.normal(0, 0.01)) for m, x in row.items()}  # noqa: E731
    wanted = {"model": MODEL} | OTHERS
    for (row, metric), value in changes.items():
        wanted = wanted | {row: wanted[row] | {metric: value}}
    scores = {str(i): {row: jitter(cells) for row, cells in wanted.items()} for i in range(scenes)}
    found = evaluate.assemble(scores, {str(i): f"triplet {i % triplets}" for i in range(scenes)})
    return {c["name"]: c["passed"] for c in found["checks"]}


def test_checks_pass_where_everything_is_good():
    assert checked({}) == dict.fromkeys(NAMES, True)
    assert summary.gain("temporal_std_ratio", 0.9, 1.3) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({("model", "temporal_correlation"): 0.5}, NAMES[:1]),
        ({("model", "temporal_std_ratio"): 1.5}, NAMES[1:2]),
        ({("model", "psnr_moving"): 15.0}, NAMES[2:3]),
        ({("model", "error_mm"): 17.0}, NAMES[4:6]),
        ({("model", "error_mm"): 18.5}, NAMES[3:6]),  # the best rival has 18
        ({("mean_path", "error_mm"): 12.0}, ("Error: better than mean_path", NAMES[4])),
        ({("network", "error_mm"): 12.0}, NAMES[6:7]),
        ({("model", "action_named"): 57.0}, NAMES[7:]),
        ({("truth", "action_named"): 25.0}, NAMES[7:]),  # nobody can tell them apart
    ],
)
def test_each_check_fails_for_a_fake_that_fails(change, failing):
    found = checked(change)
    missed = {name for name, passed in found.items() if not passed}
    if ("mean_path", "error_mm") in change:  # beats 12 mm with 10, but not 0.8 x 12
        assert found[failing[0]] and missed == {failing[1]}
    else:
        assert missed == set(failing)


def test_few_triplets_are_few_cases_whatever_the_number_of_scenes():
    assert not any(checked({}, scenes=64, triplets=4).values())
    scenes = {f"{t}{i}": 10.0 * t + 0.1 * i for t in range(4) for i in range(25)}
    alone = summary.mean(scenes)
    joined = summary.mean(scenes, {name: name[0] for name in scenes})
    assert joined["value"] == pytest.approx(alone["value"]) and joined["n"] == alone["n"] == 100
    assert joined["clusters"] == 4 and alone["clusters"] == 100
    assert joined["se"] > 4 * alone["se"]
    uneven = {"a1": 0.0, "a2": 0.0, "a3": 0.0, "b1": 4.0, "b2": None}
    found = summary.mean(uneven, {name: name[0] for name in uneven})
    assert found["value"] == 2.0 and found["se"] == pytest.approx(2.0)
    assert found["n"] == 4 and found["undefined"] == 1


def test_rivals_get_what_the_model_has(tmp_path):
    """Rows of equal information start where the model's frame 0 is and know the training scenes."""
    names = [f"scene-{i}" for i in range(3)]
    for i, name in enumerate(names):
        fake_samples.write(tmp_path / "samples", name, SCENES[name], seed=i)
    pairs = []
    for i in range(10, 14):
        one = fake_samples.truth(i)
        made = priors.layout(one["prompt"], one["triplet"], one["video"][:, 0], one["motion"][:, 0])
        way = priors.path(one["tracks"], one["anchor_valid"].any(0))
        changes = actions.signature(one["video"])
        pairs.append(priors.Scene(made, way, one["triplet"][0], changes))
    priors.Priors(pairs).save(tmp_path / "taught.npz")
    config = fake_samples.config()
    config.evaluate.priors = str(tmp_path / "taught.npz")
    found = evaluated(tmp_path, config)
    assert (tmp_path / "priors.npz").is_file()
    rows = found["rows"]
    for row in ("mean_path", "crop_ridge", "nearest", "coarse", "robust", "closed_form"):
        assert rows[row]["error_mm"]["n"] == 3, row
    # The truth's paths differ by scene: no mean of others finds them, and all are worse.
    assert rows["mean_path"]["error_mm"]["value"] > 3 * rows["model"]["error_mm"]["value"]
    assert found["best_robust_window"] in ("0.5", "0.8", "1.2", "2.0")
    assert 0 < rows["robust"]["error_mm"]["value"] < 2 * rows["coarse"]["error_mm"]["value"]
    assert not any("/" in row for row in rows)
    named = {row: rows[row]["action_named"]["n"] for row in ("model", "held", "truth")}
    assert set(named.values()) == {3}
    first = np.load(tmp_path / "samples/scene-0/tracks.npz")
    off = np.linalg.norm(first["tracks"][0] - SCENES["scene-0"]["tracks"][0], axis=-1).mean()
    moved = scene.point_scores(
        priors.moved(
            first["tracks"][0], {"x": priors.path(SCENES["scene-0"]["tracks"], np.ones(90, bool))}
        )["x"], SCENES["scene-0"], 9,
    )  # fmt: skip
    assert 1000 * off < 10 and moved["error_mm"] < 40


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
        scene.score(small, truth, "scene-0", points=truth)


def test_samples_of_two_ways_have_no_mean(tmp_path):
    for name, steps, prompt in (("scene-0", 2, "a"), ("scene-1", 2, "b"), ("scene-2", 50, "c")):
        own = {
            "code": 1,
            "sampling": {"steps": steps},
            "prompt": prompt,
            "inputs": {"text": prompt},
        }
        meta = {"recipe": own, "command": f"python -m syncmv4d_jax.main --steps={steps}"}
        fake_samples.write(tmp_path / "samples", name, SCENES[name], meta=meta)
    said = r"scene-0 and scene-2 were made in two ways \(sampling.steps: was 2, is 50\)"
    with pytest.raises(ValueError, match=said):
        evaluated(tmp_path)
    shutil.rmtree(tmp_path / "samples/scene-2")
    found = evaluated(tmp_path)
    assert found["recipe"]["samples"].keys() == {"scene-0", "scene-1"}
    assert len(set(found["recipe"]["samples"].values())) == 2
    page = (tmp_path / "report.html").read_text()
    assert "--steps=2</pre>" in page and "sampling" in page  # how the samples were made, not this


def test_a_page_without_a_truth_says_what_the_samples_say_of_themselves(tmp_path):
    fake_samples.write(
        tmp_path / "samples", "cat", SCENES["scene-0"], meta={"weights": {"dit": "w"}}
    )
    evaluate.run(fake_samples.config(split=""), tmp_path)
    text = (tmp_path / "report.html").read_text()
    data = json.loads(re.search(r'id="summary">(.*?)</script>', text, re.S)[1])
    (listed,) = data["samples"]
    assert len(listed["notes"]) == 3 and "query pixels are valid" in listed["notes"][2]
    assert json.loads(listed["recipe"])["weights"] == {"dit": "w"}
    sample = json.loads(re.search(r'id="sample-0">(.*?)</script>', text, re.S)[1])
    assert "true" not in sample["scene"] or not sample["scene"]["true"]
