"""Known answers on an embedded scene, and defined results on inputs that are not."""

import json
from pathlib import Path

import fake_samples
import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import multiview, scene, summary
from syncmv4d_jax.run import evaluate

EMBEDDED = dict(np.load(Path(__file__).parents[1] / "golden/metrics/embedded_scene.npz"))
EMBEDDED["anchor_valid"] = np.ones_like(EMBEDDED["visibility"][:, 0])
TRUTH = fake_samples.truth(0, frames=5, points=40)


def copies(tracks, views=3):
    return np.tile(tracks, (views, 1, 1, 1))


def scored(truth, **changes):
    """The model's scores of the truth with changes; nothing in them is NaN or infinite."""
    sample = truth | {"tracks_per_view": copies(truth["tracks"]), "meta": {}} | changes
    found, _ = scene.score(sample, truth, "x", points=truth)
    json.dumps(found, allow_nan=False)
    return found["model"]


def test_the_embedded_truth_is_perfect_against_itself():
    true = EMBEDDED["tracks"]
    found = scene.view_scores(copies(true), EMBEDDED, EMBEDDED["extrinsics"], len(true))
    found |= scene.point_scores(true, EMBEDDED, len(true)) | scene.cloud_scores(true, true)
    zero = ("rpe", "mv_rpe", "mv_rpe_cross", "mv_rpe_cross_truth", "rpe_aligned")
    zero += ("mv_rpe_aligned", "error_mm", "chamfer", "chamfer_mm", "acceleration_error")
    for metric in zero:
        assert found[metric] == pytest.approx(0, abs=1e-9), metric
    for metric in ("pi", "mv_pi", "mv_pi_cross"):
        assert found[metric] == 100
    assert found["object_correlation"] == pytest.approx(1)


def test_embedded_points_5_percent_too_far():
    true, pose, seen = (EMBEDDED[k] for k in ("tracks", "extrinsics", "visibility"))
    pred = multiview.rescale(copies(true), pose, 1.05)
    found = scene.view_scores(pred, EMBEDDED, pose, len(true))
    assert found["rpe"] == pytest.approx(5, abs=1e-6)
    assert found["mv_rpe_cross_truth"] != pytest.approx(5, abs=1e-3)
    assert found["rpe_aligned"] == pytest.approx(0, abs=1e-6)
    far = np.linalg.norm(cameras.to_camera(copies(true), pose), axis=-1)
    ratio = far / np.linalg.norm(true, axis=-1)
    frames = [r[s].mean() for r, s in zip(np.concatenate(ratio), np.concatenate(seen), strict=True)
              if s.any()]  # fmt: skip
    assert found["mv_rpe"] == pytest.approx(5 * np.mean(frames), rel=1e-5)
    assert found["mv_rpe"] == pytest.approx(11.1, abs=0.05)  # what docs/metrics.md says


def test_all_masked_views_and_frames_without_points():
    blind = TRUTH | {"visibility": np.zeros_like(TRUTH["visibility"])}
    found = scored(blind)
    for metric in ("rpe", "pi", "mv_rpe", "mv_pi", "mv_rpe_cross", "mv_rpe_cross_truth"):
        assert found[metric] is None, metric
    assert found["chamfer"] == pytest.approx(0, abs=1e-12) and found["error_mm"] < 1e-4
    seen = TRUTH["visibility"].copy()
    seen[1], seen[0, 2] = False, False
    wrong = copies(TRUTH["tracks"])
    wrong[1], wrong[0, 2] = 100.0, 100.0  # where nothing is seen, nothing counts
    found = scored(TRUTH | {"visibility": seen}, tracks_per_view=wrong, tracks=TRUTH["tracks"])
    assert found["rpe"] == pytest.approx(0, abs=1e-5) and found["mv_pi"] == 100


