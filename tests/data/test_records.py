"""Records: exact round trips; damage is named, never passed on."""

import json
import zlib

import ml_dtypes
import numpy as np
import pytest

from syncmv4d_jax import schema
from syncmv4d_jax.data import records


def values(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": records.encode(rng.integers(0, 255, (3, 8, 12, 3), np.uint8)),
        "tracks": rng.normal(size=(3, 5, 3)).astype(np.float32),
        "valid": rng.random((3, 5)) < 0.5,
        "latents": rng.normal(size=(2, 4)).astype(ml_dtypes.bfloat16),
        "text": "grüße, a “spoon”",
        "empty": np.zeros((0, 3), np.float32),
    }


def check_same(got, wanted):
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        if isinstance(value, np.ndarray):
            assert got[key].dtype == value.dtype and got[key].shape == value.shape
        assert (
            np.array_equal(got[key], value) if isinstance(value, np.ndarray) else got[key] == value
        )


def test_examples_come_back_as_they_were():
    there = records.unpack(records.pack(values()), where="x")
    check_same(there, values())
    rng = np.random.default_rng(0)
    assert np.array_equal(
        records.decode(there["video"]), rng.integers(0, 255, (3, 8, 12, 3), np.uint8)
    )
    assert records.pack(values()) == records.pack(values())


def test_arrays_in_units_are_half_a_unit_off_at_most():
    tracks = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    tracks = tracks[:1] + 0.01 * tracks
    data = records.pack({"tracks": records.Steps(tracks, 2.0**-10)})
    found = records.unpack(data, where="x")["tracks"]
    assert found.dtype == np.float32 and found.shape == tracks.shape
    assert 2.0**-12 < np.abs(found - tracks).max() <= 2.0**-11
    again = records.unpack(records.pack({"x": records.Steps(found, 2.0**-10)}), where="x")["x"]
    assert np.array_equal(again, found)  # whole units stay


def test_films_are_small_and_keep_planes_apart():
    """Blocks of colours that move, as in a pseudo video: at half the size they would run out."""
    video = np.zeros((5, 32, 48, 3), np.uint8)
    blocks = np.random.default_rng(0).integers(0, 255, (4, 4, 3))
    for i in range(5):
        video[i, 4 + i : 20 + i, 7:23] = np.kron(blocks, np.ones((4, 4, 1)))
    off = {}
    for planes in (True, False):
        clip = records.film(video, quantiser=20, planes=planes)
        there = records.unpack(records.pack({"motion": clip}), where="x")["motion"]
        found = records.decode(there)
        assert found.shape == video.shape and found.dtype == np.uint8
        assert len(clip.data) < video.nbytes / 8
        np.testing.assert_array_equal(records.decode_first(there), found[0])
        off[planes] = np.abs(found.astype(int) - video).mean()
    assert off[True] < 1.0 and off[False] > 2 * off[True]
    with pytest.raises(ValueError, match=r"film: wanted \[n h w 3\] uint8, got .* float32"):
        records.film(video.astype(np.float32), quantiser=20)


@pytest.mark.parametrize("place", [0, 5, 30, 200, -1])
def test_any_damaged_byte_is_found(place):
    data = bytearray(records.pack(values()))
    data[place] ^= 0xFF
    with pytest.raises(records.CorruptRecord, match="file 7"):
        records.unpack(bytes(data), where="file 7")


def test_cut_examples_and_other_versions_are_refused(monkeypatch):
    data = records.pack(values())
    for length in (0, 3, 21, 40, len(data) - 1):
        with pytest.raises(records.CorruptRecord, match="row 1"):
            records.unpack(data[:length], where="row 1")
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(records.CorruptRecord, match="crops fitted to the future.*prepare_taco.py"):
        records.unpack(data, where="row 1")


def folder(root, sequences=2):
    (root / "sequences").mkdir(parents=True)
    records.write_json(root / "settings.json", {"size": [8, 12]})
    for i in range(sequences):
        name, file = f"s{i}", f"sequences/s{i}.array_record"
        records.write_file(root / file, [values(3 * i), values(3 * i + 1), values(3 * i + 2)])
        window = {
            "id": f"{name}-0", "sequence": name, "split": ("train", "test")[i % 2], "text": "t",
            "triplet": ["a", "b", "c"], "file": file, "record": 0,
            "views": [{"record": i + 1, "serial": c, "cluster": i} for i, c in enumerate("xy")],
        }  # fmt: skip
        records.write_json(root / "sequences" / f"{name}.json", {"windows": [window]})
    records.gather_index(root, [{"sequence": "z", "reason": "broken"}])
    return root


def test_readers_find_windows_and_views(tmp_path):
    folder(tmp_path / "8x12")
    reader = records.Reader(tmp_path, "test", size=(8, 12))
    (window,) = reader.windows
    assert window.id == "s1-0" and [v.serial for v in window.views] == ["x", "y"]
    check_same(reader.tracks(window), values(3))
    check_same(reader.view(window, window.views[1]), values(5))
    assert len(records.Reader(tmp_path / "8x12").windows) == 2
    assert not list(tmp_path.rglob("*.partial"))


def test_absent_things_are_named(tmp_path):
    folder(tmp_path / "8x12")
    with pytest.raises(FileNotFoundError, match=r"16x24.*8x12.*prepare_taco"):
        records.Reader(tmp_path, size=(16, 24))
    with pytest.raises(ValueError, match="split 'val'.*train"):
        records.Reader(tmp_path, "val")
    index = tmp_path / "8x12" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 99}))
    with pytest.raises(records.CorruptRecord, match="wanted version 2, got 99.*prepare_taco.py"):
        records.Reader(tmp_path)
    index.write_text("{")
    with pytest.raises(records.CorruptRecord, match="index"):
        records.Reader(tmp_path)


def test_cut_and_damaged_files_are_named(tmp_path):
    folder(tmp_path / "8x12")
    reader = records.Reader(tmp_path, "train")
    (window,) = reader.windows
    path = tmp_path / "8x12" / window.file
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(records.CorruptRecord, match=str(path)):
        reader.tracks(window)
    path.write_bytes(b"no records here")
    with pytest.raises(records.CorruptRecord, match=str(path)):
        records.Reader(tmp_path, "train").tracks(window)
    damaged = np.frombuffer(whole, np.uint8).copy()
    used = np.flatnonzero(damaged)
    damaged[used[len(used) // 2 : len(used) // 2 + 200]] ^= 0xFF
    path.write_bytes(damaged.tobytes())
    reader, refused = records.Reader(tmp_path, "train"), 0
    rows = [(reader.tracks, ()), *((reader.view, (view,)) for view in window.views)]
    for i, (read, view) in enumerate(rows):
        try:
            check_same(read(window, *view), values(i))
        except records.CorruptRecord:
            refused += 1
    assert refused


def test_a_failed_write_leaves_nothing(tmp_path):
    def rows():
        yield values()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        records.write_file(tmp_path / "x.array_record", rows())
    assert not list(tmp_path.iterdir())


def test_clips_of_older_records_are_read_and_other_arrays_refused():
    video = np.random.default_rng(0).integers(0, 255, (3, 8, 12, 3), np.uint8)
    older = records.Clip("uint8", video.shape, zlib.compress(video.tobytes()))
    there = records.unpack(records.pack({"video": older}), where="x")
    assert np.array_equal(records.decode(there["video"]), video)
    for wrong in (video.astype(np.float32), video[0]):
        with pytest.raises(ValueError, match="wanted .n h w c. uint8"):
            records.encode(wrong)
