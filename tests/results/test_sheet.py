"""Small pictures of samples."""

import fake_samples
import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import sheet


def test_sheets(tmp_path):
    video = fake_samples.truth(0)["video"]
    sheet.gif(tmp_path / "a.gif", [video, video], fps=8)
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 9 and picture.info["duration"] == 120 and picture.width > 480
    sheet.png(tmp_path / "a.png", [video], frames=3)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.height == 3 * 96 + 2 * sheet.GAP
    with pytest.raises(ValueError, match="one shape"):
        sheet.gif(tmp_path / "b.gif", [video, video[:, :2]], fps=8)


def test_a_grid_of_a_sample_shows_its_tracks_where_they_are():
    truth = fake_samples.truth(0)
    plain = {"video": np.zeros_like(truth["video"])}
    empty = sheet.grid(plain, frames=3, height=48)
    assert empty.shape == (3 * 48 + 2 * sheet.GAP, 3 * 64 + 2 * sheet.GAP, 3)
    assert set(np.unique(empty)) == {0, 255}  # tiles and gaps
    keys = ("tracks", "intrinsics", "extrinsics")
    drawn = plain | {key: truth[key] for key in keys}
    picture = sheet.grid(drawn, frames=9, height=48)
    last = picture[52 : 52 + 48, 8 * 68 : 8 * 68 + 64]  # view 1, frame 8
    pixels, _ = cameras.project(
        truth["tracks"][8], truth["intrinsics"][1], truth["extrinsics"][1, 0]
    )
    x, y = pixels.round().astype(int).T
    inside = (x >= 0) & (x < 64) & (y >= 0) & (y < 48)
    assert (last[y[inside], x[inside]].max(-1) > 30).mean() > 0.8
    far = np.ones((48, 64), bool)
    for dx in range(-4, 5):
        for dy in range(-4, 5):
            far[np.clip(y + dy, 0, 47), np.clip(x + dx, 0, 63)] = False
    assert last[far].mean() < 12  # trails only
    broken = drawn | {"tracks": np.full_like(truth["tracks"], np.nan)}
    np.testing.assert_array_equal(sheet.grid(broken, frames=3, height=48), empty)
    both = sheet.grid(drawn, truth, frames=9, height=48)
    assert both.shape[0] == 6 * 48 + 5 * sheet.GAP
    np.testing.assert_array_equal(both[104 : 104 + 48], picture[52 : 52 + 48])