def test_one_point_one_view_two_frames_and_one_frame():
    one = TRUTH | {k: TRUTH[k][..., :1] for k in ("visibility", "anchor_valid")}
    one |= {"tracks": TRUTH["tracks"][:, :1], "visibility": np.ones((3, 5, 1), bool)}
    found = scored(one)
    assert found["rpe"] == pytest.approx(0, abs=1e-9) and found["chamfer"] == 0
    single = {k: TRUTH[k][:1] for k in ("video", "visibility", "intrinsics", "extrinsics")}
    single = TRUTH | single
    found = scored(single, tracks_per_view=TRUTH["tracks"][None])
    assert found["mv_rpe_cross"] is None and found["mv_rpe"] == 0
    for frames in (2, 1):
        valid = np.arange(5) < frames
        found = scored(TRUTH | {"frame_valid": valid})
        assert found["smoothness"] is None and found["jerk"] is None
        assert found["rpe"] == 0 and found["temporal_correlation"] in (None, 1.0)
    assert found["psnr"] is None and found["object_correlation"] is None


def test_points_that_are_not_finite():
    for bad in (np.nan, np.inf):
        broken = copies(TRUTH["tracks"])
        broken[:, 2, :7] = bad
        found = scored(TRUTH, tracks_per_view=broken, tracks=broken[0])
        assert 0 < found["mv_rpe"] < 20 and found["error_mm"] is None
        assert found["chamfer"] > 0 and found["pi"] < 100
    unknown = scored(TRUTH | {"tracks": np.full_like(TRUTH["tracks"], np.nan)})
    assert unknown["known_points"] == 0 and unknown["error_mm"] is None and unknown["rpe"] is None


def test_hidden_points_moving_points_and_inliers_are_counted_apart():
    """Points 0..9 no view sees in frame 0; of the others half are 1 cm off, half 4 cm."""
    valid = np.ones_like(TRUTH["anchor_valid"])
    valid[:, :10] = False
    true = TRUTH["tracks"].copy()
    true[:, 25:] = true[:1, 25:]  # what does not move
    wrong = true + [0.01, 0, 0]
    wrong[:, :10] += [0.99, 0, 0]
    wrong[:, 25:] += [0.03, 0, 0]
    truth = TRUTH | {"anchor_valid": valid, "tracks": true}
    found = scored(truth, tracks=wrong, tracks_per_view=copies(wrong))
    assert found["error_hidden_mm"] == pytest.approx(1000, rel=1e-4)
    assert found["error_mm"] == pytest.approx(25, rel=1e-4)
    assert found["error_moving_mm"] == pytest.approx(10, rel=1e-4)
    assert found["inliers_2cm"] == 50 and found["inliers_5cm"] == 100
    assert found["known_points"] == 100
    assert found["mv_rpe"] < 10  # the hidden ones are not in it
    part = true.copy()
    part[:, 20:25] = np.nan  # query pixels that show no surface
    found = scored(truth | {"tracks": part}, tracks=wrong, tracks_per_view=copies(wrong))
    assert found["known_points"] == pytest.approx(100 * 35 / 40)
    assert found["error_mm"] == pytest.approx((10 * 10 + 15 * 40) / 25, rel=1e-4)


def test_scenes_of_different_lengths_count_as_scenes():
    """A scene is one value, whatever its length; a sample shorter than its record is an error."""
    values = {}
    for name, frames in (("long", 5), ("short", 3)):
        truth = TRUTH | {"frame_valid": np.arange(5) < frames}
        wrong = copies(TRUTH["tracks"])
        wrong[:, 3:] += 0.1  # only in frames that the short scene does not have
        values[name] = scored(truth, tracks_per_view=wrong, tracks=wrong[0])["mv_rpe"]
    assert values["short"] == 0 and values["long"] > 1
    assert summary.mean(values)["value"] == pytest.approx(values["long"] / 2)
    with pytest.raises(ValueError, match=r"wanted video \[v n h w 3\]"):
        scored(TRUTH, video=TRUTH["video"][:, :4])


def test_a_still_scene():
    still = TRUTH | {"tracks": np.repeat(TRUTH["tracks"][:1], 5, 0),
                     "video": np.repeat(TRUTH["video"][:, :1], 5, 1)}  # fmt: skip
    found = scored(still)
    assert found["smoothness"] == 0 and found["object_correlation"] is None
    for metric in ("temporal_correlation", "temporal_std_ratio", "psnr_moving", "ssim_moving"):
        assert found[metric] is None, metric
    assert found["psnr"] == 100
    assert evaluate.assemble({"x": {"model": found}})["rows"]["model"]["psnr_moving"]["n"] == 0
