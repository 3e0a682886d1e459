"""The tables of docs/pods.md: full-size steps compiled for machines that are not there.

    make plan-rows                                          # all rows of GPUs, then of TPUs
    .cache/gpu/bin/python benchmarks/plan_rows.py --of gpus [--only h100-8] [--most 1]
    .cache/tpu/bin/python benchmarks/plan_rows.py --of tpus
    python benchmarks/plan_rows.py --table                  # the tables of what is there

Every row is one step of one task on one mesh, compiled by `mode=plan` until the compiler has
assigned its memory (`config.plan.until=memory`: one to four minutes of a core, up to 3 GB), by
XLA for GPUs or libtpu for TPUs. Rows are kept in `--out` (out/plan_rows/rows.json) as soon as they
are there, so a stopped run continues; a row of another configuration is compiled again, `--again`
does so with all. Of rows with `data` of two and more the step is walked again for up to 1,024
devices (`schedule.Copies`). Prints Markdown: memory and time, what a step sends, more copies
(weak scaling), one batch on more devices (strong scaling), bits of weights (docs/few_steps.md).
"""

import argparse
import datetime
import importlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

import ml_collections  # noqa: E402

from syncmv4d_jax import configuration, disk  # noqa: E402
from syncmv4d_jax.machines.planning import pods, report  # noqa: E402
from syncmv4d_jax.machines.planning.pods import GIB  # noqa: E402
from syncmv4d_jax.run import plan, programs, sections  # noqa: E402

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
Changes = tuple[tuple[str, Any], ...]
SMALL = (("task.vae_chunk", 1), ("task.vae.dtype", "bfloat16"))
CHANGED = (*SMALL, ("train.frozen_dtype", "bfloat16"))
FEWER = (("task.dit.layers", 14), ("optim.ema", 0.0))
SHORT = {
    "task.vae_chunk": "",
    "task.vae.dtype": "small",
    "train.frozen_dtype": "frozen in bfloat16",
    "optim.ema": "no average",
    "optim.ema_memory": "average with the {}",
    "sample.precision": "{}",
    "task.dit.layers": "{} blocks",
}


class Row(NamedTuple):
    """A step to compile. source: file and variant of configs/. changes: (dotted key, value)."""

    machine: str
    source: str
    entry: str
    mesh: tuple[int, int, int, int]
    changes: Changes = ()

    @property
    def name(self) -> str:
        changes = [f"{key}={value}" for key, value in self.changes]
        mesh = ",".join(map(str, self.mesh))
        return " ".join([self.machine, self.source, self.entry, mesh, *changes])

    @property
    def what(self) -> str:
        """What the tables call it."""
        words = [SHORT[key].format(value) for key, value in self.changes]
        shown = f"{self.source.removesuffix(':full')} {self.entry}"
        return ", ".join([shown, *filter(None, words)])


def bits(machine: str, source: str, precision: str, more: Changes = ()) -> Row:
    """A sampling step on one card, with weights of so many bits."""
    given = (("sample.precision", precision),) if precision else ()
    return Row(machine, source, "sample_step", (1, 1, 1, 1), (*more, *given))


