"""SyncMV4D from one image against true reference views and against plain points.

    for references in given drawn points; do
        python -m syncmv4d_jax.main --config=configs/taco.py --workdir=OUT/$references ... \
            --config.mode=sample --config.sample.references=$references
        python -m syncmv4d_jax.main --config=configs/taco.py --workdir=OUT/$references ... \
            --config.mode=evaluate
    done
    python benchmarks/one_image.py --out OUT

of the same weights (`config.weights`, or a checkpoint folder each) and records with depth (`--with
flow`); "drawn" wants `config.sample.synthesis`. Prints the bars: MV RPE below 1.5 of that with true
references, PSNR of the moving region at most 1.5 dB below, both better than with plain points by 2
standard errors over triplets, paired by scene; exits with 0 where all are met.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from syncmv4d_jax import recipe
from syncmv4d_jax.metrics import summary, tables

RPE_SHARE, PSNR_DB = 1.5, 1.5  # docs/more4d.md
RUNS = {"model": "drawn", "true": "given", "points": "points"}  # row -> its folder
APART = ("samples",)  # of an evaluation's recipe


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="has given, drawn and points")
    return parser.parse_args(argv)


def read(out: Path) -> dict[str, dict[str, Any]]:
    """{row: its eval.json}.

    Raises:
      FileNotFoundError: a run that was not evaluated.
      ValueError: runs of other records, or of other scenes.
    """
    found = {}
    for row, name in RUNS.items():
        path = out / name / "eval.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: wanted an evaluation with references={name}")
        found[row] = json.loads(path.read_text())
    for row, evaluation in found.items():
        kept = [{k: x for k, x in e["recipe"].items() if k not in APART}
                for e in (found["true"], evaluation)]  # fmt: skip
        differ = recipe.differences(*kept)
        if differ or evaluation["triplets"] != found["true"]["triplets"]:
            raise ValueError(
                f"{out / RUNS[row]}: was evaluated on other scenes than {out / RUNS['true']} "
                f"({'; '.join(differ) or 'another split or count'})"
            )
    return found


def checks(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The bars of `read`'s runs, as `summary.checks` has them."""
    table = {row: evaluation["rows"]["model"] for row, evaluation in found.items()}
    clusters = found["true"]["triplets"]
    return [
        summary.below(table, "true", RPE_SHARE, "mv_rpe", clusters),
        summary.within(table, "true", PSNR_DB, "psnr_moving", clusters),
        summary.beats(table, "model", ("points",), "mv_rpe", clusters),
        summary.beats(table, "model", ("points",), "psnr_moving", clusters),
    ]


def main(argv: list[str]) -> int:
    """Prints rows and bars; returns 0 where all are met."""
    args = parse(argv)
    try:
        found = read(args.out)
    except (OSError, ValueError) as error:
        sys.exit(f"one_image: {error}")
    for row, evaluation in found.items():
        cells = evaluation["rows"]["model"]
        values = (f"{m} {tables.cell(cells.get(m))}" for m in ("mv_rpe", "psnr_moving"))
        print(f"{row:8} {', '.join(values)}")
    made = checks(found)
    for check in made:
        told = "met" if check["passed"] else check["why_not"]
        print(f"{check['name']}: {tables.cell(check)} ({check['wanted']}): {told}")
    return 0 if all(check["passed"] for check in made) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
