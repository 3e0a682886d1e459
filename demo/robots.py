"""A robot from a simulator to a page: `make robots`.

    scripted episodes -> records -> latents -> fine-tuning of the demo's weights
    -> samples of held-out episodes -> evaluation -> report
    -> the same of the weights before, and of views that do not see each other
    -> pairs of rollouts of one reset -> the same with actions
    -> robots.md: all rows, paired; who sees a point, against the simulator

Every stage is one of the project's own commands, printed before it runs, and continues where a
stopped run left it. Held out are episodes of other seeds (the split `val`, in OUT) and, apart from
them, a whole task (the split `test`, in OUT/tasks). With actions (OUT/acting) the same is trained
with what the robot is commanded, and sampled on pairs of rollouts from one reset (OUT/actions): a
rollout's video must follow its own commands, not the other's. The simulator runs in an environment
of its own (requirements/metaworld.txt). The hand's camera is among the records, the fourth view;
the demo's networks have three.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import disk, tree
from syncmv4d_jax.data import records
from syncmv4d_jax.metrics import definitions, summary
from syncmv4d_jax.weights import exports

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIMULATOR = ROOT / ".cache" / "metaworld" / "bin" / "python"
SIZE = "64x96"
TRAINED = "hammer,sweep,basketball,stick-push,peg-insert-side,pick-place"
HELD_OUT = "assembly", "(assemble, ring, peg)"  # a task that no training episode shows
PARTS = ("dit", "prior")  # tuned; the aligner stays
# What joins the result of inter-view attention to the tokens: without it they stay as they are.
JOINS = r"^dit/.*inter_view_attn/o/"
METRICS = (
    "temporal_correlation", "psnr_moving", "error_mm", "mv_rpe_cross_truth", "mv_rpe_cross",
)  # fmt: skip
RIVALS = (  # rows of the run's own evaluation
    "held", "frame_0", "frame_0_blurred", "time_mean", "true_velocity", "nearest", "mean_path",
)  # fmt: skip
OTHERS = {"untuned": "the weights before", "apart": "inter-view attention off"}
MAIN = ["-m", "syncmv4d_jax.main"]
DEMO, ACTING = "--config=configs/robots.py:tune", "--config=configs/robots.py:demo"
Stage = tuple[str, Path | str, list]
PROCESSES = 2  # of the simulator, which uses one core each


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/robots"))
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=350, help="of fine-tuning")
    parser.add_argument("--short", action="store_true", help="three episodes, two steps, a sample")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args = parse(argv)
    if not SIMULATOR.is_file():
        print(f"{SIMULATOR}: not there; `make robots` makes it", file=sys.stderr)
        return 1
    begin = time.time()
    shipped.unpack(args.out / "weights")
    for title, program, command in stages(args):
        print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
        started = time.time()
        if status := executed(program, command):
            print(f"robots: {title!r} failed with status {status}", file=sys.stderr)
            return status
        print(f"   ({title}: {time.time() - started:.0f} s)", flush=True)
    print(f"\n{result(args.out.resolve()).read_text(encoding='utf-8')}")
    print(f"{args.out.resolve() / 'report.html'}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


def executed(program: Path | str, command: list) -> int:
    """Runs a program, the simulator in several processes; returns the worst exit status."""
    shares: list[list[str]] = [[]]
    if program == SIMULATOR:
        shares = [["--shard", f"{i}/{PROCESSES}"] for i in range(PROCESSES)]
    running = [
        subprocess.Popen([str(program), *map(str, command), *share], cwd=ROOT) for share in shares
    ]
    return max((abs(one.wait()) for one in running), default=0)


def stages(args: argparse.Namespace) -> Iterator[Stage]:
    """Yields (title, program, its arguments) of every stage, each when the one before is done."""
    out, short = args.out.resolve(), args.short
    out.mkdir(parents=True, exist_ok=True)
    (out / "heldout.txt").write_text(HELD_OUT[1] + "\n")
    tasks, parts = "sweep" if short else TRAINED, out / "weights"
    every, count = f"{tasks},{HELD_OUT[0]}", 3 if short else args.episodes
    yield _played("scripted episodes", out / "episodes", count, every, [])
    yield _prepared("tracks, pseudo videos, crops", out, "episodes", 0.5 if short else 0.45)
    text = ["data_prep/make_text_encoder.py", "--out", parts]
    yield "a small text encoder", sys.executable, text
    yield _cached("latents and text features", out, "episodes", [])
    yield from _runs(args)
    pairs = ["--seed", 500, "--mirrored"]  # seeds that no episode above has
    yield _played("pairs of one reset", out / "pairs", 1 if short else 8, tasks, pairs)
    yield _prepared("the same of the pairs", out, "pairs", 1)
    yield _cached("text features of the pairs", out, "pairs", ["--texts-only"])
    yield from _acting(args)
    own = ["--seed", 900, "--check", 4]
    tasks = "sweep" if short else every
    yield _played("episodes to check", out / "checked", 1 if short else 7, tasks, own)
    check = ["benchmarks/visibility.py", out / "checked"]
    yield "who sees a point, by ray casting and by the simulator", sys.executable, check


def _played(title: str, out: Path, episodes: int, tasks: str, more: list) -> Stage:
    return (
        title, SIMULATOR,
        ["data_prep/import_metaworld.py", "--out", out, "--episodes", episodes, "--tasks", tasks,
         "--frames", 25, "--stride", 4, *more],
    )  # fmt: skip


def _prepared(title: str, out: Path, name: str, share: float) -> Stage:
    return (
        title, sys.executable,
        ["data_prep/prepare_taco.py", "--folder", out / name, "--out", out / f"{name}_records",
         "--size", SIZE, "--frames", 13, "--points", 256, "--clusters", 4, "--val-share", share,
         "--heldout-tools", "", "--heldout-actions", "",
         "--heldout-triplets", out / "heldout.txt", "--surfaces", "all", "--actions"],
    )  # fmt: skip


def _cached(title: str, out: Path, name: str, more: list) -> Stage:
    return (
        title, sys.executable,
        ["data_prep/cache_latents.py", "--data", out / f"{name}_records",
         "--weights", out / "weights", "--out", out / f"{name}_cache", "--size", SIZE,
         "--text-length", 48, *more],
    )  # fmt: skip


def _runs(args: argparse.Namespace) -> Iterator[Stage]:
    """Training, sampling and evaluation."""
    out = args.out.resolve()
    own = [DEMO, *_data(out, "episodes")]
    steps, few = _sizes(args)
    first, tuned = _weights(shipped.MODEL), out / "mjd.safetensors"
    run = [*own, *first, f"--workdir={out}", *steps]
    yield "training", sys.executable, [*MAIN, *run]
    yield from _scored("held-out episodes", [*run, *few], "val")
    task = [*own, *_weights(tuned), f"--workdir={out / 'tasks'}", *few]
    yield from _scored("a held-out task", task, "test")
    before = [*own, *first, f"--workdir={out / 'untuned'}", *few]
    yield from _scored(OTHERS["untuned"], before, "val")
    alone = _weights(without_inter_view(tuned, out / "apart.safetensors"))
    yield from _scored(OTHERS["apart"], [*own, *alone, f"--workdir={out / 'apart'}", *few], "val")


def _acting(args: argparse.Namespace) -> Iterator[Stage]:
    """The same with actions, on pairs of rollouts."""
    out, (steps, _) = args.out.resolve(), _sizes(args)
    run = [ACTING, *_data(out, "episodes"), *_weights(shipped.MODEL), *steps]
    yield "training with actions", sys.executable, [*MAIN, *run, f"--workdir={out / 'acting'}"]
    trained = _weights(out / "acting" / "mjd.safetensors")
    rollouts = [ACTING, *_data(out, "pairs"), *trained, f"--workdir={out / 'actions'}"]
    yield from _scored("pairs of one reset", rollouts, "val")


def _sizes(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Flags for the steps of training, and for few samples where it is to be short."""
    steps = f"--config.train.steps={2 if args.short else args.steps}"
    return [steps], ["--config.sample.count=1"] if args.short else []


