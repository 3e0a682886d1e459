"""What `plan` says in words and as a table: findings, what to change, plan.md."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from syncmv4d_jax.machines.planning import hlo, pods
from syncmv4d_jax.machines.planning.pods import GIB

COLUMNS = (
    "topology", "entry", "mesh", "batch", "compiled", "fits", "peak GiB", "of GiB", "compute s",
    "link s", "paper s", "expected s", "hidden", "utilised", "device-s/sample", "device-h",
    "sent GB", "findings",
)  # fmt: skip

MORE = ("chip", "entry", "devices", "batch", "mesh", "expected s", "hidden", "device-s/sample")
FASTER = ("chip", "entry", "batch", "devices", "mesh", "expected s", "times as fast", "of ideal")


def findings(whole: Sequence[hlo.Collective]) -> list[str]:
    """Returns what is wrong with a compiled program, in words; whole: see hlo.whole_weights."""
    made: dict[str, int] = {}
    for one in whole:
        shapes = ", ".join(f"{kind}{list(dims)}" for kind, dims in one.shapes)
        made[shapes] = made.get(shapes, 0) + one.times
    return [f"all-reduce of a whole weight: {shapes}, {n} a step" for shapes, n in made.items()]


def advice(
    config: Any, topology: pods.Topology, row: Mapping[str, Any], *, training: bool, codec: bool
) -> list[str]:
    """Returns what to change where a program does not fit, the cheapest first.

    Args:
      training: a training step.
      codec: the step runs the autoencoder.
    """
    task, mesh, found = config.task, row["mesh"], []
    lower = {"": "bfloat16", "bfloat16": "int8"}.get(config.sample.precision)
    if lower and not training:
        found.append(f'config.sample.precision="{lower}": half the bytes of the weights')
    if task.get("dit", {}).get("remat", "none") != "full" and training:
        found.append('config.task.dit.remat="full"')
    if codec:
        if not task.get("vae_chunk", 0):
            found.append("config.task.vae_chunk=1: the autoencoder a latent frame at a time")
        if config.train.frozen_dtype != "bfloat16":
            found.append('config.train.frozen_dtype="bfloat16"')
        if task.get("vae", {}).get("dtype", "float32") != "bfloat16":
            found.append('config.task.vae.dtype="bfloat16"')
    if mesh["view"] * mesh["sequence"] < 8 and row["batch"] > 1:
        found.append("more sequence shards: fewer tokens and samples a device")
    if task.get("dit", {}).get("residual_dtype", "float32") != "bfloat16":
        found.append('config.task.dit.residual_dtype="bfloat16"')
    if config.optim.ema and training:
        if config.optim.ema_memory == "device":
            found.append('config.optim.ema_memory="host": 4 bytes a parameter less')
        found.append("config.optim.ema=0: no average, 4 bytes a parameter less")
    larger = pods.larger(topology)
    return [*found, f"more devices: {', '.join(larger)}" if larger else "another chip"]


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of plan.md: compiled programs, then candidates by their estimates."""
    entries = list(dict.fromkeys(row["entry"] for row in rows))  # as they were planned
    order = sorted(
        rows,
        key=lambda r: (r["topology"], entries.index(r["entry"]), "compile_s" not in r,
                       r.get("device_s_per_sample", r["bound_s_per_sample"])),
    )  # fmt: skip
    return table([_cells(row) for row in order], COLUMNS)


def scaling(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns tables of what compiled steps take with more copies of the model, if there are any.

    The first has, of every number of devices, the best mesh first; the second, of every batch that
    several numbers of devices share, the fastest mesh of each, beside the smallest number.
    """
    found: list[dict[str, Any]] = [
        {"chip": pods.find(row["topology"]).chip, "entry": row["entry"], **one,
         "devices": math.prod(one["mesh"].values())}
        for row in rows
        for one in row.get("scaled", ())
    ]  # fmt: skip
    if not found:
        return []
    for one in found:
        one["each"] = one["expected_s"] * one["devices"] / one["batch"]
    found.sort(key=lambda x: (x["chip"], x["entry"], x["devices"], x["each"]))
    more = [_scaled(one) | {"device-s/sample": f"{one['each']:.2f}"} for one in found]
    fastest: dict[tuple[Any, ...], dict[int, Any]] = {}
    for one in sorted(found, key=lambda x: x["expected_s"], reverse=True):
        same = fastest.setdefault((one["chip"], one["entry"], one["batch"]), {})
        same[one["devices"]] = one
    faster = []
    for _, same in sorted(fastest.items()):
        first = same[min(same)]
        for devices, one in sorted(same.items()) if len(same) > 1 else ():
            times = first["expected_s"] / one["expected_s"]
            ideal = times * first["devices"] / devices
            faster.append(
                _scaled(one) | {"times as fast": f"{times:.2f}", "of ideal": f"{ideal:.0%}"}
            )
    return [table(more, MORE), *[table(faster, FASTER)] * bool(faster)]


def _scaled(one: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: one[key] for key in ("chip", "entry", "devices", "batch")}
    shown |= {"mesh": pods.show(one["mesh"]), "expected s": f"{one['expected_s']:.2f}"}
    return shown | {"hidden": f"{one['hidden']:.0%}"}


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    compiled = "compile_s" in row
    cells = {
        "topology": row["topology"],
        "entry": row["entry"],
        "mesh": pods.show(row["mesh"]),
        "batch": row["batch"],
        "compiled": row.get("kind", "whole") if compiled else "estimate",
        "fits": ("yes" if row["fits"] else "no") if compiled else "-",
        "compute s": f"{row['seconds']['compute']:.2f}",
        "link s": f"{row['seconds']['link'] + row['seconds'].get('network', 0.0):.2f}",
        "device-s/sample": f"> {row['bound_s_per_sample']:.1f}",
        "peak GiB": f"~{row['estimate_bytes'] / GIB:.1f}",
    }
    if compiled:
        sent = sum(x["gigabytes"] for x in row.get("collectives", {}).values())
        cells |= {
            "peak GiB": f"{row['peak_bytes'] / GIB:.1f}",
            "of GiB": f"{row['limit_bytes'] / GIB:.1f}",
            "sent GB": f"{sent:.1f}" if row["fits"] else "-",
            "findings": len(row["findings"]) if row["fits"] else "; ".join(row["advice"]),
        }
    if "paper" in row:
        cells |= {
            "paper s": f"{row['paper']['seconds']:.2f}",
            "expected s": f"{row['expected_s']:.2f}",
            "hidden": f"{row['hidden']:.0%}",
            "utilised": f"{row['utilised']:.2f}",
            "device-s/sample": f"{row['device_s_per_sample']:.1f}",
            "device-h": f"{row['device_hours']:.3g}",
        }
    return cells


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Returns a Markdown table; a missing value is a dash."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(c, "-")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)
