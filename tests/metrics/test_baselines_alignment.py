"""The classical alignments undo exactly what they model, and say no to what does not fit."""

import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import baselines_alignment as baselines

EYES = np.array([[2.0, 0.3, 0.8], [-0.4, 2.0, 0.9], [-1.5, -1.2, 1.1]])
POSES = np.stack([cameras.look_at(eye, np.zeros(3), np.array([0.0, 0, 1]))[:3] for eye in EYES])


def scene(frames=7, points=40, seed=0):
    """Steadily moving points [n k 3]: smoothing over time leaves the inner frames alone."""
    rng = np.random.default_rng(seed)
    speed = 0.02 * rng.normal(size=(1, points, 3))
    return 0.1 * rng.normal(size=(1, points, 3)) + np.arange(frames)[:, None, None] * speed


def centred(points):
    return points - points.mean((0, 1))


def test_rigid_undoes_a_turn_and_an_offset_of_each_view():
    truth, rng = scene(), np.random.default_rng(1)
    views = []
    for angle in (0.05, -0.03, 0.02):
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        views.append(truth @ turn + 0.03 * rng.normal(size=3))
    coarse, weight = np.stack(views), np.ones((3, *truth.shape[:2]))
    weight[0, :, :5] = 0  # what one view misses, others give
    coarse[0, :, :5] = np.nan
    out = baselines.rigid(coarse, weight, window=0)
    # Up to one turn and offset, which the views share:
    distances = lambda x: np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)  # noqa: E731
    np.testing.assert_allclose(distances(out), distances(truth), atol=1e-4)
    plain = distances(np.nanmean(coarse, axis=0))
    assert np.abs(plain - distances(truth)).max() > 2e-3


def test_per_view_undoes_scales_and_offsets_and_ignores_outliers():
    truth, rng = scene(), np.random.default_rng(2)
    eyes = EYES[:, None, None]
    scale = np.array([0.03, -0.02, 0.01])[:, None, None, None]
    coarse = truth + scale * (truth - eyes) + 0.01 * rng.normal(size=(3, 1, 1, 3))
    outlier = rng.random(coarse.shape[:3]) < 0.05
    coarse = np.where(outlier[..., None], coarse + 0.2 * rng.normal(size=coarse.shape), coarse)
    weight = np.ones(coarse.shape[:3])
    out = baselines.per_view(coarse, weight, POSES, window=0)
    left = np.linalg.norm(centred(out) - centred(truth), axis=-1)
    assert np.median(left) < 2e-3
    plain = np.linalg.norm(out - truth, axis=-1).mean()
    assert plain < 0.5 * np.linalg.norm(coarse.mean(0) - truth, axis=-1).mean()
    assert plain < np.linalg.norm(baselines.rigid(coarse, weight) - truth, axis=-1).mean()


def test_per_view_leaves_views_that_agree_alone():
    truth = scene()
    coarse = np.repeat(truth[None], 3, axis=0)
    out = baselines.per_view(coarse, np.ones(coarse.shape[:3]), POSES, window=0)
    np.testing.assert_allclose(out, truth, atol=1e-9)


def test_smoothing_fills_gaps_and_takes_off_noise():
    truth = scene(frames=13)
    noisy = truth + 0.01 * np.random.default_rng(3).normal(size=truth.shape)
    weight = np.ones(truth.shape[:2])
    weight[4:7, 3] = 0
    noisy[4:7, 3] = 99.0
    filled = baselines.smooth(noisy, weight, window=0)
    assert np.linalg.norm(filled[4:7, 3] - truth[4:7, 3], axis=-1).max() < 0.05
    np.testing.assert_array_equal(filled[:, 0], noisy[:, 0])
    out = baselines.smooth(noisy, weight, window=1.0)
    inner = slice(3, 10)
    before = np.linalg.norm((filled - truth)[inner], axis=-1).mean()
    assert np.linalg.norm((out - truth)[inner], axis=-1).mean() < 0.75 * before
    weight[:, 5] = 0
    lost = baselines.smooth(noisy, weight, window=0)[0, 5]
    np.testing.assert_allclose(lost, noisy[weight > 0].mean(0))


def test_bad_input_is_named():
    truth = scene()
    coarse, weight = np.stack([truth] * 3), np.ones((3, *truth.shape[:2]))
    with pytest.raises(ValueError, match=r"wanted coarse \[v n k 3\]"):
        baselines.rigid(coarse, weight[:2])
    with pytest.raises(ValueError, match="nothing is measured"):
        baselines.rigid(coarse, 0 * weight)
    with pytest.raises(ValueError, match=r"\[v 3 4\] or \[v n 3 4\] for \(3, 7\) views"):
        baselines.per_view(coarse, weight, POSES[:2])
