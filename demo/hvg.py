"""Videos that follow points and tracks, from nothing to a page: `make demo-hvg`.

    scenes of several courses -> records with clouds and tracking videos -> cache -> the backbone,
    then control beside it -> samples with all control, points only, tracking only, none, and
    another scene's -> evaluation of each -> table and bars

Every stage is one of the project's own commands, printed before it runs, and continues where a
stopped run left it. Pages: out/demo-hvg/rows/full/report.html and its neighbours; out/demo-hvg/
control.md has the rows beside each other.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import disk
from syncmv4d_jax.metrics import hoi, tables

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIZE = "64x96"
ROWS = {  # name -> what the run is told
    "full": [],
    "points_only": ["--config.task.controls=('points',)"],
    "tracking_only": ["--config.task.controls=('tracking',)"],
    "no_control": ["--config.task.controls=()"],
    "wrong_control": ["--config.sample.controls=other"],
}
METRICS = ("follow", "swap_margin", "psnr", "psnr_moving", "psnr_hoi", "ssim_hoi", "st_ssim",
           "gmsd_t", "point_ade", "grid_index")  # fmt: skip


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: out/demo-hvg, -short behind it")
    parser.add_argument("--short", action="store_true", help="two layouts, a few steps")
    args = parser.parse_args(argv)
    if args.out is None:
        args.out = Path("out/demo-hvg" + "-short" * args.short)
    return args


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args, begin = parse(argv), time.time()
    shipped.unpack(args.out / "weights")
    for title, command in stages(args):
        print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
        status = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode
        if status:
            print(f"demo-hvg: {title!r} failed with status {status}", file=sys.stderr)
            return status
    text = compare(args.out / "rows")
    with disk.whole(args.out / "control.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"\n{text}\n{args.out / 'control.md'}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


def stages(args: argparse.Namespace) -> list[tuple[str, list]]:
    """Returns (title, arguments of python) of every stage."""
    out = args.out.resolve()
    data, parts, records, cache = (out / name for name in ("data", "weights", "records", "cache"))
    train, test = (2, 2) if args.short else (150, 16)
    made = [
        (
            "embedded scenes, two courses of each first frame",
            ["data_prep/make_scenes.py", "--out", data, "--scenes", train, "--test-scenes", test,
             "--courses", 2, "--cameras", "three", "--drawn", 8],
        ),
        (
            "clouds, tracking videos, crops",
            ["data_prep/prepare_taco.py", "--taco", data / "taco", "--mano", data / "mano",
             "--out", records, "--size", SIZE, "--frames", 13, "--points", 256, "--clusters", 1,
             "--cameras", "first", "--surfaces", "none", "--val", 0, "--with", "points,das",
             "--cloud", 1024, "--provenance", "sim",
             "--heldout-triplets", data / "heldout_triplets.txt"],
        ),
        ("a small text encoder", ["data_prep/make_text_encoder.py", "--out", parts]),
    ]  # fmt: skip
    if not (SHIPPED / "vae").is_dir():
        made.append(
            (
                "the autoencoder",
                ["data_prep/make_vae.py", "--records", records / SIZE, "--out", parts,
                 "--steps", 4 if args.short else 250, "--clips", 2 if args.short else 12],
            )
        )  # fmt: skip
    made.append(
        (
            "latents and text features",
            ["data_prep/cache_latents.py", "--data", records, "--weights", parts, "--out", cache,
             "--size", SIZE, "--text-length", 48],
        )
    )  # fmt: skip
    run = ["-m", "syncmv4d_jax.main", "--config=configs/hvg3d.py:demo",
           f"--config.data.records={records / SIZE}", f"--config.data.cache={cache / SIZE}",
           f"--config.weights.vae={parts}", f"--config.text.weights={parts}"]  # fmt: skip
    # The lengths of the stages are the configuration's; short ones are another variant.
    if args.short:
        run[2] = "--config=configs/hvg3d.py:short"
    made.append(("the backbone, then control beside it", [*run, f"--workdir={out}"]))
    given = [f"--config.weights.{part}={out / 'video.safetensors'}" for part in ("dit", "prior")]
    given += [
        f"--config.weights.{part}={out / 'control.safetensors'}" for part in ("control", "points")
    ]
    for name, told in ROWS.items():
        own = [*run, *given, *told, f"--workdir={out / 'rows' / name}"]
        made.append((f"samples: {name}", [*own, "--config.mode=sample"]))
        made.append((f"evaluation: {name}", [*own, "--config.mode=evaluate"]))
    return made


def compare(folder: Path) -> str:
    """The rows' scores beside each other, and the bars, as Markdown."""
    found = {name: json.loads((folder / name / "eval.json").read_text()) for name in ROWS}
    rows = {name: one["rows"]["model"] for name, one in found.items()}
    rows |= {name: found["full"]["rows"][name] for name in hoi.TRIVIAL}
    scores: dict[str, dict[str, dict]] = {}
    for name, cells in rows.items():
        for metric, cell in cells.items():
            for scene, value in cell.get("per_sample", {}).items():
                scores.setdefault(name, {}).setdefault(scene, {})[metric] = value
    layouts = {scene: scene.rpartition("_")[0] for scene in scores["full"]}
    lines = ["| row | " + " | ".join(map(tables.heading, METRICS)) + " |"]
    lines.append("|---" * (len(METRICS) + 1) + "|")
    for name, cells in rows.items():
        values = (tables.cell(cells.get(metric)) for metric in METRICS)
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    lines += [
        "",
        "| bar | wanted | value | scenes | layouts | passed |",
        "|---|---|---|---|---|---|",
    ]
    for bar in hoi.bars(scores, layouts):
        numbers = f"{bar['n']} | {bar['clusters']} | {'yes' if bar['passed'] else 'no'}"
        lines.append(f"| {bar['name']} | {bar['wanted']} | {tables.cell(bar)} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
