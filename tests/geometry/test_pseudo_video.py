"""The pseudo-video codec on four moving solids seen by an exact ray caster.

Scene of the facts sheet: two ellipsoids (hands), a box (tool), a disc (target), f = 800 px at 480
x 704, depth 0.6 to 0.9 m, rotations up to 0.7 rad. Tests run at half that resolution; `slow` ones
at the full.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.geometry import anchors as query_pixels
from syncmv4d_jax.geometry import cameras, matching, painting, pseudo_video

SOLIDS = (  # kind, half sizes, centre, turn about y, then motion: shift and rotation about x, y
    ("ellipsoid", (0.05, 0.035, 0.09), (-0.12, 0.02, 0.75), 0.0, (0.0, 0.0, 0.0), (0.0, 0.0)),
    ("ellipsoid", (0.05, 0.035, 0.09), (0.12, 0.00, 0.70), 0.3, (0.05, -0.02, 0.04), (0.3, 0.2)),
    ("box", (0.02, 0.015, 0.14), (0.10, 0.06, 0.68), 0.6, (0.08, -0.03, 0.05), (0.7, 0.4)),
    ("ellipsoid", (0.11, 0.11, 0.02), (-0.02, 0.10, 0.80), 0.9, (0.0, 0.0, 0.0), (0.0, 0.1)),
)


def rotation(x, y):
    cx, sx, cy, sy = np.cos(x), np.sin(x), np.cos(y), np.sin(y)
    return np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array(
        [[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]
    )


def poses(time):
    """Rotation and centre of every solid at time in [0, 1]; time 0 is frame 0."""
    for _, _, centre, turn, shift, spin in SOLIDS:
        start = rotation(turn / 0.6, turn)
        yield rotation(time * spin[0], time * spin[1]) @ start, centre + time * np.array(shift)


def hit(kind, half, origin, ray):
    """Distance along `ray` [s 3] from `origin` [3] to a solid in its own frame; inf for a miss."""
    half = np.array(half)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "box":
            low, high = (-half - origin) / ray, (half - origin) / ray
            enter = np.max(np.minimum(low, high), -1)
            leave = np.min(np.maximum(low, high), -1)
            return np.where(enter < leave, enter, np.inf)
        a, b = np.sum((ray / half) ** 2, -1), np.sum(ray * origin / half**2, -1)
        c = np.sum((origin / half) ** 2) - 1
        root = b * b - a * c
        return np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)


def cast(pixels, camera, time):
    """Depth [s] (inf: nothing) and frame-0 world point [s 3] of the surface at pixels [s 2]."""
    intrinsics, extrinsics = camera
    eye = cameras.camera_centre(extrinsics)
    ray = cameras.bearings(pixels, intrinsics) @ extrinsics[:, :3]
    depth, point = np.full(len(pixels), np.inf), np.zeros((len(pixels), 3))
    for (kind, half, *_), now, first in zip(SOLIDS, poses(time), poses(0.0), strict=True):
        (turn, centre), (turn0, centre0) = now, first
        far = hit(kind, half, (eye - centre) @ turn, ray @ turn)
        near = far < depth
        depth = np.where(near, far, depth)
        local = (eye + np.where(np.isfinite(far), far, 0)[:, None] * ray - centre) @ turn
        point[near] = (local @ turn0.T + centre0)[near]
    return depth, point


def camera(height, width, angle=0.0):
    target = np.array([0.0, 0.03, 0.75])
    eye = target + 0.75 * np.array([np.sin(angle), 0.0, -np.cos(angle)])
    focal = 800 * width / 704
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return intrinsics, cameras.look_at(eye, target, np.array([0.0, -1.0, 0.0]))


@functools.lru_cache(maxsize=8)
def scene(height, width, k, times=(0.0, 0.5, 1.0), angle=0.0):
    """A dict of exact inputs and truths of one view; anchors are seen in frame 0."""
    view = camera(height, width, angle)
    grid = np.asarray(matching.pixel_grid(height, width), np.float64).reshape(-1, 2)
    rng = np.random.default_rng(0)
    seeds = rng.uniform([0, 0], [width - 1, height - 1], (60 * k, 2))
    depth, points = cast(seeds, view, 0.0)
    keep = np.flatnonzero(np.isfinite(depth))[:k]
    assert len(keep) == k
    points, anchors = points[keep], seeds[keep]
    owner = np.stack([in_solid(points, i) for i in range(len(SOLIDS))]).argmin(0)
    tracks, seen, origin, depths = [], [], [], []
    for time in times:
        now = move(points, owner, time)
        at, far = cameras.project(now, *view)
        front, _ = cast(at, view, time)
        tracks.append(now)
        seen.append(np.abs(front - far) < 0.002)
        surface, start = cast(grid, view, time)
        origin.append(cameras.project(start, *view)[0].reshape(height, width, 2))
        depths.append(surface.reshape(height, width))
    depths, tracks = np.stack(depths), np.stack(tracks)
    mask = np.isfinite(depths)
    scale = np.array([depths[mask].min(), depths[mask].max()])
    pseudo = pseudo_video.paint_surface(np.stack(origin), np.where(mask, depths, 0), mask, scale)
    arrays = dict(pseudo=pseudo, tracks=tracks, anchors=anchors, scale=scale)
    arrays |= dict(intrinsics=view[0], extrinsics=view[1])
    arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    return arrays | dict(seen=np.stack(seen), mask=mask)


def in_solid(points, i):
    """How far points are from the surface of solid i in frame 0, relative to its size."""
    kind, half, *_ = SOLIDS[i]
    turn, centre = list(poses(0.0))[i]
    local = (points - centre) @ turn / np.array(half)
    return np.abs((np.abs(local).max(-1) if kind == "box" else np.linalg.norm(local, axis=-1)) - 1)


def move(points, owner, time):
    result = np.zeros_like(points)
    for i, ((turn, centre), (turn0, centre0)) in enumerate(
        zip(poses(time), poses(0.0), strict=True)
    ):
        result[owner == i] = ((points - centre0) @ turn0 @ turn.T + centre)[owner == i]
    return result


def corrupt(pseudo, blur, noise):
    """Gaussian blur of `blur` px and noise, what a video VAE does to a clip."""
    rng = np.random.default_rng(7)
    reach = np.arange(-6, 7)
    taps = np.exp(-0.5 * (reach / blur) ** 2)
    for axis in (1, 2):
        pseudo = sum(
            t * np.roll(pseudo, i, axis) for i, t in zip(reach, taps / taps.sum(), strict=True)
        )
    return np.clip(pseudo + rng.normal(0, noise, pseudo.shape), 0, 1).astype(np.float32)


@functools.lru_cache(maxsize=8)
def decoder(settings):
    return jax.jit(functools.partial(pseudo_video.decode, settings=settings))


@functools.lru_cache(maxsize=8)
def renderer(settings):
    return jax.jit(functools.partial(painting.render, settings=settings))


def decode(data, pseudo=None, **changes):
    settings = matching.settings_for(*data["pseudo"].shape[1:3])
    pseudo = data["pseudo"] if pseudo is None else pseudo
    return decoder(dataclasses.replace(settings, **changes))(pseudo, *view_of(data))


def view_of(data):
    valid = np.ones(len(data["anchors"]), bool)
    return data["anchors"], valid, data["scale"], data["intrinsics"], data["extrinsics"]


def errors(decoded, data):
    """3D errors in mm of the points that are seen and found."""
    chosen = data["seen"] & np.asarray(decoded.confidence > 0)
    return 1e3 * np.linalg.norm(decoded.tracks - data["tracks"], axis=-1)[chosen]


def test_a_clean_pseudo_video_gives_the_tracks():
    data = scene(240, 352, 400)
    decoded = decode(data)
    error = errors(decoded, data)
    assert np.median(error) <= 1.5 and np.percentile(error, 90) <= 8
    assert np.asarray(decoded.visible)[data["seen"]].mean() > 0.85
    pixels, depth = cameras.project(decoded.tracks, data["intrinsics"], data["extrinsics"])
    np.testing.assert_allclose(pixels, decoded.pixels, atol=1e-2)
    np.testing.assert_allclose(depth, decoded.depth, atol=1e-5)


def test_blur_and_noise_stay_within_the_stated_bound():
    data = scene(240, 352, 400)
    decoded = decode(data, corrupt(data["pseudo"], 1.5, 4 / 255))
    assert np.median(errors(decoded, data)) <= 6  # the bound of 480 x 704, at half of its pixels


@pytest.mark.slow
def test_the_stated_bounds_at_full_size():
    data = scene(480, 704, 1600)
    assert np.median(errors(decode(data), data)) <= 1.5
    noisy = corrupt(data["pseudo"], 1.5, 4 / 255)
    decoded = decode(data, noisy)
    assert np.median(errors(decoded, data)) <= 6
    brute = decode(data, noisy, matching="brute")
    both = data["seen"] & np.asarray((decoded.confidence > 0) & (brute.confidence > 0))
    assert np.median(1e3 * np.linalg.norm(decoded.tracks - brute.tracks, axis=-1)[both]) <= 1


def test_sorted_matching_agrees_with_brute_force():
    data = scene(120, 176, 200)
    for pseudo in (data["pseudo"], corrupt(data["pseudo"], 0.7, 1 / 255)):
        ours, brute = decode(data, pseudo), decode(data, pseudo, matching="brute")
        both = data["seen"] & np.asarray((ours.confidence > 0) & (brute.confidence > 0))
        gap = 1e3 * np.linalg.norm(ours.tracks - brute.tracks, axis=-1)[both]
        assert both.sum() > 400 and np.median(gap) <= 1


def test_tiny_frames_decode_too():
    data = scene(64, 96, 200)
    error = errors(decode(data), data)
    assert np.median(error) <= 4  # a pixel is 7 mm here


def test_where_anchors_are_in_frame_0_is_given_and_not_searched_for():
    """A23: also in a pseudo video whose colours are wrong; the depth is read there."""
    data = scene(64, 96, 200)
    shifted = data["pseudo"].copy()
    shifted[..., 0] = np.clip(shifted[..., 0] + 0.05, 0, 1) * (shifted[..., 0] > 0)
    decoded = decode(data, shifted)
    sure = data["seen"][0] & np.asarray(decoded.confidence[0] == 1)
    assert sure.sum() > 100
    np.testing.assert_allclose(decoded.pixels[0][sure], data["anchors"][sure], atol=1e-5)
    assert np.median(np.abs(decoded.pixels[1] - decode(data).pixels[1])[sure, 0]) > 2  # searched


def test_confidence_tells_good_points_from_bad():
    data = scene(240, 352, 400)
    decoded = decode(data, corrupt(data["pseudo"], 1.0, 2 / 255))
    error = np.linalg.norm(decoded.tracks - data["tracks"], axis=-1)
    visible = np.asarray(decoded.visible)
    assert np.median(error[visible]) < 0.5 * np.median(error[~visible])
    assert visible[data["seen"]].mean() > 2 * visible[~data["seen"]].mean()


def test_points_out_of_sight_are_interpolated():
    data = scene(64, 96, 200)
    pseudo = data["pseudo"].copy()
    pseudo[1] = 0
    decoded = decode(data, pseudo)
    assert not decoded.confidence[1].any() and not decoded.visible[1].any()
    ends = np.asarray((decoded.confidence[0] > 0) & (decoded.confidence[2] > 0))
    assert ends.sum() > 100
    halfway = (decoded.pixels[0] + decoded.pixels[2]) / 2
    np.testing.assert_allclose(decoded.pixels[1][ends], halfway[ends], atol=1e-3)


def test_no_foreground_is_confidence_zero_and_finite():
    data = scene(64, 96, 200)
    decoded = decode(data, np.zeros_like(data["pseudo"]))
    assert all(np.isfinite(x).all() for x in decoded)
    assert not decoded.confidence.any() and not decoded.visible.any()
    settings = matching.settings_for(64, 96)
    painted = painting.render(
        decoded.tracks, 0 * data["pseudo"][0], *view_of(data), settings=settings
    )
    assert not painted.any()


def test_invalid_anchors_and_a_flat_scale():
    data = scene(64, 96, 200)
    settings = matching.settings_for(64, 96)
    anchors, valid, scale, *view = view_of(data)
    decoded = decoder(settings)(data["pseudo"], anchors, valid & False, scale, *view)
    assert not decoded.confidence.any() and np.isfinite(decoded.tracks).all()
    painted = renderer(settings)(
        data["tracks"], data["pseudo"][0], anchors, valid & False, scale, *view
    )
    assert not painted.any()
    flat = np.array([0.7, 0.7], np.float32)
    decoded = decoder(settings)(data["pseudo"], anchors, valid, flat, *view)
    np.testing.assert_allclose(decoded.depth, 0.7, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"record 3: scale wanted 0 < min < max metres, got \[0.69"
    ):
        pseudo_video.check_scale(flat[None] - 1e-3, where="record 3")
    pseudo_video.check_scale(scale, where="record 3")


def test_cameras_that_do_not_see_the_anchors_are_named():
    anchors, valid = np.full((3, 5, 2), 10.0), np.ones((3, 5), bool)
    query_pixels.check_anchors(anchors, valid, size=(64, 96), where="record 2")
    anchors[1] += 200
    with pytest.raises(
        ValueError, match=r"record 2: view \[1\] sees none of its 5 anchors in 64 x 96"
    ):
        query_pixels.check_anchors(anchors, valid, size=(64, 96), where="record 2")
    anchors[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        query_pixels.check_anchors(anchors, valid, size=(64, 96), where="record 2")


def test_a_view_that_is_sure_of_nothing_is_named():
    sure = np.zeros((3, 5), np.float32)
    sure[[0, 2], 1] = 0.03
    with pytest.raises(ValueError, match=r"sample a: view \[1\] sees none of its 5 query pixels"):
        query_pixels.check_confidence(sure, where="sample a")
    sure[1, 4] = 1
    query_pixels.check_confidence(sure, where="sample a")


def test_depth_is_linear_in_the_scale_and_carries_its_gradient():
    data = scene(64, 96, 200)
    settings = matching.settings_for(64, 96)
    anchors, valid, scale, *view = view_of(data)

    def mean_depth(scale):
        pseudo = jax.lax.stop_gradient(jnp.asarray(data["pseudo"]))
        return jnp.mean(
            pseudo_video.decode(pseudo, anchors, valid, scale, *view, settings=settings).depth
        )

    value, gradient = jax.jit(jax.value_and_grad(mean_depth))(scale)
    np.testing.assert_allclose(gradient.sum(), 1, atol=1e-4)
    np.testing.assert_allclose(gradient @ scale, value, rtol=1e-4)


def test_true_tracks_render_close_to_the_true_pseudo_video():
    data = scene(120, 176, 400)
    settings = matching.settings_for(120, 176)
    painted = renderer(settings)(data["tracks"], data["pseudo"][0], *view_of(data))
    mask, covered = data["mask"], np.asarray(painted.max(-1) > 0)
    both = (mask & covered).sum((1, 2))
    # What frame 0 did not see cannot be painted: the solids turn by up to 0.7 rad.
    assert (both / (mask | covered).sum((1, 2)) > [0.9, 0.8, 0.7]).all()
    assert (both / covered.sum((1, 2)) > 0.92).all()
    off = np.abs(painted - data["pseudo"])[mask & covered]
    assert (np.median(off, axis=0) * [176, 120, 1] < [0.5, 0.5, 0.02]).all()
    decoded = decode(data, painted)
    assert np.median(errors(decoded, data)) <= 2.5
    noisy = data["tracks"] + np.random.default_rng(0).normal(0, 0.005, data["tracks"].shape)
    painted = renderer(settings)(noisy.astype(np.float32), data["pseudo"][0], *view_of(data))
    assert (mask[0] & np.asarray(painted[0].max(-1) > 0)).sum() > 0.85 * mask[0].sum()  # few holes
    warp = painting.warp_weights(data["pseudo"][0], *view_of(data), settings=settings)
    np.testing.assert_allclose(warp.weight[warp.source].sum(-1), 1, atol=1e-5)


def test_the_nearest_surface_is_painted_on_top():
    """A plane at 1 m moves in front of one at 1.5 m, whichever of the two comes first in memory."""
    height, width, settings = 24, 32, matching.settings_for(24, 32)
    intrinsics = jnp.array([[40.0, 0, 15.5], [0, 40.0, 11.5], [0, 0, 1]])
    pose, scale = jnp.eye(4)[:3], jnp.array([0.9, 1.6])
    grid = matching.pixel_grid(height, width)
    inside = (grid[..., 1] > 4) & (grid[..., 1] < 19) & (abs(grid[..., 0] - 15.5) > 4)
    left = grid[..., 0] < 15
    for near_is_left in (True, False):
        depth = jnp.where(left == near_is_left, 1.0, 1.5)
        rest = cameras.unproject(grid, depth, intrinsics, pose).reshape(-1, 3)
        anchor = jnp.where(left, 0, 1).reshape(-1, 1)
        warp = painting.Warp(
            jnp.tile(anchor, (1, 8)), jnp.full((height * width, 8), 0.125), rest, inside.ravel()
        )
        near = 0 if near_is_left else 1  # moves by 16 pixels, to where the other one stands
        step = jnp.zeros((1, 2, 3)).at[0, near, 0].set((16 if near_is_left else -16) / 40.0)
        blank = jnp.zeros((height, width, 3))
        painted = painting.render(
            step, blank, jnp.zeros((2, 2)), jnp.ones(2, bool), scale, intrinsics, pose,
            settings=settings, warp=warp,
        )[0]  # fmt: skip
        there = inside & (left != near_is_left)
        depths = np.asarray(painted[..., 2])[np.asarray(there)]
        assert (depths > 0).mean() > 0.7 and np.median(depths) == pytest.approx(0.1 / 0.7, abs=0.02)


@pytest.mark.slow
def test_views_are_mapped():
    views = [scene(64, 96, 200, angle=angle) for angle in (0.0, 0.4)]
    stacked = [jnp.stack(x) for x in zip(*(view_of(v) for v in views), strict=True)]
    pseudo = jnp.stack([v["pseudo"] for v in views])
    settings = matching.settings_for(64, 96)
    both = jax.jit(jax.vmap(functools.partial(pseudo_video.decode, settings=settings)))(
        pseudo, *stacked
    )
    paint = jax.jit(jax.vmap(functools.partial(painting.render, settings=settings)))
    painted = paint(both.tracks, pseudo[:, 0], *stacked)
    for i, view in enumerate(views):
        alone = decode(view)
        one = renderer(settings)(both.tracks[i], pseudo[i, 0], *view_of(view))
        assert np.mean(np.abs(painted[i] - one)) < 1e-3
        np.testing.assert_allclose(both.tracks[i], alone.tracks, atol=1e-4)
        np.testing.assert_allclose(both.confidence[i], alone.confidence, atol=1e-3)


def in_front(view, points):
    """[k] bool: no surface of a view's frame 0 stands more than 3 cm in front of points [k 3]."""
    pixels, depth = cameras.project(points, view["intrinsics"], view["extrinsics"])
    height, width = view["mask"].shape[1:]
    x, y = (np.round(pixels[:, i]).astype(int).clip(0, n - 1) for i, n in ((0, width), (1, height)))
    low, high = view["scale"]
    surface = low + view["pseudo"][0, y, x, 2] * (high - low)
    return ~view["mask"][0, y, x] | (depth - surface < 0.03)


