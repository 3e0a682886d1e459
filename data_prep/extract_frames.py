"""Cuts one frame out of each calibrated video: a folder for `--config.sample.images`.

    python data_prep/extract_frames.py --videos DIR --calibration FILE --out DIR [--frame 0]

DIR holds `<camera>.mp4` for every camera of FILE, which has the form of TACO's calibration.json.
"""

import argparse
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data import user
from syncmv4d_jax.data.sources import taco


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=disk.local, required=True)
    parser.add_argument("--calibration", type=disk.local, required=True)
    parser.add_argument("--out", type=disk.local, required=True)
    parser.add_argument("--frame", type=int, default=0, help="counted from 0")
    args = parser.parse_args()
    try:
        names = user.from_videos(args.videos, args.calibration, args.out, frame=args.frame)
    except (OSError, ValueError, KeyError, taco.BadSequence) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{args.out}: frame {args.frame} of {', '.join(names)}, cameras.json")


if __name__ == "__main__":
    main()
