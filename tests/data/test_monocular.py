"""Real clips of one camera: what a writer of VGGT, SAM2 and three trackers' forms gives comes back.

The clip is the tiny recording's first camera; its solids stand before a wall.
"""

import pickle
import shutil

import numpy as np
import pytest
from monocular_clips import FRAMES, SCALE, make, posed, write
from PIL import Image

from data_prep import import_monocular
from syncmv4d_jax import recipe
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data import controls, pipeline, reconstructed, records
from syncmv4d_jax.data.sources import monocular
from syncmv4d_jax.geometry import cameras


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clips") / "clip0")


FORMS = ("SpatialTracker", "SpaTrackerV2", "DELTA")


@pytest.mark.parametrize("form", FORMS)
def test_tracks_and_points_come_back(form, truth, tmp_path):
    """Tracks within 4 mm and half a pixel: the depth has pixels of its own, and slopes."""
    scene = monocular.read(write(form, truth, tmp_path / "clip0"))
    _, k, pose, world = truth
    assert scene.tracks.shape == world.shape and scene.labels == {1: 1, 2: 2}
    np.testing.assert_allclose(scene.intrinsics, k, atol=1e-6)
    pixels, _ = cameras.project(scene.tracks[4], scene.intrinsics, scene.extrinsics[4])
    wanted, _ = cameras.project(world[4], k, pose)
    assert np.abs(pixels - wanted).max() < 0.5
    metres = SCALE * scene.tracks
    assert np.linalg.norm(metres - world, axis=-1).max() < 0.004
    rng = np.random.default_rng(0)
    points, labels, valid = monocular.cloud(scene, 5, 400, rng)
    assert valid.all() and np.bincount(labels).tolist() == [0, 200, 200]
    surface = posed(5)
    for label, meshes in ((1, surface[:2]), (2, surface[2:])):
        vertices = np.concatenate([v for v, _ in meshes])
        near = np.linalg.norm(SCALE * points[labels == label][:, None] - vertices, axis=-1).min(1)
        assert np.quantile(near, 0.95) < 0.02  # vertices are 2 cm apart


def test_records_are_for_control_and_mix_with_others(truth, tmp_path):
    write("SpatialTracker", truth, tmp_path / "clips" / "clip0")
    (tmp_path / "clips" / "broken").mkdir()
    shutil.copy(truth[0] / "clip.json", tmp_path / "clips" / "broken")
    flags = ["--clips", tmp_path / "clips", "--out", tmp_path / "out", "--size", "96x144",
             "--frames", 9, "--points", 64, "--cloud", 200, "--test", 0]  # fmt: skip
    assert import_monocular.main([str(x) for x in flags]) == 0
    reader = records.Reader(tmp_path / "out")
    assert [w.provenance for w in reader.windows] == ["real"]
    (window,) = reader.windows
    own, view = reader.tracks(window), reader.view(window, window.views[0])
    assert "point_normals" not in own and not own["point_ids"] and not own["metric"]
    mask = controls.unpack(view["mask"], (96, 144))
    tracking = records.decode(view["tracking"])
    assert 0.3 < tracking.any(-1).sum() / mask.sum() <= 1 and not (tracking.any(-1) & ~mask).any()
    video, warped = (records.decode(view[key]) for key in ("video", "warped"))
    there = warped.any(-1)
    assert not (there & ~tracking.any(-1)).any() and there.sum() > 0.9 * tracking.any(-1).sum()
    off = np.abs(warped[0].astype(int) - video[0])[there[0]].mean()
    assert off < 0.5 * np.abs(video[0][mask[0]].astype(int) - video[0][mask[0]].mean(0)).mean()
    pixels, _ = cameras.project(own["points"][3], view["intrinsics"], view["extrinsics"])
    x, y = np.round(pixels).astype(int).T
    inside = (x >= 0) & (x < 144) & (y >= 0) & (y < 96)
    assert inside.mean() > 0.9 and mask[3][y[inside], x[inside]].mean() > 0.9
    assert (tmp_path / "out/96x144/report/clip0.jpg").is_file()
    wanted = data_config.Wanted(size=(96, 144), frames=9, cloud=80, tracking="das_tracking")
    data = data_config.DataConfig(records=str(tmp_path / "out"), fps=15.0, raw=True)
    batch = next(pipeline.train_iterator(
        data, wanted, batch_size=1, seed=0, shard_index=0, shard_count=1))  # fmt: skip
    told = batch["point_features"]
    assert not told[..., :9].any() and (told[..., 9:].sum(-1) == 1).all()
    assert batch["metric"].tolist() == batch["point_ids"].tolist() == [False]


