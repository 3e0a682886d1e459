"""Failure notes: each rule speaks where it should, and is silent on a good sample."""

import fake_samples
import numpy as np

from syncmv4d_jax.metrics import scene
from syncmv4d_jax.results.web import notes
from syncmv4d_jax.run import evaluate


def evaluation(samples):
    scores, blurred = {}, {}
    for i, (name, change) in enumerate(samples.items()):
        truth = fake_samples.truth(i)
        tracks = np.tile(truth["tracks"], (3, 1, 1, 1))
        made = truth | {"meta": {}, "tracks_per_view": tracks}
        made |= change(made)
        made["tracks"] = made["tracks_per_view"].mean(0)
        scores[name], blurred[name] = scene.score(made, truth, name, points=truth)
    scene.best_blur(scores, blurred)
    return evaluate.assemble(scores)


def still(made):
    video, tracks = made["video"], made["tracks_per_view"]
    return {
        "video": np.repeat(video[:, :1], video.shape[1], axis=1),
        "tracks_per_view": np.repeat(tracks[:, :1], tracks.shape[1], axis=1),
    }


def scaled(made):
    from syncmv4d_jax.metrics import multiview

    return {
        "tracks_per_view": multiview.rescale(made["tracks_per_view"], made["extrinsics"][:, 0], 1.2)
    }


def not_finite(made):
    tracks = made["tracks_per_view"].copy()
    tracks[0, 2, 5] = np.nan
    return {"tracks_per_view": tracks}


def apart(made):
    return {"tracks_per_view": made["tracks_per_view"] + 0.1 * np.arange(3)[:, None, None, None]}


def test_each_fault_is_named():
    found = notes.of(evaluation({"good": lambda made: {}, "still": still, "scaled": scaled,
                                 "broken": not_finite, "apart": apart}))  # fmt: skip
    assert found["good"] == []
    text = {name: "; ".join(lines) for name, lines in found.items()}
    assert "hardly moves: 0%" in text["still"] and "leaves its path" in text["still"]
    assert "the scale is off" in text["scaled"]
    assert "not finite" in text["broken"]
    assert "the views disagree" in text["apart"]
    assert "held still would be nearer" not in text["scaled"]


def test_what_is_far_from_the_others_is_named_worst_first():
    cells = {f"s{i}": 1.0 + 0.01 * i for i in range(9)}
    rows = {"model": {
        "rpe": {"per_sample": cells | {"bad": 5.0, "none": None}},
        "pi": {"per_sample": {k: 100 - x for k, x in cells.items()} | {"bad": 20.0}},
        "psnr": {"per_sample": dict.fromkeys(cells, 30.0) | {"bad": 30.0}},
    }}  # fmt: skip
    metrics = {"rpe": ("RPE", "lower"), "pi": ("PI", "higher"), "psnr": ("PSNR", "higher")}
    definitions = {m: {"title": t, "better": b} for m, (t, b) in metrics.items()}
    found = notes.of({"rows": rows, "definitions": definitions})
    assert found["s8"] == [] and found["none"] == []
    (line,) = found["bad"]
    assert line.startswith("far from the other samples: ") and "RPE 5 (mean 1.4" in line
    assert "PSNR" not in line
    assert notes.of(None) == {}


def test_without_a_truth_a_sample_s_own_numbers_speak():
    truth = fake_samples.truth(0)
    tracks = np.tile(truth["tracks"], (3, 1, 1, 1))
    made = {"tracks_per_view": tracks, "scale": truth["scale"], "meta": {}}
    made |= {"extrinsics": truth["extrinsics"][:, 0], "confidence": np.full(tracks.shape[:3], 0.25)}
    made["anchor_valid"] = truth["anchor_valid"].copy()
    made["anchor_valid"][1, :4] = False
    made["scale"] = made["scale"] + [-1e-3, 1e-3]
    assert notes.without_truth(made) == [
        "0.0% of the points lie outside of the predicted depth range",
        "mean confidence of the points 0.25",
        "90, 86, 90 of 90 query pixels are valid, by view",
    ]
    made["tracks_per_view"][0, :, :9] *= 50
    assert notes.without_truth(made)[0].startswith("3.3% of the points lie outside")
    assert notes.without_truth({"meta": {}, "video": 0}) == []
