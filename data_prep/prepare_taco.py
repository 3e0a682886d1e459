"""TACO (or embedded scenes in its layout, or plain folders) to training records.

    python data_prep/prepare_taco.py --taco DIR --mano DIR --out DIR
    python data_prep/prepare_taco.py --folder DIR --out DIR        # docs/data.md, "Your own data"

Run it again to continue; see DIR/480x704/report.html when it is done.
"""

import argparse
import dataclasses
import logging
import shlex
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data import clips, engine, prepare, reading
from syncmv4d_jax.data.sources import recordings, taco
from syncmv4d_jax.geometry import pseudo_video

DEFAULTS = clips.Settings()


def size(text: str) -> tuple[int, int]:
    height, width = (int(x) for x in text.lower().split("x"))
    return height, width


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--taco", type=disk.local, help="root of TACO")
    origin.add_argument("--folder", type=disk.local, help="root of recordings in the plain layout")
    add(
        "--mano", type=disk.local, help="folder with MANO_LEFT.pkl and MANO_RIGHT.pkl (with --taco)"
    )
    add("--flip-left", action="store_true", help="mirror the left hand's shape directions")
    add("--out", type=disk.local, required=True, help="records go to OUT/<h>x<w>")
    add("--size", type=size, default=DEFAULTS.size, help="height x width, 480x704")
    add("--frames", type=int, default=DEFAULTS.frames)
    add("--fps", type=float, default=DEFAULTS.fps)
    add("--points", type=int, default=DEFAULTS.points)
    add("--variants", type=int, default=1, help="clips of a training sequence")
    add("--clusters", type=int, default=DEFAULTS.clusters, help="groups of cameras: views a sample")
    add("--cameras", choices=("all", "first"), default="all", help="first: one a cluster")
    add(
        "--crop",
        choices=tuple(clips.CROPS),
        default=DEFAULTS.crop,
        help="first: fitted to the first frame, all that a user has; clip: to all frames",
    )
    add(
        "--surfaces",
        choices=clips.SURFACES,
        default=DEFAULTS.surfaces,
        help="whose surfaces are stored, for the truth of any pixel; test: the test split's",
    )
    add("--depth", default="", help="folder of depth files for the flow's background")
    add("--paths", type=names, default=(), help="cameras that move, of the recordings' Paths/")
    add(
        "--representation",
        choices=pseudo_video.REPRESENTATIONS,
        default=DEFAULTS.representation,
        help="of the pseudo video; das_tracking: depth of frame 0 in all frames",
    )
    add("--with", type=names, default=DEFAULTS.controls, dest="more",
        help="points,das,image for controlled videos; flow: where frame 0's pixels go")  # fmt: skip
    add("--cloud", type=int, default=DEFAULTS.cloud, help="points of a cloud (--with points)")
    add("--actions", action="store_true", help="keep the recordings' actions (with --folder)")
    add("--provenance", choices=("real", "sim"), default=DEFAULTS.provenance)
    add("--val-share", "--val", dest="val", type=float, default=DEFAULTS.val, help="of sequences")
    add("--seed", type=int, default=0)
    add("--text", default=DEFAULTS.text, help="prompt with {action}, {tool} and {target}")
    add("--heldout-tools", type=names, default=DEFAULTS.held_out_tools, help="comma separated")
    add("--heldout-actions", type=names, default=DEFAULTS.held_out_actions)
    add("--heldout-triplets", type=disk.local, help="file with one '(action, tool, target)' a line")
    add("--marker-removed", action="store_true", help="only sequences with such videos")
    add("--exclude", type=disk.local, help="file with one id of a sequence to leave out a line")
    add("--jobs", type=int, default=2, help="processes")
    add(
        "--shard", type=engine.part, default=(0, 1), help="i/n: this process's part, on any machine"
    )
    add("--beam", help='options of Apache Beam in its place: --beam="--runner=DirectRunner"')
    add("--limit", type=int, default=0, help="first sequences only")
    args = parser.parse_args(argv)
    if args.taco and not args.mano:
        parser.error("--taco needs --mano: MANO's files come from mano.is.tue.mpg.de")
    if args.actions and not args.folder:
        parser.error("--actions needs --folder: TACO has no actions")
    return args


def choose(sources: list[recordings.Source], args: argparse.Namespace) -> list[recordings.Source]:
    """Leaves out what --exclude names, and with --marker-removed what has no such videos."""
    left_out = set(reading.lines(args.exclude)) if args.exclude else set()
    if unknown := left_out - {source.id for source in sources}:
        raise ValueError(f"{args.exclude}: no such sequences: {sorted(unknown)[:5]}")
    if args.marker_removed and args.taco:
        left_out |= {s.id for s in sources} - set(taco.with_markers_removed(args.taco))
    return [source for source in sources if source.id not in left_out]


def main(argv: list[str]) -> int:
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    triplets = ()
    try:
        if args.heldout_triplets:
            lines = reading.lines(args.heldout_triplets)
            triplets = tuple(taco.parse_triplet(line) for line in lines)
        settings = dataclasses.replace(
            DEFAULTS,
            **{key: getattr(args, key) for key in ("size", "frames", "fps", "points", "variants")},
            **{key: getattr(args, key) for key in ("val", "seed", "text", "cameras", "clusters")},
            representation=args.representation,
            crop=args.crop,
            controls=tuple(x for x in args.more if x not in clips.FIELDS),
            cloud=args.cloud,
            provenance=args.provenance,
            surfaces=args.surfaces,
            fields=tuple(x for x in args.more if x in clips.FIELDS),
            depth=args.depth,
            paths=args.paths,
            held_out_tools=args.heldout_tools,
            held_out_actions=args.heldout_actions,
            held_out_triplets=triplets,
        )
        if args.folder:
            sources = recordings.folder_sources(args.folder)
        else:
            sources = recordings.taco_sources(args.taco, args.mano, flip_left=args.flip_left)
        sources = choose(sources, args)[: args.limit or None]
        if args.actions:
            told = recordings.actions_of(sources)._asdict()
            own = {f"action_{key}": values for key, values in told.items()}
            settings = dataclasses.replace(settings, **own)
        summary = prepare.run(
            sources, args.out, settings, jobs=args.jobs, shard=args.shard,
            beam=None if args.beam is None else shlex.split(args.beam),
        )  # fmt: skip
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(
        f"{summary['windows']} clips of {summary['sequences']} sequences, {summary['splits']}; "
        f"{len(summary['skipped'])} sequences and {len(summary['skipped_views'])} views skipped; "
        f"{summary['seconds']:.0f} s"
        + (f"; left out: {', '.join(summary['left_out'])}" if summary["left_out"] else "")
    )
    return 0 if summary["windows"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
