"""Real clips of one camera, with depth, masks and tracks of other tools -> records for control.

    python data_prep/import_monocular.py --clips DIR --out RECORDS --fps 15

DIR/<clip>/ has clip.json, video.mp4, vggt.npz, masks/ and tracks.npz (docs/hvg3d.md); no network is
run here. Look at RECORDS/<h>x<w>/report/<clip>.jpg: masks, points and tracks must lie on the hands
and the things. Run it again to continue; what cannot be used is listed with its reason.
"""

import argparse
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data import engine, reading, reconstructed

DEFAULTS = reconstructed.Settings()


def size(text: str) -> tuple[int, int]:
    """height x width."""
    height, width = (int(x) for x in text.lower().split("x"))
    return height, width


def main(argv: list[str]) -> int:
    """Parses the flags and imports; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--clips", type=disk.local, required=True, help="folder of clips")
    add("--out", type=disk.local, required=True, help="records go to OUT/<h>x<w>")
    add("--size", type=size, default=DEFAULTS.size, help="height x width, 480x704")
    add("--frames", type=int, default=DEFAULTS.frames)
    add("--fps", type=float, default=DEFAULTS.fps)
    add("--points", type=int, default=DEFAULTS.points, help="tracks of a clip")
    add("--cloud", type=int, default=DEFAULTS.cloud, help="points of a frame")
    add("--test", type=float, default=DEFAULTS.test, help="share of the clips to test on")
    add("--seed", type=int, default=DEFAULTS.seed)
    add(
        "--shard", type=engine.part, default=(0, 1), help="i/n: this process's part, on any machine"
    )
    args = vars(parser.parse_args(argv))
    folder, out, shard = args.pop("clips"), args.pop("out"), args.pop("shard")
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        clips = [path for path in reading.entries(folder) if (path / "clip.json").is_file()]
        index = reconstructed.run(clips, out, reconstructed.Settings(**args), shard=shard)
    except (ValueError, OSError) as error:
        sys.exit(f"import_monocular: {type(error).__name__}: {error}")
    for entry in index["skipped"]:
        print(f"left out {entry['sequence']}: {entry['reason']}", file=sys.stderr)
    print(f"{len(index['windows'])} clips, {len(index['skipped'])} left out")
    return 0 if index["windows"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
