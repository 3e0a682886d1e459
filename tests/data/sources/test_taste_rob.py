"""Captions out of a workbook, and folders of clips for them."""

import json
import zipfile

import numpy as np
import pytest
import tiny

from data_prep import import_taste_rob
from syncmv4d_jax.data.sources import taste_rob

MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
BOOK = """<workbook {} xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">
<sheets><sheet name="Single-Hand" r:id="a"/><sheet name="Double-Hand" r:id="b"/></sheets></workbook>
"""
RELS = """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="a" Target="worksheets/one.xml"/><Relationship Id="b" Target="/xl/two.xml"/>
</Relationships>"""
ONE = """<worksheet {}><sheetData>
<row><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c><c r="D1" t="s"><v>2</v></c></row>
<row><c r="A2"><v>17.0</v></c><c r="C2" t="s"><v>3</v></c><c r="D2" t="s"><v>4</v></c></row>
<row><c r="A3"><v>18</v></c><c r="C3" t="s"><v>3</v></c>
<c r="D3" t="inlineStr"><is><t>Put it </t><t>down.</t></is></c></row>
<row><c r="A4"><v>19</v></c></row></sheetData></worksheet>"""
TWO = """<worksheet {}><sheetData><row><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c>
<c r="C1" t="s"><v>2</v></c></row></sheetData></worksheet>"""
STRINGS = """<sst {}><si><t>ID</t></si><si><t>Scene</t></si><si><t>Caption</t></si>
<si><t>Kitchen</t></si><si><r><t>Pick up </t></r><r><t>the cup.</t></r></si></sst>"""
FILES = {
    "xl/workbook.xml": BOOK, "xl/_rels/workbook.xml.rels": RELS, "xl/worksheets/one.xml": ONE,
    "xl/two.xml": TWO, "xl/sharedStrings.xml": STRINGS,
}  # fmt: skip


def write(path, **changes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, text in (FILES | changes).items():
            file.writestr(name, text.replace("{}", MAIN))


def test_captions_of_a_workbook(tmp_path):
    write(tmp_path / "captions.xlsx")
    found = taste_rob.captions(tmp_path / "captions.xlsx")
    assert found == {
        ("SingleHand", "17"): ("Kitchen", "Pick up the cup."),
        ("SingleHand", "18"): ("Kitchen", "Put it down."),
    }


def test_folders_of_clips(tmp_path, capsys):
    write(tmp_path / "taste" / "captions.xlsx")
    place = tmp_path / "taste" / "SingleHand" / "Kitchen"
    place.mkdir(parents=True)
    pictures = [np.full((32, 48, 3), 10 * i, np.uint8) for i in range(5)]
    for name in ("17", "99"):
        tiny.write_video(place / f"{name}.mp4", pictures, fps=15)
    (place / "18.mp4").write_bytes(b"no")
    flags = ["--taste", str(tmp_path / "taste"), "--out", str(tmp_path / "clips")]
    for _ in range(2):  # again: the same
        assert import_taste_rob.main(flags) == 0
        (folder,) = (tmp_path / "clips").iterdir()
        told = json.loads((folder / "clip.json").read_text())
        assert folder.name == "SingleHand_17" and told["text"] == "Pick up the cup."
        assert told["fps"] == 15 and told["labels"] == {"1": "right", "2": "object"}
        assert (folder / "video.mp4").read_bytes() == (place / "17.mp4").read_bytes()
    said = capsys.readouterr()
    assert "1 clips, 2 left out" in said.out and "99.mp4" in said.err and "18.mp4" in said.err


def test_refused_workbooks(tmp_path):
    path = tmp_path / "captions.xlsx"
    with pytest.raises(FileNotFoundError, match="no such file"):
        taste_rob.captions(path)
    path.write_bytes(b"PK no")
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]>' + STRINGS
    for changes, message in (
        (None, "no workbook"),
        ({"xl/sharedStrings.xml": bomb}, "document type"),
        ({"xl/sharedStrings.xml": STRINGS.replace("Caption", "Words")}, "wanted columns"),
        ({"xl/workbook.xml": BOOK.replace("Double-Hand", "Both")}, "wanted a sheet 'Double-Hand'"),
        ({"xl/worksheets/one.xml": ONE.replace("<v>4<", "<v>44<")}, "no workbook"),
    ):
        if changes:
            write(path, **changes)
        with pytest.raises(ValueError, match=message):
            taste_rob.captions(path)
    write(path)
    with pytest.raises(SystemExit, match="unpack the zips"):
        import_taste_rob.main(["--taste", str(tmp_path), "--out", str(tmp_path / "clips")])
