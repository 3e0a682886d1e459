"""Videos that follow points and tracks, from nothing to a page: `make demo-hvg`.

    scenes of several courses -> records with clouds and tracking videos -> cache -> control that is
    shipped, trained further beside the shipped backbone -> samples with all control, points only,
    tracking only, none, another scene's, points that are off or half of them, and by the
    simulator's road (simulated.py); what the autoencoder alone makes of the truth, what moving
    frame 0's pixels makes without a network (references.py) -> evaluation of each -> table and bars

Every stage is one of the project's own commands, printed before it runs, and continues where a
stopped run left it. Pages: out/demo-hvg/rows/full/report.html and its neighbours; out/demo-hvg/
control.md has the rows beside each other. `--fresh`, as where nothing is shipped, trains the
backbone and control from one view of the demo's MJD, in about two hours; `--ship` puts what it
trained in demo/weights. `--ablations` trains control anew for each row of ABLATIONS, all beside the
same backbone and for as long as the row `base`, which leaves nothing out.
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
SHIPPED_CONTROL = shipped.SYSTEMS["hvg3d"].parts["control"]
WIDE = "weights/hvg3d.safetensors"  # what is shipped, to train from
SIZE = "64x96"
ROWS = {  # name -> what the run is told
    "full": [],
    "points_only": ["--config.task.controls=('points',)"],
    "tracking_only": ["--config.task.controls=('tracking',)"],
    "no_details": ["--config.task.details=0.0"],
    "no_control": ["--config.task.controls=()"],
    "wrong_control": ["--config.sample.controls=other"],
    "noisy_points": ["--config.task.controls=('points',)", "--config.sample.point_noise=0.01"],
    "half_points": ["--config.task.controls=('points',)", "--config.sample.point_drop=0.5"],
}
SIMULATED, REFERENCES = "simulated", ("autoencoder", "warped")
ABLATIONS = ("base", "published", "no_points", "no_tracking", "no_mask_loss", "point_tokens")
VERDICTS = {  # (must, passed): passed is None of what was not run
    (True, True): "yes", (True, False): "no", (True, None): "not shown: not run",
    (False, True): "yes", (False, False): "not shown at this size",
    (False, None): "not shown: not run",
}  # fmt: skip
IDENTITY = "tests/tasks/hvg3d/test_hvg3d.py"  # holds B7
METRICS = ("follow", "swap_margin", "psnr", "psnr_moving", "psnr_hoi", "ssim_hoi", "st_ssim",
           "gmsd_t", "point_ade", "grid_index")  # fmt: skip


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="default: out/demo-hvg, -short behind it")
    parser.add_argument("--short", action="store_true", help="two layouts, a few steps")
    parser.add_argument("--fresh", action="store_true", help="train all of it, about two hours")
    parser.add_argument("--ablations", action="store_true", help="train those of ABLATIONS, too")
    parser.add_argument(
        "--ship", action="store_true", help="put what --fresh trained in demo/weights"
    )
    args = parser.parse_args(argv)
    if args.short and args.ablations:
        parser.error("--ablations: a few steps show nothing; leave --short out")
    shipped.refuse_short_and_fresh(parser, args)
    args.fresh |= not SHIPPED_CONTROL.is_file()
    if args.out is None:
        args.out = Path("out/demo-hvg" + "-short" * args.short)
    return args


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args, begin = parse(argv), time.time()
    if args.ship:
        own = [args.out / f"{stage}.safetensors" for stage in ("video", "control")]
        return shipped.ship(*own, system="hvg3d")
    shipped.unpack(args.out / "weights")
    if not args.fresh:
        shipped.widen(SHIPPED_CONTROL, args.out / WIDE)
    for title, command in stages(args):
        print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
        status = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode
        if status:
            print(f"demo-hvg: {title!r} failed with status {status}", file=sys.stderr)
            return status
    text = compare(args.out)
    with disk.whole(args.out / "control.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(f"\n{text}\n{args.out / 'control.md'}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


Stage = tuple[str, list]  # title, arguments of python


def stages(args: argparse.Namespace) -> list[Stage]:
    """Returns every stage in order."""
    out = args.out.resolve()
    made = [*data_stages(args, out), ("control", run(args, out))]
    for name, told in ROWS.items():
        made += sampled(name, [*run(args, out, name), *told])
    for name in REFERENCES:
        told = ["demo/references.py", "--row", name, "--records", out / "records" / SIZE,
                "--weights", out / "weights", "--out", out / "rows" / name]  # fmt: skip
        made.append((f"samples: {name}", told))
        made.append((f"evaluation: {name}", [*run(args, out, name), "--config.mode=evaluate"]))
    made += simulated_stages(args, out)
    for name in ABLATIONS if args.ablations else ():
        own = out / "ablations" / name
        made.append((f"ablation: {name}", run(args, out, "", variant=name)))
        made += sampled(name, run(args, out, name, variant=name, control=own))
    return made


def run(
    args: argparse.Namespace,
    out: Path,
    row: str = "",
    *,
    variant: str = "",
    records: Path | None = None,
    control: Path | None = None,
) -> list:
    """A run of the task: the training, or of a row with the weights that it made.

    Args:
      variant: of ABLATIONS.
      records: a folder with records and cache; out. control: with the control's weights; out.
    """
    # The lengths of the stages are the configuration's; short ones are another variant.
    name = "short" if args.short else "fresh" if args.fresh else "demo"
    if variant:
        name = "ablation" if variant == "base" else f"ablation-{variant}"
    data, folder = records or out, out / "ablations" / variant if variant else out
    told = [
        "-m", "syncmv4d_jax.main", f"--config=configs/hvg3d.py:{name}",
        f"--config.data.records={data / 'records' / SIZE}",
        f"--config.data.cache={data / 'cache' / SIZE}",
        f"--config.weights.vae={out / 'weights'}", f"--config.text.weights={out / 'weights'}",
    ]  # fmt: skip
    backbone = out / ("video.safetensors" if args.fresh else WIDE)
    own = dict.fromkeys(("dit", "prior"), backbone)
    if row:
        made = (control or out) / "control.safetensors"
        own |= dict.fromkeys(("control", "points"), made)
        folder = out / "rows" / row
    elif not variant and args.fresh:  # from one view of the demo's MJD
        return [*told, *shipped.flags("dit", "prior"), f"--workdir={folder}"]
    elif not variant:
        own |= dict.fromkeys(("control", "points"), backbone)
    told += [f"--config.weights.{part}={file}" for part, file in own.items()]
    return [*told, f"--workdir={folder}"]


def sampled(name: str, told: list, truth: list | None = None) -> list[Stage]:
    """Samples and evaluation of a row; truth: what evaluation alone is told besides."""
    return [
        (f"samples: {name}", [*told, "--config.mode=sample"]),
        (f"evaluation: {name}", [*(truth or told), "--config.mode=evaluate"]),
    ]


CLIPS = ["--size", SIZE, "--frames", 13, "--points", 256, "--clusters", 1, "--cameras", "first",
         "--surfaces", "none", "--val", 0, "--with", "points,das,image", "--cloud", 1024,
         "--provenance", "sim"]  # fmt: skip


def data_stages(args: argparse.Namespace, out: Path) -> list[Stage]:
    """Scenes, records, text encoder, autoencoder, cache."""
    data, parts, records = (out / name for name in ("data", "weights", "records"))
    train, test = (2, 2) if args.short else (500, 16)
    made: list[Stage] = [
        (
            "embedded scenes, two courses of each first frame",
            ["data_prep/make_scenes.py", "--out", data, "--scenes", train, "--test-scenes", test,
             "--courses", 2, "--cameras", 1, "--drawn", 8],
        ),
        (
            "clouds, tracking videos, crops",
            ["data_prep/prepare_taco.py", "--taco", data / "taco", "--mano", data / "mano",
             "--out", records, *CLIPS, "--heldout-triplets", data / "heldout_triplets.txt"],
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
    return [*made, ("latents and text features", cached(out, out))]


def cached(out: Path, folder: Path) -> list:
    """Latents and text features of folder/records."""
    return ["data_prep/cache_latents.py", "--data", folder / "records", "--weights",
            out / "weights", "--out", folder / "cache", "--size", SIZE,
            "--text-length", 48]  # fmt: skip


def simulated_stages(args: argparse.Namespace, out: Path) -> list[Stage]:
    """Held-out layouts from files of other programs and one picture, scored on their videos."""
    own, prepare = out / SIMULATED, "data_prep/prepare_taco.py"
    told = run(args, out, SIMULATED, records=own)
    truth = run(args, out, SIMULATED, records=own / "truth")
    truth.append("--config.data.cache=")  # it has none, and needs none
    return [
        (
            "the simulator's road: files of other programs, and back",
            ["demo/simulated.py", "--data", out / "data", "--records", out / "records" / SIZE,
             "--out", own],
        ),
        ("records of one picture and meshes",
         [prepare, "--folder", own / "photos", "--out", own / "records", *CLIPS]),
        ("the same with their videos, for scores alone",
         [prepare, "--folder", own / "filmed", "--out", own / "truth" / "records", *CLIPS,
          "--heldout-actions", "follow"]),
        ("latents and text features of one picture each", cached(out, own)),
        *sampled(SIMULATED, told, truth),
    ]  # fmt: skip


def compare(out: Path) -> str:
    """The rows' scores beside each other, and the bars, as Markdown."""
    folders = {name: out / "rows" / name for name in (*ROWS, SIMULATED, *REFERENCES, *ABLATIONS)}
    found = {
        name: json.loads((folder / "eval.json").read_text())
        for name, folder in folders.items()
        if (folder / "eval.json").is_file()
    }
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
        "| bar | wanted | value | scenes | layouts | shown |",
        "|---|---|---|---|---|---|",
    ]
    for bar in hoi.bars(scores, layouts):
        numbers = f"{bar['n']} | {bar['clusters']} | {VERDICTS[bar['must'], bar['passed']]}"
        lines.append(f"| {bar['name']} | {bar['wanted']} | {tables.cell(bar)} | {numbers} |")
    lines += [
        "",
        "Differences are paired by scene, ± is one standard error over layouts; B8 to B11 are",
        "goals, which may fail.",
        f"B7, that an untrained branch and scale 0 are the backbone, is held by {IDENTITY}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
