"""Per-scene values -> means with standard errors, paired differences, and the goal's checks.

Scenes of one triplet (action, tool, target) move alike, so they are no independent cases. A value
is the mean over triplets of the triplet's mean, its standard error s / sqrt(triplets) of these:
`clusters` says which scenes belong together; without it each is a case of its own.

Differences are paired by scene, positive where the first row is better; "beyond 2 standard errors"
means mean > 2 standard errors of those differences. Undefined values (None) are left out and
counted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from syncmv4d_jax.metrics import baselines, definitions

SCENES, TRIPLETS = 16, 8  # a check with fewer is not passed
JUDGED = "error_mm"
NAMED = "action_named"
LESS = 10.0  # points of it that a generated video may be behind a true one
# Rows that know what the model knows, without any motion that it generated.
EQUAL = ("held", "time_mean", *baselines.PRIORS)
BARS = {"mean_path": 0.8, "true_held": 0.5}  # row -> share of its error that is asked for
Values = Mapping[str, float | None]  # scene -> value
Clusters = Mapping[str, str]  # scene -> triplet


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


def mean(values: Values, clusters: Clusters | None = None) -> dict[str, Any]:
    """Returns the mean of {scene: value} and how sure it is.

    Returns:
      value: mean over clusters of their means; se: its standard error, None below two clusters;
      n: scenes where it is defined; undefined: those where it is not; clusters: their number.
    """
    grouped: dict[str, list[float]] = {}
    for name, x in values.items():
        if x is not None:
            grouped.setdefault((clusters or {}).get(name, name), []).append(x)
    found = np.array([np.mean(group) for group in grouped.values()], np.float64)
    n = sum(map(len, grouped.values()))
    return {
        "value": float(found.mean()) if n else None,
        "se": float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else None,
        "n": n,
        "clusters": len(found),
        "undefined": len(values) - n,
    }


def gain(metric: str, model: float | None, other: float | None) -> float | None:
    """Returns by how much the model is better, in the metric's unit; None where undefined."""
    return better_by(definitions.DEFINITIONS[metric].better, model, other)


def better_by(better: str | float, model: float | None, other: float | None) -> float | None:
    """The same of a metric that is better "lower", "higher" or nearer to a number."""
    if model is None or other is None:
        return None
    if isinstance(better, str):
        return other - model if better == "lower" else model - other
    return abs(other - better) - abs(model - better)


def rows(
    scores: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    clusters: Clusters | None = None,
) -> dict[str, Any]:
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
                table[row][metric] = mean(values, clusters) | {
                    "definition": definition.id,
                    "unit": definition.unit,
                    "alignment": definition.alignment,
                    "per_sample": values,
                }
    return table


def paired(
    table: Mapping[str, Any], clusters: Clusters | None = None, *, row: str = "model"
) -> dict[str, Any]:
    """Returns {other: {metric: paired gain of `row` over that row}} for every other row."""
    found: dict[str, Any] = {}
    for other in table:
        if other in (row, "truth"):
            continue
        found[other] = {}
        for metric in table[other]:
            gains = _gains(table, row, other, metric)
            found[other][metric] = _judged(gains, clusters) | {"per_sample": gains}
    return found


def _values(table: Mapping[str, Any], row: str, metric: str) -> Values:
    return table.get(row, {}).get(metric, {"per_sample": {}})["per_sample"]


def _gains(
    table: Mapping[str, Any], row: str, other: str, metric: str, *, share: float = 1.0
) -> Values:
    """{scene: by how much `row` is better than `share` of `other`}, of the scenes of `other`."""
    own = _values(table, row, metric)
    scaled = {s: None if x is None else share * x for s, x in _values(table, other, metric).items()}
    return {s: gain(metric, own.get(s), x) for s, x in scaled.items()}


def _judged(gains: Values, clusters: Clusters | None) -> dict[str, Any]:
    result = mean(gains, clusters)
    beyond = result["se"] is not None and result["value"] > 2 * result["se"]
    return result | {"better_beyond_2se": bool(beyond)}


def checks(table: Mapping[str, Any], clusters: Clusters | None = None) -> list[dict[str, Any]]:
    """Returns the goal's criteria: name, wanted, value, se, n, clusters, passed, why not.

    Each can fail. Tracks are judged in millimetres against the best of the rows that know as much,
    the aligner's network against the best way to fuse the same tracks without it.
    """
    model = table["model"]
    found = [
        bound(model, "temporal_correlation", 0.6, math.inf),
        bound(model, "temporal_std_ratio", 0.6, 1.4),
        beats(table, "model", baselines.BASELINES, "psnr_moving", clusters),
        beats(table, "model", EQUAL, JUDGED, clusters),
    ]
    found += [below(table, row, share, JUDGED, clusters) for row, share in BARS.items()]
    found.append(beats(table, baselines.NETWORK, baselines.FUSIONS, JUDGED, clusters))
    found.append(_as_often(table, clusters))
    return found