def test_anchors_from_a_decoded_frame_0():
    views = [scene(120, 176, 200, angle=angle) for angle in (-0.5, 0.0, 0.5)]
    frames = jnp.stack([v["pseudo"][0] for v in views])
    scale, intrinsics, extrinsics = (
        jnp.stack([v[key] for v in views]) for key in ("scale", "intrinsics", "extrinsics")
    )
    make = functools.partial(query_pixels.frame0_anchors, settings=matching.settings_for(120, 176))
    anchors = jax.jit(functools.partial(make, count=256))(frames, scale, intrinsics, extrinsics)
    points = np.asarray(anchors.points, np.float64)
    assert anchors.pixels.shape == (3, 256, 2) and len(np.unique(points, axis=0)) == 256
    distance = np.stack([in_solid(points, i) for i in range(4)]).min(0)
    assert np.median(distance) < 0.1 and anchors.valid.any(0).mean() > 0.95
    assert 0.3 < anchors.valid.mean() < 0.98  # some are hidden from some view
    seen = np.stack([in_front(view, np.asarray(anchors.points)) for view in views])
    hidden = np.asarray(anchors.valid) & ~seen  # at rims the depth is smoothed
    assert (~seen).mean() > 0.2 and hidden.mean() < 0.03
    gaps = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(256)
    assert np.median(gaps.min(0)) > 0.004  # spread over the surface, not clumped
    none = jax.jit(functools.partial(make, count=64))(0 * frames, scale, intrinsics, extrinsics)
    assert not none.valid.any() and np.isfinite(none.pixels).all() and not none.confidence.any()


