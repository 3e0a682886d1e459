"""The tracking video of DaS: places of frame 0 and depths of frame 0 in every frame (Table 4)."""

import dataclasses

import ml_collections
import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import clips, pipeline, prepare, records
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.run import assembly

SETTINGS = clips.Settings(size=(96, 144), frames=9, fps=15.0, points=64, cameras="first", val=0.0)


@pytest.fixture(scope="module")
def made_at(tmp_path_factory):
    """A folder with the records of one recording in both representations."""
    root = tmp_path_factory.mktemp("das")
    tiny.write(root / "data", "seq0", views=3)
    for name in ("point_tracks", "das_tracking"):
        settings = dataclasses.replace(SETTINGS, representation=name)
        prepare.run(recordings.folder_sources(root / "data"), root / name, settings)
    return root


@pytest.fixture(scope="module")
def made(made_at):
    """{representation: pseudo video of the first view}."""
    result = {}
    for name in ("point_tracks", "das_tracking"):
        reader = records.Reader(made_at / name / "96x144")
        assert reader.settings["representation"] == name
        view = reader.view(reader.windows[0], reader.windows[0].views[0])
        result[name] = records.decode(view["motion"]).astype(np.float32) / 255
    return result


def test_a_tracking_video_keeps_the_depth_of_frame_0(made):
    tracks, das = made["point_tracks"], made["das_tracking"]
    np.testing.assert_array_equal(tracks[0], das[0])
    np.testing.assert_array_equal(tracks[..., :2], das[..., :2])
    height, width = das.shape[1:3]
    there = das[-1, ..., :2].max(-1) > 0
    u = np.round(das[-1, ..., 0][there] * width).astype(int).clip(0, width - 1)
    v = np.round(das[-1, ..., 1][there] * height).astype(int).clip(0, height - 1)
    seen = das[0, v, u, :2].max(-1) > 0
    first = das[0, v, u, 2][seen]
    error = lambda video: np.median(np.abs(video[-1, ..., 2][there][seen] - first))  # noqa: E731
    assert error(das) < 0.01 < error(tracks)


def test_an_unknown_representation_is_refused():
    with pytest.raises(ValueError, match="wanted representation"):
        clips.Settings(representation="flow")


def configuration(root, **data):
    config = ml_collections.ConfigDict()
    config.data = {"records": str(root), "split": "train", "fps": 15.0, "cameras": "fixed"} | data
    config.task = {"size": (96, 144), "frames": 9, "points": 64, "views": 3}
    return config


def opened(config):
    settings = assembly.read(config)
    return pipeline.Examples(settings.data, assembly.wanted(settings), "train")


def test_records_of_the_other_representation_are_refused(made_at):
    config = configuration(made_at / "das_tracking")
    assert len(opened(config)) == 1  # a task that does not say takes either
    config.task.motion_repr = "point_tracks"
    with pytest.raises(ValueError, match="representation: wanted point_tracks, records have das"):
        opened(config)


def test_a_share_of_the_clips_is_the_same_for_all_readers():
    chosen = pipeline._share(50, 0.1, 3)
    assert len(chosen) == 5 == len(set(chosen)) and chosen == pipeline._share(50, 0.1, 3)
    assert chosen != pipeline._share(50, 0.1, 4)
    assert pipeline._share(50, 1.0, 3) == list(range(50)) and len(pipeline._share(3, 0.1, 0)) == 1
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match="wanted 0 < share <= 1"):
            data_config.DataConfig(share=bad)
