"""A report of made-up samples, written as a run writes it."""

import json
import re

import fake_samples
import numpy as np

from syncmv4d_jax.metrics import scene
from syncmv4d_jax.results.web import report
from syncmv4d_jax.run import evaluate

CURVES = [
    {"step": s, "stage": "a" if s < 50 else "b", "loss": 1.0 / s, "loss_video": 0.5 / s, "mfu": 0.4}
    for s in range(1, 100)
]


def blocks(text):
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', text)
    return {name: json.loads(body) for name, body in found}


def page(path, count, *, size=(48, 64)):
    """Writes a page of `count` samples with an evaluation; returns its data blocks."""
    truths = {f"scene-{i}": fake_samples.truth(i, size=size) for i in range(count)}
    scores, blurred, shown = {}, {}, []
    for i, (name, truth) in enumerate(truths.items()):
        noise = np.random.default_rng(i).normal(0, 0.003 * (1 + (7 * i) % count), (3, 1, 90, 3))
        made = truth | {"meta": {"fps": 8.0, "prompt": "stir <in> the bowl", "anchors": "given"}}
        made["tracks_per_view"] = (truth["tracks"] + noise).astype(np.float32)
        scores[name], blurred[name] = scene.score(made, truth, name, points=truth)
        shown.append({"id": name, "meta": made["meta"], "video": truth["video"],
                      "motion": truth["motion"], "tracks": made["tracks_per_view"].mean(0),
                      "tracks_per_view": made["tracks_per_view"], "scale": truth["scale"] * 1.1,
                      "true_scale": truth["scale"],
                      "true_video": truth["video"], "true_tracks": truth["tracks"],
                      "true_motion": truth["motion"], "true_intrinsics": truth["intrinsics"],
                      "true_extrinsics": truth["extrinsics"][:, 0]})  # fmt: skip
    scene.best_blur(scores, blurred)
    facts = {"fps": 8.0, "resolution": list(size), "frames": 9, "views": 3, "points": 90}
    evaluation = evaluate.assemble(scores) | facts
    fid = {"title": "FID", "unit": "", "better": "lower", "kind": "network", "text": "of the set"}
    evaluation["definitions"]["fid"] = fid | {"alignment": "none"}
    evaluation["rows"]["model"]["fid"] = {"value": 58.25, "n": count, "definition": "fid/1"}
    report.write(path, shown, evaluation, CURVES, '{"a": "<b>"}', "python -m x --config=<y>")
    return blocks(path.read_text())
