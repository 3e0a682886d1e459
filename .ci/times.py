"""Prints what the steps of .ci/run took, beside their budgets (wall minutes on two calm cores)."""

import sys
from pathlib import Path


def table(lines: list[str]) -> str:
    """Lines "name<tab>budget in minutes<tab>seconds" as a table with a sum."""
    rows = [(name, float(budget), int(seconds) / 60) for name, budget, seconds in
            (line.split("\t") for line in lines)]  # fmt: skip
    rows.append(("together", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    head = f"{'step':16} {'minutes':>8} {'budget':>8}"
    body = [
        f"{name:16} {used:8.1f} {budget:8.0f}{'  over' * (used > budget)}"
        for name, budget, used in rows
    ]
    return "\n".join([head, *body])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text().splitlines()))
