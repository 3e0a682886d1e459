"""An image of ARCTIC and what moves after it -> the layout that prepare_taco.py --folder reads.

    python data_prep/import_arctic.py --arctic DATA --mano DIR --text "A person opens a box." \
        --image DATA/images/s01/box_grab_01/1/00123.jpg --out RECORDINGS

DATA is ARCTIC's folder with raw_seqs, meta and images; the path of the image says whose hands,
which camera and which frame they begin with. MANO's files are its authors'. Hands and both parts of
the object are read as syncmv4d_jax/data/sources/arctic.py says, the camera from meta/misc.json.
"""

import argparse
import sys
from pathlib import Path

from syncmv4d_jax import disk
from syncmv4d_jax.data import pictures, surfaces
from syncmv4d_jax.data.sources import arctic, mesh_recordings


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--arctic", type=disk.local, required=True, help="folder with raw_seqs and meta")
    add("--mano", type=disk.local, required=True, help="folder of MANO_LEFT.pkl, MANO_RIGHT.pkl")
    add("--image", type=disk.local, required=True, help="what the video begins with")
    add("--out", type=disk.local, required=True, help="root of recordings; a folder is made in it")
    add("--text", required=True, help="the prompt")
    add("--fps", type=float, default=arctic.FPS, help="frames a second to read")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Imports; returns the exit status."""
    args = parse(argv)
    try:
        folder, found = write(args)
    except (ValueError, OSError) as error:
        sys.exit(f"import_arctic: {type(error).__name__}: {error}")
    names = [surface.name for surface in found]
    print(f"{folder}: {found[0].frames} frames at {args.fps:g} a second, {names}")
    return 0


def write(args: argparse.Namespace) -> tuple[Path, list[surfaces.Surface]]:
    """Writes the recording, whole or not at all.

    Raises:
      FileNotFoundError, ValueError: as `arctic.read`, `arctic.picture` and `mesh_recordings.write`.
    """
    shown, camera = arctic.picture(args.image, args.arctic)
    path = args.arctic / "raw_seqs" / shown.subject / f"{shown.sequence}{arctic.END}"
    meshes = arctic.read(path, args.fps, hands=args.mano, first=shown.frame)
    found = mesh_recordings.Meshes(args.fps).fit(mesh_recordings.rows(path, meshes))
    target = args.out / f"{shown.subject}_{shown.sequence}_{shown.view}_{args.image.stem}"
    images = {camera.name: pictures.read(args.image)}
    mesh_recordings.write(
        target, found, args.fps, {camera.name: camera}, images, text=args.text,
        where=f"{args.arctic}/meta/misc.json",
    )  # fmt: skip
    return target, found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
