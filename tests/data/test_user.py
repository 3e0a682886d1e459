"""A user's folder of images and cameras: cut from videos, read back."""

import json

import numpy as np
import pytest

from syncmv4d_jax.data import user
from syncmv4d_jax.results import video


@pytest.fixture
def recording(tmp_path):
    """Two cameras of 64 x 48; each frame has its own grey."""
    entries = {}
    for index, name in enumerate(("right", "left")):
        grey = np.arange(4) * 40 + 20 * index
        frames = np.broadcast_to(grey[:, None, None, None], (4, 48, 64, 3)).astype(np.uint8)
        video.write(tmp_path / "videos" / f"{name}.mp4", frames, fps=8, quality=0)
        k = [50.0, 0, 31.5, 0, 50, 23.5, 0, 0, 1]
        entries[name] = {"K": k, "R": np.eye(3).ravel().tolist(), "T": [0.0, 0, index]}
        entries[name]["imgSize"] = [64, 48]
    return tmp_path, entries


def _cut(recording, frame=0):
    path, entries = recording
    (path / "calibration.json").write_text(json.dumps(entries))
    return user.from_videos(path / "videos", path / "calibration.json", path / "out", frame=frame)


def test_frames_of_videos_read_back_in_the_order_of_the_cameras(recording):
    assert _cut(recording, frame=2) == ("right", "left")
    views = user.read(recording[0] / "out", views=2, size=(48, 64))
    assert views.names == ("right", "left")
    np.testing.assert_allclose(views.images.mean((1, 2, 3)), (80, 100), atol=2)
    np.testing.assert_allclose(views.intrinsics[0], [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])
    np.testing.assert_allclose(views.extrinsics[:, 0, 2, 3], (0, 1))


def test_intrinsics_follow_a_video_stored_smaller(recording):
    for entry in recording[1].values():
        entry["imgSize"] = [128, 96]
        entry["K"] = [100.0, 0, 63.5, 0, 100, 47.5, 0, 0, 1]
    _cut(recording)
    views = user.read(recording[0] / "out", views=2, size=(48, 64))
    np.testing.assert_allclose(views.intrinsics[0], [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]])


def test_another_aspect_is_refused_and_nothing_is_left(recording):
    recording[1]["left"]["imgSize"] = [64, 64]
    with pytest.raises(ValueError, match="video is 64 x 48, its camera 64 x 64"):
        _cut(recording)
    assert not (recording[0] / "out").exists()


def test_a_missing_video_or_frame_is_named(recording):
    with pytest.raises(ValueError, match="wanted frames 9"):
        _cut(recording, frame=9)
    (recording[0] / "videos" / "left.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="no video of camera 'left'"):
        _cut(recording)


def test_an_existing_folder_is_kept(recording):
    (recording[0] / "out").mkdir()
    with pytest.raises(FileExistsError, match="there already"):
        _cut(recording)
