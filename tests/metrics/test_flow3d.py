"""Flow maps against the truth: known answers, rows, bars that can fail."""

import bars
import numpy as np
import pytest
import views

from syncmv4d_jax.geometry import cameras, flow_map
from syncmv4d_jax.metrics import flow3d

FRAMES, SIZE = 9, (24, 36)


def scene():
    """(truth, camera, tracks): views.scene, whose block goes 3.7 cm a frame, once."""
    camera, tracks, colours = views.scene(FRAMES, SIZE)
    flow = flow_map.forward(tracks, camera)
    flow[np.abs(flow) < 1e-6] = 0
    return {
        "flow": flow[None], "flow_valid": np.ones((1, *SIZE), bool),
        "depth0": camera.depth[None], "intrinsics": camera.intrinsics[None],
        "extrinsics": camera.extrinsics[None, None], "frame_valid": np.ones(FRAMES, bool),
        "video": np.repeat(colours[None, None], FRAMES, 1),
    }, camera, tracks  # fmt: skip


TRUTH, CAMERA, TRACKS = scene()
STEP = np.linalg.norm([0.03, -0.01, -0.02])  # metres a frame


def sampled(tracks):
    flow = flow_map.forward(tracks.astype(np.float32), CAMERA)[None]
    return TRUTH | {"flow": flow, "extrinsics": TRUTH["extrinsics"][:, 0]}


def block():
    return np.linalg.norm(TRACKS[-1] - TRACKS[0], axis=-1) > 0.01


def test_the_truth_has_no_error_and_held_still_has_the_way_itself():
    found = flow3d.score(sampled(TRACKS), TRUTH, "x")
    for metric in ("flow_epe_mm", "flow_epe_moving_mm", "flow_epe_late_mm", "flow_accel"):
        assert found["model"][metric] == pytest.approx(0, abs=1e-3)
    assert found["model"]["flow_centroid"] == pytest.approx(1)
    assert found["model"]["apd3d"] == 100 and found["model"]["background_drift_mm"] < 1e-3
    steps = np.arange(1, FRAMES)
    assert found["held"]["flow_epe_moving_mm"] == pytest.approx(1e3 * STEP * steps.mean(), rel=1e-4)
    late = steps[steps >= flow3d.LATE].mean()
    assert found["held"]["flow_epe_late_mm"] == pytest.approx(1e3 * STEP * late, rel=1e-4)
    assert found["held"]["flow_centroid"] == 0 and found["held"]["background_drift_mm"] == 0
    assert found["true_velocity"]["flow_epe_mm"] == pytest.approx(0, abs=1e-3)  # it is constant


def test_errors_are_in_millimetres_of_each_kind_of_pixel():
    off = np.where(block()[..., None], [0.0, 0.004, 0.0], [0.0, 0.0, 0.003])
    found = flow3d.score(sampled(TRACKS + off * (np.arange(FRAMES) > 0)[:, None, None, None]),
                         TRUTH, "x")["model"]  # fmt: skip
    assert found["flow_epe_moving_mm"] == pytest.approx(4, rel=1e-3)
    assert found["flow_epe_mm"] == pytest.approx(4, rel=1e-3)
    assert found["background_drift_mm"] == pytest.approx(3, rel=1e-3)
    pixel = SIZE[1] / 256 * 0.9 / CAMERA.intrinsics[0, 0]  # metres, of 256 columns at 0.9 m
    inside = np.mean([d * pixel > 0.004 for d in (1, 2, 4, 8, 16)])
    assert found["apd3d"] == pytest.approx(100 * inside, abs=2)


