"""Failure notes: what an evaluation says is wrong with each sample, in words, worst first."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from syncmv4d_jax.geometry import cameras

FAR = 2.0  # standard deviations over scenes: a value worse than this is named
FEWEST = 8  # scenes below which nothing is far from the others
NAMED = 4  # metrics in one note
RULES = (  # metric, holds, words
    ("temporal_std_ratio", lambda x: x < 0.6, "hardly moves: {0:.0%} of the true change over time"),
    ("temporal_std_ratio", lambda x: x > 1.4, "changes too much over time: {0:.0%} of the truth"),
    ("temporal_correlation", lambda x: x < 0.3, "moves unlike the truth: correlation {0:.2f}"),
    ("object_correlation", lambda x: x < 0.8, "the object leaves its path: correlation {0:.2f}"),
    ("mv_rpe_cross", lambda x: x > 5, "the views disagree about the points by {0:.1f}%"),
)  # fmt: skip
RIVALS = (
    ("held", "error_mm", "points held still would be nearer: {1:.3g} mm against {0:.3g}"),
    ("mean_path", "error_mm", "the action's mean path would be nearer: {1:.3g} mm against {0:.3g}"),
    ("frame_0_blurred", "psnr_moving",
     "a blurred first frame would be nearer: {1:.3g} dB against {0:.3g} in the moving region"),
)  # fmt: skip


def of(evaluation: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Returns the notes of every scene of an eval.json; none without one.

    Named are: values past the bounds of RULES, trivial rows that do better (RIVALS), a scale that
    is off, metrics far from those of the other scenes, and points that are not finite.
    """
    if not evaluation:
        return {}
    rows = evaluation["rows"]
    cells = {m: cell["per_sample"] for m, cell in rows["model"].items() if cell.get("per_sample")}
    names = sorted({name for values in cells.values() for name in values})
    found: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        value = {m: values[name] for m, values in cells.items() if name in values}
        found[name] += [
            words.format(value[m]) for m, holds, words in RULES
            if value.get(m) is not None and holds(value[m])
        ]  # fmt: skip
        found[name] += _scale(value) + _rivals(rows, value, name)
        if value.get("rpe") is not None and value.get("error_mm", 0.0) is None:
            found[name].append("some points are not finite")
    for name, text in _far(evaluation["definitions"], cells).items():
        found[name].append(text)
    return found


def without_truth(sample: Mapping[str, Any]) -> list[str]:
    """Returns what a sample's own numbers hold against it, where no truth does.

    Args:
      sample: of `samples.read`; what of tracks_per_view [v n k 3] metres, scale [v 2] metres,
        extrinsics [v 3 4], confidence [v n k] and anchor_valid [v k] it has.
    """
    found = []
    if {"tracks_per_view", "scale", "extrinsics"} <= sample.keys():
        depth = cameras.to_camera(sample["tracks_per_view"], sample["extrinsics"])[..., 2]
        near, far = np.asarray(sample["scale"], np.float64).T[:, :, None, None]
        share = np.mean(~((depth >= near) & (depth <= far)))
        found.append(f"{share:.1%} of the points lie outside of the predicted depth range")
    if "confidence" in sample:
        found.append(f"mean confidence of the points {np.mean(sample['confidence']):.2f}")
    if "anchor_valid" in sample:
        valid = np.asarray(sample["anchor_valid"], bool)
        counts = ", ".join(str(n) for n in valid.sum(1))
        found.append(f"{counts} of {valid.shape[1]} query pixels are valid, by view")
    return found


def _scale(value: Mapping[str, float | None]) -> list[str]:
    rpe, aligned = value.get("rpe"), value.get("rpe_aligned")
    if rpe is None or aligned is None or rpe < 2 or aligned > 0.7 * rpe:
        return []
    return [f"the scale is off: RPE {rpe:.3g}%, {aligned:.3g}% after one scale a view"]


def _rivals(rows: Mapping[str, Any], value: Mapping[str, float | None], name: str) -> list[str]:
    found = []
    for row, metric, words in RIVALS:
        other = rows.get(row, {}).get(metric, {"per_sample": {}})["per_sample"].get(name)
        own = value.get(metric)
        if own is None or other is None:
            continue
        if (other < own) if metric == "error_mm" else (other > own):
            found.append(words.format(own, other))
    return found


def _far(definitions: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, str]:
    """One line a scene: its metrics that are FAR worse than the mean, the furthest first."""
    found: dict[str, list[tuple[float, str]]] = {}
    for metric, values in cells.items():
        better = definitions[metric]["better"]
        known = {s: x for s, x in values.items() if x is not None}
        if len(known) < FEWEST or better not in ("lower", "higher"):
            continue
        mean, spread = np.mean(list(known.values())), np.std(list(known.values()), ddof=1)
        if spread <= 1e-9 * abs(mean):
            continue
        for scene, x in known.items():
            far = (x - mean) / spread * (1 if better == "lower" else -1)
            if far > FAR:
                text = f"{definitions[metric]['title']} {x:.3g} (mean {mean:.3g})"
                found.setdefault(scene, []).append((far, text))
    return {
        scene: "far from the other samples: "
        + ", ".join(text for _, text in sorted(parts, reverse=True)[:NAMED])
        + (f" and {len(parts) - NAMED} more" if len(parts) > NAMED else "")
        for scene, parts in found.items()
    }