def test_a_soft_frame_0_gets_the_silhouette_of_the_reference_image():
    data = scene(64, 96, 200)
    settings = matching.settings_for(64, 96)
    sharp = jnp.asarray(data["pseudo"][0])
    soft = jnp.asarray(corrupt(data["pseudo"], 1.5, 0)[0])
    mask = jnp.max(sharp[..., :2], -1) > 0
    loose = matching.foreground(soft, settings)
    assert loose.sum() > 1.1 * mask.sum()
    found = jax.jit(functools.partial(painting.masked, settings=settings))(soft, mask)
    np.testing.assert_array_equal(matching.foreground(found, settings), mask)
    off = [np.abs(np.asarray(x - sharp)[..., 2])[np.asarray(mask)].mean() for x in (found, soft)]
    assert off[0] < 0.85 * off[1]
    warp = functools.partial(painting.warp_weights, settings=settings)
    rest = view_of(data)
    assert np.array_equal(jax.jit(warp)(found, *rest).source, mask.ravel())
    nothing = jax.jit(functools.partial(painting.masked, settings=settings))(soft, mask & False)
    assert not nothing.any()


def test_each_anchor_is_a_pixel_of_one_view_and_says_which():
    views = [scene(120, 176, 200, angle=angle) for angle in (-0.5, 0.0, 0.5)]
    frames = jnp.stack([v["pseudo"][0] for v in views])
    rig = [jnp.stack([v[key] for v in views]) for key in ("scale", "intrinsics", "extrinsics")]
    settings = matching.settings_for(120, 176)
    find = functools.partial(query_pixels.frame0_anchors, count=256, settings=settings)
    found = jax.jit(find)(frames, *rig)
    view, each = np.asarray(found.view), np.arange(256)
    assert set(view) == {0, 1, 2} and min(np.bincount(view)) > 20
    own = np.asarray(found.pixels)[view, each]
    np.testing.assert_array_equal(own, np.round(own))  # of the view's own grid
    assert np.asarray(frames)[view, own[:, 1].astype(int), own[:, 0].astype(int), :2].max(-1).min()
    assert (np.asarray(found.confidence)[view, each] == 1).all()
    others = np.asarray(found.confidence)[np.arange(3)[:, None] != view[None]]
    assert 0 < others.max() <= query_pixels.DERIVED

    # A scale that is wrong puts the points too far: the other views' pixels are off by its depth.
    off = jax.jit(find)(frames, rig[0] + 0.04, *rig[1:])
    view = np.asarray(off.view)
    asked = np.asarray(off.pixels)[view, each]
    depths = [
        matching.frame_depth(f, s, settings=settings)[0]
        for f, s in zip(frames, rig[0], strict=True)
    ]
    at = asked.astype(int)
    true = cameras.unproject(
        jnp.asarray(asked), jnp.stack(depths)[view, at[:, 1], at[:, 0]], rig[1][view], rig[2][view]
    )
    move = jax.jit(functools.partial(query_pixels.relocate, settings=settings))
    better = move(off, true, frames, *rig)
    np.testing.assert_array_equal(np.asarray(better.pixels)[view, each], asked)
    away = np.arange(3)[:, None] != view[None]
    wanted, _ = cameras.project(jnp.broadcast_to(true, (3, *true.shape)), *rig[1:])
    before = np.linalg.norm(off.pixels - wanted, axis=-1)[away]
    after = np.linalg.norm(better.pixels - wanted, axis=-1)[away]
    assert np.median(after) < 0.05 < 1 < np.median(before)
    # Onto the ray: a point beside it counts by its depth alone.
    eye = cameras.camera_centre(rig[2])[view]
    across = jnp.cross(true - eye, jnp.array([[0.0, 0, 1]]))
    beside = move(off, true + 0.02 * across, frames, *rig)
    np.testing.assert_allclose(beside.pixels, better.pixels, atol=0.02)