GPUS = (
    Row("h100-8", "taco:full", "mjd_step", (1, 8, 1, 1)),
    Row("h100-8", "taco:full", "closed_loop_step", (1, 8, 1, 1)),
    bits("h100-1", "taco:full", ""),
    bits("4090-1", "wan_ti2v:full", ""),
    bits("4090-1", "wan_ti2v:full", "bfloat16"),
    bits("4080-1", "wan_ti2v:full", "int8"),
    Row("h100-8", "hvg3d:taco", "train_step", (1, 8, 1, 1)),
    Row("h100-1", "hvg3d:third", "train_step", (1, 1, 1, 1)),
    Row("h100-8", "strag:full", "train_step", (1, 8, 1, 1)),
    Row("h100-8", "vism:full", "train_step", (1, 8, 1, 1)),
    Row("h100-16", "taco:full", "mjd_step", (2, 8, 1, 1)),
    Row("h100-64", "taco:full", "mjd_step", (8, 8, 1, 1)),
    Row("h100-64", "taco:full", "mjd_step", (1, 8, 1, 8)),
    Row("h200-8", "taco:full", "closed_loop_step", (1, 8, 1, 1)),
    Row("a100-8", "taco:full", "mjd_step", (1, 8, 1, 1)),
    Row("b200-8", "taco:full", "mjd_step", (1, 8, 1, 1)),
    Row("h200-1", "taco:full", "mjd_step", (1, 1, 1, 1)),
    bits("l4-1", "wan_ti2v:full", "bfloat16"),
    bits("4090-1", "wan_ti2v:full", "float8"),
    bits("4090-1", "taco:full", "int8", SMALL),
    bits("4090-1", "taco:full", "float8", SMALL),
    bits("4090-1", "taco:full", "bfloat16", SMALL),
    Row("h100-8", "taco:full", "sample_step", (1, 1, 1, 8)),
    Row("h100-16", "taco:full", "mjd_step", (1, 8, 1, 2)),
    Row("h100-32", "taco:full", "mjd_step", (1, 8, 1, 4)),
    bits("h100-1", "hvg3d:taco", ""),
    bits("h100-1", "strag:full", ""),
    bits("h100-1", "vism:full", ""),
    bits("h200-1", "wan_ti2v:full", "bfloat16"),
    bits("l4-1", "taco:full", "int8", SMALL),
    bits("h100-1", "taco:full", "bfloat16"),
    bits("h100-1", "taco:full", "int8"),
    bits("h100-1", "taco:full", "float8"),
    bits("h100-1", "taco:full", "", SMALL),
    Row("h200-1", "taco:full", "mjd_step", (1, 1, 1, 1), (("optim.ema", 0.0),)),
    Row("h100-64", "taco:full", "mjd_step", (1, 64, 1, 1)),
    # What benchmarks/gpu.py trains on a card of 80 GB.
    Row("h100-1", "taco:full", "mjd_step", (1, 1, 1, 1), FEWER),
    Row("h100-1", "taco:full", "closed_loop_step", (1, 1, 1, 1), (*SMALL, *FEWER)),
)
TPUS = (
    Row("v5p-16", "taco:full", "mjd_step", (1, 8, 1, 1)),
    Row("v5p-16", "taco:full", "closed_loop_step", (1, 8, 1, 1)),
    Row("v5p-16", "taco:full", "sample_step", (1, 1, 1, 8)),
    Row("v5p-16", "hvg3d:taco", "train_step", (1, 8, 1, 1)),
    Row("v5p-16", "strag:full", "train_step", (1, 8, 1, 1)),
    Row("v5p-16", "vism:full", "train_step", (1, 8, 1, 1)),
    Row("v5p-8", "wan_ti2v:full", "sample_step", (4, 1, 1, 1)),
    Row("v5p-8", "taco:full", "mjd_step", (1, 4, 1, 1)),
    Row("v5e-64", "taco:full", "mjd_step", (1, 8, 1, 8)),
    Row("v5e-256", "taco:full", "mjd_step", (1, 32, 1, 8)),
    Row("v6e-64", "taco:full", "mjd_step", (1, 8, 1, 8)),
    Row("v5p-32", "taco:full", "closed_loop_step", (1, 16, 1, 1)),
    Row("v5p-32", "taco:full", "mjd_step", (1, 4, 1, 4)),
    Row("v5p-128", "taco:full", "closed_loop_step", (4, 16, 1, 1)),
    Row("v5p-128", "taco:full", "closed_loop_step", (1, 64, 1, 1)),
    Row("v5e-256", "taco:full", "closed_loop_step", (1, 64, 1, 4), CHANGED),
    Row("v5p-384", "taco:full", "mjd_step", (4, 16, 3, 1)),
    Row("2xv5e-64", "taco:full", "mjd_step", (2, 8, 1, 8)),
    Row("v5e-8", "taco:full", "mjd_step", (1, 8, 1, 1)),
    Row("v5p-32", "taco:full", "mjd_step", (2, 8, 1, 1)),
    Row("v5p-32", "taco:full", "mjd_step", (1, 8, 1, 2)),
    Row("v5p-8", "taco:full", "mjd_step", (1, 4, 1, 1), (("optim.ema_memory", "host"),)),
)


