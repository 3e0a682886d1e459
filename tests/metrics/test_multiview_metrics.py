"""Multi-view errors against golden arrays, and known answers."""

from pathlib import Path

import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import multiview

GOLDEN = Path(__file__).parents[1] / "golden/metrics/multiview_rpe_pi.npz"


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def percent(pair):
    return np.array(pair, np.float64) / 100


@pytest.fixture(scope="module")
def scene():
    z = np.load(GOLDEN)
    pose = z["world_to_cam"][:, :3]
    to_world = lambda x: cameras.to_world(x.astype(np.float64), pose)  # noqa: E731
    return z, pose, to_world(z["pred_cam"]), to_world(z["gt_cam"])[0], z["vis"]


def test_single_view_world_and_cross_forms(scene):
    z, pose, pred, true, seen = scene
    close(pred, z["world_pred"])
    close(percent(multiview.single(pred, true, seen, pose)), z["sv_rpe_pi"])
    close(percent(multiview.world(pred, true, seen)), z["mv_world_rpe_pi"])
    found = multiview.cross_pairs(pred, true, seen, pose)
    close(percent(found), z["mv_cross_vs_gt_rpe_pi_pairs_ij"])
    found = multiview.cross_pairs(pred, None, seen, pose)
    close(percent(found), z["mv_cross_vs_pred_rpe_pi_pairs_ij"])
    close(percent(multiview.cross(pred, None, seen, pose)), percent(found).mean(0))


def test_baselines_that_are_right_up_to_scale(scene):
    z, pose, _, true, seen = scene
    pred = cameras.to_world(z["upscale_pred"].astype(np.float64), pose)
    joint = multiview.joint_scale(pred, true, seen, pose)
    close(joint, z["upscale_joint_scale"])
    scaled = multiview.rescale(pred, pose, joint)
    close(percent(multiview.single(scaled, true, seen, pose)), z["upscale_joint_sv"])
    close(percent(multiview.world(scaled, true, seen)), z["upscale_joint_mv_world"])
    one = [(pred[v : v + 1], true, seen[v : v + 1], pose[v : v + 1]) for v in range(3)]
    own = [multiview.joint_scale(*arguments) for arguments in one]
    close(own, z["upscale_per_view_scale"])
    scaled = [multiview.rescale(pred[v : v + 1], pose[v : v + 1], own[v])[0] for v in range(3)]
    close(percent(multiview.single(np.stack(scaled), true, seen, pose)), z["upscale_per_view_sv"])
    close(percent(multiview.world(np.stack(scaled), true, seen)), z["upscale_per_view_mv_world"])


def test_camera_points_scaled_by_5_percent(scene):
    """RPE 5 in each view; over views 5 x mean(camera distance / |X|)."""
    _, pose, _, true, seen = scene
    copies = np.broadcast_to(true, (3, *true.shape))
    pred = multiview.rescale(copies, pose, 1.05)
    everything = np.ones_like(seen)
    close(multiview.single(pred, true, everything, pose), (5, 100))
    far = np.linalg.norm(cameras.to_camera(copies, pose), axis=-1)
    wanted = 5 * (far / np.linalg.norm(true, axis=-1)).mean()
    close(multiview.world(pred, true, everything)[0], wanted)


def test_the_truth_is_perfect_in_every_form_and_unseen_points_are_none(scene):
    _, pose, _, true, seen = scene
    copies = np.broadcast_to(true, (3, *true.shape))
    for pair in (
        multiview.single(copies, true, seen, pose),
        multiview.world(copies, true, seen),
        multiview.cross(copies, None, seen, pose),
        multiview.cross(copies, true, seen, pose),
    ):
        close(pair, (0, 100))
    nothing = np.zeros_like(seen)
    assert multiview.world(copies, true, nothing) == (None, None)
    assert multiview.cross(copies, None, nothing, pose) == (None, None)
    assert multiview.cross(copies[:1], true, seen[:1], pose[:1]) == (None, None)  # one view


def test_still_points_agree_over_views_whatever_the_truth(scene):
    """Why the cross form without truth cannot tell a frozen prediction from a right one."""
    _, pose, pred, true, seen = scene
    still = np.broadcast_to(true[:1], true.shape)
    copies = np.broadcast_to(still, (3, *true.shape))
    assert multiview.cross(copies, None, seen, pose)[0] < 1e-6
    assert multiview.cross(copies, true, seen, pose)[0] > 0.1


def test_wrong_shapes_are_named(scene):
    _, pose, pred, true, seen = scene
    with pytest.raises(ValueError, match=r"wanted points \[v n k 3\]"):
        multiview.single(pred[:, :, :5], true, seen, pose)