def _data(out: Path, name: str) -> list[str]:
    """Records, cache and what is the same for all runs."""
    mean, std = scales(out / "episodes_records" / SIZE)
    return [f"--config.data.records={out / f'{name}_records' / SIZE}",
            f"--config.data.cache={out / f'{name}_cache' / SIZE}",
            f"--config.weights.vae={out / 'weights'}", f"--config.text.weights={out / 'weights'}",
            f"--config.task.scale_mean={mean}", f"--config.task.scale_std={std}",
            "--config.task.scale_origin=camera"]  # fmt: skip


def _weights(path: Path) -> list[str]:
    own = [f"--config.weights.{part}={path}" for part in PARTS]
    return [*own, f"--config.weights.dpa={shipped.MODEL}"]


def _scored(title: str, run: list[str], split: str) -> Iterator[Stage]:
    run = [*run, f"--config.sample.split={split}", f"--config.evaluate.split={split}"]
    yield f"sampling: {title}", sys.executable, [*MAIN, *run, "--config.mode=sample"]
    yield f"evaluation: {title}", sys.executable, [*MAIN, *run, "--config.mode=evaluate"]


def scales(folder: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and deviation of (nearest, farthest) depth over the training views, metres."""
    reader = records.Reader(folder, "train")
    views = [reader.view(window, view) for window in reader.windows for view in window.views[:3]]
    found = np.stack([view["scale"] for view in views])
    mean, std = found.mean(0), np.maximum(found.std(0), 0.05)
    return tuple(mean.round(3).tolist()), tuple(std.round(3).tolist())


def without_inter_view(path: Path, target: Path) -> Path:
    """Writes exported weights whose inter-view attention adds nothing; returns `target`.

    Raises:
      ValueError: it has none.
    """
    flat = tree.flatten(exports.read(path))
    joins = [name for name in flat if re.search(JOINS, name)]
    if not joins:
        raise ValueError(f"{path}: no inter-view attention ({JOINS}), got {tree.sample(flat)}")
    flat |= {name: np.zeros_like(flat[name]) for name in joins}
    exports.write(tree.unflatten(flat), target, dtype="bfloat16", metadata=exports.metadata(path))
    return target


def result(out: Path) -> Path:
    """Writes robots.md and robots.json of what was evaluated; returns the former."""
    every = {name: json.loads((out / name / "eval.json").read_text(encoding="utf-8"))
             for name in ("", "tasks", "actions", *OTHERS)}  # fmt: skip
    held = every[""]
    rows = {name: held["rows"][name] for name in ("model", *RIVALS) if name in held["rows"]}
    rows |= {OTHERS[name]: every[name]["rows"]["model"] for name in OTHERS}
    margin = every["actions"]["rows"]["model"].get("swap_margin") or summary.mean({})
    found = {
        "held-out episodes": compared(rows, held["triplets"]),
        "a held-out task": compared(
            {name: every["tasks"]["rows"][name] for name in rows if name in every["tasks"]["rows"]},
            {name: name for name in every["tasks"]["triplets"]},  # of one task: each is a case
        ),
        "swap_margin": {key: margin[key] for key in ("value", "se", "n", "clusters")},
    }
    lines = [f"# Robots\n\n{held['scenes']} held-out episodes of {held['clusters']} tasks"]
    lines += [f"\n## {title}\n\n{markdown(found[title])}" for title in list(found)[:2]]
    told = found["swap_margin"]
    lines.append("\n## Swapped actions\n\nCorrelation over time with the rollout of its own "
                 "actions, less that with the other of the same reset: "
                 f"{number(told['value'])} +- {number(told['se'] and 2 * told['se'])} (2 s.e., "
                 f"{told['n']} rollouts of {told['clusters']} tasks)")  # fmt: skip
    for name, text in (("robots.json", json.dumps(found, indent=1)),
                       ("robots.md", "\n".join(lines) + "\n")):  # fmt: skip
        with disk.whole(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return out / "robots.md"


def compared(
    rows: Mapping[str, Mapping[str, Any]], triplets: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """{row: {metric: value, and of all but the model's row the model's paired gain, its se}}.

    Args:
      rows: {row: {metric: cell of eval.json}}, one of them "model".
      triplets: {episode: what it is one case of}.
    """
    gains = summary.paired(rows, triplets)
    found: dict[str, dict[str, Any]] = {}
    for row, cells in rows.items():
        found[row] = {}
        for metric in METRICS:
            if metric not in cells:
                continue
            found[row][metric] = {"value": cells[metric]["value"]}
            if row != "model" and metric in gains[row]:
                cell = gains[row][metric]
                found[row][metric] |= {"gain": cell["value"], "se": cell["se"], "n": cell["n"]}
    return found


def markdown(table: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: values, and in brackets by how much the model is better, with 2 s.e."""
    every = [definitions.DEFINITIONS[metric] for metric in METRICS]
    titles = [f"{x.title}, {x.unit}" if x.unit else x.title for x in every]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for row, cells in table.items():
        texts = []
        for metric in METRICS:
            cell = cells.get(metric)
            text = number(cell["value"]) if cell else "-"
            if cell and cell.get("gain") is not None:
                twice = None if cell["se"] is None else 2 * cell["se"]
                text += f" ({cell['gain']:+.3g} +- {number(twice)})"
            texts.append(text)
        lines.append(f"| {row} | {' | '.join(texts)} |")
    return "\n".join(
        [*lines, "", "In brackets: by how much the model is better, +- 2 s.e., paired."]
    )


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
