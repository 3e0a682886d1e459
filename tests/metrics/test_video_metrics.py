"""Video metrics against scikit-image, torchmetrics and piq (golden), baselines, known motion."""

from pathlib import Path

import image_metrics
import numpy as np
import pytest

from syncmv4d_jax.metrics import baselines, scene, video

GOLDEN = Path(__file__).parents[1] / "golden/metrics/image_metrics.npz"


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.fixture(scope="module")
def z():
    return np.load(GOLDEN)


def moving_square(shift=0, frames=9, views=2):
    """A bright square that crosses a textured wall; [v n 32 48 3] uint8."""
    wall = np.random.default_rng(0).integers(40, 90, (views, 32, 48, 3), np.uint8)
    clip = np.repeat(wall[:, None], frames, axis=1)
    for n in range(frames):
        clip[:, n, 10:20, 4 + 3 * n + shift : 14 + 3 * n + shift] = (240, 200, 180)
    return clip


def test_frames_that_are_still_frame_0_do_not_count_as_moving():
    """One that waits and then moves has the scores of the frames that moved."""
    true = moving_square()
    true = np.concatenate([true[:, :1], true[:, :1], true], axis=1)
    pred = np.clip(true.astype(int) + 10, 0, 255).astype(np.uint8)
    pred[:, 1:3] = 0
    rows, blurred = scene.video_rows(pred, true)
    whole, _ = scene.video_rows(pred[:, 2:], true[:, 2:])
    for row in ("model", "frame_0"):
        np.testing.assert_allclose(rows[row]["psnr_moving"], whole[row]["psnr_moving"])
    assert rows["frame_0"]["psnr_moving"] < 20 < rows["frame_0"]["psnr"]
    assert all(np.isfinite(values["psnr_moving"]) for values in blurred.values())


def test_images_against_other_libraries(z):
    ref, dist, mask = z["ref"], z["dist"], z["hoi_mask"]
    close(np.abs(ref.astype(float) - dist).mean((1, 2, 3)), z["l1_255"])
    close(image_metrics.psnr(dist, ref), z["psnr_skimage_u8"])
    close(image_metrics.psnr(dist, ref), z["psnr_torchmetrics_01"])
    close(image_metrics.psnr(dist, ref, mask), z["psnr_masked_pixels_only_u8"])
    zeroed = [video.zero_background(x, mask) for x in (dist, ref)]
    close(image_metrics.psnr(*zeroed), z["psnr_masked_bg_zero_u8"])
    close(image_metrics.ssim(dist, ref), z["ssim_skimage_gauss_u8"])
    close(image_metrics.ssim(dist, ref, gaussian=False), z["ssim_skimage_default7_u8"])
    close(image_metrics.ssim(dist, ref, mirror=True), z["ssim_torchmetrics_01"])
    close(image_metrics.ssim(*zeroed), z["ssim_masked_bg_zero_gauss_u8"])
    close(image_metrics.gmsd(dist, ref), z["gmsd_piq_01"])
    changes = [np.abs(np.diff(x.astype(float), axis=0)) for x in (dist, ref)]
    close(image_metrics.gmsd(*changes), z["gmsd_piq_absframediff_01"])


def test_the_moving_region_is_where_the_square_passes():
    region = video.moving_region(moving_square())
    assert region[:, 12:18, 8:34].all()
    assert not region[:, :7].any() and not region[:, :, 43:].any()
    assert not video.moving_region(moving_square()[:, :1].repeat(5, 1)).any()


def test_motion_of_the_truth_of_a_frozen_and_of_a_delayed_video():
    true = moving_square()
    region = video.moving_region(true)
    close(video.temporal(true, true, region), (1, 1))
    assert video.temporal(baselines.held(true), true, region) == pytest.approx((0, 0))
    delayed = np.concatenate([true[:, :1], true[:, :-1]], axis=1)
    correlation, ratio = video.temporal(delayed, true, region)
    assert 0.2 < correlation < 0.95 and 0.6 < ratio < 1.4
    half = (0.5 * true + 0.5 * true.mean(1, keepdims=True)).astype(np.uint8)
    correlation, ratio = video.temporal(half, true, region)
    assert correlation > 0.99 and ratio == pytest.approx(0.5, abs=0.01)
    mirrored = (255 - true.astype(int)).astype(np.uint8)
    assert video.temporal(mirrored, true, region)[0] == pytest.approx(-1)


def test_what_is_not_defined_is_none():
    true = moving_square()
    still = baselines.held(true)
    nowhere = video.moving_region(still)
    assert video.temporal(true, still, nowhere) == (None, None)
    assert video.temporal(true[:, :1], true[:, :1], nowhere) == (None, None)
    assert video.mean(image_metrics.psnr(true, true, nowhere[:, None])) is None
    assert video.mean(image_metrics.psnr(true, true)) == video.PSNR_CAP
    with pytest.raises(ValueError, match="at least 11 x 11"):
        image_metrics.ssim(true[..., :8, :, :], true[..., :8, :, :])


def test_baselines():
    true = moving_square()
    region = video.moving_region(true)[:, None]
    frozen = baselines.repeat(true[:, 0], 9)
    np.testing.assert_array_equal(frozen, baselines.held(true))
    mean = baselines.time_mean(true)
    assert mean.shape == true.shape and mean.dtype == np.uint8
    np.testing.assert_allclose(mean[:, 3], true.mean(1), atol=0.51)

    def score(clip):
        return image_metrics.psnr(clip[:, 1:], true[:, 1:], region).mean()

    blurred = [baselines.repeat(baselines.blur(true[:, 0], s), 9) for s in baselines.SIGMAS]
    assert max(map(score, blurred)) > score(frozen) + 1  # a blur beats the frozen frame
    assert score(mean) > score(frozen) + 1
    tracks = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    assert baselines.time_mean(tracks).dtype == np.float32
