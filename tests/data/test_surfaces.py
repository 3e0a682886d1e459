"""Surfaces of records: occluders hide and are not painted; where any pixel of frame 0 goes."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import trimesh

from syncmv4d_jax.data import cache, clips, prepare, records, surfaces
from syncmv4d_jax.data.sources import recordings, taco
from syncmv4d_jax.geometry import cameras

SETTINGS = clips.Settings(
    size=(96, 144), frames=5, fps=15.0, points=96, cameras="first", val=0.0, surfaces="all"
)


def board(folder, frames=18):
    """A board between the first cameras and the solids, as an occluder."""
    mesh = trimesh.creation.box(extents=[0.9, 0.01, 0.20])
    mesh.apply_translation([0.0, 0.20, 0.27])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    found = surfaces.Surface("board", np.array(mesh.faces), np.array(mesh.vertices), poses)
    surfaces.write(folder / "surfaces", found)
    path = folder / "recording.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"occluders": ["board"]}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{with or without the board: (reader, its window)}."""
    root, result = tmp_path_factory.mktemp("board"), {}
    for hidden in (False, True):
        folder = tiny.write(root / f"in{hidden}", "seq0", views=3)
        if hidden:
            board(folder)
        summary = prepare.run(
            recordings.folder_sources(folder.parent), root / str(hidden), SETTINGS
        )
        assert not summary["skipped"]
        reader = records.Reader(root / str(hidden))
        result[hidden] = reader, reader.windows[0]
    return result


def views(made, hidden):
    reader, window = made[hidden]
    return [reader.view(window, view) for view in window.views]


def test_occluders_hide_points_and_are_not_painted_sampled_or_framed(made):
    reader, window = made[True]
    own, plain = reader.tracks(window), made[False][0].tracks(made[False][1])
    assert own["names"] == plain["names"] and "board" not in own["names"]
    assert np.array_equal(own["tracks"], plain["tracks"])
    found = reader.surfaces(window)
    for with_board, without in zip(views(made, True), views(made, False), strict=True):
        assert np.array_equal(with_board["box"], without["box"])
        fewer = with_board["visibility"] & ~without["visibility"]
        assert not fewer.any()
        assert with_board["visibility"].sum() < 0.8 * without["visibility"].sum()
        painted, all_of_it = (records.decode(v["motion"])[0] for v in (with_board, without))
        height, width = painted.shape[:2]
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
        met = surfaces.cast(found, pixels, with_board["intrinsics"], with_board["extrinsics"])
        on_board = (met.surface == 4).reshape(height, width)
        assert on_board.sum() > 200 and not painted[on_board].any()
        assert np.array_equal(painted[~on_board], all_of_it[~on_board])


def test_the_future_does_not_move_the_crop(tmp_path):
    """A recording whose surfaces go elsewhere after the first frame is cut alike."""
    boxes = []
    for speed in (0.0, 0.25):
        folder = tiny.write(tmp_path / str(speed), "seq0", views=3)
        for path in (folder / "surfaces").glob("*.npz"):
            values = dict(np.load(path))
            values["poses"][:, 0, 3] += speed * np.arange(len(values["poses"])) / 30
            np.savez(path, **values)
        window = clips.make(recordings.read_folder(folder), 30.0, SETTINGS)
        boxes.append([view.box for view in window.views])
    assert boxes[0] == boxes[1]


def test_any_pixel_of_frame_0_has_its_true_track(made):
    """Points seen in frame 0, asked for by their pixels, give their own tracks (2 mm)."""
    reader, window = made[False]
    own, found = reader.tracks(window), reader.surfaces(window)
    for view in views(made, False):
        seen, camera = view["anchor_valid"], (view["intrinsics"], view["extrinsics"])
        truth, tracked = surfaces.tracks(found, view["anchors"][seen], *camera)
        near = np.linalg.norm(truth - own["tracks"][:, seen], axis=-1)
        assert tracked.mean() > 0.9 and np.percentile(near[:, tracked], 90) < 2e-3
        away, tracked = surfaces.tracks(found, np.array([[0.0, 0.0]]), *camera)
        assert np.isnan(away).all() and not tracked[0]


