"""The tracking video of DaS: places of frame 0 and depths of frame 0 in every frame (Table 4)."""

import dataclasses

import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import layouts, prepare, records

SETTINGS = prepare.Settings(size=(96, 144), frames=9, fps=15.0, points=64, cameras="first")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{representation: first view}."""
    root = tmp_path_factory.mktemp("das")
    tiny.write(root / "data", "seq0", views=3)
    result = {}
    for name in ("point_tracks", "das_tracking"):
        settings = dataclasses.replace(SETTINGS, representation=name)
        prepare.run(layouts.folder_sources(root / "data"), root / name, settings)
        reader = records.Reader(root / name / "96x144")
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
        prepare.Settings(representation="flow")
