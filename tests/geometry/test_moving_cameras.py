"""Cameras that move: a pose a frame says what one pose says, where the camera stands, and what is
right where it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras, corruption, matching, painting, pseudo_video
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.metrics import baselines_alignment, multiview
from syncmv4d_jax.results.web import tracks as web

H, W, N = 48, 72, 5
K = np.array([[110.0, 0, 35.5], [0, 110.0, 23.5], [0, 0, 1]], np.float32)
SETTINGS = matching.settings_for(H, W)


def standing():
    up = np.array([0.0, -1.0, 0.0])
    return cameras.look_at(np.array([0.1, 0.0, -0.1]), np.array([0.0, 0, 0.75]), up)


def path(frames=N):
    """[n 3 4]: the camera goes 8 cm aside, 6 cm nearer and turns 5 degrees."""
    found = np.empty((frames, 3, 4), np.float32)
    for n in range(frames):
        part = n / (frames - 1)
        eye = np.array([0.1 - 0.08 * part, 0.0, -0.1 + 0.06 * part])
        up = np.array([np.sin(0.09 * part), -np.cos(0.09 * part), 0.0])
        found[n] = cameras.look_at(eye, np.array([0.02 * part, 0.0, 0.75]), up)
    return found


def sheet():
    """Points [k 3] of a bent sheet at 0.75 m, and their way [n k 3]."""
    x, y = np.meshgrid(np.linspace(-0.1, 0.1, 9), np.linspace(-0.06, 0.06, 7))
    points = np.stack([x.ravel(), y.ravel(), 0.75 + 0.4 * x.ravel() ** 2], -1)
    way = np.linspace(0, 1, N)[:, None, None] * np.array([0.015, -0.005, 0.01])
    return (points + way).astype(np.float32)


def painted(pose):
    """Frame 0 of a dense pseudo video of the sheet's plane, its scale, anchors and tracks."""
    tracks = sheet()
    first = pose if pose.ndim == 2 else pose[0]
    every = np.broadcast_to(pose, (N, 3, 4)) if pose.ndim == 2 else pose
    _, depth = cameras.project(tracks.astype(np.float64), K, every)
    scale = np.array([depth.min() - 0.02, depth.max() + 0.02], np.float32)
    anchors, _ = cameras.project(tracks[0], K, first)
    grid = np.asarray(matching.pixel_grid(H, W), np.float64)
    ray = cameras.unproject(grid, np.ones((H, W)), K.astype(float), first.astype(float))
    eye = cameras.camera_centre(first.astype(float))
    ray = ray - eye
    far = np.full((H, W), 0.7)
    for _ in range(30):  # the sheet's depth along each ray
        at = eye + far[..., None] * ray
        far = far + (0.75 + 0.4 * at[..., 0] ** 2 - at[..., 2]) / ray[..., 2]
    at = eye + far[..., None] * ray
    inside = (np.abs(at[..., 0]) < 0.11) & (np.abs(at[..., 1]) < 0.07)
    frame = np.asarray(pseudo_video.encode_colours(grid, far, scale, size=(H, W)))
    frame = np.where(inside[..., None], frame, 0).astype(np.float32)
    return frame, scale, anchors.astype(np.float32), tracks


def test_poses_of_a_batch_lose_the_axis_of_time_where_cameras_stand():
    moving = np.tile(np.eye(3, 4), (2, 3, 5, 1, 1))
    assert cameras.poses(moving).shape == (2, 3, 5, 3, 4)
    assert cameras.poses(moving[:, :, :1]).shape == (2, 3, 3, 4)
    assert cameras.at_first(moving, 2).shape == cameras.at_first(moving[:, :, 0], 2).shape
    with pytest.raises(ValueError, match="n 3 4"):
        cameras.poses(np.eye(3, 4))
    with pytest.raises(ValueError, match="one more for time"):
        cameras.at_first(moving, 1)


@pytest.mark.parametrize("which", ["standing", "moving"])
def test_tracks_are_painted_and_decoded_again(which):
    """Reprojection of what is found: 1 px; where it is in the world: the bound of the codec."""
    pose = standing().astype(np.float32) if which == "standing" else path()
    frame, scale, anchors, tracks = painted(pose)
    valid = np.ones(len(anchors), bool)
    given = anchors, valid, scale, K, pose
    video = painting.render(tracks, frame, *given, settings=SETTINGS)
    found = pseudo_video.decode(video, *given, settings=SETTINGS)
    seen = np.asarray(found.visible)
    assert seen.mean() > 0.9
    pixels, _ = cameras.project(tracks, K, pose)
    off = np.linalg.norm(np.asarray(found.pixels) - pixels, axis=-1)[seen]
    gap = np.linalg.norm(np.asarray(found.tracks) - tracks, axis=-1)[seen]
    assert np.median(off) < 0.5 and np.percentile(off, 95) < 1
    assert np.median(gap) < 0.003 and np.percentile(gap, 95) < 0.012


