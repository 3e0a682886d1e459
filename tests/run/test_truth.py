"""What evaluation asks of records: only what it may."""

import fake_records
import ml_collections
import numpy as np
import pytest

from syncmv4d_jax.data import records
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
