"""Per-scene values -> means with standard errors, paired differences, and the goal's checks.

Differences are paired by scene, positive where the model is better; "beyond 2 standard errors"
means mean > 2 s / sqrt(n) of those differences. Undefined values (None) are left out and counted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from syncmv4d_jax.metrics import baselines, definitions

SCENES = 16  # a check with fewer is not passed
# Against the truth: mv_rpe_cross compares a prediction with itself, so anything held still is
# perfect in it; it is reported, not judged.
ORIGIN_FREE = "mv_rpe_cross_truth"
Values = Mapping[str, float | None]  # scene -> value


def share(names: Sequence[str]) -> list[str]:
    """Returns this process's part of the scenes: every process_count-th."""
    return list(names)[jax.process_index() :: jax.process_count()]


def gather(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the {scene: JSON value} of all processes, joined; every process has to call it."""
    if jax.process_count() == 1:
        return dict(values)
    mine = np.frombuffer(json.dumps(values).encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray(mine.size))))
    padded = np.pad(mine, (0, longest - mine.size), constant_values=ord(" "))
    rows = np.asarray(multihost_utils.process_allgather(padded))
    joined = {name: x for row in rows for name, x in json.loads(row.tobytes()).items()}
    return dict(sorted(joined.items()))


def mean(values: Values) -> dict[str, Any]:
    """Returns value (mean), se (None below two), n (defined), undefined (count)."""
    found = np.array([x for x in values.values() if x is not None], np.float64)
    n = len(found)
    return {
        "value": float(found.mean()) if n else None,
        "se": float(found.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
        "n": n,
        "undefined": len(values) - n,
    }


def gain(metric: str, model: float | None, other: float | None) -> float | None:
    """Returns by how much the model is better, in the metric's unit; None where undefined."""
    if model is None or other is None:
        return None
    better = definitions.DEFINITIONS[metric].better
    if better == "lower":
        return other - model
    if better == "higher":
        return model - other
    return abs(other - better) - abs(model - better)


def rows(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Turns {scene: {row: {metric: value}}} into {row: {metric: mean, per_sample, definition}}."""
    names = {row: sorted(metrics) for one in scores.values() for row, metrics in one.items()}
    table: dict[str, Any] = {}
    for row in names:
        table[row] = {}
        for metric in definitions.DEFINITIONS:
            values = {
                s: one[row][metric] for s, one in scores.items() if metric in one.get(row, {})
            }
            if values:
                definition = definitions.DEFINITIONS[metric]
                table[row][metric] = mean(values) | {
                    "definition": definition.id,
                    "unit": definition.unit,
                    "alignment": definition.alignment,
                    "per_sample": values,
                }
    return table


def paired(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {row: {metric: paired gain of the model over that row}} for every other row."""
    found: dict[str, Any] = {}
    for row in table:
        if row in ("model", "truth"):
            continue
        found[row] = {}
        for metric, cell in table[row].items():
            own = table["model"].get(metric, {"per_sample": {}})["per_sample"]
            gains = {s: gain(metric, own.get(s), x) for s, x in cell["per_sample"].items()}
            result = mean(gains)
            beyond = result["se"] is not None and result["value"] > 2 * result["se"]
            found[row][metric] = result | {"better_beyond_2se": bool(beyond), "per_sample": gains}
    return found


def checks(table: Mapping[str, Any], gains: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the goal's criteria: name, wanted, value, se, n, passed, why not."""
    model = table["model"]
    found = [
        _bound(model, "temporal_correlation", 0.6, math.inf),
        _bound(model, "temporal_std_ratio", 0.6, 1.4),
        _bound(model, "object_correlation", 0.8, math.inf),
    ]
    for metric in ("psnr_moving", "mv_rpe", ORIGIN_FREE):
        for row in baselines.BASELINES:
            if metric in gains.get(row, {}):
                found.append(_beats(row, metric, gains[row][metric]))
    return found


def _verdict(name: str, wanted: str, cell: Mapping[str, Any], holds: bool) -> dict[str, Any]:
    if cell["n"] < SCENES:
        why = f"{cell['n']} of {SCENES} scenes"
    else:
        why = "" if holds else "not reached"
    keep = {key: cell[key] for key in ("value", "se", "n")}
    return {"name": name, "wanted": wanted} | keep | {"passed": not why, "why_not": why}


def _bound(model: Mapping[str, Any], metric: str, low: float, high: float) -> dict[str, Any]:
    cell = model.get(metric) or {"value": None, "se": None, "n": 0}
    holds = cell["value"] is not None and low <= cell["value"] <= high
    wanted = f">= {low}" if high == math.inf else f"{low} to {high}"
    return _verdict(definitions.DEFINITIONS[metric].title, wanted, cell, holds)


def _beats(row: str, metric: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{definitions.DEFINITIONS[metric].title}: better than {row}"
    return _verdict(name, "gain > 2 SE", cell, cell["better_beyond_2se"])