def test_voxel_sample_repeats_when_there_are_too_few():
    points = jnp.asarray(np.random.default_rng(0).uniform(size=(20, 3)), jnp.float32)
    thinned = np.asarray(jax.jit(lambda p: p[query_pixels.voxel_sample(p, 50)])(points))
    assert thinned.shape == (50, 3) and len(np.unique(thinned, axis=0)) == 20


def test_a_colour_is_the_pixel_of_frame_0_and_the_depth_now():
    anchors, scale = np.array([[10.0, 20.0], [30.0, 5.0]]), np.array([1.0, 2.0])
    depth = np.array([[1.0, 1.5], [2.0, 1.75]])  # [n k]
    for library in (np, jnp):
        found = pseudo_video.encode_colours(
            library.asarray(np.broadcast_to(anchors, (2, 2, 2))),
            library.asarray(depth),
            library.asarray(scale),
            size=(32, 64),
        )
        np.testing.assert_allclose(found[:, 0, :2], [[10 / 64, 20 / 32]] * 2)
        np.testing.assert_allclose(found[:, 1, :2], [[30 / 64, 5 / 32]] * 2)
        np.testing.assert_allclose(found[..., 2], [[0, 0.5], [1, 0.75]])


def test_depth_scale_counts_valid_points_only():
    depth = np.array([[1.0, 9.0, 0.2], [2.0, 3.0, 2.5]])
    valid = np.array([[True, False, False], [True, True, True]])
    np.testing.assert_allclose(pseudo_video.depth_scale(depth, valid), [1, 3])
    np.testing.assert_allclose(
        pseudo_video.depth_scale(jnp.asarray(depth), jnp.asarray(valid)), [1, 3]
    )


def test_settings_reject_what_cannot_work():
    with pytest.raises(ValueError, match="at least 16 x 16"):
        matching.settings_for(8, 96)
    with pytest.raises(ValueError, match="'sorted' or 'brute'"):
        matching.match_frame(
            jnp.zeros((64, 96, 3)),
            jnp.zeros((4, 2)),
            settings=matching.settings_for(64, 96, matching="nearest"),
            depth_unit=jnp.float32(1),
        )
