"""TASTE-Rob's videos and captions -> folders of clips, to be filled by VGGT, SAM2 and a tracker.

    python data_prep/import_taste_rob.py --taste DIR --out CLIPS --scenes Kitchen,Office

DIR has captions.xlsx and the unpacked scenes, SingleHand/Kitchen/<id>.mp4. Then the tools write
their files beside each video, and data_prep/import_monocular.py makes records (docs/hvg3d.md).
"""

import argparse
import json
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data import engine
from syncmv4d_jax.data.sources import taste_rob

SCENES = "Office,Dining,Bedroom,Kitchen,DressingTable"


def main(argv: list[str]) -> int:
    """Parses the flags and makes the folders; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--taste", type=disk.local, required=True, help="folder with captions.xlsx")
    add("--out", type=disk.local, required=True, help="folder of clips")
    add("--subset", choices=tuple(taste_rob.SHEETS), default="SingleHand")
    add("--scenes", default=SCENES, help="comma separated, as the zips are called")
    add("--labels", type=json.loads, default={"1": "right", "2": "object"}, help="of the masks")
    add(
        "--shard", type=engine.part, default=(0, 1), help="i/n: this process's part, on any machine"
    )
    args = parser.parse_args(argv)
    scenes = tuple(name.strip() for name in args.scenes.split(",") if name.strip())
    try:
        made, without = taste_rob.folders(
            args.taste,
            args.out,
            subset=args.subset,
            scenes=scenes,
            labels=args.labels,
            shard=args.shard,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"import_taste_rob: {type(error).__name__}: {error}")
    for path in without:
        print(f"left out {path}: no caption, or no video that can be read", file=sys.stderr)
    print(f"{len(made)} clips, {len(without)} left out")
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
