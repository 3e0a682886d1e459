"""MoRe4D's embedded demo from nothing to a page: `make demo-more4d`.

    scenes with a moving camera -> records with flow -> autoencoder, text -> cache
    -> flow statistics -> flow codec -> ViSM -> STraG -> samples along an orbit -> evaluation
    -> page

Every stage is one of the project's own commands, printed before it runs; each continues where a
stopped run left it. Nothing is shipped: all networks start from random values, but for the
autoencoder of demo/weights where it is there. `more4d.html` shows of each sample the drawn points,
their holes, the result and, where a record has it, what a camera on that path really sees.
"""

import argparse
import base64
import html
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import disk
from syncmv4d_jax.data import records
from syncmv4d_jax.results import samples, video

ROOT = Path(__file__).parents[1]
SHIPPED = shipped.FOLDER
SIZE = "64x96"


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo-more4d"))
    parser.add_argument("--short", action="store_true", help="two scenes, two steps of everything")
    return parser.parse_args(argv)


def stages(args: argparse.Namespace) -> list[tuple[str, list]]:
    """Returns (title, arguments of python) of every stage."""
    out = args.out.resolve()
    data, parts, kept = out / "data", out / "weights", out / "records"
    cache, stats = out / "cache", out / "flow_stats.safetensors"
    train, test = (2, 2) if args.short else (120, 16)
    result: list[tuple[str, list]] = [
        (
            "embedded scenes, with a camera that moves",
            ["data_prep/make_scenes.py", "--out", data, "--scenes", train, "--test-scenes", test,
             "--cameras", 3, "--drawn", 8, "--paths", "orbit"],
        ),
        (
            "records with the flow of frame 0's pixels",
            ["data_prep/prepare_taco.py", "--taco", data / "taco", "--mano", data / "mano",
             "--out", kept, "--size", SIZE, "--frames", 13, "--points", 256, "--val", 0,
             "--with", "flow", "--paths", "orbit",
             "--heldout-triplets", data / "heldout_triplets.txt"],
        ),
        ("a small text encoder", ["data_prep/make_text_encoder.py", "--out", parts]),
    ]  # fmt: skip
    if not (SHIPPED / "vae" / "index.json").is_file():
        steps, clips = (4, 2) if args.short else (250, 12)
        own = ["--records", kept / SIZE, "--out", parts, "--steps", steps, "--clips", clips]
        result.append(("the autoencoder", ["data_prep/make_vae.py", *own]))
    result += [
        (
            "features of texts",
            ["data_prep/cache_latents.py", "--data", kept, "--weights", parts, "--out", cache,
             "--size", SIZE, "--text-length", 48],
        ),
        (
            "statistics of the flow's latents",
            ["data_prep/measure_flow.py", "--records", kept / SIZE, "--weights", parts,
             "--out", stats, "--clips", 4 if args.short else 60],
        ),
    ]  # fmt: skip
    codec, vism = out / "flow_codec", out / "vism"
    common = [f"--config.data.records={kept / SIZE}", f"--config.weights.vae={parts}"]
    texts = [f"--config.data.cache={cache / SIZE}", f"--config.text.weights={parts}"]
    flow = [f"--config.weights.flow_stats={stats}"]
    steps = ["--config.train.steps=2"] if args.short else []
    main = ["-m", "syncmv4d_jax.main"]
    decoder = [*main, "--config=configs/flow_codec.py:demo", f"--workdir={codec}", *common, *flow]
    views = [*main, "--config=configs/vism.py:demo", f"--workdir={vism}", *common, *texts]
    result.append(("the flow's decoder", [*decoder, *steps]))
    result.append(("ViSM", [*views, *steps, "--config.task.views=4"]))
    strag = [*main, "--config=configs/strag.py:demo", f"--workdir={out}", *common, *texts, *flow,
             f"--config.weights.codec={codec / 'weights.safetensors'}"]  # fmt: skip
    sampled = [*strag, "--config.mode=sample", "--config.sample.camera_path=orbit",
               f"--config.sample.synthesis={vism / 'weights.safetensors'}"]  # fmt: skip
    if args.short:
        sampled.append("--config.sample.count=1")
    return result + [
        ("STraG", [*strag, *steps]),
        ("samples along an orbit", sampled),
        ("evaluation of the tracks", [*strag, "--config.mode=evaluate"]),
    ]


def page(out: Path) -> Path:
    """Writes out/more4d.html: each path's points, holes, result and truth, side by side."""
    reader = records.Reader(out / "records" / SIZE, "test")
    windows = {window.id: window for window in reader.windows}
    rows = []
    for name, folder in samples.find(out / "samples").items():
        if not name.endswith("_path"):
            continue
        sample = samples.read(folder)
        clips = {"points": sample["render"], "holes": sample["holes"], "result": sample["video"]}
        window = windows.get(name.removesuffix("_path"))
        views = [] if window is None else [v for v in window.views if v.serial == "orbit"]
        for view in views:
            clips["true camera (its own crop)"] = records.decode(
                reader.view(window, view)["video"]
            )[None]
        cells = "".join(
            f"<figure><video loop autoplay muted src='{_inline(clip[0])}'></video>"
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
            for title, clip in clips.items()
        )
        told = f"{sample['meta']['camera_path']}, {sample['meta']['covered']:.0%} covered"
        rows.append(f"<h2>{html.escape(name)}</h2><p>{told}</p><div>{cells}</div>")
    style = "figure{display:inline-block;margin:4px}video{width:288px;image-rendering:pixelated}"
    text = f"<!doctype html><meta charset=utf-8><title>paths</title><style>{style}</style>"
    with disk.whole(out / "more4d.html") as partial:
        partial.write_text(text + "".join(rows), encoding="utf-8")
    return out / "more4d.html"


def _inline(clip: np.ndarray) -> str:
    raw = video.encode(np.ascontiguousarray(clip), fps=8, quality=18)
    return "data:video/mp4;base64," + base64.b64encode(raw).decode()


def main(argv: list[str]) -> int:
    """Runs the stages; returns the exit status of the first that fails."""
    args, begin = parse(argv), time.time()
    shipped.unpack(args.out / "weights")
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
