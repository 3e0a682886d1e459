"""What evaluation asks of records: only what it may."""

import fake_records
import ml_collections
import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import raycast, records, surfaces
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.run import assembly, truth


def configuration(root, **evaluate):
    config = ml_collections.ConfigDict()
    config.data = {"records": str(root), "split": "train"}
    config.task = {"name": "syncmv4d", "size": fake_records.SIZE, "views": 3}
    config.evaluate = {"priors": ""} | evaluate
    return assembly.read(config)


def test_training_scenes_teach_their_layouts_and_paths(tmp_path):
    folder = fake_records.write(tmp_path)
    found = truth.training(configuration(tmp_path, priors="records"))
    reader = records.Reader(folder, "train")
    assert len(found) == len(reader.windows) == 3
    window = reader.windows[1]
    views = [reader.view(window, window.views[i]) for i in (0, 2, 4)]  # the first of each cluster
    seen = np.stack([view["anchor_valid"] for view in views]).any(0)
    tracks = reader.tracks(window)["tracks"].astype(np.float64)
    images = np.stack([records.decode(view["video"])[0] for view in views])
    pseudo = np.stack([records.decode(view["motion"])[0] for view in views])
    made = truth.priors.layout(window.text, window.triplet, images, pseudo)
    path = (tracks - tracks[:1])[:, seen].mean(1)
    np.testing.assert_allclose(found.paths(made)["nearest"], path, atol=1e-6)
    assert truth.training(configuration(tmp_path)) is None
    found.save(tmp_path / "priors.npz")
    again = truth.training(configuration("nowhere", priors=str(tmp_path / "priors.npz")))
    assert len(again) == 3


def test_no_training_scenes_no_rows(tmp_path, caplog):
    fake_records.write(tmp_path, sequences=1)
    assert truth.training(configuration(tmp_path, priors="records")) is None
    assert "no training scenes" in caplog.text


def test_only_samples_of_given_points_have_the_record_s_truth():
    own = {"tracks_per_view": 0, "anchor_confidence": 0, "meta": {"anchors": "given"}}
    assert truth.points(own, {"tracks": 1}, "x") == {"tracks": 1}
    assert truth.points({"meta": {}}, {}, "x") is None
    with pytest.raises(ValueError, match="sample x: wanted anchors"):
        truth.points(own | {"meta": {"anchors": "record"}}, {"tracks": 1}, "x")


FRAMES = 4


def moving():
    """Solids that slide and turn, their poses, and three cameras with pixels that each shows."""
    shapes, poses = tiny.solids(), tiny.poses(30)
    poses = {name: pose[::9][:FRAMES] for name, pose in poses.items()}
    found = tuple(
        surfaces.Surface(name, faces, vertices, poses[name],
                         surfaces.OCCLUDER if name == "target" else surfaces.TRACKED)
        for name, (vertices, faces) in shapes.items()
    )  # fmt: skip
    rig = [tiny.rig()[f"cam{i}"] for i in (0, 2, 5)]
    return surfaces.in_order(found), poses, rig


def asked(found, rig, count=24):
    """anchors [v k 2] of pixels that view k % 3 shows (the last one: nothing), and the hits."""
    rng = np.random.default_rng(0)
    scene = raycast.Scene([(s.at(0), s.faces) for s in found])
    pixels, hits = np.full((3, count, 2), -50.0), []
    for k in range(count):
        intrinsics, extrinsics = rig[k % 3]
        mesh = scene.cast(intrinsics, extrinsics, tiny.SIZE)
        y, x = np.nonzero(mesh.mask if k < count - 1 else ~mesh.mask)
        i = rng.integers(len(x))
        pixels[k % 3, k] = x[i], y[i]
        hits.append((mesh.mesh[y[i], x[i]], mesh.depth[y[i], x[i]]))
    return pixels, hits


def test_any_pixels_truth_moves_with_the_surface_that_it_shows(caplog):
    found, poses, rig = moving()
    pixels, hits = asked(found, rig)
    intrinsics, extrinsics = (np.stack(x) for x in zip(*rig, strict=True))
    sample = {"meta": {"anchors": "own"}, "anchors": pixels, "anchor_view": np.arange(24) % 3}
    sample |= {"tracks_per_view": 0, "anchor_confidence": 0}
    record = {"intrinsics": intrinsics, "extrinsics": extrinsics[:, None], "tracks": 0}
    record |= {"video": np.zeros((3, FRAMES, *tiny.SIZE, 3), np.uint8), "surfaces": lambda: found}
    got = truth.points(sample, record, "x")
    for k, (mesh, depth) in enumerate(hits):
        if mesh < 0 or found[mesh].kind == surfaces.OCCLUDER:
            assert np.isnan(got["tracks"][:, k]).all()
            assert not got["anchor_valid"][:, k].any() and not got["visibility"][..., k].any()
            continue
        pose = poses[found[mesh].name]
        first = cameras.unproject(pixels[k % 3, k], depth, *rig[k % 3])
        body = np.linalg.inv(pose[0]) @ np.append(first, 1)
        np.testing.assert_allclose(got["tracks"][:, k], (pose @ body)[:, :3], atol=2e-4)
        assert got["anchor_valid"][k % 3, k] and got["visibility"][k % 3, 0, k]
    known = np.isfinite(got["tracks"]).all((0, 2))
    assert 15 < known.sum() < 24
    assert 0.3 < got["visibility"][:, :, known].mean() < 0.95  # the others' backs are not seen
    del record["surfaces"]
    assert truth.points(sample, record, "x") is None
    assert "--surfaces test" in caplog.text


def test_matched_pixels_are_the_middle_views():
    found, _, rig = moving()
    pixels, _ = asked(found, rig)
    valid = np.zeros((3, 24), bool)
    valid[:, 1::3] = True  # of view 1
    sample = {"meta": {"anchors": "matched"}, "anchors": pixels, "anchor_valid": valid,
              "anchor_view": np.full(24, -1)}  # fmt: skip
    intrinsics, extrinsics = (np.stack(x) for x in zip(*rig, strict=True))
    record = {"intrinsics": intrinsics, "extrinsics": extrinsics[:, None],
              "video": np.zeros((3, FRAMES, *tiny.SIZE, 3), np.uint8)}  # fmt: skip
    got = truth.follow(sample, record, found)
    own = truth.follow(sample | {"meta": {"anchors": "own"}, "anchor_view": np.arange(24) % 3},
                       record, found)  # fmt: skip
    np.testing.assert_array_equal(got["tracks"][:, 1::3], own["tracks"][:, 1::3])
    assert np.isnan(got["tracks"][:, 0::3]).all() and np.isnan(got["tracks"][:, 2::3]).all()
