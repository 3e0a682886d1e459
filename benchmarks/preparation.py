"""Preparation by Apache Beam against the loop that it stands in for: throughput per core.

    pip install 'syncmv4d_jax[beam]'
    python benchmarks/preparation.py --folder EPISODES --times 2 --rounds 2

EPISODES: recordings in the plain layout (data_prep/import_metaworld.py makes some); each is taken
`--times` times under names of its own. Both prepare the same recordings with the same function, in
turn, with one worker: the loop of `engine.pool`, and Beam's DirectRunner in memory, in the process
of its own that `engine.beam` gives it. What counts are processor seconds, those of that process
among them. Prints `name ours peer ratio`, ours Beam's, the best round of each: a sequence beyond
the first, and all of a run on the first alone, in which Beam's start is. The bytes must be equal.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from syncmv4d_jax.data import clips, prepare
from syncmv4d_jax.data.sources import recordings

SETTINGS = clips.Settings(size=(64, 96), frames=13, points=256, clusters=4, val=0.0)
BEAM = ["--runner=DirectRunner", "--direct_num_workers=1"]


def many(folder: Path, root: Path, times: int) -> list[recordings.Source]:
    """Sources of a root in which every recording is there `times` times, by links."""
    for path in sorted(p for p in folder.iterdir() if (p / "recording.json").is_file()):
        for i in range(times):
            (root / f"{path.name}_{i}").symlink_to(path.resolve())
    return recordings.folder_sources(root)


def processor() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(x.ru_utime + x.ru_stime for x in both)


def files(out: Path) -> dict[Path, bytes]:
    """{place: bytes} of all records."""
    return {p.relative_to(out): p.read_bytes() for p in out.rglob("*.array_record")}


def main(argv: list[str]) -> int:
    """Prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="recordings in the plain layout")
    parser.add_argument("--times", type=int, default=2, help="each recording is taken so often")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(argv)
    best: dict[tuple[str, bool], float] = {}
    made: dict[str, dict[Path, bytes]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "in").mkdir()
        sources = many(args.folder, root / "in", args.times)
        for number in range(args.rounds):
            for name, options in (("pool", None), ("beam", BEAM)):
                for one in (True, False):
                    out, start = root / f"{name}{number}{one}", processor()
                    some = sources[:1] if one else sources
                    summary = prepare.run(some, out, SETTINGS, beam=options)
                    took = processor() - start
                    if summary["skipped"]:
                        sys.exit(f"preparation: skipped {summary['skipped']}")
                    best[name, one] = min(best.get((name, one), took), took)
                    made[name] = files(out)
                    print(
                        f"# round {number}, {name}, {len(some)} sequences: {took:.2f} s", flush=True
                    )
    if made["pool"] != made["beam"]:
        sys.exit("preparation: the two made different bytes")
    each = {n: (best[n, False] - best[n, True]) / (len(sources) - 1) for n in ("beam", "pool")}
    first = {n: best[n, True] for n in ("beam", "pool")}
    for title, x in (("prepare_by_beam_s", each), ("prepare_first_by_beam_s", first)):
        print(f"{title} {x['beam']:.4g} {x['pool']:.4g} {x['pool'] / x['beam']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
