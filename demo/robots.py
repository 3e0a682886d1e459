"""A robot from a simulator to a page: `make robots`.

    scripted episodes -> records -> latents -> fine-tuning of the demo's weights
    -> samples of held-out episodes -> evaluation -> report

Every stage is one of the project's own commands, printed before it runs, and continues where a
stopped run left it. Held out are episodes of other seeds (the split `val`, in OUT) and, apart from
them, a whole task (the split `test`, in OUT/tasks). The simulator runs in an environment of its own
(requirements/metaworld.txt). The hand's camera is among the records, the fourth view; the
demo's networks have three.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax.data import records

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIMULATOR = ROOT / ".cache" / "metaworld" / "bin" / "python"
SIZE = "64x96"
HELD_OUT = "(assemble, ring, peg)"  # a task that no training episode shows


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/robots"))
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
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
        status = subprocess.run([str(program), *map(str, command)], cwd=ROOT).returncode
        if status:
            print(f"robots: {title!r} failed with status {status}", file=sys.stderr)
            return status
    print(f"\n{args.out.resolve() / 'report.html'}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


def stages(args: argparse.Namespace) -> Iterator[tuple[str, Path | str, list]]:
    """Yields (title, program, its arguments) of every stage, each when the one before is done."""
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    episodes, made, parts = out / "episodes", out / "records", out / "weights"
    yield (
        "scripted episodes", SIMULATOR,
        ["data_prep/import_metaworld.py", "--out", episodes, "--episodes", args.episodes,
         "--frames", 25, "--stride", 4],
    )  # fmt: skip
    (out / "heldout.txt").write_text(HELD_OUT + "\n")
    yield (
        "tracks, pseudo videos, crops", sys.executable,
        ["data_prep/prepare_taco.py", "--folder", episodes, "--out", made, "--size", SIZE,
         "--frames", 13, "--points", 256, "--clusters", 4, "--val-share", 0.3,
         "--heldout-tools", "", "--heldout-actions", "", "--heldout-triplets", out / "heldout.txt",
         "--surfaces", "all"],
    )  # fmt: skip
    yield (
        "a small text encoder", sys.executable,
        ["data_prep/make_text_encoder.py", "--out", parts],
    )  # fmt: skip
    yield (
        "latents and text features", sys.executable,
        ["data_prep/cache_latents.py", "--data", made, "--weights", parts, "--out", out / "cache",
         "--size", SIZE, "--text-length", 48],
    )  # fmt: skip
    mean, std = scales(made / SIZE)
    trained = SHIPPED / "model.safetensors"
    own = ["-m", "syncmv4d_jax.main", "--config=configs/demo.py:tune",
           f"--config.data.records={made / SIZE}", f"--config.data.cache={out / 'cache' / SIZE}",
           f"--config.weights.vae={parts}", f"--config.text.weights={parts}",
           f"--config.task.scale_mean={mean}", f"--config.task.scale_std={std}"]  # fmt: skip
    first = [f"--config.weights.{part}={trained}" for part in ("dit", "dpa", "prior")]
    run = [*own, *first, f"--workdir={out}", f"--config.train.steps={args.steps}"]
    yield "training", sys.executable, run
    tuned = out / "weights.safetensors"
    second = [f"--config.weights.{part}={tuned}" for part in ("dit", "dpa", "prior")]
    for title, split, flags in (
        ("held-out episodes", "val", run),
        ("a held-out task", "test", [*own, *second, f"--workdir={out / 'tasks'}"]),
    ):
        split_of = [f"--config.sample.split={split}", f"--config.evaluate.split={split}"]
        flags = [*flags, *split_of]
        yield f"sampling {title}", sys.executable, [*flags, "--config.mode=sample"]
        yield f"evaluation of {title}", sys.executable, [*flags, "--config.mode=evaluate"]


def scales(folder: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """Mean and deviation of (nearest, farthest) depth over the training views, metres."""
    reader = records.Reader(folder, "train")
    views = [reader.view(window, view) for window in reader.windows for view in window.views[:3]]
    found = np.stack([view["scale"] for view in views])
    mean, std = found.mean(0), np.maximum(found.std(0), 0.05)
    return tuple(mean.round(3).tolist()), tuple(std.round(3).tolist())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
