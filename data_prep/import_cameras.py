"""Cameras of COLMAP, nerfstudio, OpenCV or Qualisys, and their images, to a folder to sample from.

    python data_prep/import_cameras.py --src sparse/0 --metres-per-unit 0.21 --images DIR --out OUT
    python data_prep/import_cameras.py --src Calib.qca.txt --images DIR --out OUT

What --src is, its content tells (docs/data.md). DIR has an image a camera, named like it; lenses
are taken out of them with OpenCV. OUT is what `--config.sample.images` takes: an image a camera and
cameras.json. Cameras keep the order of --views, or else of their names.
"""

import argparse
import sys

from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import calibrations, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=disk.local, required=True)
    parser.add_argument("--images", type=disk.local, required=True)
    parser.add_argument("--out", type=disk.local, required=True)
    parser.add_argument("--metres-per-unit", type=float, help="where the form has no unit")
    parser.add_argument("--views", nargs="+", help="cameras to take, in this order; all by default")
    args = parser.parse_args()
    try:
        found = calibrations.read(args.src, metres=args.metres_per_unit)
        names = args.views or sorted(found)
        if unknown := [name for name in names if name not in found]:
            raise ValueError(f"--views: no cameras {unknown}; {args.src} has {sorted(found)}")
        if args.out.exists():
            raise ValueError(f"--out={args.out}: is there already")
        with disk.whole(args.out) as partial:
            partial.mkdir()
            for name in names:
                image = pictures.read(pictures.named(args.images, name))
                straight = calibrations.undistort(image, found[name])
                Image.fromarray(straight).save(partial / f"{name}.png")
            rig = calibrations.as_json({name: found[name] for name in names})
            (partial / "cameras.json").write_text(rig, encoding="utf-8")
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    bent = [name for name in names if found[name].bent]
    lenses = f"; lenses taken out: {', '.join(bent)}" if bent else ""
    print(f"{args.out}: view 0 is {names[0]}; {', '.join(names)}, cameras.json{lenses}")


if __name__ == "__main__":
    main()
