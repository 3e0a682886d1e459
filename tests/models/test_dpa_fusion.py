"""Closed-form start of the aligner: smoothing by common motion, and the fit of the views."""

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models.dpa import fusion, queries, smoothing

EYES = np.array([[7.0, 0, 2], [0, 8.0, 1], [-5.0, -5, 4]])


def bodies(frames=8, points=60, seed=0):
    """Two rigid bodies [1 n k 3]; one turns and moves, the other moves the other way."""
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(points, 3)) * 0.15
    time = np.linspace(0, 1, frames)
    angle = 0.8 * time[:, None]
    x, y, z = place.T
    turned = np.stack(
        [np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y]
        + [np.broadcast_to(z, (frames, points))],
        -1,
    )
    first = np.arange(points) < points // 2
    path = time[:, None, None] * np.where(first[:, None], [0.4, 0, 0.1], [-0.3, 0.2, 0.0])
    place = np.where(first[:, None], turned, place) + np.where(first[:, None], [0.5, 0, 0], 0)
    return (place + path)[None]


def rays_to(coarse, eyes=EYES):
    origin = np.broadcast_to(eyes[None, :, None, None], coarse.shape)
    ray = coarse - origin
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    return np.concatenate([ray, np.cross(origin, ray)], -1)


def fuse(coarse, confidence, **options):
    arrays = (coarse, confidence, rays_to(coarse))
    run = jax.jit(lambda *x: fusion.fuse(*x, **options))
    return run(*(jnp.asarray(x, jnp.float32) for x in arrays))


def error(points, truth):
    return np.linalg.norm(np.asarray(points) - truth, axis=-1)


def test_solve_equals_lapack():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(7, 3, 5, 5))
    matrix = root @ root.swapaxes(-1, -2) + 0.1 * np.eye(5)
    right = rng.normal(size=(7, 3, 5, 2))
    got = smoothing.solve(jnp.asarray(matrix, jnp.float32), jnp.asarray(right, jnp.float32))
    np.testing.assert_allclose(got, np.linalg.solve(matrix, right), atol=2e-3, rtol=1e-3)


def test_smoothing_removes_noise_and_fills_gaps_from_common_motion():
    truth = bodies()
    rng = np.random.default_rng(1)
    noisy = truth + 0.03 * rng.normal(size=truth.shape)
    weight = (rng.random(truth.shape[:-1]) < 0.7).astype(np.float32)
    weight[:, 3:6, 5] = 0  # a gap of three frames
    run = jax.jit(smoothing.smooth)
    out = run(jnp.asarray(noisy * weight[..., None], jnp.float32), jnp.asarray(weight))
    known = weight > 0
    assert error(out, truth)[known].mean() < 0.55 * error(noisy, truth)[known].mean()
    assert error(out, truth)[~known].mean() < error(noisy, truth)[known].mean()
    still = run(jnp.asarray(truth, jnp.float32), jnp.ones(truth.shape[:-1]))
    assert error(still, truth).mean() < 0.01  # what smoothing takes from true motion


def test_parts_at_one_place_that_move_apart_do_not_mix():
    rng = np.random.default_rng(3)
    place, time = 0.05 * rng.normal(size=(24, 3)), np.linspace(-0.5, 0.5, 6)
    away = np.where(np.arange(24) % 2, 0.5, -0.5)[:, None] * np.array([1.0, 0.0, 0.0])
    truth = (place + time[:, None, None] * away)[None]
    out = jax.jit(smoothing.smooth)(jnp.asarray(truth, jnp.float32), jnp.ones(truth.shape[:-1]))
    assert error(out, truth).mean() < 0.02  # mixed they would stand still, 0.15 off


def test_smoothing_without_order_treats_frames_alike():
    truth = bodies(frames=4)
    noisy = jnp.asarray(truth + 0.02 * np.random.default_rng(2).normal(size=truth.shape))
    noisy, order = noisy.astype(jnp.float32), jnp.asarray([2, 0, 3, 1])
    weight = jnp.ones(noisy.shape[:-1])
    out = smoothing.smooth(noisy, weight, ordered=False)
    moved = smoothing.smooth(noisy[:, order], weight, ordered=False)
    np.testing.assert_allclose(moved, out[:, order], atol=1e-4)


