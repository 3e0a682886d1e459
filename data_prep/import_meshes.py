"""Meshes over time and one real picture -> the plain layout that prepare_taco.py --folder reads.

    python data_prep/import_meshes.py --meshes scene.glb --image photo.png --camera cameras.json \
        --text "A person uses a cup to pour in some bowl." --out RECORDINGS

Meshes: glTF (.glb, .gltf), a folder of an OBJ sequence, .pc2 or .mdd beside an .obj; metres and z
up, or as --unit and --up say. The camera is the one that took the picture, in TACO's form ({name:
{K, R, T, imgSize}}, docs/data.md), in the meshes' world. Names with left or right in them are
hands, others objects; --labels says otherwise. Look at report/ of the records: the points must lie
on the picture's things.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import pictures, rigs, surfaces
from syncmv4d_jax.data.sources import mesh_sequences


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--meshes", type=disk.local, required=True, nargs="+", help="files, or folders of OBJ files"
    )
    add("--image", type=disk.local, required=True, help="the picture that the video begins with")
    add("--camera", type=disk.local, required=True, help="JSON of one camera: its K, R, T, imgSize")
    add("--out", type=disk.local, required=True, help="root of recordings; a folder is made in it")
    add("--name", default="", help="of the recording, default: of the picture")
    add("--text", required=True, help="the prompt")
    add("--fps", type=float, default=30.0, help="frames a second to read")
    add("--unit", type=float, default=1.0, help="metres of a unit of the meshes")
    add("--up", choices=("", "y", "z"), default="", help="default: y of glTF, z of others")
    add("--labels", type=json.loads, default={}, help='{"mesh": "left hand"}')
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Imports; returns the exit status."""
    args = parse(argv)
    try:
        folder, found = write(args)
    except (ValueError, OSError) as error:
        sys.exit(f"import_meshes: {type(error).__name__}: {error}")
    frames = next(iter(found)).frames
    print(f"{folder}: {frames} frames at {args.fps:g} a second, {[s.name for s in found]}")
    return 0


def write(args: argparse.Namespace) -> tuple[Path, list[surfaces.Surface]]:
    """Writes the recording, whole or not at all.

    Raises:
      ValueError: meshes, picture or camera that cannot be used, or do not fit each other.
    """
    cameras = rigs.read(args.camera)
    if len(cameras) != 1:
        raise ValueError(f"{args.camera}: wanted one camera, of the picture, got {sorted(cameras)}")
    ((name, camera),) = cameras.items()
    size = pictures.read(args.image).shape[:2]
    if tuple(camera.size) != size:
        raise ValueError(
            f"{args.camera}: imgSize is {camera.size[1]} x {camera.size[0]}, the picture "
            f"{size[1]} x {size[0]}"
        )
    found = _surfaces(args)
    rigs.check({name: camera}, [s.at(0) for s in found], where=f"{args.camera} and the meshes")
    target = args.out / (args.name or args.image.stem)
    description = {
        "fps": args.fps, "action": "follow", "tool": found[0].name, "target": found[-1].name,
        "text": args.text, "labels": args.labels, "provenance": "sim",
    }  # fmt: skip
    with disk.whole(target) as partial:
        (partial / "surfaces").mkdir(parents=True)
        for surface in found:
            surfaces.write(partial / "surfaces", surface)
        (partial / "recording.json").write_text(json.dumps(description, indent=1))
        shutil.copyfile(args.camera, partial / "cameras.json")
        Image.fromarray(pictures.read(args.image)).save(partial / f"{name}.png")
    return target, found


def _surfaces(args: argparse.Namespace) -> list[surfaces.Surface]:
    found: list[surfaces.Surface] = []
    for path in args.meshes:
        meshes = mesh_sequences.read(path, args.fps, unit=args.unit, up=args.up)
        for name, (faces, vertices) in meshes.items():
            label = args.labels.get(name, "")
            found.append(surfaces.Surface(name.replace("/", "_"), faces, vertices, label=label))
            surfaces.check(found[-1], where=f"{path}, {name}")
    lengths = {s.name: s.frames for s in found}
    longest = max(lengths.values())
    still = [i for i, s in enumerate(found) if s.frames == 1]
    for i in still:  # what does not move
        vertices = np.repeat(found[i].vertices, longest, axis=0)
        found[i] = surfaces.Surface(found[i].name, found[i].faces, vertices, label=found[i].label)
    if len({s.frames for s in found}) > 1:
        raise ValueError(f"the meshes have different numbers of frames: {lengths}")
    if len(lengths) < len(found):
        raise ValueError(f"several meshes of one name: {[s.name for s in found]}")
    if unknown := sorted(set(args.labels) - set(lengths)):
        raise ValueError(f"--labels: no meshes {unknown}; there are {sorted(lengths)}")
    if strange := sorted(set(args.labels.values()) - set(surfaces.LABELS)):
        raise ValueError(f"--labels: wanted some of {surfaces.LABELS}, got {strange}")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