def configured(row: Row) -> ml_collections.ConfigDict:
    """The last stage of a row's configuration, with its changes."""
    file, variant = row.source.split(":")
    config = importlib.import_module(f"configs.{file}").get_config(variant)
    _, config = configuration.stages(config)[-1]
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(dict(row.changes))
    return config


def compiled(row: Row, known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compiles a step until its memory is assigned; one of `known` of the same recipe is kept."""
    config, topology = configured(row), pods.find(row.machine)
    settings = sections.PlanConfig(topologies=(row.machine,), mesh=row.mesh, until="memory")
    [found] = plan.plan(config, settings, topology, [], row.entry, known)
    samples = "a sample"
    if programs.find(config, row.entry).step is None:
        samples = f"{config.train.steps * config.train.batch_size:,} samples"
    return {"date": datetime.date.today().isoformat(), **found, "samples": samples}


def memory(rows: Mapping[Row, Mapping[str, Any]]) -> str:
    """The table of memory and time."""
    columns = ("machine", "step", "mesh", "batch", "GiB", "of", "fits", "estimate", "largest value",
               "paper s", "expected s", "hidden", "utilised", "device-s a sample", "device-h",
               "compile s")  # fmt: skip
    lines = []
    for row, found in rows.items():
        fits = found["peak_bytes"] <= found["limit_bytes"]
        over = (found["peak_bytes"] - found["limit_bytes"]) / GIB
        size, shape, operation = (*found["largest"], (0.0, "-", ""))[0]
        line = {
            "machine": row.machine, "step": row.what, "mesh": pods.show(found["mesh"]),
            "batch": found["batch"], "GiB": f"{found['peak_bytes'] / GIB:.1f}",
            "of": f"{found['limit_bytes'] / GIB:.1f}",
            "fits": "yes" if fits else f"no, by {over:.1f}",
            "estimate": f"{found['estimate_bytes'] / GIB:.1f}",
            "largest value": f"{shape} {size / GIB:.1f}", "compile s": f"{found['compile_s']:.0f}",
        }  # fmt: skip
        if found["kind"] == "refused":
            line["fits"] = "no, refused"
        if "paper" in found:
            alone = math.prod(row.mesh) == 1
            line |= {
                "paper s": f"{found['paper']['seconds']:.3g}",
                "expected s": f"{found['expected_s']:.3g}",
                "hidden": "-" if alone else f"{found['hidden']:.0%}",
                "utilised": f"{found['utilised']:.2f}",
                "device-s a sample": f"{found['device_s_per_sample']:.3g}",
                "device-h": f"{found['device_hours']:.3g}, {found['samples']}",
            }
        lines.append(line)
    return report.table(lines, columns)


def moved(rows: Mapping[Row, Mapping[str, Any]]) -> str:
    """The table of what a device sends in a step."""
    columns = ("machine", "step", "mesh", *KINDS, "links s", "compute s")
    lines = []
    for row, found in rows.items():
        sent = {kind: x["gigabytes"] for kind, x in found.get("collectives").items()}
        if math.prod(row.mesh) == 1 or not sent:
            continue
        links = found["seconds"]["link"] + found["seconds"].get("network", 0.0)
        lines.append(
            {
                **{"machine": row.machine, "step": row.what, "mesh": pods.show(found["mesh"])},
                **{kind: f"{sent[kind]:.1f}" if sent.get(kind) else "-" for kind in KINDS},
                **{"links s": f"{links:.2f}", "compute s": f"{found['seconds']['compute']:.2f}"},
            }
        )
    return report.table(lines, columns)


def copies(rows: Mapping[Row, Mapping[str, Any]]) -> str:
    """The table of a step with more copies of the model, each with its own samples."""
    columns = ("compiled for", "step", "devices", "mesh", "batch", "expected s", "hidden",
               "of the smallest's rate")  # fmt: skip
    lines = []
    for row, found in rows.items():
        scaled = found.get("scaled", ())
        for one in scaled:
            devices = math.prod(one["mesh"].values())
            lines.append(
                {
                    "compiled for": row.machine, "step": row.what, "devices": f"{devices:,}",
                    "mesh": pods.show(one["mesh"]), "batch": f"{one['batch']:,}",
                    "expected s": f"{one['expected_s']:.2f}", "hidden": f"{one['hidden']:.0%}",
                    "of the smallest's rate": f"{scaled[0]['expected_s'] / one['expected_s']:.3f}",
                }
            )  # fmt: skip
    return report.table(lines, columns)


def faster(rows: Mapping[Row, Mapping[str, Any]]) -> str:
    """The table of one batch on more devices, each compiled for its own."""
    columns = ("chip", "step", "batch", "devices", "mesh", "GiB", "expected s", "times as fast",
               "of ideal")  # fmt: skip
    groups: dict[tuple[Any, ...], list[tuple[int, Mapping[str, Any]]]] = {}
    for row, found in rows.items():
        if "expected_s" in found and found["fits"]:
            same = (pods.find(row.machine).chip, row.what, found["batch"])
            groups.setdefault(same, []).append((math.prod(row.mesh), found))
    lines = []
    for (chip, what, batch), each in groups.items():
        each.sort(key=lambda x: (x[0], x[1]["expected_s"]))
        least, first = each[0]
        for devices, found in each if each[-1][0] > least else ():
            times = first["expected_s"] / found["expected_s"]
            lines.append(
                {
                    "chip": chip, "step": what, "batch": batch, "devices": devices,
                    "mesh": pods.show(found["mesh"]), "GiB": f"{found['peak_bytes'] / GIB:.1f}",
                    "expected s": f"{found['expected_s']:.2f}", "times as fast": f"{times:.2f}",
                    "of ideal": f"{times * least / devices:.0%}",
                }
            )  # fmt: skip
    return report.table(lines, columns)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", choices=("gpus", "tpus", "all"), default="all")
    parser.add_argument("--only", nargs="+", default=[""], help="words of the rows' names")
    parser.add_argument("--most", type=int, default=0, help="rows to compile now; 0: all")
    parser.add_argument("--quiet", action="store_true", help="print no tables")
    parser.add_argument("--again", action="store_true", help="also those that are there")
    parser.add_argument("--table", action="store_true", help="compile nothing, print the tables")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "plan_rows")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    args = parse(arguments)
    path = args.out / "rows.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    asked = {"gpus": GPUS, "tpus": TPUS, "all": GPUS + TPUS}[args.of]
    asked = [row for row in asked if all(word in row.name for word in args.only)]
    made = 0
    for row in asked if not args.table else ():
        there = known.get(row.name)
        found = compiled(row, [there] if there and not args.again else [])
        if there and found["compile_s"] == there["compile_s"]:
            continue
        known[row.name] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.whole(path) as partial:
            partial.write_text(json.dumps(known, indent=1))
        print(memory({row: found}).splitlines()[-1], file=sys.stderr, flush=True)
        made += 1
        if made == args.most:
            break
    rows = {row: known[row.name] for row in asked if row.name in known}
    if not args.most and not args.quiet:
        print("\n\n".join([memory(rows), moved(rows), copies(rows), faster(rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
