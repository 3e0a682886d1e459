"""MoRe4D's embedded demo from nothing to a page: `make demo-more4d`.

    scenes with cameras that move -> records with flow -> autoencoder, text -> cache
    more scenes, of one camera each, for STraG: motion is a scene's -> records, cache
    -> ViSM, STraG: those that are shipped, trained further
    -> what ViSM makes of true points, STraG's samples seen by their own cameras and along an orbit
    -> an evaluation of each -> page

Every stage is one of the project's own commands, printed before it runs; each continues where a
stopped run left it. `--fresh`, as where nothing is shipped, measures the flow's statistics and
trains its decoder and both transformers, from one view of the demo's MJD, on far more scenes, in
hours; `--ship` puts what it trained in demo/weights. `more4d.html` has of every evaluation
its rows and bars (met, not met, not shown) and shows of each video the drawn points, their holes,
the result and what the same camera really sees.
"""

import argparse
import base64
import html
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from configs import ...`
from configs import flow_codec
from demo import shipped
from syncmv4d_jax import disk
from syncmv4d_jax.data import records
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import definitions, novel_views, tables
from syncmv4d_jax.results import samples, video

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIZE = "64x96"
PATHS = ("orbit", "head")  # cameras that move
GAIN = flow_codec.DEMO_GAIN
SYSTEM = shipped.SYSTEMS["more4d"]
PAIRS = ["--sources", 2, "--fill"]  # as configs/vism.py:demo
WIDE = {"strag": SYSTEM.parts["dit"], "vism": SYSTEM.synthesis}  # to train from


class Size(NamedTuple):
    """How much of it: scenes of cameras that move (training, held out) and pairs of each, scenes of
    one camera, and what the two trainings are told."""

    moving: tuple[int, int]
    pairs: int
    single: tuple[int, int]
    told: list[str]


SIZES = {
    "short": Size((2, 2), 2, (2, 2), ["--config.train.steps=2"]),
    "tuned": Size((24, 16), 10, (200, 32),
                  ["--config.train.steps=150", "--config.optim.learning_rate=1e-3"]),
    "fresh": Size((240, 32), 10, (2000, 40), []),
}  # fmt: skip


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-more4d"))
    parser.add_argument("--short", action="store_true", help="two scenes, two steps of everything")
    parser.add_argument("--fresh", action="store_true", help="train all of it, for hours")
    parser.add_argument(
        "--ship", action="store_true", help="put what --fresh trained in demo/weights"
    )
    args = parser.parse_args(argv)
    shipped.refuse_short_and_fresh(parser, args)
    args.fresh |= not all(file is not None and file.is_file() for file in WIDE.values())
    return args


Stage = tuple[str, list]  # title, arguments of python


def stages(args: argparse.Namespace) -> list[Stage]:
    """Returns every stage in order."""
    size = SIZES["short" if args.short else "fresh" if args.fresh else "tuned"]
    return data_stages(args, size) + model_stages(args, size)


def data_stages(args: argparse.Namespace, size: Size) -> list[Stage]:
    """Scenes, records and caches."""
    out = args.out.resolve()
    data, parts, kept, single = (out / name for name in ("data", "weights", "records", "single"))
    moving = ["--paths", ",".join(PATHS)]
    result: list[Stage] = [
        (
            "embedded scenes, with a camera that moves",
            ["data_prep/make_scenes.py", "--out", data, *scenes(size.moving),
             "--cameras", 3, *moving],
        ),
        ("records with the flow of frame 0's pixels", prepared(data, kept, *moving)),
        (
            "more scenes, of one camera each",
            ["data_prep/make_scenes.py", "--out", single, *scenes(size.single), "--cameras", 1],
        ),
        (
            "records of them",
            prepared(single, single / "records", "--clusters", 1, "--cameras", "first"),
        ),
        ("a small text encoder", ["data_prep/make_text_encoder.py", "--out", parts]),
    ]  # fmt: skip
    if not (SHIPPED / "vae" / "index.json").is_file():
        steps, clips = (4, 2) if args.short else (250, 12)
        own = ["--records", kept / SIZE, "--out", parts, "--steps", steps, "--clips", clips]
        result.append(("the autoencoder", ["data_prep/make_vae.py", *own]))
    return result + [
        (
            "latents of videos and of flow, features of texts",
            [*cached(kept, out / "cache", parts), "--pairs", size.pairs, *PAIRS],
        ),
        (
            "the same of the scenes of one camera",
            cached(single / "records", single / "cache", parts),
        ),
    ]  # fmt: skip


class Runs(NamedTuple):
    """The trainings of a folder `out`: commands without a mode, which rows of ablations are, too.

    out: of the demo. flow: what STraG is told of the flow's statistics and decoder.
    """

    out: Path
    flow: list[str]

    def vism(self, folder: Path, config: str = "configs/vism.py", cache: str = "cache") -> list:
        """ViSM of the cameras that the records have; those that move are views."""
        every = f"--config.task.views={3 + len(PATHS)}"
        return self._told(f"{config}:demo", folder, self.out / "records", self.out / cache, every)

    def strag(self, folder: Path, config: str = "configs/strag.py") -> list:
        """STraG, or the flow's decoder, of the scenes of one camera."""
        single = self.out / "single"
        told = f"{config}:demo", folder, single / "records", single / "cache"
        return self._told(*told, *self.flow)

    def three(self, folder: Path, weights: Path) -> list:
        """STraG of three cameras of the other scenes."""
        own = [f"--config.weights.{part}={weights}" for part in ("dit", "perception")]
        told = "configs/strag.py:demo", folder, self.out / "records", self.out / "cache"
        return self._told(*told, *self.flow, *own, "--config.task.views=3")

    def _told(self, config: str, folder: Path, kept: Path, cache: Path, *more: str) -> list:
        parts = self.out / "weights"
        return ["-m", "syncmv4d_jax.main", f"--config={config}", f"--workdir={folder}",
                f"--config.data.records={kept / SIZE}", f"--config.data.cache={cache / SIZE}",
                f"--config.weights.vae={parts}", f"--config.text.weights={parts}",
                *more]  # fmt: skip


SAMPLE, EVALUATE = "--config.mode=sample", "--config.mode=evaluate"


def flow_of(args: argparse.Namespace) -> list[str]:
    """Where the flow's statistics and decoder are: shipped ones, or those that are trained."""
    out = args.out.resolve()
    if args.fresh:
        return trained_flow(out)
    wide = out / "weights" / "strag.safetensors"
    return [f"--config.weights.{part}={wide}" for part in ("flow_stats", "codec")]


def trained_flow(out: Path) -> list[str]:
    """Where `decoder_stages` leave statistics and decoder."""
    files = {"flow_stats": "flow_stats.safetensors", "codec": "flow_codec/weights.safetensors"}
    return [f"--config.weights.{part}={out / file}" for part, file in files.items()]


def decoder_stages(runs: Runs, out: Path, *told: str) -> list[Stage]:
    """Statistics of the flow's latents and its decoder, in `out`."""
    stats = out / "flow_stats.safetensors"
    runs = runs._replace(flow=[f"--config.weights.flow_stats={stats}"])
    return [
        (
            "statistics of the flow's latents",
            ["data_prep/measure_flow.py", "--records", runs.out / "records" / SIZE, "--weights",
             runs.out / "weights", "--out", stats, "--clips", 60, "--gain", GAIN, *told],
        ),
        ("the flow's decoder", runs.strag(out / "flow_codec", "configs/flow_codec.py")),
    ]  # fmt: skip


def model_stages(args: argparse.Namespace, size: Size) -> list[Stage]:
    """Trainings, samples and evaluations."""
    out = args.out.resolve()
    runs, made = Runs(out, flow_of(args)), out / "weights.safetensors"
    vism, exported = runs.vism(out / "vism"), out / "vism" / "weights.safetensors"
    along = [*runs.vism(out / "chain"), f"--config.weights.dit={exported}"]
    strag, three = runs.strag(out), runs.three(out / "three", made)
    few = ["--config.sample.count=1"] if args.short else []
    result: list[Stage] = []
    if args.fresh:
        result = decoder_stages(runs, out)
        start, ways = shipped.flags("dit"), shipped.flags("dit")
    else:
        wide = {name: out / "weights" / f"{name}.safetensors" for name in WIDE}
        start = [f"--config.weights.dit={wide['vism']}"]
        ways = [f"--config.weights.{part}={wide['strag']}" for part in ("dit", "perception")]
    return result + [
        ("ViSM", [*vism, *size.told, *start]),
        ("STraG", [*strag, *size.told, *ways]),
        ("what ViSM makes of true points", [*vism, SAMPLE, *few]),
        ("STraG's samples, seen by their own camera",
         [*strag, SAMPLE, *few, "--config.sample.camera_path=static",
          f"--config.sample.synthesis={exported}"]),
        ("STraG's samples of three cameras", [*three, SAMPLE, *few]),
        ("ViSM on these, along an orbit",
         [*along, SAMPLE, f"--config.sample.sources={out / 'three' / 'samples'}",
          "--config.sample.camera_path=record:orbit"]),
        ("evaluation of ViSM", [*vism, EVALUATE]),
        ("evaluation of STraG, and of both", [*strag, EVALUATE]),
        ("evaluation of both along the orbit", [*along, EVALUATE]),
    ]  # fmt: skip


def scenes(counts: tuple[int, int]) -> list:
    """So many training and held-out scenes, with pictures at the clips' own rate."""
    return ["--scenes", counts[0], "--test-scenes", counts[1], "--drawn", 8]


def prepared(scenes: Path, records: Path, *told: Any) -> list:
    """Records with flow of scenes."""
    return ["data_prep/prepare_taco.py", "--taco", scenes / "taco", "--mano", scenes / "mano",
            "--out", records, "--size", SIZE, "--frames", 13, "--points", 256, "--val", 0,
            "--with", "flow", "--surfaces", "test", *told,
            "--heldout-triplets", scenes / "heldout_triplets.txt"]  # fmt: skip


def cached(records: Path, cache: Path, weights: Path) -> list:
    """Latents and text features of records."""
    return ["data_prep/cache_latents.py", "--data", records, "--weights", weights, "--out", cache,
            "--size", SIZE, "--text-length", 48, "--flow", GAIN]  # fmt: skip


RUNS = (  # folder, its records, what it is
    ("vism", "records", "ViSM on true points of one view"),
    ("", "single/records", "STraG, and ViSM on its points from their own camera"),
    ("chain", "records", "ViSM on STraG's points, along an orbit"),
)
STYLE = (
    "body{font:14px sans-serif;max-width:1250px;margin:auto}figure{display:inline-block;margin:4px}"
    "video,img{width:288px;image-rendering:pixelated}table{border-collapse:collapse}"
    "td,th{border:1px solid #bbb;padding:2px 6px;text-align:right}td:first-child{text-align:left}"
)
HEAD = f"<!doctype html><meta charset=utf-8><title>MoRe4D</title><style>{STYLE}</style>"


def page(out: Path) -> Path:
    """Writes out/more4d.html: of every run its bars and rows, and each video's points, holes,
    result and truth, side by side."""
    parts = [HEAD, "<h1>One image to 4D, and any camera</h1>"]
    for folder, kept, title in RUNS:
        reader = records.Reader(out / kept / SIZE, "test")
        windows = {window.id: window for window in reader.windows}
        parts.append(f"<h2>{html.escape(title)}</h2>")
        evaluated = out / folder / "eval.json"
        if evaluated.is_file():
            parts += tables_of(json.loads(evaluated.read_text()))
        for name, path in samples.find(out / folder / "samples").items():
            sample = samples.read(path)
            if "drawn" in sample:
                parts += _shown(name, sample, _truth(reader, windows, name, sample))
    with disk.whole(out / "more4d.html") as partial:
        partial.write_text("".join(parts), encoding="utf-8")
    return out / "more4d.html"


def tables_of(evaluation: Mapping[str, Any]) -> Iterator[str]:
    """An evaluation's bars, said to be met, not met or not shown, and its rows."""
    bars = [["bar", "wanted", "value", "scenes", "triplets", ""]]
    for check in evaluation["checks"]:
        why = check["why_not"]
        short = "not shown" in why or " of " in why  # too few scenes show nothing either
        told = "met" if check["passed"] else f"not shown: {why}" if short else "not met"
        told = told.replace("not shown: not shown", "not shown")
        bars.append([check["name"], check["wanted"], tables.cell(check), str(check["n"]),
                     str(check["clusters"]), told])  # fmt: skip
    yield _table(bars)
    kinds = ("flow", "views")
    there = {m for cells in evaluation["rows"].values() for m in cells}
    known = [m for m, d in definitions.DEFINITIONS.items() if d.kind in kinds and m in there]
    rows = [["row", *(tables.heading(m) for m in known)]]
    for row, cells in evaluation["rows"].items():
        if any(m in cells for m in known):
            rows.append([row, *(tables.cell(cells.get(m)) for m in known)])
    yield _table(rows)


def _table(rows: list[list[str]]) -> str:
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    lines = ["".join(f"<th>{cell}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    return "<p><table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _truth(reader, windows, name: str, sample: Mapping[str, Any]) -> dict[int, np.ndarray]:
    """{camera of the sample: what it really sees [n h w 3]}, of cameras that the record has."""
    window = windows.get(str(sample["meta"].get("source", name)))
    if window is None:
        return {}
    found = [reader.view(window, view) for view in window.views]
    frames = sample["path_extrinsics"].shape[1]
    rig = {
        "intrinsics": np.stack([values["intrinsics"] for values in found]),
        "extrinsics": [np.broadcast_to(records.poses(v), (frames, 3, 4)) for v in found],
    }
    shown = enumerate(novel_views.targets(sample, rig))
    return {t: records.decode(found[view]["video"]) for t, view in shown if view >= 0}


def _shown(name: str, sample: Mapping[str, Any], truth: Mapping[int, np.ndarray]) -> Iterator[str]:
    """The figures of a sample: its path, and of every camera four videos."""
    meta = sample["meta"]
    told = meta.get("camera_path", "the record's other cameras")
    share = sample["covered"].mean((1, 2, 3))
    yield f"<h3>{html.escape(name)}</h3><p>{html.escape(told)}<div>{_path(sample)}</div>"
    for t, clip in enumerate(sample["video"]):
        clips = {f"points, {share[t]:.0%} covered": sample["render"][t],
                 "holes": sample["holes"][t], "result": clip}  # fmt: skip
        clips |= {"true camera": truth[t]} if t in truth else {}
        yield "<div>" + "".join(
            f"<figure><video loop autoplay muted src='{_inline(one)}'></video>"
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, one in clips.items()
        ) + "</div>"  # fmt: skip


def _path(sample: Mapping[str, Any]) -> str:
    """Where the cameras go, from above, as SVG: a line a camera, a dot where it begins."""
    poses = np.asarray(sample["path_extrinsics"], np.float64)
    centres = cameras.camera_centre(poses)[..., :2]
    ahead = centres[:, 0] + poses[:, 0, 2, :2]
    low = np.minimum(centres.min((0, 1)), ahead.min(0)) - 0.1
    side = float(np.max(np.maximum(centres.max((0, 1)), ahead.max(0)) + 0.1 - low))
    at = lambda x: (160 * (x - low) / side * [1, -1] + [0, 160]).round(1)  # noqa: E731
    lines = []
    for way, end in zip(centres, ahead, strict=True):
        points = " ".join(f"{x},{y}" for x, y in at(way))
        (x, y), (u, v) = at(way[0]), at(end)
        lines.append(
            f"<line x1='{x}' y1='{y}' x2='{u}' y2='{v}' stroke='#ccc'/>"
            f"<polyline points='{points}' fill='none' stroke='#06c'/>"
            f"<circle cx='{x}' cy='{y}' r='3'/>"
        )
    return f"<svg width='160' height='160' role='img'><title>cameras</title>{''.join(lines)}</svg>"


def _inline(clip: np.ndarray) -> str:
    raw = video.encode(np.ascontiguousarray(clip), fps=8, quality=18)
    return "data:video/mp4;base64," + base64.b64encode(raw).decode()


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args, begin = parse(argv), time.time()
    if args.ship:
        own = [args.out / name for name in ("weights", "flow_codec/weights", "flow_stats")]
        files = [file.with_suffix(".safetensors") for file in own]
        synthesis = args.out / "vism" / "weights.safetensors"
        return shipped.ship(*files, system="more4d", synthesis=synthesis)
    shipped.unpack(args.out / "weights")
    for name, file in () if args.fresh else WIDE.items():
        shipped.widen(file, args.out / "weights" / f"{name}.safetensors")
    for title, command in stages(args):
        print(f"\n== {title}\n   {' '.join(str(c) for c in command)}", flush=True)
        status = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT).returncode
        if status:
            print(f"demo: {title!r} failed with status {status}", file=sys.stderr)
            return status
    made = page(args.out.resolve())
    print(f"\n{made}   ({(time.time() - begin) / 60:.1f} min)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
