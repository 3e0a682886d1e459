"""The report of a preparation: contact sheets with tracks over the real frames, and a page.

A wrong calibration, a shifted hand or a crop beside the scene is seen here at a glance.
"""

import html
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from syncmv4d_jax import disk
from syncmv4d_jax.data import clips
from syncmv4d_jax.geometry import cameras

COLOURS = np.array(
    [[255, 170, 40], [60, 200, 255], [120, 255, 90], [255, 90, 200], [250, 250, 80]], np.uint8
)
WIDTH = 352  # of one frame on a sheet
SHOWN_POINTS = 400


def draw_tracks(
    frame: np.ndarray, pixels: np.ndarray, visible: np.ndarray, surface: np.ndarray
) -> np.ndarray:
    """Draws points [k 2] over a frame [h w 3], coloured by surface [k]; hidden ones not."""
    image = Image.fromarray(frame)
    pen = ImageDraw.Draw(image)
    radius = max(1, frame.shape[1] // 350)
    every = max(1, len(pixels) // SHOWN_POINTS)
    for (x, y), part in zip(pixels[visible][::every], surface[visible][::every], strict=True):
        colour = tuple(int(c) for c in COLOURS[part % len(COLOURS)])
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)


def _overlay(window: clips.Window, view: clips.View, at: int) -> np.ndarray:
    """Frame `at` of the preview with the view's visible tracks and the camera's name."""
    n = window.shown[at]
    pixels, _ = cameras.project(window.tracks["tracks"][n], view.intrinsics, view.pose(n))
    visible, surface = view.values["visibility"][n], window.tracks["surface"]
    drawn = draw_tracks(window.preview[view.serial][0][at], pixels, visible, surface)
    scale = WIDTH / drawn.shape[1]
    image = Image.fromarray(drawn).resize((WIDTH, round(drawn.shape[0] * scale)))
    ImageDraw.Draw(image).text((4, 2), view.serial, fill=(255, 255, 255), stroke_width=1,
                               stroke_fill=(0, 0, 0))  # fmt: skip
    return np.asarray(image)


def write_sheet(path: Path, window: clips.Window) -> None:
    """Writes a sheet: of the first camera of each cluster three frames with tracks and three of the
    pseudo video, a row each; below, the first frame with tracks of all other cameras."""
    first = {view.cluster: view for view in reversed(window.views)}
    rows, others = [], []
    for _, view in sorted(first.items()):
        row = [_overlay(window, view, at) for at in range(3)]
        size = row[0].shape[1::-1]
        painted = window.preview[view.serial][1]
        row += [np.asarray(Image.fromarray(frame).resize(size)) for frame in painted]
        rows.append(np.concatenate(row, axis=1))
    for view in window.views:
        if first[view.cluster] is not view:
            others.append(_overlay(window, view, 0))
    for start in range(0, len(others), 6):
        row = others[start : start + 6]
        row += [np.zeros_like(row[0])] * (6 - len(row))
        rows.append(np.concatenate(row, axis=1))
    with disk.whole(path) as partial:
        Image.fromarray(np.concatenate(rows, axis=0)).save(partial, "JPEG", quality=85)


def write_report(root: Path, content: dict, summary: dict) -> None:
    """Writes report.html beside the records: counts, what was skipped and why, all sheets."""
    facts = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(str(summary[key]))}</td></tr>"
        for key in ("sequences", "windows", "views", "splits", "seconds", "seconds_per_sequence")
    )
    skipped = [(entry["sequence"], entry["reason"]) for entry in summary["skipped"]]
    skipped += [(f"{e['window']}, {e['camera']}", e["reason"]) for e in summary["skipped_views"]]
    reasons = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(reason)}</td></tr>"
        for name, reason in skipped
    )
    sheets = "".join(
        f"<figure><figcaption>{html.escape(w['id'])} ({w['split']}): {html.escape(w['text'])} "
        f"{len(w['views'])} views, {w['valid_frames']} frames</figcaption>"
        f"<img loading=lazy src='report/{html.escape(w['id'])}.jpg'></figure>"
        for w in content["windows"]
    )
    page = (
        "<!doctype html><meta charset=utf-8><title>Prepared records</title><style>"
        "body{font:15px sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse}"
        "td{border:1px solid #ccc;padding:.2em .6em}img{max-width:100%}figure{margin:1.5em 0}"
        f"</style><h1>Prepared records</h1><table>{facts}</table>"
        f"<h2>Skipped ({len(skipped)})</h2><table>{reasons}</table>"
        "<h2>Contact sheets</h2><p>A row for the first camera of each cluster, the viewer's left "
        "first: the first, middle and last frame with the visible tracks drawn over it, then the "
        f"pseudo video. Below: the first frame of all other cameras.</p>{sheets}"
    )
    (root / "report.html").write_text(page, encoding="utf-8")
