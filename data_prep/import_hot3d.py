"""Turns a HOT3D recording into the plain layout that prepare_taco.py --folder reads.

    python data_prep/import_hot3d.py --hot3d DIR --out DIR

Real motion, rendered pictures: see docs/scenes.md for what is captured and what is ours.
"""

import argparse
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data.scenes import hot3d, scene


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--hot3d", type=disk.local, required=True, help="folder with Aria/ and object_library/")
    add("--out", type=disk.local, required=True)
    add("--recording", default="P0003_c701bd11")
    add("--action", default="pour in some")
    add("--tool", default="coffee_pot")
    add("--target", default="mug_white")
    add("--size", default="240x320", help="height x width of the videos")
    add("--cameras", choices=("all", "three"), default="all")
    args = parser.parse_args(argv)
    names = scene.THREE if args.cameras == "three" else tuple(scene.RIG)
    try:
        height, width = (int(x) for x in args.size.split("x"))
        capture = hot3d.load(args.hot3d, args.recording, tool=args.tool, target=args.target)
        folder = hot3d.write(
            capture, args.out, action=args.action, size=(height, width), names=names
        )
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{folder}: {capture.frames} frames, {len(names)} cameras, {', '.join(capture.meshes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
