"""Preparation by Apache Beam against the loop that it stands in for: throughput per core.

    pip install 'syncmv4d_jax[beam]'
    python benchmarks/preparation.py --folder EPISODES --times 2 --rounds 2

EPISODES: recordings in the plain layout (data_prep/import_metaworld.py makes some); each is taken
`--times` times under names of its own. Both prepare the same recordings with the same function, in
turn, in one process with one worker: the loop of `engine.pool`, and Beam's DirectRunner in memory.
Prints `name ours peer ratio`, processor seconds a sequence of the best round of each, ours Beam's;
Beam is imported before the clock runs. The bytes of both must be equal.
"""

import argparse
import sys
import tempfile
import time
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
    import apache_beam  # noqa: F401  # its import is paid once, not a sequence

    best, made = {"pool": float("inf"), "beam": float("inf")}, {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "in").mkdir()
        sources = many(args.folder, root / "in", args.times)
        for number in range(args.rounds):
            for name, options in (("pool", None), ("beam", BEAM)):
                out, start = root / f"{name}{number}", time.process_time()
                summary = prepare.run(sources, out, SETTINGS, beam=options)
                took = (time.process_time() - start) / len(sources)
                if summary["skipped"]:
                    sys.exit(f"preparation: skipped {summary['skipped']}")
                best[name], made[name] = min(best[name], took), files(out)
                print(f"# round {number}, {name}: {took:.3f} processor s a sequence", flush=True)
    if made["pool"] != made["beam"]:
        sys.exit("preparation: the two made different bytes")
    ratio = best["pool"] / best["beam"]
    print(f"# {len(sources)} sequences, equal bytes")
    print(f"prepare_by_beam_s {best['beam']:.4g} {best['pool']:.4g} {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
