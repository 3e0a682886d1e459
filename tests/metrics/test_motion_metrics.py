"""Track metrics against published code's outputs, and on what is degenerate."""

from pathlib import Path

import numpy as np
import pytest

from syncmv4d_jax.metrics import motion, multiview

GOLDEN = Path(__file__).parents[1] / "golden/metrics"


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def percent(pair):
    return np.array(pair) / 100


def one_camera(function, pred, true, mask=None):
    """A metric of points [n ... 3] in the frame of the one camera that sees them."""
    mask = np.ones(np.shape(true)[:-1], bool) if mask is None else mask.astype(bool)
    flat = [x.reshape(len(x), -1, 3) for x in (pred, true)]
    return function(flat[0][None], flat[1], mask.reshape(1, len(mask), -1), np.eye(3, 4)[None])


def rpe_pi(pred, true, mask=None):
    return one_camera(multiview.single, pred, true, mask)


def scale_of(pred, true, mask=None):
    return one_camera(multiview.joint_scale, pred, true, mask)


@pytest.mark.parametrize("clip", ["a", "b"])
def test_alignment_and_errors_of_point_maps(clip):
    z = golden("geometrycrafter_rpe_pi")
    pred, true, mask = (z[f"{clip}_{k}"].astype(np.float64) for k in ("pred", "gt", "mask"))
    mask = mask.astype(bool)
    key = f"{clip}_unw_"
    scale = scale_of(pred, true, mask)
    close(scale, z[key + "scale"])
    close(percent(rpe_pi(scale * pred, true, mask)), [z[key + "rpe"], z[key + "pi"]])
    close(percent(rpe_pi(pred, true, mask))[0], z[f"{clip}_noalign_rpe"])


@pytest.mark.parametrize(
    "case, wanted",
    [
        ("nan", "nan_expected"),
        ("emptyframe", "emptyframe_expected_drop_frame"),
        ("clamp", "clamp_expected"),
    ],
)
def test_masked_nans_empty_frames_and_points_at_the_origin(case, wanted):
    z = golden("geometrycrafter_rpe_pi")
    found = rpe_pi(z[f"{case}_pred"], z[f"{case}_gt"], z[f"{case}_mask"])
    close(percent(found), z[wanted])


def test_errors_of_tracks():
    z = golden("geometrycrafter_rpe_pi")
    for v in range(3):
        found = rpe_pi(z["track_pred"][v], z["track_gt"][v], z["track_mask"][v])
        close(percent(found), z["track_expected_per_view"][v])


def test_smoothness():
    z = golden("smoothness")
    for v in range(3):
        track, true = z["track_V_N_K_3"][v], z["gt_track"][v]
        close(motion.smoothness(track), z["accel_l2_mean"][v])
        close(motion.smoothness(track) * 64, z["accel_l2_mean_per_s2_8fps"][v])
        close(motion.smoothness(track, order=3), z["jerk_l2_mean"][v])
        close(motion.acceleration_error(track, true), z["accel_error_l2_mean"][v])


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_chamfer(case):
    z = golden("chamfer")
    found = motion.chamfer(z[f"{case}_a"], z[f"{case}_b"])
    close(found["squared"], z[f"{case}_l2sq_sum"])
    close(found["linear"], z[f"{case}_l2_half"])
    close(2 * found["linear"], z[f"{case}_l2_sum"])
    close(found["ab"], z[f"{case}_ab_mean"])
    close(found["ba"], z[f"{case}_ba_mean"])


def test_the_truth_is_perfect_and_camera_points_scaled_by_5_percent_have_rpe_5():
    true = np.random.default_rng(0).normal(size=(5, 30, 3)) + [0, 0, 3]
    close(rpe_pi(true, true), (0, 100))
    close(rpe_pi(1.05 * true, true), (5, 100))
    close(scale_of(1.05 * true, true), 1 / 1.05)
    close(motion.chamfer_means(true, true), (0, 0))
    close(motion.path_correlation(true.mean(1), true.mean(1)), 1)


def test_what_is_not_defined_is_none():
    points = np.ones((3, 4, 3))
    nothing = np.zeros((3, 4), bool)
    assert rpe_pi(points, points, nothing) == (None, None)
    assert scale_of(points, points, nothing) == 1.0
    assert motion.smoothness(points[:2]) is None
    assert motion.smoothness(points[:2], order=3) is None
    assert motion.acceleration_error(points[:2], points[:2]) is None
    assert motion.chamfer_means(points * np.nan, points) == (None, None)
    assert motion.path_correlation(points[:, 0], points[:, 0]) is None
    moving = points[:, 0] * [[0], [1], [2]]
    assert motion.path_correlation(points[:, 0], moving) == 0
    assert rpe_pi(points[:, :1], points[:, :1])[0] == 0  # a one-point track


def test_a_predicted_nan_is_a_miss_and_a_true_one_an_error():
    true = np.ones((2, 4, 3))
    pred = true.copy()
    pred[0, 0] = np.nan
    close(rpe_pi(pred, true), (100 / 8, 87.5))
    with pytest.raises(ValueError, match="true points are not finite"):
        rpe_pi(true, pred)
    with pytest.raises(ValueError, match="wanted points"):
        rpe_pi(true[:1], true)
