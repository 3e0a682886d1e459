"""The records as a TensorFlow Datasets dataset, for tools that speak TFDS.

    builder = tfds_builder.SyncMV4D(records="RECORDS/480x704", data_dir="DIR")
    builder.download_and_prepare()
    source = builder.as_data_source("train")         # random access, without TensorFlow

The dataset has a configuration named after the content of the records' index: records that were
prepared otherwise since make another one beside it. An example is one view of a clip, with the
clip's tracks and text. Files are ArrayRecord, written and read without TensorFlow. Training reads
the records themselves (pipeline.py): there the tracks are stored once a clip, not once a view.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import records


class SyncMV4D(tfds.core.GeneratorBasedBuilder):
    """Calibrated multi-view clips with tracks of hands and objects."""

    name = "syncmv4d"
    VERSION = tfds.core.Version(f"{schema.VERSION}.0.0")

    def __init__(self, *, records: str | Path, data_dir: str | Path, **options: Any):
        """Opens a folder of records; `data_dir` is where the TFDS files go.

        Raises:
          FileNotFoundError, CorruptRecord: see `records.Reader`.
          ValueError: records without tracks.
        """
        self._reader = _reader(records)
        if not self._reader.settings["points"]:
            raise ValueError(
                f"{records}: records of videos alone, without tracks: use data/pipeline.py"
            )
        made_from = tfds.core.BuilderConfig(name=recipe.content(self._reader.root / "index.json"))
        options |= {"file_format": "array_record", "config": made_from}
        super().__init__(data_dir=str(data_dir), **options)

    def _info(self) -> tfds.core.DatasetInfo:
        have = self._reader.settings
        n, k, (height, width) = have["frames"], have["points"], have["size"]

        def array(shape: tuple[int | None, ...], dtype: npt.DTypeLike) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=dtype)

        features = {
            "id": tfds.features.Text(),
            "text": tfds.features.Text(),
            "camera": tfds.features.Text(),
            "cluster": np.int32,
            "video": array((n, height, width, 3), np.uint8),
            "motion": array((n, height, width, 3), np.uint8),
            "tracks": array((n, k, 3), np.float32),
            "frame_valid": array((n,), np.bool_),
            "anchors": array((k, 2), np.float32),
            "anchor_valid": array((k,), np.bool_),
            "visibility": array((n, k), np.bool_),
            "intrinsics": array((3, 3), np.float32),
            "extrinsics": array((None, 3, 4), np.float32),
            "scale": array((2,), np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        splits = sorted({window.split for window in self._reader.windows})
        return {split: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for window in self._reader.windows:
            if window.split != split:
                continue
            own = self._reader.tracks(window)
            for view in window.views:
                values = self._reader.view(window, view)
                example = {key: values[key] for key in self.info.features if key in values}
                example |= {key: records.decode(values[key]) for key in ("video", "motion")}
                example["extrinsics"] = records.poses(values)
                example |= {key: own[key] for key in ("tracks", "frame_valid")}
                example |= {"id": window.id, "text": window.text}
                example |= {"camera": view.serial, "cluster": view.cluster}
                yield f"{window.id}/{view.serial}", example


def _reader(path: str | Path) -> records.Reader:
    return records.Reader(path)