def test_nearer_discs_are_in_front():
    pixels = np.array([[[10.0, 20], [30, 20]], [[20.0, 20], [20, 20]]])
    depth = np.array([[1.0, 2.0], [2.0, 1.0]])
    colours = np.array([[64, 128, 64], [191, 128, 191]], np.uint8)
    found = reconstructed.paint(pixels, depth, np.ones((2, 2), bool), colours, (40, 40))
    assert found[0, 20, 10].tolist() == [64, 128, 64] and found[0, 20, 30].tolist()[0] == 191
    assert found[1, 20, 20].tolist() == found[0, 20, 30].tolist()
    assert not found[0, 0, 0].any()


def changed(folder, **arrays):
    with np.load(folder / "vggt.npz") as file:
        found = {key: file[key] for key in file.files} | arrays
    np.savez(folder / "vggt.npz", **{key: x for key, x in found.items() if x is not None})


def test_refused_clips(truth, tmp_path):
    with np.load(truth[0] / "vggt.npz") as file:
        depth, poses = file["depth"], file["extrinsic"]
    moving = poses + 0.05 * np.arange(FRAMES)[:, None, None] * np.eye(3, 4, 3)
    none = depth.copy()
    none[:, :50] = np.nan
    for i, (change, message) in enumerate(
        [
            (lambda f: changed(f, depth_conf=None), r"wanted \['depth_conf'\] too"),
            (lambda f: changed(f, depth=depth[:-1], depth_conf=np.ones(depth[:-1].shape)),
             "numbers of frames differ"),
            (lambda f: changed(f, extrinsic=moving), "said to stand still, but turns by"),
            (lambda f: changed(f, depth=none), "of the masks' pixels have no depth"),
            (lambda f: Image.new("P", (80, 60)).save(f / "masks/00003.png"),
             "00003.png: the mask is 80 x 60, the video 160 x 120"),
            (lambda f: Image.new("RGB", (160, 120)).save(f / "masks/00001.png"), "coloured overl"),
            (lambda f: np.savez(f / "masks.npz", masks=np.full((FRAMES, 120, 160), 256)),
             "wanted ids of 0..255, got 256..256"),
            (lambda f: np.savez(f / "masks.npz", masks=np.zeros((FRAMES, 60, 80))),
             "masks.npz: the mask is 80 x 60, the video 160 x 120"),
            (lambda f: np.savez(f / "masks.npz", masks=np.zeros((FRAMES, 120, 160))), "are empty"),
            (lambda f: (f / "tracks.npz").write_bytes(b"no"), "unreadable"),
            (lambda f: (f / "dense_3d_track.pkl").write_bytes(pickle.dumps(print)), "no plain pi"),
            (lambda f: (f / "clip.json").write_text('{"fps": 30}'), "wanted fps, text"),
            (lambda f: changed(f, intrinsic=np.full((FRAMES, 3, 3), np.nan)), "intrinsic has val"),
            (lambda f: np.savez(f / "tracks.npz", pred_tracks=np.full((FRAMES, 4, 3), np.nan),
                                pred_visibility=np.ones((FRAMES, 4))), "72 of the tracks' 72 p"),
        ]
    ):  # fmt: skip
        folder = write("SpatialTracker", truth, tmp_path / f"clip{i}")
        change(folder)
        with pytest.raises(ValueError, match=message):
            monocular.read(folder)
    folder = write("SpatialTracker", truth, tmp_path / "missing")
    (folder / "tracks.npz").unlink()
    with pytest.raises(FileNotFoundError, match="tracks.npz"):
        monocular.read(folder)


def test_a_clip_that_has_changed_is_made_again(truth, tmp_path):
    folder = write("SpatialTracker", truth, tmp_path / "in/clip0")
    settings = reconstructed.Settings((48, 64), frames=5, points=16, cloud=32, test=0.0)
    run = lambda: reconstructed.run([folder], tmp_path / "out", settings)  # noqa: E731
    first = run()
    file = tmp_path / "out/48x64" / first["windows"][0]["file"]
    before = file.stat().st_mtime_ns
    assert run() == first and file.stat().st_mtime_ns == before
    told = (folder / "clip.json").read_text()
    (folder / "clip.json").write_text(told.replace("Stir.", "Pour."))
    assert run()["windows"][0]["text"] == "Pour." and file.stat().st_mtime_ns > before
    (folder / "clip.json").write_text("{}")
    gone = run()
    assert not gone["windows"] and gone["skipped"][0]["sequence"] == "clip0"
    with recipe.Lock(tmp_path / "out/48x64", "prepare"), pytest.raises(recipe.Held):
        run()
