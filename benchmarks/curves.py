"""Losses of several runs over training steps as a small PNG."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("#888888", "#1144aa", "#118833", "#cc7700", "#cc2222", "#55aadd", "#773399", "#66aa22",
           "#222222")  # fmt: skip
KEYS = ("loss_video", "loss_motion")
WINDOW = 15  # logged values that are averaged
SIZE = (860, 340)


def draw(logs: Mapping[str, Path], out: Path) -> None:
    """Draws video and motion losses, running means between 0 and 1, one panel each.

    Args:
      logs: title -> metrics.jsonl; the stage that all runs share (`video`) is left out, and a run
        with fewer values than a mean takes.
      out: the PNG.
    """
    runs = {title: found for title, log in logs.items() if (found := _read(log))}
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    for panel, key in enumerate(KEYS):
        found = {title: rows.get(key) for title, rows in runs.items()}
        _panel(pen, (40 + 420 * panel, 30, 420 + 420 * panel, 250), key, found)
    for index, title in enumerate(runs):
        x, y = 40 + 270 * (index % 3), 278 + 18 * (index // 3)
        pen.line([x, y + 6, x + 20, y + 6], fill=COLOURS[index], width=3)
        pen.text((x + 26, y), title, fill="#222222")
    image.save(out, optimize=True)


def _read(log: Path) -> dict[str, np.ndarray]:
    """{key: [2, logged] steps and running means}."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found = {}
    for key in KEYS:
        pairs = [(r["step"], r[key]) for r in rows if key in r and r["stage"] != "video"]
        if len(pairs) > WINDOW:
            steps, values = np.array(pairs, float).T
            smooth = np.convolve(values, np.ones(WINDOW) / WINDOW, mode="valid")
            found[key] = np.stack([steps[WINDOW // 2 :][: len(smooth)], smooth])
    return found


def _panel(pen, box: tuple[int, ...], key: str, found: dict[str, np.ndarray | None]) -> None:
    left, top, right, bottom = box
    given = [xs for xs in found.values() if xs is not None]
    first, last = min(xs[0, 0] for xs in given), max(xs[0, -1] for xs in given)

    def place(step, value):
        across = left + (right - left) * (step - first) / max(last - first, 1)
        return across, bottom - (bottom - top) * min(value, 1.0)

    pen.text((left, 8), key.replace("loss_", "loss of the "), fill="#222222")
    for mark in np.arange(0, 1.01, 0.2):
        pen.line([place(first, mark), place(last, mark)], fill="#dddddd")
        pen.text((left - 26, place(first, mark)[1] - 6), f"{mark:.1f}", fill="#444444")
    for mark in np.linspace(first, last, 4):
        pen.text((place(mark, 0)[0] - 12, bottom + 4), f"{mark:.0f}", fill="#444444")
    for colour, xs in zip(COLOURS, found.values(), strict=False):
        if xs is not None:
            pen.line([place(*point) for point in xs.T], fill=colour, width=2)
