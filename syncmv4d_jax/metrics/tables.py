"""The evaluation as Markdown and LaTeX tables in the paper's form, the paper's rows beside ours.

Under each table of the paper stands a line that says of every column whether our number may be
compared with the published one, and a footnote that says why not.
"""

from collections.abc import Mapping
from typing import Any

from syncmv4d_jax.metrics import definitions, hoi, paper

ARROWS = {"lower": "↓", "higher": "↑"}


def number(value: float | None) -> str:
    """Three significant digits, "-" for None."""
    if value is None:
        return "-"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def cell(entry: Mapping[str, Any] | None) -> str:
    """Mean and standard error."""
    if not entry or entry["value"] is None:
        return "-"
    return number(entry["value"]) + (f" ± {number(entry['se'])}" if entry["se"] is not None else "")


def heading(metric: str) -> str:
    """Title, unit, and which way is better."""
    if metric not in definitions.DEFINITIONS:
        return paper.TITLES[metric]
    d = definitions.DEFINITIONS[metric]
    arrow = f"→ {d.better:g}" if isinstance(d.better, float | int) else ARROWS[d.better]
    return f"{d.title}{f' [{d.unit}]' if d.unit else ''} {arrow}"


def _grid(
    evaluation: Mapping[str, Any], metrics: tuple[str, ...], only: str = ""
) -> list[list[str]]:
    """Heading and our rows (or only one); rows without any value are left out."""
    table = [["", *map(heading, metrics)]]
    for row, cells in evaluation["rows"].items():
        found = [cell(cells.get(m)) for m in metrics]
        if only in ("", row) and any(x != "-" for x in found):
            table.append([row, *found])
    return table


def _tables(evaluation: Mapping[str, Any]) -> tuple[paper.Table, ...]:
    """The published tables that an evaluation has columns of; none of metrics of other kinds."""
    kinds = {d.kind for m, d in definitions.DEFINITIONS.items()
             if any(m in cells for cells in evaluation["rows"].values())}  # fmt: skip
    if kinds and not kinds & {"tracks", "video", "control"}:
        return ()
    controlled = any("psnr_hoi" in cells for cells in evaluation["rows"].values())
    return hoi.TABLES if controlled else paper.TABLES


def _published(table: paper.Table) -> list[list[str]]:
    return [
        [name, *("-" if x is None else f"{x:g}" for x in values)]
        for name, values in table.rows.items()
    ]


def _notes(evaluation: Mapping[str, Any], table: paper.Table) -> tuple[list[str], str]:
    """The line "comparable" of a table, and its footnotes."""
    letters: dict[str, str] = {}
    line = ["comparable"]
    for metric in table.columns:
        verdict, why = paper.comparable(evaluation, metric), paper.UNKNOWN.get(metric, paper.UNSAID)
        if why:
            letter = letters.setdefault(why, chr(ord("a") + len(letters)))
            verdict += f" ({letter})"
        line.append(verdict)
    return line, "; ".join(f"({letter}) {why}" for why, letter in letters.items())


def _markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def markdown(evaluation: Mapping[str, Any]) -> str:
    """Returns the paper's tables, all other metrics and the checks of an `eval.json`."""
    count = f"{evaluation['scenes']} scenes of {evaluation['clusters']} triplets"
    parts = [f"{count}, mean ± standard error over triplets."]
    parts.append(f"Rows marked (paper) are published values. {paper.data(evaluation)}")
    for table in _tables(evaluation):
        line, notes = _notes(evaluation, table)
        rows = [*_grid(evaluation, table.columns, table.ours), *_published(table), line]
        parts += [f"**{table.title}**", _markdown(rows), *([notes + "."] if notes else [])]
    in_paper = {m for table in _tables(evaluation) for m in table.columns}
    for kind in sorted({d.kind for d in definitions.DEFINITIONS.values()}):
        metrics = tuple(m for m, d in definitions.DEFINITIONS.items()
                        if d.kind == kind and m not in in_paper)  # fmt: skip
        rows = _grid(evaluation, metrics)
        if len(rows) > 1:
            parts += [f"**Other metrics: {kind}**", _markdown(rows)]
    checks = [["check", "wanted", "value", "n", "triplets", "passed"]]
    for c in evaluation["checks"]:
        passed = "yes" if c["passed"] else f"no ({c['why_not']})"
        checks.append([c["name"], c["wanted"], cell(c), str(c["n"]), str(c["clusters"]), passed])
    return "\n\n".join([*parts, "**Checks**", _markdown(checks)]) + "\n"


ESCAPES = {
    "%": r"\%",
    "_": r"\_",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "m^2": "m$^2$",
    "frame^2": "frame$^2$",
    "frame^3": "frame$^3$",
}


def latex(evaluation: Mapping[str, Any]) -> str:
    """Returns the paper's tables with our rows, for booktabs."""

    def line(cells):
        text = " & ".join(cells)
        for plain, code in ESCAPES.items():
            text = text.replace(plain, code)
        return text + r" \\"

    found = [f"% Rows marked (paper) are published values. {paper.data(evaluation)}"]
    for table in _tables(evaluation):
        head, *ours = _grid(evaluation, table.columns, table.ours)
        verdicts, notes = _notes(evaluation, table)
        found += [f"% {table.title}", *([f"% {notes}"] if notes else [])]
        found += [r"\begin{tabular}{l" + "r" * len(table.columns) + "}", r"\toprule", line(head)]
        found += [r"\midrule", *map(line, ours)] if ours else []
        found += [r"\midrule", *map(line, _published(table)), r"\midrule", line(verdicts)]
        found += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(found)