def test_fusion_removes_scales_offsets_noise_and_outliers():
    truth = bodies(points=90)
    rng = np.random.default_rng(0)
    scale = np.array([1.03, 0.97, 1.01])[None, :, None, None, None]
    shift = rng.normal(size=(1, 3, 1, 1, 3)) * 0.03
    eyes = EYES[None, :, None, None]
    coarse = eyes + (truth[:, None] - eyes) * scale + shift
    coarse = coarse + 0.03 * rng.normal(size=coarse.shape)
    outlier = rng.random(coarse.shape[:-1]) < 0.1
    coarse = np.where(outlier[..., None], coarse + 0.4 * rng.normal(size=coarse.shape), coarse)
    fused = fuse(coarse, np.ones(coarse.shape[:-1]), anchored=False)
    gap = np.asarray(fused.points) - truth
    common = gap.mean((1, 2))  # what views alone cannot tell
    plain = coarse.mean(1) - truth
    centred = np.linalg.norm(gap - common, axis=-1).mean()
    assert centred < 0.2 * np.linalg.norm(plain - plain.mean((1, 2)), axis=-1).mean()
    assert np.linalg.norm(common) < 0.15
    spread = np.asarray(fused.fit[0, :, 0]) - (scale.ravel() - 1)
    assert np.ptp(spread) < 0.012  # scales of the views against each other
    assert float(fused.weight[outlier].mean()) < 0.3 * float(fused.weight[~outlier].mean())
    np.testing.assert_allclose(fused.extent[0, :3], fused.points.mean((0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(fused.extent[0, 3:], fused.points.min((0, 1, 2)), atol=1e-5)


def on_query_rays(coarse, truth, eyes=EYES):
    """Frame 0 of coarse moved onto the rays through the true points."""
    origin = np.broadcast_to(eyes[None, :, None], truth[:, None, 0].shape[:1] + (3, 1, 3))
    ray = truth[:, None, 0] - origin
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    along = ((coarse[:, :, 0] - origin) * ray).sum(-1, keepdims=True)
    coarse = coarse.copy()
    coarse[:, :, 0] = origin + along * ray
    return coarse


def test_the_rays_of_frame_0_settle_what_the_views_share():
    truth = bodies(points=90)
    rng = np.random.default_rng(0)
    # All views are off alike, and every track is decoded at a wrong place of the surface.
    common = np.array([0.2, -0.1, 0.1])
    own = 0.05 * rng.normal(size=(1, 1, 1, 90, 3))
    coarse = truth[:, None] + common + own + 0.01 * rng.normal(size=(1, 3, 8, 90, 3))
    coarse = on_query_rays(coarse, truth)
    confidence = np.ones(coarse.shape[:-1])
    confidence[:, 1:, :, :10] = 0  # seen by one view
    confidence[:, :, 0, 15:20] = 0  # not in frame 0
    gap = {}
    for anchored in (False, True):
        fused = fuse(coarse, confidence, anchored=anchored)
        gap[anchored] = error(fused.points, truth).mean((0, 1))
        together = np.broadcast_to(fused.points[:, None], fused.aligned.shape)
        np.testing.assert_allclose(fused.aligned - fused.residual, together, atol=1e-5)
    assert gap[False][20:].mean() > 0.2  # nothing else tells
    assert gap[True][20:].mean() < 0.04
    assert gap[True][:10].mean() < 0.12 and gap[True][15:20].mean() < 0.15


def test_a_ray_that_misses_the_others_counts_little():
    points = jnp.asarray(bodies()[:, 0], jnp.float32)
    coarse = np.broadcast_to(np.asarray(points)[:, None], (1, 3, 60, 3)).copy()
    coarse[:, 2, :6] += np.array([0.0, 0.0, 0.5])
    rays = jnp.asarray(rays_to(coarse[:, :, None])[:, :, 0], jnp.float32)
    moved = np.asarray(queries.shift(points, jnp.ones((1, 3, 60)), rays))
    assert np.linalg.norm(moved, axis=-1)[0, :6].max() < 0.06
    assert np.linalg.norm(moved, axis=-1)[0, 6:].max() < 0.02
    none = queries.shift(points, jnp.zeros((1, 3, 60)), rays)
    np.testing.assert_array_equal(none, 0.0)


def test_cameras_are_found_from_their_rays():
    coarse = np.broadcast_to(bodies()[:, None], (1, 3, 8, 60, 3))
    rays = jnp.asarray(rays_to(coarse), jnp.float32)
    got = fusion._origins(rays, jnp.ones(coarse.shape[:-1]))
    np.testing.assert_allclose(got[0], EYES, atol=0.02)


def test_fusion_fills_gaps_and_marks_them():
    truth = jnp.arange(5.0)[None, :, None, None] * 0.1 + jnp.zeros((1, 5, 3, 3))
    truth = truth + jnp.asarray([0.0, 0.02, 0.04])[None, None, :, None]
    confidence = jnp.ones((1, 1, 5, 3)).at[0, 0, 2, 0].set(0.0).at[..., 2].set(0.0)
    eye = np.array([[0.0, 0.0, -8.0]])
    rays = jnp.asarray(rays_to(np.asarray(truth)[:, None], eye), jnp.float32)
    fused = fusion.fuse(truth[:, None], confidence, rays)
    offset = float((fused.points - truth)[0, 1, 1, 0])  # one view: the priors decide
    np.testing.assert_allclose(fused.points[0, 2, 0, 0] - 0.2 - offset, 0.0, atol=0.02)
    assert float(fused.total[0, 2, 0]) == 0.0 and float(fused.total[0, 1, 0]) == 1.0
    gaps = np.asarray(confidence[0, 0] == 0)
    np.testing.assert_allclose(fused.aligned[0, 0][gaps], fused.points[0][gaps], atol=1e-6)
    assert not np.asarray(fused.residual[0, 0])[gaps].any()
    assert np.isfinite(np.asarray(fused.points)).all()
