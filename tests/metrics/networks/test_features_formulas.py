"""Formulas on features against other projects' numbers (golden), and what has no answer."""

from pathlib import Path

import numpy as np
import pytest

from syncmv4d_jax.metrics.networks import formulas

GOLDEN = Path(__file__).parents[2] / "golden/net"


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_subject_consistency_against_vbench():
    z = golden("subject_consistency")
    videos = [z[f"feat_{name}"].astype(np.float32) for name in ("v0", "v1", "v2", "v3_negative")]
    assert [len(x) for x in videos] == [49, 49, 17, 9]
    each = [formulas.subject_consistency(x) for x in videos]
    close(each, z["per_video"])
    close(np.mean(each), z["dataset_video_mean_multi_gpu"])


def test_clip_views_against_numpy():
    z = golden("clip_views")
    close(formulas.clip_pairs(z["feat_V_N_D"]), z["per_pair"])
    close(formulas.clip_views(z["feat_V_N_D"]), z["clip_v"])


@pytest.mark.parametrize("case", ["static", "moving", "few_frames", "exactly_count", "portrait"])
def test_dynamic_degree_against_vbench(case):
    z = golden("dynamic_degree")
    flow = z[f"{case}_flow"].astype(np.float32)
    scores = formulas.flow_scores(flow)
    close(scores, z[f"{case}_scores"])
    height, width = flow.shape[1:3]
    bounds = formulas.flow_bounds(height, width, len(flow) + 1)
    close(bounds, (z[f"{case}_thres"], z[f"{case}_count_num"]))
    found = formulas.dynamic(scores, height=height, width=width)
    assert found == bool(z[f"{case}_dynamic"])


def test_dynamic_degree_bounds_and_strides_against_vbench():
    z = golden("dynamic_degree")
    for height, width, frames, bound, count in z["params_table_H_W_F_thres_count"]:
        close(formulas.flow_bounds(int(height), int(width), int(frames)), (bound, count))
    for fps, stride, out, given in z["stride_table_fps_stride_nout_nin"]:
        assert formulas.flow_stride(fps) == stride
        assert len(range(0, int(given), formulas.flow_stride(fps))) == out


@pytest.mark.parametrize("rows", [None, (40, 30)])
def test_frechet_distance_against_torch_fidelity_and_scipy(rows):
    z = golden("frechet")
    a, b = z["feat_a"], z["feat_b"]
    if rows:
        a, b = a[: rows[0]], b[: rows[1]]
    case = "rankdef_40x64" if rows else "full"
    found = formulas.frechet(formulas.moments(a), formulas.moments(b))
    close(found, z[f"{case}_torch_fidelity"])
    close(found, z[f"{case}_scipy_sqrtm"])
    np.testing.assert_allclose(
        formulas.frechet(formulas.moments(b), formulas.moments(a)), found, rtol=1e-9
    )


def test_frechet_distance_of_few_samples_in_many_dimensions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 600)), rng.normal(size=(7, 600)) + 0.1
    found = formulas.frechet(formulas.moments(a), formulas.moments(b))
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + sum((x * x).sum() for x in centred)
    np.testing.assert_allclose(found, wanted - 2 * nuclear, rtol=1e-9)
    assert formulas.frechet(formulas.moments(a), formulas.moments(a)) < 1e-9


def test_moments_of_parts_add_up():
    x = np.random.default_rng(0).normal(size=(50, 6)) + 100
    whole = formulas.moments(x)
    parts = formulas.moments(x[:0])
    for part in (x[:1], x[1:20], x[20:20], x[20:]):
        parts = parts + formulas.moments(part)
    assert parts.count == whole.count
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_videos_that_stand_still_or_are_short():
    still = np.tile(np.random.default_rng(0).normal(size=(1, 8)), (5, 1))
    assert formulas.subject_consistency(still) == pytest.approx(1)
    assert formulas.subject_consistency(still[:2]) == pytest.approx(1)
    assert formulas.subject_consistency(still[:1]) is None
    assert formulas.subject_consistency(still[:0]) is None
    assert formulas.clip_views(np.stack([still, still])) == pytest.approx(100)
    assert formulas.clip_views(still[None]) is None
    assert formulas.clip_views(np.zeros((3, 0, 8))) is None
    assert formulas.similarity(still, still) == pytest.approx(1)
    assert formulas.similarity(still[:0], still[:0]) is None
    scores = formulas.flow_scores(np.zeros((4, 6, 8, 2)))
    assert (scores == 0).all() and formulas.dynamic(scores, height=6, width=8) is False
    assert formulas.dynamic(scores[:1], height=6, width=8) is True  # two frames: VBench's rule
    assert formulas.dynamic(scores[:0], height=6, width=8) is None
    assert formulas.frechet(formulas.moments(still[:1]), formulas.moments(still)) is None
    assert formulas.frechet(formulas.moments(still), formulas.moments(still)) == 0
    assert formulas.matching_pixels([], threshold=0.5) == {"mean": None, "thousands": None}


def test_what_is_not_finite_is_a_miss_or_an_error_never_a_nan():
    x = np.tile(np.random.default_rng(0).normal(size=(1, 8)), (5, 1))
    x[2] = np.nan
    assert formulas.subject_consistency(x) == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert formulas.clip_views(np.stack([x, x])) == pytest.approx(80)
    x[0] = 0
    assert 0 < formulas.subject_consistency(x) < 1
    flow = np.ones((2, 10, 10, 2))
    flow[0, 0, 0], flow[1] = np.inf, np.nan
    np.testing.assert_allclose(formulas.flow_scores(flow), [np.sqrt(2), 0])
    with pytest.raises(ValueError, match="1 of 5 feature vectors"):
        formulas.moments(np.where(np.arange(5)[:, None] == 1, np.inf, 1.0) * np.ones((5, 3)))
    with pytest.raises(ValueError, match="3 and of 4"):
        formulas.frechet(formulas.moments(np.ones((2, 3))), formulas.moments(np.ones((2, 4))))


def test_matching_pixels_counts_above_the_threshold():
    found = formulas.matching_pixels([np.array([0.4, 0.5, 0.6]), np.ones(4)], threshold=0.5)
    assert found == {"mean": 2.5, "thousands": 0.005}