@pytest.mark.slow
def test_a_camera_that_stands_gives_the_same_with_a_pose_a_frame():
    pose = standing().astype(np.float32)
    frame, scale, anchors, tracks = painted(pose)
    every = np.broadcast_to(pose, (N, 3, 4))
    given = frame, anchors, np.ones(len(anchors), bool), scale, K
    videos = [painting.render(tracks, *given, x, settings=SETTINGS) for x in (pose, every)]
    np.testing.assert_array_equal(*videos)
    both = [pseudo_video.decode(videos[0], *given[1:], x, settings=SETTINGS) for x in (pose, every)]
    np.testing.assert_allclose(both[0].tracks, both[1].tracks, atol=1e-6)
    points = jnp.asarray(np.broadcast_to(tracks, (1, 2, *tracks.shape)))
    rig = jnp.asarray(np.stack([pose, path()[2]])[None])
    moving = jnp.broadcast_to(rig[:, :, None], (1, 2, N, 3, 4))
    centre = jnp.ones((1, 3)) * 0.3
    rays = [world_tracks.point_rays(points, x, centre) for x in (rig, moving)]
    np.testing.assert_allclose(*rays, atol=1e-6)
    seen, t = jnp.ones((1, 2, points.shape[3]), bool), jnp.full(1, 0.5)
    spoilt = [corruption.corrupt(points, x, seen, t, jax.random.key(0)) for x in (rig, moving)]
    np.testing.assert_allclose(spoilt[0][0], spoilt[1][0], atol=1e-6)


def test_rays_and_what_is_spoilt_start_at_the_camera_of_the_frame():
    tracks = jnp.asarray(sheet()[None, None])
    poses = jnp.asarray(path()[None, None])
    centre = jnp.zeros((1, 3))
    ray = np.asarray(world_tracks.point_rays(tracks, poses, centre, unit=1.0))[0, 0]
    eye = cameras.camera_centre(path())
    np.testing.assert_allclose(ray[..., 3:], np.cross(eye[:, None], ray[..., :3]), atol=1e-5)
    away = sheet() - eye[:, None]
    np.testing.assert_allclose(
        ray[..., :3], away / np.linalg.norm(away, axis=-1, keepdims=True), atol=1e-5
    )
    quiet = corruption.Corruption((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), offset=0.0, depth=0.05)
    seen = jnp.ones((1, 1, tracks.shape[3]), bool)
    coarse, _ = corruption.corrupt(
        tracks, poses, seen, jnp.zeros(1), jax.random.key(3), corruption=quiet
    )
    moved = np.asarray(coarse)[0, 0] - eye[:, None]
    ratio = np.linalg.norm(moved, axis=-1) / np.linalg.norm(away, axis=-1)
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert abs(ratio[0, 0] - 1) > 1e-3
    np.testing.assert_allclose(np.cross(moved, away), 0, atol=1e-5)


def test_metrics_measure_from_the_camera_of_the_frame():
    rng = np.random.default_rng(0)
    true = sheet().astype(float)
    per_view = true + rng.normal(0, 0.004, (2, *true.shape))
    seen = np.ones(per_view.shape[:3], bool)
    rig = np.stack([path(), path()[::-1]]).astype(float)
    eyes = cameras.camera_centre(rig)
    scaled = eyes[:, :, None] + 1.1 * (true - eyes[:, :, None])
    assert multiview.joint_scale(scaled, true, seen, rig) == pytest.approx(1 / 1.1)
    np.testing.assert_allclose(
        multiview.rescale(scaled, rig, 1 / 1.1), np.broadcast_to(true, scaled.shape), atol=1e-12
    )
    each = [
        multiview.single(per_view[:, n : n + 1], true[n : n + 1], seen[:, n : n + 1], rig[:, n])
        for n in range(N)
    ]
    np.testing.assert_allclose(multiview.single(per_view, true, seen, rig), np.mean(each, 0))
    still = np.broadcast_to(rig[:, :1], rig.shape)
    for score in (multiview.single, multiview.cross, multiview.joint_scale):
        one, many = (score(per_view, true, seen, x) for x in (rig[:, 0], still))
        np.testing.assert_allclose(np.float64(one), np.float64(many))
        assert not np.allclose(np.float64(score(per_view, true, seen, rig)), np.float64(one))


def test_robust_fusion_takes_the_errors_of_moving_views_out():
    true = sheet().astype(float)
    rig = np.stack([path(), path()[::-1]]).astype(float)
    eyes = cameras.camera_centre(rig)[:, :, None]
    error = np.array([0.03, -0.03])[:, None, None, None]
    coarse = eyes + (1 + error) * (true - eyes)
    sure = np.ones(coarse.shape[:3])
    fused = baselines_alignment.per_view(coarse, sure, rig, window=0)
    still = baselines_alignment.per_view(coarse, sure, rig[:, 0], window=0)
    off, worse = (np.linalg.norm(x - true, axis=-1).mean() for x in (fused, still))
    assert off < 0.5 * worse
    with pytest.raises(ValueError, match="v n 3 4"):
        baselines_alignment.per_view(coarse, sure, rig[:, :2])


def test_the_page_has_the_cameras_of_every_frame():
    k, tracks = np.stack([K, K]), sheet()
    rig = np.stack([path(), path()[::-1]])
    made = web.scene(tracks, None, k, rig, (H, W))
    alone = [web.scene(tracks, None, k, rig[:, n], (H, W)) for n in range(N)]
    assert made["extrinsics"] == alone[0]["extrinsics"] and made["cameras"] == alone[0]["cameras"]
    assert made["poses"] == [x["extrinsics"] for x in alone]
    assert made["moving"] == [x["cameras"] for x in alone] and "moving" not in alone[0]
    depth = web.depths(tracks, rig)
    assert depth[0][3] == web.depths(tracks, rig[:, 3])[0][3]
