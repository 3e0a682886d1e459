"""Makes embedded scenes in TACO's layout, and a synthetic hand model.

    python data_prep/make_scenes.py --out DIR [--scenes 24] [--test-scenes 16] [--cameras 6]

Writes DIR/taco and DIR/mano (what prepare_taco.py reads), and DIR/heldout_triplets.txt. Test scenes
have triplets and object meshes that training scenes do not have. `--courses K` makes K scenes of
each first frame and prompt, which go on differently. Scenes that are whole are left alone, so that
a stopped run continues; a folder made with other settings is refused.
"""

import argparse
import functools
import json
import multiprocessing
import sys

from tqdm import tqdm

from syncmv4d_jax import disk, recipe
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, taco


def size(text: str) -> tuple[int, int]:
    height, width = (int(x) for x in text.lower().split("x"))
    if min(height, width) < 16 or height % 2 or width % 2:
        raise argparse.ArgumentTypeError(f"wanted even numbers of at least 16, got {text}")
    return height, width


def count(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"wanted at least 0, got {text}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := sorted(set(found) - set(scene.PATHS)):
        raise argparse.ArgumentTypeError(f"wanted some of {sorted(scene.PATHS)}, got {unknown}")
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=disk.local, required=True, help="folder to write")
    add("--scenes", type=count, default=24, help="training scenes")
    add("--test-scenes", type=count, default=0, help="held-out scenes")
    add("--frames", type=count, default=46, help="frames at 30 fps (46: N=13 at 8 fps)")
    add("--size", type=size, default=(120, 160), help="height x width of the videos, 120x160")
    add(
        "--cameras",
        choices=("all", "three", "1", "3", "6", "9"),
        default="all",
        help="all twelve, three that are the same in all scenes, or so many drawn for each scene",
    )
    add("--courses", type=count, default=0, help="scenes of one first frame and text; 0: one each")
    add(
        "--drawn",
        type=float,
        default=taco.FPS,
        help="pictures a second to draw; 8 for 8 fps",
    )
    add("--paths", type=names, default=(), help=f"cameras that move: {','.join(scene.PATHS)}")
    add("--seed", type=count, default=0)
    add("--jobs", type=count, default=2, help="processes")
    args = parser.parse_args(argv)
    if args.frames < 1 or args.jobs < 1:
        parser.error("--frames and --jobs: wanted at least 1")
    if not 0 < args.drawn <= taco.FPS:
        parser.error(f"--drawn: wanted up to {taco.FPS} pictures a second")
    return args


def one(spec: scene.Spec, *, args: argparse.Namespace) -> str:
    hands = mano.load_hands(args.out / "mano")
    fixed = {"all": tuple(scene.RIG), "three": scene.THREE}
    names = fixed.get(args.cameras) or scene.draw_cameras(spec, int(args.cameras), seed=args.seed)
    scene.write_scene(
        args.out / "taco",
        spec,
        hands,
        frames=args.frames,
        size=args.size,
        names=names,
        drawn=args.drawn,
        moving=args.paths,
    )
    return spec.sequence_id


def claim(args: argparse.Namespace) -> None:
    """Notes the settings in the folder.

    Raises:
      ValueError: it holds scenes of other settings or of another version of this program.
    """
    path = args.out / "scenes.json"
    wanted = {
        "version": scene.VERSION,
        "seed": args.seed,
        "frames": args.frames,
        "size": list(args.size),
        "cameras": args.cameras,
        "courses": args.courses,
        "drawn": args.drawn,
    }
    if args.paths:
        wanted["paths"] = list(args.paths)
    if path.is_file() or (args.out / "taco" / taco.HANDS).is_dir():
        try:
            there = json.loads(path.read_text())
        except (OSError, ValueError):
            there = None
        if there != wanted:
            differ = "; ".join(recipe.differences(there or {}, wanted))
            raise ValueError(
                f"{args.out} holds scenes made with other settings ({differ}); remove the folder "
                "or choose another --out"
            )
    with disk.whole(path) as partial:
        partial.write_text(json.dumps(wanted))


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        with recipe.Lock(args.out, "scenes"):
            claim(args)
            write(args)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    return 0


def write(args: argparse.Namespace) -> None:
    """Writes the scenes that are not there."""
    hand.write(args.out / "mano")
    held_out = [taco.triplet_name(triplet) for triplet in scene.HELD_OUT]
    (args.out / "heldout_triplets.txt").write_text("\n".join(held_out) + "\n")
    specs = [
        scene.specify(i, seed=args.seed, held_out=held_out, course=course)
        for held_out, number in ((False, args.scenes), (True, args.test_scenes))
        for i in range(number)
        for course in (range(args.courses) if args.courses else (None,))
    ]
    root = args.out / "taco"
    root.mkdir(exist_ok=True)
    todo = [
        spec
        for spec in specs
        if not taco.Entry(root, spec.triplet, spec.sequence_id).folder(taco.HANDS).is_dir()
    ]
    work = functools.partial(one, args=args)
    print(f"{len(specs)} scenes, {len(specs) - len(todo)} done before")
    if todo:
        with multiprocessing.get_context("spawn").Pool(min(args.jobs, len(todo))) as pool:
            for _ in tqdm(pool.imap_unordered(work, todo), total=len(todo), unit="scene"):
                pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
