"""Do the parts matter: the rows of Tables 3 and 4 on embedded scenes, paired, by triplet.

    python benchmarks/ablations.py --demo out/demo-train --out out/ablations          # all of it
    python benchmarks/ablations.py --demo out/demo-train --out out/ablations --table  # tables only

Trains every row of ROWS (base `ablation` of configs/bases.py) on the scenes of a finished `make
demo-train`, samples held-out scenes that it makes itself, evaluates, prints Markdown (docs/
ablations.md) and writes OUT/ablations.json. Stages that rows share are trained once and copied:
`video` by all, `mjd` by the rows that differ in the closed loop only. Whatever is there is kept, so
a stopped run continues. With `--seeds 0 1 2` every row is trained as often, in OUT/<row>-<seed>
(seed 0: OUT/<row>); the table averages a scene's values over seeds first. `--features` is a folder
of published weights (docs/metrics.md); with xfeat.pt in it matching pixels are counted too.

Every pair of ORDERINGS differs by one thing. A difference counts where it is beyond two standard
errors over triplets (scenes of one are not independent). Query pixels are chosen without the truth
(`--anchors given` for the records' own: rows of one kind compare with each other only, in an OUT of
their own). `colour_gap` is measured here: how far (0 to 255, root mean square) two generated views
differ in the colour of one true surface point that both see; the truth's own gap is shading and
interpolation.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import curves
import numpy as np
from scipy import ndimage

from syncmv4d_jax import disk
from syncmv4d_jax.data import records
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import summary
from syncmv4d_jax.results import samples

ROOT = Path(__file__).resolve().parent.parent
SIZE, FRAMES, POINTS = "64x96", 13, 256


class Row(NamedTuple):
    """A row: its configuration, whose stages it takes over, whose records it reads, more flags."""

    title: str
    config: str
    shares: dict[str, str]
    representation: str = "point_tracks"
    flags: tuple[str, ...] = ()


START = {"video": "multi_view"}
LONGER = START | {"mjd": "full", "joint": "full"}
ROWS = {
    "multi_view": Row("multi-view, video only", "configs/ablations/multi_view.py:ablation", {}),
    "full": Row("+ loop (full)", "configs/demo.py:ablation", START),
    "aligner": Row("+ aligner", "configs/ablations/aligner.py:ablation", START | {"mjd": "full"}),
    "network": Row(
        "+ aligner's network", "configs/ablations/aligner.py:ablation",
        START | {"mjd": "full", "joint": "aligner"}, flags=("--config.task.cycle.network=True",),
    ),
    "joint_motion": Row(
        "+ joint motion", "configs/ablations/joint_motion.py:ablation", START | {"mjd": "full"}
    ),
    "single_view": Row("single view", "configs/ablations/single_view.py:ablation", START),
    "single_view_motion": Row(
        "single view, no aligner", "configs/ablations/single_view_motion.py:ablation",
        START | {"mjd": "single_view"},
    ),
    "loop": Row("loop, trained longer", "configs/demo.py:loop", LONGER),
    "loop_open": Row(
        "the same weights, loop open", "configs/demo.py:loop", LONGER | {"loop": "loop"},
        flags=("--config.task.cycle.cycle=False",),
    ),
    "equal_flops": Row(
        "video only, equal FLOPs", "configs/ablations/equal_flops.py:ablation", START
    ),
    "tracking_video": Row(
        "tracking video (DaS)", "configs/ablations/tracking_video.py:ablation", START,
        "das_tracking",
    ),
}  # fmt: skip
ORDER = ("single_view_motion", "single_view", "multi_view", "joint_motion", "aligner", "network",
         "full", "loop_open", "loop", "equal_flops", "tracking_video")  # fmt: skip


class Metric(NamedTuple):
    """A column: its head and whether more is better."""

    head: str
    higher: bool


METRICS = {
    "error_mm": Metric("error mm", False),
    "error_moving_mm": Metric("error, moving mm", False),
    "inliers_2cm": Metric("within 2 cm %", True),
    "mv_rpe": Metric("MV RPE %", False),
    "mv_rpe_cross_truth": Metric("MV RPE cross/truth %", False),
    "mv_rpe_cross": Metric("MV RPE cross %", False),
    "matching_pixels": Metric("matching pixels", True),
    "colour_gap": Metric("colour gap", False),
    "psnr_moving": Metric("PSNR moving dB", True),
    "temporal_correlation": Metric("temporal corr.", True),
    "temporal_std_ratio": Metric("temporal std", True),
    "gradient_energy": Metric("gradients", True),
    "object_correlation": Metric("centroid corr.", True),
}
BASELINES = ("frame_0", "frame_0_blurred", "time_mean", "truth")
# Which of the paper's orderings are asked: (better row, worse row, metric, the paper's values).
ORDERINGS = (
    ("joint_motion", "single_view_motion", "error_mm", "(75.3 -> 46.3)"),
    ("joint_motion", "single_view_motion", "mv_rpe", "(75.3 -> 46.3)"),
    ("joint_motion", "single_view_motion", "psnr_moving", "-"),
    ("joint_motion", "single_view_motion", "matching_pixels", "(122.7 -> 501.3)"),
    ("joint_motion", "single_view_motion", "colour_gap", "(122.7 -> 501.3)"),
    ("joint_motion", "multi_view", "matching_pixels", "462.6 -> 501.3"),
    ("joint_motion", "multi_view", "colour_gap", "(462.6 -> 501.3)"),
    ("joint_motion", "multi_view", "psnr_moving", "-"),
    ("joint_motion", "tracking_video", "matching_pixels", "483.8 -> 503.1"),
    ("aligner", "joint_motion", "error_mm", "(46.3 -> 33.5)"),
    ("aligner", "joint_motion", "mv_rpe", "46.3 -> 33.5"),
    ("aligner", "joint_motion", "mv_rpe_cross_truth", "(46.3 -> 33.5)"),
    ("network", "aligner", "error_mm", "-"),
    ("full", "aligner", "error_mm", "(33.5 -> 32.7)"),
    ("full", "aligner", "mv_rpe", "33.5 -> 32.7"),
    ("full", "aligner", "matching_pixels", "498.2 -> 529.4"),
    ("full", "aligner", "colour_gap", "(498.2 -> 529.4)"),
    ("full", "aligner", "psnr_moving", "-"),
    ("loop", "loop_open", "error_mm", "(33.5 -> 32.7)"),
    ("loop", "loop_open", "mv_rpe", "33.5 -> 32.7"),
    ("loop", "loop_open", "matching_pixels", "498.2 -> 529.4"),
    ("loop", "loop_open", "colour_gap", "(498.2 -> 529.4)"),
    ("loop", "loop_open", "psnr_moving", "-"),
    ("full", "equal_flops", "psnr_moving", "-"),
    ("full", "equal_flops", "temporal_correlation", "-"),
    ("full", "equal_flops", "colour_gap", "-"),
)
Values = dict[str, dict[str, float | None]]  # metric -> scene -> value


def call(*arguments: Any) -> None:
    """Runs one of the project's commands; stops the benchmark where it fails."""
    command = [sys.executable, *map(str, arguments)]
    print("  ".join(command[1:]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def prepare(data: Path, out: Path, weights: Path, representation: str) -> None:
    """Scenes in TACO's layout -> records and their cache under `out`."""
    if not (out / "records" / SIZE / "index.json").is_file():
        call("data_prep/prepare_taco.py", "--taco", data / "taco", "--mano", data / "mano",
             "--out", out / "records", "--size", SIZE, "--frames", FRAMES, "--points", POINTS,
             "--val", 0, "--heldout-triplets", data / "heldout_triplets.txt",
             "--representation", representation)  # fmt: skip
    call("data_prep/cache_latents.py", "--data", out / "records", "--weights", weights,
         "--out", out / "cache", "--size", SIZE, "--text-length", 48)  # fmt: skip


def sources(args: argparse.Namespace, row: Row) -> tuple[Path, Path]:
    """Folders with records and cache to train on and to test on."""
    if row.representation == "point_tracks":
        return args.demo, args.out / "heldout"
    return args.out / "das", args.out / "heldout" / "das"


def make_sources(args: argparse.Namespace, row: Row) -> None:
    """Makes what is missing of `sources`."""
    (train, test), held, weights = sources(args, row), args.out / "heldout", args.demo / "weights"
    if not (held / "data").is_dir():
        call("data_prep/make_scenes.py", "--out", held / "data", "--scenes", 1,
             "--test-scenes", args.scenes, "--cameras", "three")  # fmt: skip
    prepare(held / "data", test, weights, row.representation)
    if train != args.demo:
        prepare(args.demo / "data", train, weights, row.representation)


def folder(out: Path, name: str, seed: int) -> Path:
    """The working folder of a row and seed."""
    return out / (f"{name}-{seed}" if seed else name)


def run(args: argparse.Namespace, name: str, seed: int) -> None:
    """Trains, samples and evaluates one row."""
    row, own = ROWS[name], folder(args.out, name, seed)
    if evaluated(own, args.features):
        return
    make_sources(args, row)
    train, test = sources(args, row)
    for stage, source in row.shares.items():
        share(stage, folder(args.out, source, seed), own)
    weights = args.demo / "weights"
    command = ["-m", "syncmv4d_jax.main", f"--config={row.config}", f"--workdir={own}", *row.flags,
               f"--config.seed={seed}", f"--config.weights.vae={weights}",
               f"--config.sample.anchors={args.anchors}",
               f"--config.text.weights={weights}"]  # fmt: skip
    evaluate = []
    if args.features:
        evaluate = [f"--config.evaluate.features={args.features}"]
        evaluate += ["--config.evaluate.matcher=xfeat"]
    for mode, extra in (("train", []), ("sample", []), ("evaluate", evaluate)):
        data = train if mode == "train" else test
        call(*command, f"--config.mode={mode}", f"--config.data.records={data / 'records' / SIZE}",
             f"--config.data.cache={data / 'cache' / SIZE}", *extra)  # fmt: skip


def evaluated(own: Path, features: str) -> bool:
    """Whether a row is finished: with `features` its matching pixels are counted too."""
    path = own / "eval.json"
    if not path.is_file():
        return False
    return not features or "matching_pixels" in json.loads(path.read_text())["rows"]["model"]


def share(stage: str, source: Path, own: Path) -> None:
    """Takes over a finished stage of another row.

    Raises:
      FileNotFoundError: the other row has not finished it.
    """
    wanted, target = source / "checkpoints" / stage, own / "checkpoints" / stage
    if target.is_dir():
        return
    if not (source / f"{stage}.safetensors").is_file():
        raise FileNotFoundError(f"{source}: stage {stage} is not finished, {own} starts from it")
    with disk.whole(target) as partial:
        shutil.copytree(wanted, partial)
    shutil.copyfile(source / f"{stage}.safetensors", own / f"{stage}.safetensors")


def colour_gaps(root: Path, own: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Returns {scene: colour gap} of the samples in `own` and of the truth."""
    reader, found = records.Reader(root, "test"), samples.find(own / "samples")
    generated, true = {}, {}
    for window in reader.windows:
        views = [reader.view(window, view) for view in window.views]
        stacked = {key: np.stack([view[key] for view in views])
                   for key in ("visibility", "intrinsics", "extrinsics")}  # fmt: skip
        tracks = reader.tracks(window)["tracks"]
        video = np.stack([records.decode(view["video"]) for view in views])
        generated[window.id] = colour_gap(samples.read(found[window.id])["video"], tracks, stacked)
        true[window.id] = colour_gap(video, tracks, stacked)
    return generated, true


def colour_gap(video: np.ndarray, tracks: np.ndarray, views: dict[str, np.ndarray]) -> float:
    """Root mean square of colour differences between views at common points, frames 1 on.

    Args:
      video: [v n h w 3] uint8.
      tracks: [n k 3] metres, world frame.
      views: visibility [v n k], intrinsics [v 3 3], extrinsics [v 3 4].
    """
    colours = []
    for clip, intrinsics, extrinsics in zip(
        video, views["intrinsics"], views["extrinsics"], strict=True
    ):
        pixels = np.asarray(cameras.project(tracks, intrinsics, extrinsics)[0])
        colours.append([_bilinear(f, p) for f, p in zip(clip, pixels, strict=True)])
    colours, squares = np.array(colours, np.float64), []
    for i, j in itertools.combinations(range(len(colours)), 2):
        both = (views["visibility"][i] & views["visibility"][j])[1:]
        squares.append(np.square(colours[i] - colours[j])[1:][both])
    return float(np.sqrt(np.concatenate(squares).mean()))


def _bilinear(frame: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Colours [k 3] of a frame [h w 3] at pixels [k 2]."""
    at = pixels[:, ::-1].T
    channels = np.moveaxis(frame.astype(np.float64), -1, 0)
    return np.stack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in channels], -1)


def read(args: argparse.Namespace, name: str) -> tuple[Values, dict[str, Any]] | None:
    """Returns a row's values a scene, averaged over seeds, and its last eval.json; None without."""
    each = []
    for seed in args.seeds:
        own = folder(args.out, name, seed)
        if not (own / "eval.json").is_file():
            continue
        evaluation = json.loads((own / "eval.json").read_text())
        model = evaluation["rows"]["model"]
        values = {key: model[key]["per_sample"] for key in METRICS if key in model}
        gaps = colour_gaps(sources(args, ROWS[name])[1] / "records" / SIZE, own)
        values["colour_gap"] = gaps[0]
        evaluation["rows"].setdefault("truth", {})["colour_gap"] = {
            "value": float(np.mean(list(gaps[1].values())))
        }
        each.append((values, evaluation))
    if not each:
        return None
    metrics = {key for values, _ in each for key in values}
    return {key: _over_seeds([v[key] for v, _ in each if key in v]) for key in metrics}, each[-1][1]


def _over_seeds(each: list[dict[str, float | None]]) -> dict[str, float | None]:
    """A scene's mean over seeds; None where a seed has none."""
    scenes = set.intersection(*map(set, each))
    mean = lambda xs: None if None in xs else float(np.mean(xs))  # noqa: E731
    return {scene: mean([values[scene] for values in each]) for scene in sorted(scenes)}


def statistics(
    values: dict[str, float | None], triplets: dict[str, str] | None = None
) -> tuple[float, float, int]:
    """Mean and standard error over triplets, and their number (of scenes, without `triplets`)."""
    found = summary.mean(values, triplets)
    if found["se"] is None:
        return float("nan"), float("nan"), found["clusters"]
    return found["value"], found["se"], found["clusters"]


def compare(
    better: Values, worse: Values, metric: str, triplets: dict[str, str] | None = None
) -> dict[str, Any] | None:
    """Paired difference by which `better` is better, its error and a verdict; None if undefined."""
    if metric not in better or metric not in worse:
        return None
    sign = 1 if METRICS[metric].higher else -1
    differences = {}
    for scene in better[metric].keys() & worse[metric].keys():
        pair = better[metric][scene], worse[metric][scene]
        differences[scene] = None if None in pair else sign * (pair[0] - pair[1])
    mean, error, n = statistics(differences, triplets)
    verdict = "not resolved"
    if abs(mean) > 2 * error:
        verdict = "holds" if mean > 0 else "reversed"
    return {"gain": mean, "se": error, "n": n, "verdict": verdict}


def tables(found: dict[str, tuple[Values, dict[str, Any]]]) -> str:
    """The means of every row, the baselines, and the paper's orderings, in Markdown."""
    used = [key for key in METRICS if any(key in values for values, _ in found.values())]
    triplets = next(iter(found.values()))[1].get("triplets")
    lines = ["| row | " + " | ".join(METRICS[key].head for key in used) + " |"]
    lines.append("|" + "---|" * (len(used) + 1))
    for name in ORDER:
        if name not in found:
            continue
        values, cells = found[name][0], []
        for key in used:
            mean, error, n = statistics(values.get(key, {}), triplets)
            cells.append(f"{mean:.3g} ± {error:.2g}" if n > 1 else "-")
        lines.append(f"| {ROWS[name].title} | " + " | ".join(cells) + " |")
    rows = (
        next(iter(found.values()))[1]["rows"] if "full" not in found else found["full"][1]["rows"]
    )
    for name in BASELINES:
        cells = [rows.get(name, {}).get(key, {}).get("value") for key in used]
        cells = ["-" if x is None else f"{x:.3g}" for x in cells]
        lines.append(f"| *{name}* | " + " | ".join(cells) + " |")
    lines += ["", "| better | than | by | gain | the paper | here |", "|---|---|---|---|---|---|"]
    for better, worse, metric, paper in ORDERINGS:
        if better not in found or worse not in found:
            continue
        result = compare(found[better][0], found[worse][0], metric, triplets)
        if result is not None:
            gain = f"{result['gain']:.3g} ± {result['se']:.2g} (n = {result['n']})"
            titles = f"{ROWS[better].title} | {ROWS[worse].title}"
            head = METRICS[metric].head
            lines.append(f"| {titles} | {head} | {gain} | {paper} | {result['verdict']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("out/demo-train"))
    parser.add_argument("--out", type=Path, default=Path("out/ablations"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scenes", type=int, default=40, help="held out; at least 32")
    parser.add_argument("--anchors", default="own", choices=("own", "given"), help="query pixels")
    parser.add_argument("--features", default="", help="folder of published weights")
    parser.add_argument("--curves", type=Path, help="draw the losses into this PNG")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    args.demo, args.out = args.demo.resolve(), args.out.resolve()
    if not (args.demo / "mjd.safetensors").is_file():
        sys.exit(f"{args.demo}: wanted a finished `make demo-train`, found no mjd.safetensors")
    if not args.table:
        for seed, name in itertools.product(args.seeds, (n for n in ROWS if n in args.rows)):
            run(args, name, seed)
    found = {name: one for name in args.rows if (one := read(args, name)) is not None}
    if not found:
        sys.exit(f"{args.out}: no row has been evaluated")
    if args.curves:
        logs = {n: folder(args.out, n, args.seeds[0]) / "metrics.jsonl" for n in ORDER}
        logs = {ROWS[n].title: x for n, x in logs.items() if n in found and x.is_file()}
        curves.draw(logs, args.curves)
    print(tables(found))
    values = {name: values for name, (values, _) in found.items()}
    with disk.whole(args.out / "ablations.json") as partial:
        partial.write_text(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
