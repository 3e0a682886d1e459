"""A student of few steps beside its teacher, at the demo's size: what it keeps, paired by scene.

    python benchmarks/few_steps.py --demo out/demo --out out/few              # all of it
    python benchmarks/few_steps.py --demo out/demo --out out/few --table      # the table only

Teaches students of `--steps` (4 and 2) by `configs/distill.py:demo` from `--weights` (the shipped
ones) on the training scenes of a finished `make demo`, samples its held-out scenes with the teacher
at 16 and at the students' steps and with the students, evaluates, and prints Markdown
(docs/few_steps.md). What is there is kept, so a stopped run continues. `--features` is a folder of
published weights (docs/metrics.md), which LPIPS wants; without it that column is left out.

Two questions of every student and metric, by paired differences over triplets (scenes of one move
alike): is it no worse than the teacher at 16 by more than two standard errors, and is it better by
two than the teacher at the same steps. PSNR is shown and not asked: fewer steps raise it by
blurring. Seconds a training step are a mean over a run without its first lines, which compile.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.metrics import definitions, summary
from syncmv4d_jax.metrics.networks import definitions as network_definitions

ROOT = Path(__file__).resolve().parent.parent
SIZE, TEACHER = "64x96", 16
CONFIG = "readings/learned_codec.py:demo"  # what `make demo` samples by
ASKED = ("gradient_energy", "lpips_alex", "error_mm")
SHOWN = (*ASKED, "psnr_moving")
DEFINITIONS = definitions.DEFINITIONS | network_definitions.DEFINITIONS
Table = Mapping[str, Mapping[str, Any]]  # metric -> cell of eval.json


def call(*arguments: Any) -> None:
    """Runs one of the project's commands; stops the benchmark where it fails."""
    command = [sys.executable, *map(str, arguments)]
    print("  ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def names(steps: list[int]) -> dict[str, tuple[str, int]]:
    """{row: (who samples, with how many steps)}; the teacher of all comes first."""
    rows = {f"teacher-{n}": ("teacher", n) for n in (TEACHER, *steps)}
    return rows | {f"student-{n}": ("student", n) for n in steps}


def of_demo(args: argparse.Namespace, config: str, own: Path) -> list[Any]:
    """The command that works in `own` by a configuration of the demo's data and weights.

    args: demo (a finished one's folder), weights, codec.
    """
    parts = args.demo / "weights"
    command = ["-m", "syncmv4d_jax.main", f"--config=configs/{config}", f"--workdir={own}",
               f"--config.data.records={args.demo / 'records' / SIZE}",
               f"--config.data.cache={args.demo / 'cache' / SIZE}",
               f"--config.weights.vae={parts}", f"--config.text.weights={parts}",
               f"--config.weights.codec={args.codec}"]  # fmt: skip
    return command + [f"--config.weights.{part}={args.weights}" for part in ("dit", "dpa", "prior")]


def judge(args: argparse.Namespace, command: list[Any]) -> None:
    """Samples and evaluates; args: scenes, features."""
    call(*command, "--config.mode=sample", f"--config.sample.count={args.scenes}")
    call(*command, "--config.mode=evaluate", "--config.evaluate.priors=",
         f"--config.evaluate.features={args.features}")  # fmt: skip


def run(args: argparse.Namespace, row: str) -> None:
    """Teaches, samples and evaluates one row, whatever of it is not there."""
    (who, steps), own = names(args.steps)[row], args.out / row
    if (own / "eval.json").is_file():
        return
    command = of_demo(args, CONFIG if who == "teacher" else "distill.py:demo", own)
    command.append(f"--config.task.sample_steps={steps}")
    if who == "student":
        command += [f"--config.train.steps={args.train}",
                    f"--config.task.distill.substeps={TEACHER // steps}"]  # fmt: skip
        call(*command)
    judge(args, command)


def asked(rows: Mapping[str, Table], better: str, other: str, metric: str, triplets: Any) -> Any:
    """Paired gain of one row over another: mean, se, clusters; None where a row has no such."""
    if any(metric not in rows[row] for row in (better, other)):
        return None
    own, theirs = (rows[row][metric]["per_sample"] for row in (better, other))
    better = DEFINITIONS[metric].better
    gains = {s: summary.better_by(better, x, theirs[s]) for s, x in own.items() if s in theirs}
    return summary.mean(gains, triplets)


def verdict(found: Mapping[str, Any], *, beyond: bool) -> str:
    """What a paired gain says; beyond: it is to be above two standard errors, not above minus."""
    if found["se"] is None:
        return "too few triplets"
    bound = 2 * found["se"]
    holds = found["value"] > bound if beyond else found["value"] >= -bound
    return "holds" if holds else "does not hold"


def opened(out: Path, rows: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """{row: its eval.json}; leaves where one is missing."""
    paths = {row: out / row / "eval.json" for row in rows}
    if missing := [row for row, path in paths.items() if not path.is_file()]:
        sys.exit(f"{out}: no eval.json of {', '.join(missing)}: run without --table")
    return {row: json.loads(path.read_text()) for row, path in paths.items()}


def means(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The means of all rows, in Markdown; evaluations: {row: its eval.json}."""
    rows = {row: one["rows"]["model"] for row, one in evaluations.items()}
    triplets = next(iter(evaluations.values())).get("triplets")
    used = [metric for metric in SHOWN if any(metric in one for one in rows.values())]
    lines = ["| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
    for row, cells in rows.items():
        cell = lambda metric: cells.get(metric, {"per_sample": {}})["per_sample"]  # noqa: B023,E731
        found = [summary.mean(cell(metric), triplets) for metric in used]
        shown = [f"{x['value']:.3g} ± {x['se'] or np.nan:.2g}" if x["n"] else "-" for x in found]
        lines.append(f"| {row} | " + " | ".join(shown) + " |")
    return lines


def tables(evaluations: Mapping[str, Mapping[str, Any]], steps: list[int]) -> str:
    """The means of all rows and the answers, in Markdown; evaluations: {row: its eval.json}."""
    rows = {row: one["rows"]["model"] for row, one in evaluations.items()}
    triplets = next(iter(evaluations.values())).get("triplets")
    lines = [
        *means(evaluations),
        "",
        "| student | beside | metric | paired gain | asked | |",
        "|---|---|---|---|---|---|",
    ]
    for n in steps:
        for other, beyond in ((f"teacher-{TEACHER}", False), (f"teacher-{n}", True)):
            for metric in ASKED:
                own = asked(rows, f"student-{n}", other, metric, triplets)
                if own is None:
                    continue
                gain = f"{own['value']:.3g} ± {own['se'] or np.nan:.2g} (n = {own['clusters']})"
                bar = "> 2 s.e." if beyond else ">= -2 s.e."
                answer = verdict(own, beyond=beyond)
                lines.append(f"| {n} steps | {other} | {metric} | {gain} | {bar} | {answer} |")
    return "\n".join(lines)


def seconds(path: Path) -> float | None:
    """Seconds of a training step by a run's metrics.jsonl; None of a run of a few lines."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [line["seconds_per_step"] for line in lines if "seconds_per_step" in line]
    return float(np.mean(found[1:])) if len(found) > 1 else None


def parser(about: str) -> argparse.ArgumentParser:
    """Flags of what is measured on a finished demo."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--demo", type=Path, default=Path("out/demo"))
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--weights", type=Path, default=ROOT / "demo/weights/model.safetensors")
    made.add_argument("--codec", type=Path, default=ROOT / "demo/weights/codec.safetensors")
    made.add_argument("--scenes", type=int, default=0, help="held out, 0 = all")
    made.add_argument("--features", default="", help="folder of published weights, for LPIPS")
    made.add_argument("--table", action="store_true", help="of what is there, make nothing")
    return made


def read(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags, with whole paths; leaves where no demo is."""
    args = made.parse_args()
    for name in ("demo", "out", "weights", "codec"):
        setattr(args, name, getattr(args, name).resolve())
    if args.features:
        args.features = str(Path(args.features).resolve())
    if not (args.demo / "cache" / SIZE / "cache.json").is_file():
        sys.exit(f"{args.demo}: wanted what `make demo` leaves there, found no cache/{SIZE}")
    return args


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--steps", type=int, nargs="+", default=[4, 2], choices=(1, 2, 4, 8))
    flags.add_argument("--train", type=int, default=200, help="steps of a student's training")
    args = read(flags)
    for row in names(args.steps) if not args.table else ():
        run(args, row)
    print(tables(opened(args.out, names(args.steps)), args.steps))
    for n in args.steps:
        took = seconds(args.out / f"student-{n}" / "metrics.jsonl")
        print(f"\nstudent-{n}: {'-' if took is None else f'{took:.1f}'} s a training step")


if __name__ == "__main__":
    main()
