"""The records through TFDS, without TensorFlow."""

import sys
import warnings

import fake_records
import numpy as np

from syncmv4d_jax.data import records


def test_views_come_back_through_tfds(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        from syncmv4d_jax.data import tfds_builder

        folder = fake_records.write(tmp_path / "records", sequences=2)
        builder = tfds_builder.SyncMV4D(records=folder, data_dir=tmp_path / "tfds")
        builder.download_and_prepare()
        sources = builder.as_data_source()
        assert {split: len(source) for split, source in sources.items()} == {"test": 6, "train": 6}
        examples = {example["camera"].decode(): example for example in sources["train"]}
    reader = records.Reader(folder, "train")
    (window,) = reader.windows
    for view in window.views:
        wanted, example = reader.view(window, view), examples[view.serial]
        assert example["cluster"] == view.cluster and example["id"].decode() == window.id
        assert np.array_equal(example["video"], records.decode(wanted["video"]))
        assert np.array_equal(example["tracks"], reader.tracks(window)["tracks"])
        assert np.array_equal(example["extrinsics"], wanted["extrinsics"][None])
        for key in ("visibility", "scale"):
            assert np.array_equal(example[key], wanted[key])
    assert "tensorflow" not in sys.modules
