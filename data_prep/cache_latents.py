"""Caches VAE latents of all views and umT5 features of all texts of a folder of records.

    python data_prep/cache_latents.py --data RECORDS --weights WEIGHTS --out CACHE

Run it again to continue. On several hosts start it everywhere with --shard i/n; the last to finish
completes the cache. With --beam the workers of a pipeline encode the videos. Then train with
--config.data.cache=CACHE.
"""

import argparse
import logging
import shlex
import sys

from syncmv4d_jax import disk
from syncmv4d_jax.data import cache, drawn_pairs, engine
from syncmv4d_jax.metrics.networks.features import appearance
from syncmv4d_jax.weights import encoders


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=disk.local, required=True, help="records of prepare_taco.py")
    parser.add_argument(
        "--weights", type=disk.local, required=True, help="converted weights: vae, umt5"
    )
    parser.add_argument("--out", type=disk.local, required=True, help="folder of the cache")
    parser.add_argument("--size", help="height x width, where the records have several")
    parser.add_argument(
        "--shard", type=engine.part, default=(0, 1), help="i/n: this process's part, on any machine"
    )
    parser.add_argument("--beam", help='options of Apache Beam: --beam="--runner=DirectRunner"')
    parser.add_argument("--text-length", type=int, default=512, help="longest text, tokens")
    parser.add_argument("--texts-only", action="store_true", help="leave the latents out")
    parser.add_argument(
        "--appearance", type=disk.local,
        help="folder with DINO's published weights: features of first frames, for configs/strag.py",
    )  # fmt: skip
    parser.add_argument(
        "--flow", type=float, metavar="GAIN",
        help="latents of flow and depth too, of records with flow; GAIN as config.task.gain",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=int, metavar="COUNT",
        help="so many pairs of view synthesis of each clip, drawn and encoded once: "
        "config.data.pairs=True of configs/vism.py then reads these (of records with flow)",
    )  # fmt: skip
    parser.add_argument(
        "--sources",
        type=int,
        default=3,
        help="views that a pair's points are from, at most, as config.task.sources",
    )
    parser.add_argument(
        "--same-view", type=float, default=0.25, help="share of pairs of one and the same view"
    )
    parser.add_argument(
        "--fill", action="store_true",
        help="holes of pairs have the colours around them, as config.task.fill",
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Parses the flags and caches; returns the exit status."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        looks = None
        if args.appearance:
            looks = cache.Appearance(*appearance.encoder(str(args.appearance)))
        drawn = None
        if args.pairs is not None:
            drawn = drawn_pairs.Pairs(args.pairs, args.same_view, args.sources, args.fill)
        folder = cache.run(
            args.data,
            args.out,
            encode_video=None if args.texts_only else encoders.VideoEncoder(args.weights),
            encode_text=encoders.text_encoder(args.weights, max_length=args.text_length),
            weights_hash=encoders.weights_hash(args.weights),
            appearance=looks,
            gain=args.flow,
            pairs=drawn,
            size=tuple(int(x) for x in args.size.split("x")) if args.size else None,
            shard_index=args.shard[0],
            shard_count=args.shard[1],
            beam=None if args.beam is None else shlex.split(args.beam),
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"cache_latents: {type(error).__name__}: {error}")
    whole = (folder / "cache.json").is_file()
    print(folder if whole else f"{folder}: this part is done; the last part completes the cache")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
