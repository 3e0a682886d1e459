"""A folder of runs as pages: their list, a page and a file of tracks of each sample."""

import html
import json
import tempfile
import urllib.parse
from pathlib import Path

from syncmv4d_jax.results import curves, export, samples
from syncmv4d_jax.results.web import pages, report

DEPTH = 3  # folders below the root in which runs are looked for
SHOWN = ("mv_rpe", "error_mm", "psnr_moving")


def runs(root: str | Path) -> list[Path]:
    """Returns the runs in `root` and up to DEPTH folders below: samples, a report or metrics."""
    found, level = [], [Path(root).resolve()]
    top = level[0]
    for _ in range(DEPTH + 1):
        below = []
        for folder in level:
            names = ("report.html", "eval.json", "metrics.jsonl")
            if any((folder / n).is_file() for n in names) or samples.find(folder / "samples"):
                found.append(folder)
                continue
            below += [f for f in sorted(folder.iterdir()) if f.is_dir() and f.name[0] != "."]
        level = [f for f in below if f.resolve().is_relative_to(top)]
    return sorted(found)


def listing(root: Path) -> str:
    """Returns the first page: every run with its report, headline numbers and samples."""
    sections = [_section(root, run) for run in runs(root)]
    nothing = "<p>No run here: no report.html, no metrics.jsonl, no samples.</p>"
    return pages.join(
        "listing.html", ROOT=html.escape(root.name), RUNS="\n".join(sections) or nothing
    )


def _section(root: Path, run: Path) -> str:
    place = run.relative_to(root).as_posix()
    base = "/" + urllib.parse.quote(place + "/").removeprefix("./")
    parts = [f"<section><h2>{html.escape(run.name if place == '.' else place)}</h2>"]
    text = headline(run)
    if text:
        parts.append(f'<p class="soft">{html.escape(text)}</p>')
    links = [f'<a href="{base}{name}">{words}</a>' for name, words in
             (("report.html", "report"), ("eval.md", "tables"), ("eval.json", "numbers"))
             if (run / name).is_file()]  # fmt: skip
    parts.append("<p>" + " · ".join(links) + "</p>" if links else "")
    found = samples.find(run / "samples")
    if found:
        lines = []
        for name, folder in found.items():
            url = f"{base}samples/{urllib.parse.quote(name)}"
            line = f'<li><a href="{url}/">{html.escape(name)}</a>'
            if (folder / "tracks.npz").is_file():
                line += f' <a class="soft" href="{url}.glb" download>glb</a>'
            lines.append(line + "</li>")
        parts.append(f"<details open><summary>{len(found)} samples</summary><ul>")
        parts += [*lines, "</ul></details>"]
    return "\n".join([*parts, "</section>"])


def headline(run: Path) -> str:
    """Returns a run's numbers in one line: steps and loss, scenes, checks and SHOWN."""
    parts = []
    rows = curves.read(run / "metrics.jsonl")
    if rows:
        parts.append(f"{rows[-1]['step']} steps, loss {rows[-1].get('loss', '?')}")
    try:
        evaluation = json.loads((run / "eval.json").read_text())
        parts.append(f"{evaluation['scenes']} scenes")
        passed = sum(c["passed"] for c in evaluation["checks"])
        parts.append(f"{passed} of {len(evaluation['checks'])} checks passed")
        for m in SHOWN:
            value = evaluation["rows"]["model"].get(m, {}).get("value")
            if value is not None:
                d = evaluation["definitions"][m]
                parts.append(f"{d['title']} {value:.3g} {d['unit']}".strip())
    except (OSError, ValueError, KeyError):
        pass  # no evaluation, or a half-written one: the list stays
    return " · ".join(parts)


def inside(root: Path, text: str) -> Path | None:
    """Returns the path below root that an address names, None where it is outside of root (links
    are followed first)."""
    if "\0" in text or "\\" in text:
        return None
    parts = [p for p in text.split("/") if p not in ("", ".")]
    if any(p.startswith(".") for p in parts):  # "..", and hidden files
        return None
    path = root.joinpath(*parts).resolve()
    return path if path.is_relative_to(root) else None


def sample_page(folder: Path) -> str:
    """Returns the page of one sample, without a ground truth."""
    sample = samples.read(folder)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "page.html"
        text = json.dumps(sample["meta"], indent=1)
        report.write(path, [sample | {"id": folder.name}], None, [], text, "sample " + folder.name)
        return path.read_text(encoding="utf-8")


def sample_glb(folder: Path) -> bytes:
    """Returns a sample's tracks as a glTF file."""
    with tempfile.TemporaryDirectory() as place:
        return export.write("glb", folder, Path(place) / "tracks.glb").read_bytes()