def test_a_pixel_of_an_occluder_shows_nothing_that_is_tracked(made):
    reader, window = made[True]
    found, view = reader.surfaces(window), views(made, True)[1]
    assert [surface.kind for surface in found] == ["tracked"] * 4 + ["occluder"]
    camera = view["intrinsics"], view["extrinsics"]
    pixels, _ = cameras.project(np.array([[0.0, 0.205, 0.27]]), *camera)
    truth, tracked = surfaces.tracks(found, pixels, *camera)
    assert not tracked[0] and np.abs(truth - [0.0, 0.205, 0.27]).max() < 1e-3


def test_what_a_pixel_shows_moves_with_its_surface(made):
    """Cast at another frame, the point is found again where it projects, if nothing hides it."""
    reader, window = made[False]
    found, view = reader.surfaces(window), views(made, False)[1]
    pixels = np.stack(np.meshgrid(np.arange(40.0, 100, 4), np.arange(20.0, 80, 4)), -1)
    pixels = pixels.reshape(-1, 2)
    camera = view["intrinsics"], view["extrinsics"]
    truth, tracked = surfaces.tracks(found, pixels, *camera)
    now, _ = cameras.project(truth[4][tracked], *camera)
    again = surfaces.cast(found, now, *camera, frame=4).positions(found, [4])[0]
    near = np.linalg.norm(again - truth[4][tracked], axis=-1)
    assert tracked.sum() > 50 and np.mean(near < 1e-3) > 0.6


def test_surfaces_that_were_not_stored_are_named(made, tmp_path):
    folder = tiny.write(tmp_path / "in", "seq0", views=3)
    settings = dataclasses.replace(SETTINGS, surfaces="test")
    prepare.run(recordings.folder_sources(folder.parent), tmp_path / "out", settings)
    reader = records.Reader(tmp_path / "out")
    with pytest.raises(ValueError, match="no surfaces of seq0-0 are stored.*--surfaces all"):
        reader.surfaces(reader.windows[0])


def test_wrong_occluders_are_refused(tmp_path):
    folder = tiny.write(tmp_path, "seq0", views=3)
    path, text = folder / "recording.json", json.loads((folder / "recording.json").read_text())
    path.write_text(json.dumps(text | {"occluders": ["arm"]}))
    with pytest.raises(taco.BadSequence, match=r"occluders \['arm'\] have no surface"):
        recordings.read_folder(folder)
    path.write_text(json.dumps(text | {"occluders": list(tiny.SURFACES)}))
    with pytest.raises(taco.BadSequence, match="wanted a surface that is tracked"):
        recordings.read_folder(folder)


def test_a_recordings_own_text_is_the_prompt(tmp_path):
    folder = tiny.write(tmp_path, "seq0", views=3)
    path = folder / "recording.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"text": "Gently stir."}))
    (source,) = recordings.folder_sources(tmp_path)
    window = clips.make(source.open(), source.fps, SETTINGS)
    assert window.tracks["text"] == "Gently stir."


def test_caches_keep_their_rows_beside_surfaces(tmp_path):
    """Two clips of one recording, each followed by its surfaces: a view finds its own latents."""
    folder = tiny.write(tmp_path / "in", "seq0", views=3)
    settings = dataclasses.replace(SETTINGS, variants=2)
    prepare.run(recordings.folder_sources(folder.parent), tmp_path / "out", settings)
    reader = records.Reader(tmp_path / "out")
    cache.run(
        tmp_path / "out",
        tmp_path / "cache",
        encode_video=lambda clip: clip[::4, ::8, ::8].astype(np.float32),
        encode_text=lambda texts: (np.ones((len(texts), 2, 3)), np.full(len(texts), 2)),
        weights_hash="vae:0,umt5:0",
    )
    cached = cache.Cache(tmp_path / "cache", reader)
    first, second = reader.windows
    assert second.record == first.surfaces + 1 > 1
    for window in (first, second):
        for view in window.views:
            wanted = records.decode(reader.view(window, view)["motion"])[::4, ::8, ::8]
            found = cached.view(window, view)["motion_latents"].astype(np.float32)
            assert np.abs(found - wanted).max() <= 1
