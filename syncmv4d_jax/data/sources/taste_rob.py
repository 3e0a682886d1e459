"""TASTE-Rob's clips and captions -> folders of clips, for other tools to fill (monocular.py).

    <root>/captions.xlsx                    sheets Single-Hand, Double-Hand: id, scene, caption
    <root>/SingleHand/<Scene>/<id>.mp4      unpacked from <Scene>.zip; DoubleHand likewise

A workbook is a zip of XML; cells are read by the letters of their column.
"""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from syncmv4d_jax import disk
from syncmv4d_jax.data import frames, reading
from syncmv4d_jax.data.sources import taco

SHEETS = {"SingleHand": "Single-Hand", "DoubleHand": "Double-Hand"}
COLUMNS = ("id", "scene", "caption")
SPACES = {
    "m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main",
    "r": "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id",
}


class Caption(NamedTuple):
    """scene: of its zip, e.g. "Kitchen". text: the prompt."""

    scene: str
    text: str


def captions(path: str | Path) -> dict[tuple[str, str], Caption]:
    """Reads captions.xlsx: {(subset, id): caption}, subset of SHEETS.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no workbook, or one without these sheets and columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with reading.parsing(path, "workbook"), zipfile.ZipFile(path) as file:
        strings, sheets = _strings(file), _sheets(file)
        rows = {name: _rows(file, sheets[name], strings) for name in sheets}
    found = {}
    for subset, sheet in SHEETS.items():
        if sheet not in rows:
            raise ValueError(f"{path}: wanted a sheet {sheet!r}, got {sorted(rows)}")
        head, *body = rows[sheet] or [{}]
        place = {text.strip().lower(): column for column, text in head.items()}
        if missing := [name for name in COLUMNS if name not in place]:
            raise ValueError(f"{path}, {sheet}: wanted columns {missing}, got {sorted(place)}")
        for row in body:
            number, scene, text = (row.get(place[name], "").strip() for name in COLUMNS)
            if number and text:
                found[subset, re.sub(r"\.0$", "", number)] = Caption(scene, text)
    return found


def _parts(file: zipfile.ZipFile, name: str, tag: str) -> list[ElementTree.Element]:
    text = file.read(name)
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities that grow without end
        raise ElementTree.ParseError(f"{name} has a document type")
    return ElementTree.fromstring(text).findall(tag, SPACES)


def _strings(file: zipfile.ZipFile) -> list[str]:
    name = "xl/sharedStrings.xml"
    if name not in file.namelist():
        return []
    space = f"{{{SPACES['m']}}}"
    return ["".join(t.text or "" for t in x.iter(f"{space}t")) for x in _parts(file, name, "m:si")]


def _sheets(file: zipfile.ZipFile) -> dict[str, str]:
    """{name of a sheet: its file}."""
    text = file.read("xl/_rels/workbook.xml.rels")
    targets = {x.get("Id"): x.get("Target", "") for x in ElementTree.fromstring(text)}
    return {
        sheet.get("name", ""): "xl/" + targets[sheet.get(SPACES["r"])].removeprefix("/xl/")
        for sheet in _parts(file, "xl/workbook.xml", "m:sheets/m:sheet")
    }


def _rows(file: zipfile.ZipFile, name: str, strings: list[str]) -> list[dict[str, str]]:
    """{letters of a column: text} of every row."""
    found = []
    for row in _parts(file, name, "m:sheetData/m:row"):
        cells = {}
        for cell in row.findall("m:c", SPACES):
            letters = re.sub(r"\d", "", cell.get("r", ""))
            value = cell.findtext("m:v", "", SPACES)
            if cell.get("t") == "s":
                value = strings[int(value)]
            elif cell.get("t") == "inlineStr":
                space = f"{{{SPACES['m']}}}"
                value = "".join(t.text or "" for t in cell.iter(f"{space}t"))
            cells[letters] = value
        found.append(cells)
    return found


def folders(
    root: Path,
    out: Path,
    *,
    subset: str,
    scenes: tuple[str, ...],
    labels: dict[str, str],
    shard: tuple[int, int] = (0, 1),
) -> tuple[list[Path], list[str]]:
    """Makes a folder with clip.json and video.mp4 (a link) for every clip of some scenes.

    Args:
      shard: (i, n): every n-th video from the i-th on.

    Returns:
      The folders, and videos that have no caption or cannot be read.

    Raises:
      FileNotFoundError: no captions, or no videos.
      ValueError: captions that cannot be read.
    """
    told = captions(root / "captions.xlsx")
    places = [root / subset / scene for scene in scenes]
    videos = [
        path for place in places if place.is_dir() for path in reading.entries(place)
        if path.suffix.lower() == ".mp4"
    ]  # fmt: skip
    if not videos:
        raise FileNotFoundError(f"{root / subset}: no <id>.mp4 in {list(scenes)}: unpack the zips")
    made, without = [], []
    for path in videos[shard[0] :: shard[1]]:
        caption = told.get((subset, path.stem))
        try:
            step = frames.Video(path).step if caption else 0.0
        except taco.BadSequence:
            step = 0.0
        if caption is None or step <= 0:
            without.append(str(path))
            continue
        folder = out / f"{subset}_{path.stem}"
        clip = {"fps": round(1 / step, 3), "text": caption.text, "metric": False,
                "static_camera": True, "labels": labels}  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "video.mp4").exists():
            os.symlink(path.resolve(), folder / "video.mp4")
        with disk.whole(folder / "clip.json") as partial:
            partial.write_text(json.dumps(clip, indent=1), encoding="utf-8")
        made.append(folder)
    return made, without
