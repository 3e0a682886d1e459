"""The demo's training on one GPU in five minutes, from a package: `make demo-train-gpu`.

    python demo/train_gpu.py --package package.tar.gz [--out out/demo-gpu] [--minutes 5]
    python demo/train_gpu.py --rehearse                 # tiny, packs its own, on any device

    package (demo/package.py) -> folder -> latents and text features -> aligner, MJD, closed loop

Every stage is one of the project's own commands, printed before it runs; each continues where a
stopped run left it. Training has what the others leave of the time: how many steps that holds is
measured on the way (configs/demo_gpu.py), so that it ends in time, with weights, on any card. These
are OUT/joint.safetensors; demo/make.py takes them where the package was made (docs/demo.md).
"""

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import make as demo
from demo import package, shipped
from syncmv4d_jax.results import curves

STARTING = 20.0  # seconds until training begins to count its own, and after it is done
REHEARSED = "rehearsed.tar.gz"
ASK = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind)"


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", type=Path, help="of demo/package.py")
    parser.add_argument("--out", type=Path, help="default: out/demo-gpu, -rehearsed behind it")
    parser.add_argument(
        "--minutes", type=float, help="in which to be done; default: 5, 1 in a rehearsal"
    )
    parser.add_argument("--batch", type=int, help="default: 32, 2 in a rehearsal")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on any device")
    args = parser.parse_args(argv)
    if bool(args.package) == args.rehearse:
        parser.error("wanted --package FILE (demo/package.py makes one), or --rehearse")
    args.out = args.out or Path("out/demo-gpu" + ("-rehearsed" if args.rehearse else ""))
    args.minutes = args.minutes or (1.0 if args.rehearse else 5.0)
    args.batch = args.batch or (2 if args.rehearse else 32)
    return args


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args = parse(argv)
    jax.config.update("jax_platforms", "cpu")  # here: the GPU and its memory are the stages'
    if args.rehearse:
        if status := rehearse(args.out / "packed"):
            return status
        args.package = args.out / "packed" / REHEARSED
    begin = time.monotonic()
    asked = subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)
    try:
        about = package.unpack(args.package, args.out)
    except (ValueError, OSError) as error:
        asked.kill()
        sys.exit(f"train_gpu: {type(error).__name__}: {error}")
    backend = asked.communicate()[0].strip()
    if not backend.startswith("gpu") and not args.rehearse:
        sys.exit(f"train_gpu: wanted a GPU, JAX sees {backend or 'nothing'}; --rehearse needs none")
    print(f"# {backend}; {about['count']} scenes; unpacked in {time.monotonic() - begin:.0f} s")
    for title in TITLES:
        started = time.monotonic()
        left = 60 * args.minutes - (started - begin)
        if status := demo.launch(title, stage(args, title, left)):
            return status
        print(f"# {title}: {time.monotonic() - started:.0f} s", flush=True)
    print("\n".join(speeds(args.out / "metrics.jsonl", args.batch)))
    print(f"\n{args.out / 'joint.safetensors'}   ({(time.monotonic() - begin) / 60:.1f} min)")
    return 0


TITLES = ("latents and text features", "training")


def stage(args: argparse.Namespace, title: str, left: float) -> list[Any]:
    """Returns the arguments of python of a stage.

    Args:
      left: seconds for it and all after it.
    """
    out = args.out.resolve()
    parts, records = out / "weights", out / "records"
    if title == TITLES[0]:
        return ["data_prep/cache_latents.py", "--data", records, "--weights", parts,
                "--out", out / "cache", "--size", demo.SIZE, "--text-length", 48]  # fmt: skip
    minutes = max(left - STARTING, 1.0) / 60
    return [
        "-m", "syncmv4d_jax.main", f"--workdir={out}",
        f"--config=configs/demo_gpu.py:{minutes:.3f},{args.batch}",
        *demo.given(out, parts), f"--config.text.weights={parts}",
        f"--config.weights.codec={out / package.CODEC}",
    ]  # fmt: skip


def speeds(metrics: Path, batch: int) -> list[str]:
    """Returns a line for each stage of a training: its steps, how many a second, TFLOP/s."""
    lines, before = [], 0
    by_stage = itertools.groupby(curves.read(metrics), key=lambda row: row["stage"])
    for name, rows in ((name, list(rows)) for name, rows in by_stage):
        steps, before = rows[-1]["step"] - before, rows[-1]["step"]
        line = f"# {name}: {steps} steps of {batch}"
        for key, words in (("seconds_per_step", "s a step"), ("tflops_per_second", "TFLOP/s")):
            found = [row[key] for row in rows if key in row]
            line += f", {np.median(found):.3g} {words}" if found else ""
        lines.append(line)
    return lines


def rehearse(out: Path) -> int:
    """Packs two embedded scenes; returns the exit status of the first stage that fails."""
    if (out / REHEARSED).is_file():
        return 0
    shipped.unpack(out / "weights")
    short = demo.parse(["--short", "--out", str(out)])
    for title, command in itertools.takewhile(lambda one: one[0] != "training", demo.stages(short)):
        if status := demo.launch(title, command):
            return status
    package.make(out, out / REHEARSED, megabytes=30)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
