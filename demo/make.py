"""The embedded demo from nothing to a page: `make demo`, `make demo-train`.

    scenes -> records -> autoencoder and text encoder -> cache -> motion codec -> training
    -> samples -> evaluation -> report

Every stage is one of the project's own commands, printed before it runs; each continues where a
stopped run left it, so a second `make demo` does only what is missing. Weights in `demo/weights`
are started from where they are there, else everything is trained from random values. `--ship` puts
the weights that `--train` made there.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import disk
from syncmv4d_jax.data.scenes import scene
from syncmv4d_jax.metrics import summary
from syncmv4d_jax.run import evaluate
from syncmv4d_jax.weights import store

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIZE = "64x96"
DERIVED = ("paired", "paired_network", "definitions")  # of an evaluation: its rows give them
CONFIG = "configs/readings/learned_codec.py"  # of configs/demo.py


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: out/demo, -short or -train behind it")
    parser.add_argument("--short", action="store_true", help="two scenes, a few steps: CI")
    parser.add_argument("--train", action="store_true", help="make the shipped weights (hours)")
    parser.add_argument("--ship", action="store_true", help="put trained weights in demo/weights")
    args = parser.parse_args(argv)
    if args.out is None:  # each has data of its own
        trained = args.train or args.ship
        args.out = Path("out/demo" + ("-short" if args.short else "-train" if trained else ""))
    return args


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args = parse(argv)
    if args.ship:
        return ship(args.out)
    begin = time.time()
    if (shipped.MODEL).is_file() and not args.train:
        found = SHIPPED / "eval.json"
        checks = json.loads(found.read_text())["checks"] if found.is_file() else []
        print(footing(json.loads((SHIPPED / "scenes.json").read_text())["version"], checks))
    if not args.train:
        shipped.unpack(args.out / "weights")
    for title, command in stages(args):
        if status := launch(title, command):
            return status
    print(f"\n{args.out.resolve() / 'report.html'}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


def launch(title: str, command: Sequence[Any]) -> int:
    """Runs a stage, arguments of python; returns its exit status, told where it is not 0."""
    print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
    status = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode
    if status:
        print(f"demo: {title!r} failed with status {status}", file=sys.stderr)
    return status


def given(out: Path, parts: Path) -> list[str]:
    """Returns the flags of what training reads: records and cache in `out`, the autoencoder."""
    return [
        f"--config.data.records={out / 'records' / SIZE}",
        f"--config.data.cache={out / 'cache' / SIZE}",
        f"--config.weights.vae={parts}",
    ]


def footing(version: int, checks: Sequence[Mapping[str, Any]]) -> str:
    """What may be expected of shipped weights that scenes of this version have trained.

    checks: of the evaluation that they are shipped with.
    """
    if version == scene.VERSION:
        missed = [check["name"] for check in checks if not check["passed"]]
        said = f"all {len(checks)} checks"
        if missed:
            said = f"{len(checks) - len(missed)} of {len(checks)} checks (not {'; '.join(missed)})"
        return f"demo/weights were trained on scenes of this kind and passed {said} then."
    return (
        f"demo/weights were trained on embedded scenes of version {version}, these are of version "
        f"{scene.VERSION} (other motion, cameras and prompts): everything runs, but the checks of "
        "eval.json are not expected to pass before `make demo-train` has made new weights."
    )


def ship(out: Path) -> int:
    """Copies what `--train --out OUT` made to `demo/weights`, with log and scores.

    Networks are stored in two bytes a number. The autoencoder's are what float16 holds already
    (data_prep/make_vae.py): rounding them later would move the latents that the others know.

    Raises:
      FileNotFoundError: the training is not finished; names what is missing.
      ValueError: scores of an earlier definition, or that are not what their scenes say.
    """
    files = {"joint.safetensors": "model.safetensors"}
    files |= {"codec/weights.safetensors": "codec.safetensors"}
    files |= {name: name for name in ("metrics.jsonl", "priors.npz")}
    files |= {"data/scenes.json": "scenes.json"}  # what they were trained on
    for name in (*files, "eval.json"):
        if not (out / name).is_file():
            raise FileNotFoundError(f"{out / name}: not there; `make demo-train` makes it (hours)")
    check_scores(out / "eval.json")
    config, params = store.load("vae", out / "weights")
    source = {"by": "make demo-train"}
    store.save("vae", config, params, SHIPPED, source=source, dtype=np.float16)
    for name, target in files.items():
        with disk.whole(SHIPPED / target) as partial:
            shutil.copyfile(out / name, partial)
    found = json.loads((out / "eval.json").read_text())
    kept = {key: found[key] for key in found if key not in DERIVED}
    with disk.whole(SHIPPED / "eval.json") as partial:
        partial.write_text(json.dumps(kept, separators=(",", ":"), allow_nan=False))
    total = sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file())
    print(f"{SHIPPED}: {total / 1e6:.1f} MB")
    return 0


def check_scores(path: Path) -> None:
    """Judges an evaluation anew from its scenes' values.

    Raises:
      ValueError: another version of the definitions, or other verdicts than those in the file.
    """
    found = json.loads(path.read_text())
    if found["version"] != evaluate.VERSION:
        raise ValueError(
            f"{path}: wanted version {evaluate.VERSION}, got {found['version']}: evaluate again"
        )
    again = summary.checks(found["rows"], found["triplets"])
    if json.loads(json.dumps(again)) != found["checks"]:
        raise ValueError(f"{path}: its checks are not what its scenes' values give")


def stages(args: argparse.Namespace) -> list[tuple[str, list]]:
    """Returns (title, arguments of python) of every stage that applies."""
    out = args.out.resolve()
    data, parts, records = out / "data", out / "weights", out / "records"
    train_scenes, test_scenes = (2, 2) if args.short else (1200, 64) if args.train else (8, 16)
    taco, mano = data / "taco", data / "mano"
    result = [
        (
            "embedded scenes in TACO's layout",
            ["data_prep/make_scenes.py", "--out", data, "--scenes", train_scenes,
             "--test-scenes", test_scenes, "--cameras", 6 if args.train else 3, "--drawn", 8],
        ),
        (
            "tracks, pseudo videos, crops",
            ["data_prep/prepare_taco.py", "--taco", taco, "--mano", mano, "--out", records,
             "--size", SIZE, "--frames", 13, "--points", 256, "--val", 0,
             "--heldout-triplets", data / "heldout_triplets.txt"],
        ),
        ("a small text encoder", ["data_prep/make_text_encoder.py", "--out", parts]),
    ]  # fmt: skip
    if args.train or not (SHIPPED / "vae" / "index.json").is_file():
        steps = 4 if args.short else 20_000 if args.train else 250
        result.append(
            (
                "the autoencoder",
                ["data_prep/make_vae.py", "--records", records / SIZE, "--out", parts,
                 "--variant", "sharp", "--steps", steps, "--clips", 2 if args.short else 12],
            )
        )  # fmt: skip
    result.append(
        (
            "latents and text features",
            ["data_prep/cache_latents.py", "--data", records, "--weights", parts,
             "--out", out / "cache", "--size", SIZE, "--text-length", 48],
        )
    )  # fmt: skip
    main = ["-m", "syncmv4d_jax.main"]
    codec = SHIPPED / "codec.safetensors"
    if args.train or not codec.is_file():
        codec = out / "codec" / "weights.safetensors"
        teach = [*main, "--config=configs/motion_codec.py:demo", f"--workdir={out / 'codec'}"]
        if args.short:
            teach.append("--config.train.steps=2")
        result.append(("the motion codec", [*teach, *given(out, parts)]))
    base = "demo-train" if args.train else "demo"
    run = [*main, f"--config={CONFIG}:{base}", f"--workdir={out}", *given(out, parts),
           f"--config.text.weights={parts}", f"--config.weights.codec={codec}"]  # fmt: skip
    trained = out / "joint.safetensors" if args.train else shipped.MODEL
    sent = args.train and trained.is_file() and not (out / "checkpoints").is_dir()  # from a GPU
    if trained.is_file() and (sent or not args.train):
        run += [f"--config.weights.{part}={trained}" for part in ("dit", "dpa", "prior")]
    taught = SHIPPED / "priors.npz"  # of all scenes that the shipped weights were trained on
    if taught.is_file() and not args.train:
        run += [f"--config.evaluate.priors={taught}"]
    if args.short:
        run += ["--config.train.steps=2", "--config.sample.count=2"]
    return result + [
        *([] if sent else [("training", run)]),
        ("sampling", [*run, "--config.mode=sample"]),
        ("evaluation and report", [*run, "--config.mode=evaluate"]),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