def _as_often(table: Mapping[str, Any], clusters: Clusters | None) -> dict[str, Any]:
    """Whether generated videos' actions are named as often as those of true ones, less LESS points;
    where true ones are not named more often than videos that stand still, it says nothing."""
    told = _gains(table, "truth", "held", NAMED)
    cell = _judged(_gains(table, "model", "truth", NAMED), clusters)
    holds = cell["value"] is not None and cell["value"] >= -LESS
    holds = holds and _judged(told, clusters)["better_beyond_2se"]
    name = f"{definitions.DEFINITIONS[NAMED].title}: as often as of true videos"
    return _verdict(name, f"difference >= -{LESS:g} points, true ones told apart", cell, holds)


def best(table: Mapping[str, Any], among: Sequence[str], metric: str) -> str | None:
    """Returns the row with the best mean; None where none has any."""
    means = {row: table.get(row, {}).get(metric, {}).get("value") for row in among}
    means = {row: x for row, x in means.items() if x is not None}
    gains = {row: gain(metric, x, 0.0) or 0.0 for row, x in means.items()}
    return max(gains, key=gains.__getitem__) if gains else None


def _verdict(name: str, wanted: str, cell: Mapping[str, Any], holds: bool | None = None) -> dict:
    if not cell["n"]:
        why = "not shown: no values"
    elif cell["n"] < SCENES or cell["clusters"] < TRIPLETS:
        why = f"{cell['n']} of {SCENES} scenes, {cell['clusters']} of {TRIPLETS} triplets"
    else:
        why = "" if (cell["better_beyond_2se"] if holds is None else holds) else "not reached"
    keep = {key: cell[key] for key in ("value", "se", "n", "clusters")}
    return {"name": name, "wanted": wanted} | keep | {"passed": not why, "why_not": why}


def bound(
    cells: Mapping[str, Any], metric: str, low: float, high: float, *, code: str = ""
) -> dict[str, Any]:
    """Whether the mean of a row's metric lies within bounds; code: of the check, before its name.

    Args:
      cells: {metric: mean} of the row.
    """
    cell = cells.get(metric) or mean({})
    holds = cell["value"] is not None and low <= cell["value"] <= high
    wanted = f">= {low:g}" if high == math.inf else f"{low:g} to {high:g}"
    wanted = f"<= {high:g}" if low == -math.inf else wanted
    return _verdict(code + definitions.DEFINITIONS[metric].title, wanted, cell, holds)


def below(
    table: Mapping[str, Any],
    row: str,
    share: float,
    metric: str,
    clusters: Clusters | None,
    *,
    code: str = "",
) -> dict[str, Any]:
    """Whether the model's error is below a share of a row's, by more than 2 standard errors."""
    gains = _gains(table, "model", row, metric, share=share)
    name = f"{code}{definitions.DEFINITIONS[metric].title}: below {share:g} x {row}"
    return _verdict(name, "gain > 2 SE", _judged(gains, clusters))


def within(
    table: Mapping[str, Any],
    row: str,
    room: float,
    metric: str,
    clusters: Clusters | None,
    *,
    code: str = "",
) -> dict[str, Any]:
    """Whether the model is, in the mean, at most `room` worse than a row, in the metric's unit."""
    cell = _judged(_gains(table, "model", row, metric), clusters)
    d = definitions.DEFINITIONS[metric]
    holds = cell["value"] is not None and cell["value"] >= -room
    name = f"{code}{d.title}: at most {room:g} {d.unit} worse than {row}"
    return _verdict(name, f">= {-room:g}", cell, holds)


def beats(
    table: Mapping[str, Any],
    row: str,
    among: Sequence[str],
    metric: str,
    clusters: Clusters | None,
    *,
    by: float = 0.0,
    whole: bool = False,
    code: str = "",
) -> dict[str, Any]:
    """Whether a row is better than the best of others, by more than 2 standard errors.

    Args:
      by: how much better it has to be, in the metric's unit.
      whole: nothing is shown unless all of `among` have values.
    """
    rival = best(table, among, metric)
    gains = _gains(table, row, rival or "", metric)
    gains = {s: None if x is None else x - by for s, x in gains.items()}
    who = "" if row == "model" else f" of {row}"
    more = f" by {by:g} {definitions.DEFINITIONS[metric].unit}" if by else ""
    title = definitions.DEFINITIONS[metric].title
    name = f"{code}{title}{who}: better than {rival or 'no row'}{more}"
    wanted = f"gain > 2 SE, the best of {', '.join(among)}"
    there = (mean(_values(table, other, metric))["n"] for other in among)
    lacking = [other for other, n in zip(among, there, strict=True) if not n]
    found = _verdict(name, wanted, _judged(gains, clusters))
    if whole and lacking and any(metric in cells for cells in table.values()):
        found |= {"passed": False, "why_not": f"not shown: no values of {', '.join(lacking)}"}
    return found
