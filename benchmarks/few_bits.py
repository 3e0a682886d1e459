"""Weights of 8 bits beside float32, at the demo's size and of its trained weights, by scene.

    python benchmarks/few_bits.py --demo out/demo --out out/bits [--features FOLDER]

Samples the held-out scenes of a finished `make demo` as it does (8 steps), with the shipped weights
held in every `config.sample.precision`, evaluates, and prints Markdown (docs/few_steps.md): means,
and what a precision gains over float32, by differences paired by scene over triplets; below zero it
is worse. Noise is the same in every row, so what differs is the rounding alone. benchmarks/
precision.py has the error at full width, of random weights.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import few_steps
import numpy as np

ROWS = {"float32": "", "bfloat16": "bfloat16", "int8": "int8", "float8": "float8"}
FIRST = "float32"


def run(args: argparse.Namespace, row: str) -> None:
    """Samples and evaluates one row, whatever of it is not there."""
    own = args.out / row
    if (own / "eval.json").is_file():
        return
    command = few_steps.of_demo(args, few_steps.CONFIG, own)
    few_steps.judge(args, [*command, f"--config.sample.precision={ROWS[row]}"])


def tables(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """Means and paired gains over float32, in Markdown; evaluations: {row: its eval.json}."""
    rows = {row: one["rows"]["model"] for row, one in evaluations.items()}
    triplets = next(iter(evaluations.values())).get("triplets")
    lines = [*few_steps.means(evaluations), ""]
    lines += [
        "| precision | metric | paired gain over float32 | beyond 2 s.e. |",
        "|---|---|---|---|",
    ]
    for row in rows:
        for metric in few_steps.SHOWN if row != FIRST else ():
            found = few_steps.asked(rows, row, FIRST, metric, triplets)
            if found is None:
                continue
            error = found["se"] or np.nan
            gain = f"{found['value']:.2g} ± {error:.1g} (n = {found['clusters']})"
            beyond = "better" if found["value"] > 2 * error else ""
            beyond = "worse" if found["value"] < -2 * error else beyond or "no"
            lines.append(f"| {row} | {metric} | {gain} | {beyond} |")
    return "\n".join(lines)


def main() -> None:
    args = few_steps.read(few_steps.parser(__doc__))
    for row in ROWS if not args.table else ():
        run(args, row)
    print(tables(few_steps.opened(args.out, ROWS)))


if __name__ == "__main__":
    main()
