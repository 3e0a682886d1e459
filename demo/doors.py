"""The demo's weights for one's own pictures: a page in the browser, or one command.

    make studio [STUDIO_ARGS="--port 8001 --system hvg3d"]
    make mine IMAGES="left.png right.png top.png" CAMERAS=cameras.json PROMPT="..."

`studio` serves (docs/studio.md). `mine` says which images are taken, writes OUT/<name>_rig.png, how
they are cut and where the cameras stand, and then makes OUT/<name>/ with videos, tracks, tracks.glb
and report.html. The weights know embedded scenes: on photographs their videos are soft and their
motion is a guess.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `from demo import ...`
from demo import shipped
from syncmv4d_jax import pipeline
from syncmv4d_jax.data import reading
from syncmv4d_jax.results import samples
from syncmv4d_jax.results.web import report

ROOT = Path(__file__).parents[1]


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_subparsers(dest="what", required=True)
    serve = what.add_parser("studio", help="a page in the browser")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--out", type=Path, help="default: out/studio, -SYSTEM behind it")
    serve.add_argument("--system", choices=list(shipped.SYSTEMS), default="syncmv4d")
    mine = what.add_parser("mine", help="one sample")
    mine.add_argument("--images", nargs="+", required=True, help="a folder, or an image a view")
    mine.add_argument("--cameras", default="", help="cameras.json, where the folder has none")
    mine.add_argument("--prompt", required=True)
    mine.add_argument("--seed", type=int, default=0)
    mine.add_argument("--steps", type=int, default=None)
    mine.add_argument("--name", default="mine")
    mine.add_argument("--out", type=Path, default=Path("out/mine"))
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Does what is asked for; an error about the input is one sentence."""
    args = parse(argv)
    try:
        folder = ROOT / "out" / "studio" / "weights"
        if args.what == "studio":
            studio(args, folder)
        parts = weights(folder, "syncmv4d")
        return mine(args, parts)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def weights(folder: Path, system: str) -> dict[str, str]:
    """Makes what is not shipped, once; returns {part: path} of a system.

    Raises:
      FileNotFoundError: its weights are not shipped.
    """
    own = shipped.SYSTEMS[system]
    for file in dict.fromkeys((*own.parts.values(), own.synthesis)):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"{file}: not there; {own.made_by}")
    shipped.unpack(folder)
    if not (folder / "umt5").is_dir():
        command = [sys.executable, "data_prep/make_text_encoder.py", "--out", str(folder)]
        subprocess.run(command, cwd=ROOT, check=True)
    parts = {part: str(file) for part, file in own.parts.items()}
    return parts | {"vae": str(folder), "umt5": str(folder)}


def studio(args: argparse.Namespace, folder: Path) -> NoReturn:
    """Becomes the server, until it is stopped."""
    parts, own = weights(folder, args.system), shipped.SYSTEMS[args.system]
    out = args.out or Path("out/studio" + f"-{args.system}" * (args.system != "syncmv4d"))
    command = [sys.executable, "-m", "syncmv4d_jax.main", f"--config={own.config}",
               f"--workdir={out}", "--config.mode=serve", f"--config.serve.port={args.port}",
               f"--config.text.weights={parts.pop('umt5')}"]  # fmt: skip
    command += [f"--config.weights.{part}={path}" for part, path in parts.items()]
    command += [f"--config.sample.synthesis={own.synthesis}"] if own.synthesis else []
    os.chdir(ROOT)
    os.execv(command[0], command)  # what stops this process stops the server


def mine(args: argparse.Namespace, parts: dict[str, str]) -> int:
    """Makes one sample of one's own pictures."""
    config = pipeline.read_config(f"{ROOT / shipped.SYSTEMS['syncmv4d'].config}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.images[0])
        if len(args.images) > 1 or not folder.is_dir():
            folder = gather(args.images, args.cameras, Path(scratch) / "views")
        pipe = pipeline.SyncMV4DPipeline.load(parts, config)
        result = pipe(folder, args.prompt, seed=args.seed, name=args.name,
                      num_inference_steps=args.steps, sheet=args.out / f"{args.name}_rig.png",
                      on_views=lambda lines: print("\n".join(lines), flush=True))  # fmt: skip
    made = result.save(args.out)
    result.export(made / "tracks.glb")
    sample = samples.read(made)
    text = json.dumps(sample["meta"], indent=1)
    report.write(made / "report.html", [{"id": args.name, **sample}], None, [], text, "make mine")
    print(made / "report.html")
    return 0


def gather(images: list[str], cameras: str, folder: Path) -> Path:
    """Lays images down under the names of their cameras: by their own names, else in their order.

    Raises:
      ValueError: no cameras, or another number of images.
    """
    if not cameras:
        raise ValueError("CAMERAS: wanted cameras.json for these images, got none")
    rig = reading.values(cameras)
    names, stems = list(rig), [Path(image).stem for image in images]
    if set(stems) <= set(names):
        names = stems
    if len(names) != len(images):
        raise ValueError(
            f"IMAGES: wanted {len(names)}, one a camera ({names}), got {len(images)}: {images}"
        )
    folder.mkdir()
    (folder / "cameras.json").write_text(json.dumps({name: rig[name] for name in names}))
    for image, name in zip(images, names, strict=True):
        target = folder / f"{name}{Path(image).suffix}"
        target.write_bytes(Path(image).read_bytes())
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
