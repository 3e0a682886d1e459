"""One self-contained page: videos in step, tracks in 3D, curves, metrics, checks, configuration.

`write` embeds everything (videos as base64 mp4, tracks as int16), so that the file opens offline by
a double click. Each sample gets its share of the page's budget: its videos are made smaller until
they fit. What is still over the budget is left out, last first; the tables keep all.
"""

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.results import samples as finished
from syncmv4d_jax.results import video
from syncmv4d_jax.results.web import notes, pages, tracks

BUDGET = 24_000_000  # bytes of embedded samples
SIZES = ((256, 20), (192, 23), (128, 26), (96, 30))  # tallest video, pixels, and its x264 quality
CURVE_POINTS = 400
APART = ("id", "prompt", "warning")  # entries of a sample's meta that the page shows elsewhere
TABLE = ("value", "se", "n", "unit", "per_sample")


def write(
    path: str | Path,
    samples: Iterable[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None,
    curves: Sequence[Mapping[str, Any]],
    config_text: str,
    command: str,
    *,
    count: int = 1,
) -> None:
    """Writes the page.

    Args:
      path: of the html file.
      samples: dicts with id, video [v n h w 3] uint8 and, where there are, meta (prompt, fps),
        motion, true_video, true_motion [v n h w 3] uint8, tracks, true_tracks [n k 3] and
        tracks_per_view [v n k 3] metres, scale, true_scale [v 2] metres, true_intrinsics or
        intrinsics [v 3 3], true_extrinsics or extrinsics [v 3 4]; confidence [v n k] and
        anchor_valid [v k], for what is said of a sample without a truth.
      evaluation: an eval.json, or None.
      curves: rows of metrics.jsonl (step, loss, loss_*, stage).
      config_text, command: shown as they are.
      count: of samples, as far as it is known: what the budget is shared among.
    """
    shown, listed, left_out, spent = [], [], [], 0
    remarks = notes.of(evaluation)
    for sample in samples:
        if spent > BUDGET:
            left_out.append(sample["id"])
            continue
        shown.append(_fitting(sample, BUDGET // count))
        spent += len(shown[-1])
        listed.append(_listed(sample, remarks.get(sample["id"], [])))
    summary = {
        "evaluation": _table(evaluation),
        "curves": thin(curves),
        "left_out": left_out,
        "samples": listed,
    }
    blocks = [_block("summary", _json(summary))]
    blocks += [_block(f"sample-{i}", text) for i, text in enumerate(shown)]
    text = pages.join(
        "report.html",
        DATA="\n".join(blocks),
        COMMAND=html.escape(command),
        CONFIG=html.escape(config_text),
    )
    with disk.whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def thin(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keeps step, stage and losses of evenly spaced rows; what is not a finite number is None."""
    step = max(1, math.ceil(len(curves) / CURVE_POINTS))
    kept = [row for i, row in enumerate(curves) if i % step == 0 or i == len(curves) - 1]
    return [
        {"step": row["step"], "stage": row.get("stage", "")}
        | {k: _finite(x) for k, x in row.items() if k == "loss" or k.startswith("loss_")}
        for row in kept
    ]


def _clip(frames: np.ndarray, fps: float, tallest: int, quality: int) -> str:
    """A view [n h w 3] uint8 as base64 of an mp4."""
    fitted = _fit(np.asarray(frames), tallest)
    return base64.b64encode(video.encode(fitted, fps=fps, quality=quality)).decode()


def _fit(clip: np.ndarray, tallest: int) -> np.ndarray:
    """Shrinks tall clips and makes sizes even."""
    h, w = clip.shape[1:3]
    factor = min(1.0, tallest / h)
    size = (max(2, round(w * factor) // 2 * 2), max(2, round(h * factor) // 2 * 2))
    if size == (w, h):
        return clip
    resize = lambda x: Image.fromarray(x).resize(size, Image.Resampling.BOX)  # noqa: E731
    return np.stack([np.asarray(resize(frame)) for frame in clip])


def _fitting(sample: Mapping[str, Any], share: int) -> str:
    """The sample as JSON, its videos as large as the share allows."""
    for tallest, quality in SIZES:
        text = _json(_sample(sample, tallest, quality))
        if len(text) <= share:
            break
    return text


def _listed(sample: Mapping[str, Any], remarks: Sequence[str]) -> dict[str, Any]:
    """What the page has to know of a sample before it is shown."""
    meta = sample.get("meta", {})
    warning = [meta["warning"]] if meta.get("warning") else []
    own = [] if "true_video" in sample else notes.without_truth(sample)
    known = {key: x for key, x in meta.items() if key not in (*APART, "command")}
    return {
        "id": sample["id"],
        "prompt": meta.get("prompt", ""),
        "notes": [*warning, *remarks, *own],
        "recipe": json.dumps(known, indent=1, ensure_ascii=False) if known else "",
    }


def _sample(sample: Mapping[str, Any], tallest: int, quality: int) -> dict[str, Any]:
    fps = finished.fps(sample)
    clips = {
        key: [_clip(view, fps, tallest, quality) for view in sample[key]]
        for key in ("video", "true_video", "motion", "true_motion")
        if sample.get(key) is not None
    }
    pose = {k: sample.get(f"true_{k}", sample.get(k)) for k in ("intrinsics", "extrinsics")}
    scene, depth = None, {}
    if pose["intrinsics"] is not None:
        made, true = sample.get("tracks"), sample.get("true_tracks")
        own = sample.get("tracks_per_view")
        scene = tracks.scene(made, true, **pose, size=sample["video"].shape[2:4], per_view=own)
        for key, points in (("generated", made if own is None else own), ("true", true)):
            if points is not None:
                depth[key] = tracks.depths(points, pose["extrinsics"])
    scale = {key: [[_finite(float(x)) for x in view] for view in sample[name]]
             for key, name in (("generated", "scale"), ("true", "true_scale"))
             if sample.get(name) is not None}  # fmt: skip
    return {
        "fps": fps,
        "frames": int(sample["video"].shape[1]),
        "clips": clips,
        "scene": scene,
        "depth": depth,
        "scale": scale,
        "names": list(sample.get("meta", {}).get("views", ())),
    }


def _table(evaluation: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the page needs of an eval.json."""
    if not evaluation:
        return None
    rows = {
        row: {m: {k: cell.get(k) for k in TABLE} for m, cell in cells.items()}
        for row, cells in evaluation["rows"].items()
    }
    for row, cells in rows.items():
        if row != "model":
            for cell in cells.values():
                cell.pop("per_sample")
    keys = ("scenes", "checks", "fps", "resolution", "frames", "views", "points", "split")
    texts = {m: {k: d[k] for k in ("title", "unit", "better", "kind", "text", "alignment")}
             for m, d in evaluation["definitions"].items()}  # fmt: skip
    known = {key: evaluation.get(key) for key in keys}
    return known | {"rows": rows, "definitions": texts}


def _finite(x: Any) -> float | None:
    return x if isinstance(x, int | float) and math.isfinite(x) else None


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=float)
    return text.replace("<", "\\u003c")


def _block(name: str, text: str) -> str:
    return f'<script type="application/json" id="{name}">{text}</script>'
