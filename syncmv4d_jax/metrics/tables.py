"""The evaluation as Markdown and LaTeX tables in the paper's form, the paper's rows beside ours."""

from collections.abc import Mapping
from typing import Any

from syncmv4d_jax.metrics import definitions

# SyncMV4D, Table 2: rpe, pi, chamfer, smoothness, mv_rpe, mv_pi.
PAPER_COLUMNS = ("rpe", "pi", "chamfer", "smoothness", "mv_rpe", "mv_pi")
PAPER_ROWS = {
    "SyncMV4D (paper)": (15.2, 98.2, 0.0103, 0.0152, 32.7, 39.1),
    "GeometryCrafter (paper)": (17.0, 87.3, 0.0115, 0.0222, 67.3, 4.16),
    "Geo4D (paper)": (21.7, 71.5, 0.0134, 0.0228, 81.1, 1.56),
}
NOT_COMPARABLE = (
    "Rows marked (paper) are not comparable with the others: another data set, split and size, and "
    "the paper publishes no formulas (Chamfer, smoothness, the multi-view frame are our reading)."
)
OTHERS = tuple(m for m in definitions.DEFINITIONS if m not in PAPER_COLUMNS)
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
    d = definitions.DEFINITIONS[metric]
    return f"{d.title}{f' [{d.unit}]' if d.unit else ''} {ARROWS.get(d.better, '→ 1')}"


def _grid(evaluation: Mapping[str, Any], metrics: tuple[str, ...]) -> list[list[str]]:
    table = [["", *map(heading, metrics)]]
    for row, cells in evaluation["rows"].items():
        found = [cell(cells.get(m)) for m in metrics]
        if any(x != "-" for x in found):
            table.append([row, *found])
    if metrics == PAPER_COLUMNS:
        table += [[name, *map(number, values)] for name, values in PAPER_ROWS.items()]
    return table


def markdown(evaluation: Mapping[str, Any]) -> str:
    """Returns the tables and the checks of an `eval.json`."""
    videos = tuple(m for m in OTHERS if definitions.DEFINITIONS[m].kind == "video")
    tracks = tuple(m for m in OTHERS if m not in videos)
    parts = [f"{evaluation['scenes']} scenes, mean ± standard error over scenes."]
    for metrics in (PAPER_COLUMNS, tracks, videos):
        head, *body = _grid(evaluation, metrics)
        lines = [head, ["---"] * len(head), *body]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    parts.insert(2, NOT_COMPARABLE)
    lines = ["| check | wanted | value | n | passed |", "|---|---|---|---|---|"]
    for c in evaluation["checks"]:
        passed = "yes" if c["passed"] else f"no ({c['why_not']})"
        lines.append(f"| {c['name']} | {c['wanted']} | {cell(c)} | {c['n']} | {passed} |")
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(evaluation: Mapping[str, Any]) -> str:
    """Returns the paper's Table 2 with our rows, for booktabs."""
    head, *body = _grid(evaluation, PAPER_COLUMNS)
    escapes = {"%": r"\%", "_": r"\_", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$"}

    def line(cells):
        text = " & ".join(cells)
        for plain, code in escapes.items():
            text = text.replace(plain, code)
        return text.replace("m^2", "m$^2$").replace("frame^2", "frame$^2$") + r" \\"

    rules = [r"\begin{tabular}{l" + "r" * len(PAPER_COLUMNS) + "}", r"\toprule", line(head)]
    ours = [line(row) for row in body if row[0] not in PAPER_ROWS]
    theirs = [line(row) for row in body if row[0] in PAPER_ROWS]
    lines = [f"% {NOT_COMPARABLE}", *rules, r"\midrule", *ours, r"\midrule", *theirs]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"
