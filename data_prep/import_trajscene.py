"""TrajScene-60K to records with flow, for pretraining of configs/strag.py; or records to its form.

    python data_prep/import_trajscene.py --trajscene DIR --out RECORDS
    python data_prep/import_trajscene.py --inverse --records RECORDS --out DIR

DIR holds archives <range>.tar.gz (or they unpacked), which you have from ModelScope under their
terms; nothing is downloaded. Train with `--config.task.views=1` and the fps that is given here.
`--inverse` writes <id>.mp4, <id>.txt and <id>_dt3d_pred.pkl of each training view of records that
have flow, for people with the original code.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import engine, one_camera, pixel_flow, reading, records
from syncmv4d_jax.data.sources import trajscene
from syncmv4d_jax.geometry import cameras, flow_map


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--trajscene", type=disk.local, help="folder of archives, one archive, or one unpacked")
    add("--inverse", action="store_true", help="write TrajScene's form from records")
    add("--records", type=disk.local, help="with --inverse")
    add("--out", type=disk.local, required=True)
    add("--size", default="480x704", help="height x width of the records")
    add("--limit", type=int, default=0, help="first samples only")
    add("--shard", type=engine.part, default=(0, 1),
        help="i/n: every n-th archive, on any machine")  # fmt: skip
    args = parser.parse_args(argv)
    if (args.records if args.inverse else args.trajscene) is None:
        parser.error("wanted --trajscene DIR, or --inverse with --records DIR")
    return args


def archives(path: Path, shard: tuple[int, int] = (0, 1)):
    """Yields (id, clip or why there is none) of every n-th archive at a path from the i-th on."""
    inside = reading.entries(path) if path.is_dir() else []
    parts = [p for p in inside if p.is_dir() or p.name.endswith((".tar.gz", ".tar"))]
    for part in (parts or [path])[shard[0] :: shard[1]]:
        yield from trajscene.samples(part)


def write_back(source: Path, out: Path, limit: int) -> int:
    """Writes training views of records in TrajScene's form; returns how many."""
    reader, count = records.Reader(source, "train"), 0
    for window in reader.windows:
        for view in window.views:
            if limit and count >= limit:
                return count
            values = reader.view(window, view)
            fields = pixel_flow.unpack(values)
            pose = records.poses(values)[0]
            camera = flow_map.Camera(fields["depth0"], values["intrinsics"], pose)
            tracks = flow_map.inverse(fields["flow"].astype(np.float32), camera)
            clip = {
                "video": records.decode(values["video"]),
                "tracks": cameras.to_camera(tracks, pose),
                "valid": fields["flow_valid"],
            }
            trajscene.write(out, f"{window.id}-{view.serial}", clip, window.text)
            count += 1
    return count


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        if args.inverse:
            print(f"{write_back(args.records, args.out, args.limit)} samples in {args.out}")
            return 0
        height, width = (int(x) for x in args.size.lower().split("x"))
        settings = one_camera.Settings(
            (height, width), trajscene.FRAMES, trajscene.FPS, camera_motion=True
        )
        found = archives(args.trajscene, args.shard)
        if args.limit:
            found = (pair for _, pair in zip(range(args.limit), found, strict=False))
        index = one_camera.write(args.out, found, settings, shard=args.shard)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    for skipped in index["skipped"]:
        print(f"skipped {skipped['sequence']}: {skipped['reason']}")
    print(f"{len(index['windows'])} clips in {args.out}")
    return 0 if index["windows"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
