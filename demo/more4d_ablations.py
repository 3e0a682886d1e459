"""Rows of MoRe4D's ablations at the demo's size, beside each other.

    make demo-more4d
    python demo/more4d_ablations.py --out out/demo-more4d [--rows no_depth no_mpm]

Every row is trained from one view of the demo's MJD for `--steps` steps, with the same scenes in
the same order, as the row `base` of its system, which leaves nothing out; then it is sampled and
evaluated on the held-out scenes of OUT. Rows are configurations of configs/ablations. Pairs of one
view alone are cached anew, and flow without normalisation has a decoder of its own, as long as the
demo's. OUT/ablations/ablations.md compares them; what is there is not made again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import more4d, shipped
from syncmv4d_jax import disk
from syncmv4d_jax.metrics import summary, tables

BASE = "base"


class System(NamedTuple):
    """A system's rows, and the metrics that compare them."""

    rows: tuple[str, ...]
    metrics: tuple[str, ...]


SYSTEMS = {
    "vism": System(
        (BASE, "no_hole_mask", "same_view_pairs"),
        ("psnr_view", "psnr_hole", "psnr_sure", "psnr_view_path", "psnr_hole_path"),
    ),
    "strag": System(
        (BASE, "no_norm", "no_mpm", "no_depth"),
        ("flow_epe_moving_mm", "flow_epe_late_mm", "flow_centroid", "background_drift_mm"),
    ),
}
ROWS = [row for system in SYSTEMS.values() for row in system.rows if row != BASE]
NO_NORM = ["--config.task.flow_form=extent"]


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-more4d"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--fresh", action="store_true", help="as OUT was made")
    return parser.parse_args(argv)


def stages(args: argparse.Namespace) -> list[more4d.Stage]:
    """Returns every stage in order."""
    out = args.out.resolve()
    own, found = out / "ablations", []
    runs = more4d.Runs(out, more4d.flow_of(args))
    told = [f"--config.train.steps={args.steps}", *shipped.flags("dit")]
    if "same_view_pairs" in args.rows:
        pairs = ["--pairs", more4d.SIZES["tuned"].pairs, *more4d.PAIRS, "--same-view", 1.0]
        cached = more4d.cached(out / "records", own / "cache", out / "weights")
        found.append(("pairs of one view alone", [*cached, *pairs]))
    if "no_norm" in args.rows:
        first, (title, decoder) = more4d.decoder_stages(runs, own, "--form", "extent")
        found += [first, (title, [*decoder, *NO_NORM])]
    for name, system in SYSTEMS.items():
        rows = [row for row in system.rows if row in args.rows]
        for row in [BASE, *rows] if rows else ():
            run = run_of(name, row, runs, own)
            found += [
                (f"{name}: {row}", [*run, *told]),
                (f"samples of {name}: {row}", [*run, more4d.SAMPLE]),
                (f"evaluation of {name}: {row}", [*run, more4d.EVALUATE]),
            ]
    return found


def run_of(name: str, row: str, runs: more4d.Runs, own: Path) -> list:
    """The training of a row."""
    config = f"configs/{name}.py" if row == BASE else f"configs/ablations/{row}.py"
    if row == "no_norm":
        runs = runs._replace(flow=more4d.trained_flow(own))
    folder = own / f"{name}_{row}"
    if name == "strag":
        return runs.strag(folder, config)
    cache = "ablations/cache" if row == "same_view_pairs" else "cache"
    return runs.vism(folder, config, cache)


def compare(evaluations: Mapping[str, Mapping[str, Any]], system: System) -> str:
    """A system's rows and by how much the row without anything left out is better, as Markdown.

    Args:
      evaluations: {row: its eval.json}, with BASE.
    """
    table = {row: one["rows"]["model"] for row, one in evaluations.items()}
    triplets = evaluations[BASE]["triplets"]
    gains = summary.paired(table, triplets, row=BASE)
    lines = ["| row | " + " | ".join(map(tables.heading, system.metrics)) + " |"]
    lines.append("|---" * (len(system.metrics) + 1) + "|")
    for row, cells in table.items():
        values = (tables.cell(cells.get(metric)) for metric in system.metrics)
        lines.append(f"| {row} | " + " | ".join(values) + " |")
    for row, cells in gains.items():
        values = (tables.cell(cells.get(metric)) for metric in system.metrics)
        lines.append(f"| {BASE} better than {row} by | " + " | ".join(values) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Runs the stages and compares; returns the exit status of the first that fails."""
    args = parse(argv)
    for title, command in stages(args):
        print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
        status = subprocess.run([sys.executable, *map(str, command)], cwd=more4d.ROOT).returncode
        if status:
            print(f"ablations: {title!r} failed with status {status}", file=sys.stderr)
            return status
    own, parts = args.out.resolve() / "ablations", []
    for name, system in SYSTEMS.items():
        files = {row: own / f"{name}_{row}" / "eval.json" for row in system.rows}
        found = {r: json.loads(file.read_text()) for r, file in files.items() if file.is_file()}
        if BASE in found:
            parts.append(f"## {name}\n\n{compare(found, system)}")
    text = "\n".join(parts) + "\nPaired by scene, ± is one standard error over triplets.\n"
    with disk.whole(own / "ablations.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"\n{text}\n{own / 'ablations.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
