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
import sys
from pathlib import Path

from syncmv4d_jax import disk
from syncmv4d_jax.data import pictures, rigs, surfaces
from syncmv4d_jax.data.sources import mesh_recordings


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
    images = dict.fromkeys(cameras, pictures.read(args.image))
    target = args.out / (args.name or args.image.stem)
    told = mesh_recordings.Meshes(args.fps, args.unit, args.up, args.labels)
    found = told.read(args.meshes)
    mesh_recordings.write(
        target, told, found, cameras, images, text=args.text, where=str(args.camera)
    )
    return target, found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
