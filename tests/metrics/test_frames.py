"""Frame-by-frame scores of several rows equal the plain metrics, whatever the region."""

from pathlib import Path

import image_metrics
import numpy as np
import pytest

from syncmv4d_jax.metrics import baselines, frames, video

Z = np.load(Path(__file__).parents[1] / "golden/metrics/image_metrics.npz")
TRUE, PRED = Z["ref"][:2], Z["dist"][:2]


def region(kind):
    found = np.zeros(TRUE.shape[1:3], bool)
    if kind == "middle":
        found[30:60, 40:90] = True
    elif kind == "corner and edge":
        found[:3, :4] = found[-2:, 50:60] = True
    elif kind == "one pixel":
        found[20, 70] = True
    elif kind == "all":
        found[:] = True
    return found


@pytest.mark.parametrize("kind", ["middle", "corner and edge", "one pixel", "all", "none"])
def test_rows_equal_the_plain_metrics(kind):
    mask = region(kind)
    rows = {"model": PRED, "still": baselines.repeat(PRED[:1], 2)[0], "same": TRUE}
    view = frames.View(rows, TRUE, mask)
    assert set(view.still) == {"still"}
    for n in range(2):
        for name, found in view.score(n).items():
            x, y = rows[name][n], TRUE[n]
            inside = [video.zero_background(z, mask) for z in (x, y)]
            wanted = {
                "psnr": image_metrics.psnr(x, y),
                "psnr_moving": image_metrics.psnr(x, y, mask),
                "ssim": image_metrics.ssim(x, y),
                "ssim_moving": image_metrics.ssim(*inside) if mask.any() else np.nan,
                "gmsd": image_metrics.gmsd(x, y),
            }
            assert set(found) == set(wanted) == set(frames.SCORES)
            for metric, value in wanted.items():
                np.testing.assert_allclose(found[metric], value, rtol=1e-9, atol=1e-12)


def test_pictures_smaller_than_the_window_have_no_ssim():
    small = [x[:, :8, :20] for x in (PRED, TRUE)]
    found = frames.View({"model": small[0]}, small[1], np.ones((8, 20), bool)).score(0)["model"]
    assert np.isnan(found["ssim"]) and np.isnan(found["ssim_moving"]) and found["psnr"] > 10
