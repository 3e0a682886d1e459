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


def test_records_that_changed_make_another_dataset(tmp_path):
    """A library takes what lies in its folder as done: here it has another name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from syncmv4d_jax.data import tfds_builder

        lengths = []
        for count in (2, 3, 2):
            folder = fake_records.write(tmp_path / f"records{count}", sequences=count)
            builder = tfds_builder.SyncMV4D(records=folder, data_dir=tmp_path / "tfds")
            builder.download_and_prepare()
            lengths.append(len(builder.as_data_source()["train"]))
    assert lengths == [6, 12, 6]
    assert len(list((tmp_path / "tfds/syncmv4d").iterdir())) == 2
