"""Turns a LeRobot data set (2.1 or 3.0) into records: videos of named views, text, actions.

    python data_prep/import_lerobot.py --lerobot DIR --out DIR --views head,left,right \
        --cameras head=observation.images.top,left=observation.images.cam_left_wrist --every 2

Run it again to continue; see DIR/480x704/report.html when it is done, and docs/robots.md.
"""

import argparse
import logging
import shlex
import sys

from prepare_taco import names, size

from syncmv4d_jax import disk
from syncmv4d_jax.data import engine, episodes, prepare


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Reads "view=camera,..."."""
    found = [part.partition("=") for part in names(text)]
    if any(not view or not camera for view, _, camera in found):
        raise argparse.ArgumentTypeError(f"wanted view=camera,..., got {text!r}")
    return tuple((view, camera) for view, _, camera in found)


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--lerobot", type=disk.local, required=True, help="folder with meta/info.json")
    add("--out", type=disk.local, required=True, help="records go to OUT/<h>x<w>")
    add("--views", type=names, required=True, help="names of the views, e.g. head,left,right")
    add("--cameras", type=pairs, default=(), help="view=camera of views that are called otherwise")
    add("--depth", type=pairs, default=(), help="view=camera: depth of the view's first frame")
    add("--actions", default="", help="feature to keep as actions, e.g. action")
    add("--size", type=size, default=(480, 704), help="height x width, 480x704")
    add("--frames", type=int, default=49)
    add("--fps", type=float, default=8.0)
    add("--every", type=float, default=0.0, help="seconds from a clip to the next, 0: one each")
    add("--least", type=int, default=1, help="views that an episode must have")
    add("--val-share", dest="val", type=float, default=0.1, help="of the episodes")
    add("--test-share", dest="test", type=float, default=0.1, help="of the episodes")
    add("--heldout-tasks", type=disk.local, help="file with the text of a task to test on a line")
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=2, help="processes")
    add(
        "--shard", type=engine.part, default=(0, 1), help="i/n: this process's part, on any machine"
    )
    add("--beam", help='options of Apache Beam in its place: --beam="--runner=DirectRunner"')
    add("--limit", type=int, default=0, help="first episodes only")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Parses the flags and prepares; returns the exit status."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    own = ("views", "cameras", "depth", "size", "frames", "fps", "every", "least", "val", "test")
    try:
        text = args.heldout_tasks.read_text(encoding="utf-8") if args.heldout_tasks else ""
        settings = episodes.Settings(
            **{key: getattr(args, key) for key in own},
            held_out=tuple(line.strip() for line in text.splitlines() if line.strip()),
            seed=args.seed,
        )
        if args.actions:
            settings = episodes.with_actions(settings, args.lerobot, args.actions)
        episodes.check(settings, args.lerobot)
        found = episodes.sources(args.lerobot)[: args.limit or None]
        work = episodes.prepare_episode
        summary = prepare.run(
            found, args.out, settings, jobs=args.jobs, work=work, shard=args.shard,
            beam=None if args.beam is None else shlex.split(args.beam),
        )  # fmt: skip
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(
        f"{summary['windows']} clips of {summary['sequences']} episodes, {summary['splits']}; "
        f"{len(summary['skipped'])} episodes and {len(summary['skipped_views'])} views skipped; "
        f"{summary['seconds']:.0f} s"
    )
    return 0 if summary["windows"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