def test_what_is_not_known_and_padded_frames_do_not_count():
    spoilt = TRACKS.copy()
    spoilt[:, :, : SIZE[1] // 2] += 1.0
    spoilt[6:] += 1.0
    spoilt[0] = TRACKS[0]
    valid = np.ones((1, *SIZE), bool)
    valid[:, :, : SIZE[1] // 2] = False
    truth = TRUTH | {"flow_valid": valid, "frame_valid": np.arange(FRAMES) < 6}
    found = flow3d.score(sampled(spoilt), truth, "x")["model"]
    assert found["flow_epe_mm"] < 1e-2 and found["flow_epe_late_mm"] is None


def test_paths_move_what_does_not_stand_still_by_the_world():
    path = np.arange(FRAMES)[:, None] * (TRACKS[1] - TRACKS[0])[block()].mean(0)
    rebuilt = sampled(TRACKS * 0 + TRACKS[:1])["flow"]
    found = flow3d.score(sampled(TRACKS), TRUTH, "x", paths={"mean_path": path}, rebuilt=rebuilt)
    assert found["mean_path"]["flow_epe_moving_mm"] == pytest.approx(0, abs=1e-2)
    assert found["mean_path"]["background_drift_mm"] == 0
    held = found["held"]["flow_epe_moving_mm"]
    assert found["codec"]["flow_epe_moving_mm"] == pytest.approx(held, rel=1e-4)


def test_surfaces_have_paths_of_their_own():
    """Two halves that go apart: the mean of both stands still, each half does not."""
    way = np.where(np.arange(SIZE[1])[None, :, None] < SIZE[1] // 2, [-0.01, 0, 0], [0.01, 0, 0])
    ways = np.arange(FRAMES)[:, None, None, None] * way
    true = TRACKS[:1] + ways
    truth = TRUTH | {"flow": sampled(true)["flow"]}
    groups = np.broadcast_to(np.arange(SIZE[1]) < SIZE[1] // 2, (1, *SIZE)).astype(int)
    turned = sampled(TRACKS[:1] - ways)
    found = flow3d.score(turned, truth, "x", groups=groups)["model"]
    assert found["flow_centroid"] == pytest.approx(-1, abs=1e-3)
    assert flow3d.score(turned, truth, "x")["held"]["flow_centroid"] in (0, None)


def test_a_flow_of_another_size_is_named():
    small = sampled(TRACKS) | {"flow": np.zeros((1, FRAMES, 8, 8, 3))}
    with pytest.raises(
        ValueError, match=r"sample x: wanted flow \[v n h w 3\] .*\(1, 9, 8, 8, 3\)"
    ):
        flow3d.score(small, TRUTH, "x")


GOOD = {
    "model": {"flow_epe_moving_mm": 20.0, "flow_epe_late_mm": 30.0, "flow_centroid": 0.9,
              "background_drift_mm": 1.0},
    "held": {"flow_epe_moving_mm": 60.0},
    "mean_path": {"flow_epe_moving_mm": 40.0, "flow_epe_late_mm": 60.0, "flow_centroid": 0.7},
    "crop_ridge": {"flow_epe_moving_mm": 35.0, "flow_epe_late_mm": 55.0, "flow_centroid": 0.8},
    "nearest": {"flow_epe_moving_mm": 45.0, "flow_epe_late_mm": 65.0, "flow_centroid": 0.6},
    "true_velocity": {"flow_epe_late_mm": 50.0}, "codec": {"flow_epe_moving_mm": 10.0},
}  # fmt: skip


def test_the_bars_are_met_where_everything_is_good():
    failing, found = bars.checked(flow3d.checks, GOOD)
    assert not failing and [c["name"][:2] for c in found] == [
        "C1", "S1", "S1", "S2", "S2", "S3", "S3", "S4"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({("codec", "flow_epe_moving_mm"): 16.0}, ["C1 codec"]),
        ({("held", "flow_epe_moving_mm"): 26.0}, ["S1 Flow error, moving"]),
        ({("nearest", "flow_epe_moving_mm"): 19.0}, ["S1 Flow error, moving"]),
        ({("true_velocity", "flow_epe_late_mm"): 29.0}, ["S2 Flow error, late"]),
        ({("mean_path", "flow_epe_late_mm"): 29.0}, ["S2 Flow error, late"]),
        ({("model", "flow_centroid"): 0.78}, ["S3 Flow centroid corr."] * 2),
        ({("crop_ridge", "flow_centroid"): 0.95}, ["S3 Flow centroid corr."]),
        ({("model", "background_drift_mm"): 2.5}, ["S4 Background drift"]),
    ],
)
def test_each_bar_can_fail(change, failing):
    assert bars.checked(flow3d.checks, GOOD, change)[0] == failing


def test_without_the_rows_of_training_scenes_nothing_is_shown():
    _, found = bars.checked(flow3d.checks, GOOD, without=("nearest",))
    lacking = [c for c in found if "not shown" in c["why_not"]]
    assert [c["name"][:2] for c in lacking] == ["S1", "S2", "S3"]
    assert all("no values of nearest" in c["why_not"] for c in lacking)
    few, _ = bars.checked(flow3d.checks, GOOD, scenes=15)
    assert len(few) == 8  # too few scenes: none passes


def test_cameras_of_frame_0_are_the_frame():
    """A sample whose world is moved and turned as its cameras are has the same errors."""
    turn = cameras.look_at(np.array([1.0, 2, 3]), np.zeros(3), np.array([0.0, 0, 1]))
    moved = {"extrinsics": np.concatenate([turn[:, :3], np.ones((3, 1))], 1)[None].astype(float)}
    off = sampled(TRACKS + np.array([0.0, 0.006, 0.0]) * block()[..., None])
    one, other = (flow3d.score(x, TRUTH, "x")["model"] for x in (off, off | moved))
    assert one == pytest.approx(other)
