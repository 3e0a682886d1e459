"""The second preparation into a folder: what was left out, changed, lost or made otherwise."""

import json

import pytest
import tiny

from syncmv4d_jax import recipe
from syncmv4d_jax.data import clips, prepare, records
from syncmv4d_jax.data.sources import recordings

SETTINGS = clips.Settings(size=(32, 48), frames=5, fps=15.0, points=24, val=0.0)
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    for name in NAMES:
        tiny.write(root, name, frames=6, views=3)
    return root


@pytest.fixture
def made(data, tmp_path):
    """(sources, folder of records), prepared once."""
    sources = recordings.folder_sources(data)
    prepare.run(sources, tmp_path, SETTINGS)
    return sources, tmp_path / "32x48"


def listed(root):
    return sorted({window.sequence for window in records.Reader(root).windows})


def mark(root):
    return recipe.content(root / "index.json")


def test_what_is_left_out_later_is_not_in_the_index(made, caplog):
    sources, root = made
    assert listed(root) == ["a", "b", "c"]
    before = mark(root)
    summary = prepare.run([s for s in sources if s.id != "b"], root.parent, SETTINGS)
    assert listed(root) == ["a", "c"] and summary["left_out"] == ["b"]
    assert summary["there_before"] == 2 and summary["prepared_now"] == 0
    assert "not in the index: b" in caplog.text
    assert mark(root) != before  # who trained or cached with the former one is told
    assert "b-0" not in (root / "report.html").read_text()
    prepare.run(sources[:1], root.parent, SETTINGS)
    assert listed(root) == ["a"]
    assert prepare.run(sources, root.parent, SETTINGS)["prepared_now"] == 0
    assert listed(root) == ["a", "b", "c"] and mark(root) == before


def test_a_recording_that_was_mended_is_prepared_again(data, tmp_path, caplog):
    root = tmp_path / "data"
    tiny.write(root, "a", frames=6, views=3)
    tiny.write(root, "b", frames=6, views=3)
    sources = recordings.folder_sources(root)
    prepare.run(sources, tmp_path, SETTINGS)
    before = mark(tmp_path / "32x48")
    cameras = json.loads((root / "a/cameras.json").read_text())
    next(iter(cameras.values()))["T"][2] += 0.01
    (root / "a/cameras.json").write_text(json.dumps(cameras))
    summary = prepare.run(sources, tmp_path, SETTINGS)
    assert (summary["prepared_now"], summary["there_before"]) == (1, 1)
    assert "a: its files have changed since" in caplog.text
    assert mark(tmp_path / "32x48") != before
    (root / "b/cameras.json").write_text("{}")
    summary = prepare.run(sources, tmp_path, SETTINGS)
    assert [entry["sequence"] for entry in summary["skipped"]] == ["b"]
    assert listed(tmp_path / "32x48") == ["a"]


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_records_that_were_lost_are_made_again(made, caplog, how):
    sources, root = made
    path = root / "sequences/b.array_record"
    whole = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(whole[:-100])
    assert prepare.run(sources, root.parent, SETTINGS)["prepared_now"] == 1
    assert path.read_bytes() == whole and "b: its records are gone or cut short" in caplog.text


def test_an_index_of_records_that_are_gone_is_not_written(made):
    _, root = made
    (root / "sequences/b.array_record").unlink()
    with pytest.raises(FileNotFoundError, match="b.array_record: its records are gone"):
        records.gather_index(root)
    assert len(records.gather_index(root, only={"a", "c"})["windows"]) == 2


def test_other_hands_are_refused(data, tmp_path):
    class Handed(recordings.Source):
        """A recording whose hands are read from a folder."""

    hands = tmp_path / "mano"
    hands.mkdir()
    for side in ("LEFT", "RIGHT"):
        (hands / f"MANO_{side}.pkl").write_bytes(side.encode())
    made = dict(id="a", triplet=("a", "b", "c"), layout="folder", root=str(data))
    go = lambda **how: prepare.run(  # noqa: E731
        [Handed(**made, hands=str(hands), **how)], tmp_path / "out", SETTINGS
    )
    go()
    go()
    with pytest.raises(recipe.Other, match="flip_left: was false, is true.*another --out"):
        go(flip_left=True)
    (hands / "MANO_LEFT.pkl").write_bytes(b"other")
    with pytest.raises(recipe.Other, match=r"mano.MANO_LEFT.pkl: was \"\w+\", is \"\w+\""):
        go()
    assert listed(tmp_path / "out/32x48") == ["a"]


def test_two_at_once_are_refused(made):
    sources, root = made
    with recipe.Lock(root, "prepare"), pytest.raises(recipe.Held, match="prepare is running"):
        prepare.run(sources, root.parent, SETTINGS)


def test_records_from_before_marks_are_kept(made):
    """What a folder without recipe.json and marks was made from is not known: it is not lost."""
    sources, root = made
    (root / "recipe.json").unlink()
    part = json.loads((root / "sequences/a.json").read_text())
    del part["source"]
    records.write_json(root / "sequences/a.json", part)
    assert prepare.run(sources, root.parent, SETTINGS)["prepared_now"] == 0
    assert (root / "recipe.json").is_file()
