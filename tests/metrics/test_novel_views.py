"""Completed views against true cameras: fills, regions, which camera counts as what, bars."""

import bars
import numpy as np
import pytest

from syncmv4d_jax.metrics import novel_views

FRAMES, SIZE = 5, (20, 30)
POSE = np.eye(3, 4)[None]
LENS = np.array([[30.0, 0, 15], [0, 30, 10], [0, 0, 1]])


def ramp():
    """A smooth picture, the same in all frames, with a hole in its middle."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([40 + 4 * x, 60 + 5 * y, 100 + 2 * x], -1).astype(np.uint8)
    covered = np.ones((FRAMES, *SIZE), bool)
    covered[:, 8:13, 11:18] = False
    return np.repeat(image[None], FRAMES, 0), covered


def error(clip, true, covered):
    return np.abs(clip.astype(int) - true)[~covered].mean()


def test_every_fill_keeps_what_is_covered_and_fills_the_rest():
    true, covered = ramp()
    spoilt = np.where(covered[..., None], true, 255).astype(np.uint8)
    made = novel_views.fills(spoilt, covered, covered)
    assert {row.split("/")[0] for row in made} == {"splat", *novel_views.FILLS}
    for row, clip in made.items():
        np.testing.assert_array_equal(clip[covered], true[covered], err_msg=row)
    assert (made["splat"][~covered] == 128).all()
    for row in set(made) - {"splat"}:
        assert error(made[row], true, covered) < 12 < error(made["splat"], true, covered), row
    x = made["fill_nearest"][0, 10, 11:18, 0]
    assert x.tolist() == [*true[0, 10, [10, 10], 0], *x[2:5], *true[0, 10, [18, 18], 0]]


def test_points_that_are_not_sure_count_little_beside_what_is():
    true, covered = ramp()
    wrong = covered & (np.arange(SIZE[1]) < 3)
    clip = np.where(wrong[..., None], 255, true).astype(np.uint8)
    off = lambda sure: error(  # noqa: E731
        novel_views.fills(clip, covered, sure)["fill_pyramid"], true, ~wrong
    )
    assert off(covered & ~wrong) < 0.6 * off(covered)


def test_a_hole_that_another_frame_covers_is_filled_from_the_nearest_one():
    true, covered = ramp()
    true = (true + 10 * np.arange(FRAMES)[:, None, None, None]).astype(np.uint8)
    covered[3] = covered[1] = True
    filled = novel_views.over_time(true, covered)
    hole = ~covered[0]
    for n, other in ((0, 1), (2, 1), (4, 3)):  # of two as near the earlier
        np.testing.assert_array_equal(filled[n][hole], true[other][hole])


def test_frames_without_any_point_are_grey():
    true, covered = ramp()
    covered[:] = False
    made = novel_views.fills(true, covered, covered)
    for row in ("fill_nearest", "fill_blur/0.0625", "fill_time", "fill_pyramid"):
        assert (made[row] == 128).all(), row


def sample_of(video, covered, poses, **meta):
    count = len(video)
    return {
        "video": video, "drawn": video, "covered": covered, "sure": covered, "meta": meta,
        "path_intrinsics": np.tile(LENS, (count, FRAMES, 1, 1)),
        "path_extrinsics": np.broadcast_to(poses, (count, FRAMES, 3, 4)),
    }  # fmt: skip


def pose(x, step=0.0):
    found = np.repeat(POSE, FRAMES, 0)
    found[:, 0, 3] = x + step * np.arange(FRAMES)
    return found


def world():
    true, covered = ramp()
    rng = np.random.default_rng(0)
    video = np.stack([true, rng.integers(0, 255, true.shape, np.uint8), true])
    truth = {
        "video": video, "intrinsics": np.tile(LENS, (3, 1, 1)),
        "extrinsics": np.stack([pose(0.0), pose(1.0), pose(2.0, 0.1)]),
        "frame_valid": np.ones(FRAMES, bool),
    }  # fmt: skip
    return truth, covered


def test_a_camera_is_the_record_s_only_if_it_is_in_every_frame():
    truth, covered = world()
    video = truth["video"]
    made = sample_of(video, covered[None], np.stack([pose(2.0, 0.1), pose(2.0), pose(0.0)]))
    assert novel_views.targets(made, truth) == [2, -1, 0]
    other = made | {"path_intrinsics": made["path_intrinsics"] + 0.5 * np.eye(3)}
    assert novel_views.targets(other, truth) == [-1, -1, -1]


def test_regions_by_their_definition():
    truth, covered = world()
    true = truth["video"][:1]
    off = np.where(covered[None, ..., None], 1, 10)
    sure = covered & (np.arange(SIZE[1]) < 5)
    off = np.where(sure[None, ..., None], 3, off)
    made = sample_of(true, covered[None], pose(0.0)[None]) | {
        "video": (true + off).astype(np.uint8), "sure": sure[None]
    }  # fmt: skip
    found = novel_views.score(made, truth, [0], rebuilt=truth["video"])
    rows = found["model"]
    decibel = lambda square: 10 * np.log10(255**2 / square)  # noqa: E731
    holes, known = 1 - covered.mean(), sure.mean()
    assert rows["psnr_hole"] == pytest.approx(decibel(100), abs=1e-3)
    assert rows["psnr_sure"] == pytest.approx(decibel(9), abs=1e-3)
    seen = 9 * known + (1 - holes - known)
    assert rows["psnr_seen"] == pytest.approx(decibel(seen / (1 - holes)), abs=1e-3)
    assert rows["psnr_view"] == pytest.approx(decibel(100 * holes + seen), abs=1e-3)
    assert rows["hole_share"] == pytest.approx(100 * holes)
    assert rows["sure_share"] == pytest.approx(100 * known)
    del made["sure"]
    with pytest.raises(ValueError, match="sample it anew"):
        novel_views.score(made, truth, [0])
    assert found["autoencoder"]["psnr_seen"] == 100 and found["splat"]["psnr_seen"] == 100
    assert "psnr_view_path" not in rows and "own_view_correlation" not in rows


def test_cameras_that_move_and_own_cameras_have_keys_of_their_own():
    truth, covered = world()
    video = truth["video"][[1, 2, 0]]
    made = sample_of(video, np.tile(covered, (3, 1, 1, 1)),
                     truth["extrinsics"][[1, 2, 0]], own_views=[False, False, True])  # fmt: skip
    made["video"] = video.copy()
    made["video"][1] = 255 - made["video"][1]
    found = novel_views.score(made, truth, [1, 2, 0])["model"]
    assert found["psnr_view"] == 100 and found["psnr_view_path"] < 30
    assert found["own_view_correlation"] is None  # nothing moves there
    assert novel_views.score(made, truth, [-1, 2, -1])["model"].keys() == {
        m for m in found if m.endswith("_path")
    }


def test_an_own_view_correlates_over_time():
    truth, covered = world()
    clip = np.random.default_rng(1).integers(0, 255, (1, FRAMES, *SIZE, 3), np.uint8)
    truth |= {"video": np.concatenate([clip, truth["video"][1:]])}
    made = sample_of(clip, covered[None] | True, pose(0.0)[None], own_views=[True])
    assert novel_views.score(made, truth, [0])["model"] == {
        "own_view_correlation": pytest.approx(1)
    }
    turned = made | {"video": 255 - clip}
    found = novel_views.score(turned, truth, [0])["model"]["own_view_correlation"]
    assert found == pytest.approx(-1)


def good():
    """Values that meet all bars."""
    rows = {"model": {"own_view_correlation": 0.6}, "splat": {}, "autoencoder": {"psnr_seen": 31.0}}
    rows |= {row: {} for row in novel_views.FILLS}
    for suffix in ("", "_path"):
        rows["model"] |= {f"psnr_hole{suffix}": 24.0, f"psnr_view{suffix}": 27.0}
        rows["splat"] |= {f"psnr_view{suffix}": 18.0}
        for i, row in enumerate(novel_views.FILLS):
            rows[row] |= {f"psnr_hole{suffix}": 20.0 - i, f"psnr_view{suffix}": 25.0 - i}
    rows["model"]["psnr_seen"] = 30.5
    return rows


def test_the_bars_are_met_where_everything_is_good():
    failing, found = bars.checked(novel_views.checks, good())
    assert not failing
    names = [c["name"][:2] for c in found]
    assert names == ["V1", "V2", "V2", "V3", "V4", "V4", "V4", "E1"]


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({("fill_ns", "psnr_hole"): 22.5}, ["V1 PSNR holes"]),
        ({("splat", "psnr_view"): 27.5}, ["V2 PSNR view"]),
        ({("fill_time", "psnr_view"): 26.8}, ["V2 PSNR view"]),
        ({("model", "psnr_seen"): 28.0}, ["V3 PSNR seen"]),
        ({("fill_blur", "psnr_hole_path"): 22.5}, ["V4 PSNR holes, path"]),
        ({("splat", "psnr_view_path"): 27.5}, ["V4 PSNR view, path"]),
        ({("fill_telea", "psnr_view_path"): 26.8}, ["V4 PSNR view, path"]),
        ({("model", "own_view_correlation"): 0.4}, ["E1 Own view corr."]),
    ],
)
def test_each_bar_can_fail(change, failing):
    assert bars.checked(novel_views.checks, good(), change)[0] == failing


def test_without_a_fill_nothing_is_shown():
    _, found = bars.checked(novel_views.checks, good(), without=("fill_telea",))
    lacking = [c for c in found if "not shown: no values of fill_telea" in c["why_not"]]
    assert [c["name"][:2] for c in lacking] == ["V1", "V2", "V4", "V4"]


def test_without_opencv_its_rows_are_missing(monkeypatch):
    true, covered = ramp()
    monkeypatch.setattr(novel_views.importlib.util, "find_spec", lambda name: None)
    made = {row.split("/")[0] for row in novel_views.fills(true, covered, covered)}
    assert made == {"splat", "fill_nearest", "fill_time", "fill_pyramid", "fill_blur"}


def test_the_best_sigma_is_by_holes_of_still_cameras_where_there_are():
    assert novel_views.best_by({"psnr_hole", "psnr_hole_path"}) == "psnr_hole"
    assert novel_views.best_by({"psnr_hole_path"}) == "psnr_hole_path"
    assert novel_views.has_views({"own_view_correlation", "x"})
    assert not novel_views.has_views({"psnr"})
