"""Captions out of a workbook, and folders of clips for them."""

import json

import numpy as np
import pytest
import tiny
from workbooks import BOOK, ONE, STRINGS, write

from data_prep import import_taste_rob
from syncmv4d_jax.data.sources import taste_rob


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
