"""Makes embedded scenes in TACO's layout, and a synthetic hand model.

    python data_prep/make_scenes.py --out DIR [--scenes 24] [--test-scenes 16] [--frames 46]

Writes DIR/taco (what prepare_taco.py reads) and DIR/mano. Test scenes have triplets and object
meshes that training scenes do not have. Scenes that are whole are left alone, so that a stopped run
continues.
"""

import argparse
import functools
import multiprocessing
from pathlib import Path

from tqdm import tqdm

from syncmv4d_jax.data import mano, synthetic, synthetic_hand, taco


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scenes", type=int, default=24, help="training scenes")
    parser.add_argument("--test-scenes", type=int, default=0, help="held-out scenes")
    parser.add_argument("--frames", type=int, default=46, help="frames at 30 fps (46: N=13 at 8)")
    parser.add_argument("--size", default="120x160", help="height x width of the videos")
    parser.add_argument("--cameras", choices=("all", "three"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args()


def one(
    spec: synthetic.Spec, *, out: Path, frames: int, size: tuple[int, int], names: tuple[str, ...]
) -> str:
    hands = mano.load_hands(out / "mano")
    synthetic.write_scene(out / "taco", spec, hands, frames=frames, size=size, names=names)
    return spec.sequence_id


def main() -> None:
    args = parse()
    height, width = (int(x) for x in args.size.split("x"))
    synthetic_hand.write(args.out / "mano")
    specs = [
        synthetic.specify(i, seed=args.seed, held_out=held_out)
        for held_out, count in ((False, args.scenes), (True, args.test_scenes))
        for i in range(count)
    ]
    root = args.out / "taco"
    root.mkdir(parents=True, exist_ok=True)
    todo = [
        spec
        for spec in specs
        if not taco.Entry(root, spec.triplet, spec.sequence_id).folder(taco.HANDS).is_dir()
    ]
    names = synthetic.THREE if args.cameras == "three" else tuple(synthetic.RIG)
    work = functools.partial(
        one, out=args.out, frames=args.frames, size=(height, width), names=names
    )
    print(f"{len(specs)} scenes, {len(specs) - len(todo)} done before")
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for _ in tqdm(pool.imap_unordered(work, todo), total=len(todo), unit="scene"):
            pass


if __name__ == "__main__":
    main()
