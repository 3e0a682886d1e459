"""Depths of query pixels by the reference images: what they settle, and what says nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import views

from syncmv4d_jax.geometry import cameras, sweep

SIZE = (64, 96)
EYES = ((0.0, -0.7, 0.75), (0.55, -0.45, 0.75), (-0.5, -0.5, 0.8))


def height(place):
    return 0.06 * np.exp(-np.square(place).sum(-1) / 0.02)


def colour(place):
    """[... 3] in [-1, 1], of places [... 2] on a hill that stands on a grey table."""
    x, y = place[..., 0], place[..., 1]
    waves = [np.sin(28 * x + 9 * y), np.sin(25 * y - 14 * x), np.sin(21 * (x + y) + 1)]
    return 0.9 * np.stack(waves, -1)


def scene(scale=1):
    """(pictures, silhouettes, lenses, poses, points of every pixel)."""
    size = (SIZE[0] * scale, SIZE[1] * scale)
    rigs = [views.camera(size, 95.0 * scale, eye, (0.0, 0.0, 0.02)) for eye in EYES]
    lenses, poses = (np.stack(x) for x in zip(*rigs, strict=True))
    lenses[:, 1, 1] = lenses[:, 0, 0]
    lenses[:, 0, 2], lenses[:, 1, 2] = size[1] / 2 - 0.5, size[0] / 2 - 0.5
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    pictures, inside, points = [], [], []
    for lens, pose in zip(lenses, poses, strict=True):
        eye = cameras.camera_centre(pose.astype(np.float64))
        ray = cameras.bearings(np.stack([x, y], -1), lens.astype(np.float64)) @ pose[:, :3]
        far = -eye[2] / ray[..., 2]
        for _ in range(60):
            place = eye + far[..., None] * ray
            far = far - 0.7 * (height(place[..., :2]) - place[..., 2]) / -ray[..., 2]
        place = eye + far[..., None] * ray
        hill = np.linalg.norm(place[..., :2], axis=-1) < 0.22
        pictures.append(np.where(hill[..., None], colour(place[..., :2]), 0.0))
        inside.append(hill)
        points.append(place)
    found = (np.stack(pictures), np.stack(inside), lenses, poses, np.stack(points))
    return tuple(a if a.dtype == bool else a.astype(np.float32) for a in found)


def asked_of(made, off, scale=1, count=150):
    """Query pixels of view 0 on the hill whose points are `off` metres too far; the true points."""
    _, inside, _, poses, points = made
    rng = np.random.default_rng(0)
    inner = np.argwhere(inside[0][::scale, ::scale]) * scale
    chosen = inner[rng.choice(len(inner), count, replace=False)]
    true = points[0][chosen[:, 0], chosen[:, 1]]
    eye = cameras.camera_centre(poses[0])
    away = (true - eye) / np.linalg.norm(true - eye, axis=-1, keepdims=True)
    guess = (true + off * away).astype(np.float32)
    pixels = chosen[:, ::-1].astype(np.float32)
    return sweep.Asked(pixels, np.zeros(count, np.int32), guess), true


def settled(made, asked, known=(True, True, True)):
    pictures, inside, lenses, poses, _ = made
    rig = sweep.Rig(jnp.asarray(lenses), jnp.asarray(poses), jnp.asarray(known))
    asked = sweep.Asked(*map(jnp.asarray, asked))
    return np.asarray(jax.jit(sweep.shifts)(jnp.asarray(pictures), jnp.asarray(inside), rig, asked))


@pytest.mark.parametrize("off", [-0.04, 0.03, 0.06])
def test_points_go_to_where_the_pictures_agree(off):
    made = scene()
    asked, true = asked_of(made, off)
    moved = settled(made, asked)
    before = np.linalg.norm(asked.points - true, axis=-1)
    after = np.linalg.norm(asked.points + moved - true, axis=-1)
    assert np.median(after) < 0.3 * abs(off) and after.mean() < 0.5 * before.mean()
    ray = asked.points - cameras.camera_centre(made[3][0])
    assert np.linalg.norm(np.cross(moved, ray), axis=-1).max() < 1e-5  # along it alone


def test_a_silhouette_alone_keeps_points_inside_of_it():
    """Without a difference of colours what leaves the foreground of another view comes back."""
    made = scene()
    plain = (np.zeros_like(made[0]), *made[1:])
    asked, true = asked_of(made, 0.15)
    after = np.linalg.norm(asked.points + settled(plain, asked) - true, axis=-1)
    assert after.mean() < 0.135
    everywhere = (plain[0], np.ones_like(made[1]), *made[2:])
    assert np.abs(settled(everywhere, asked)).max() < 1e-5


def test_larger_pictures_say_the_same():
    small, large = scene(), scene(3)
    asked, true = asked_of(large, 0.04, scale=3)
    moved = settled(large, asked)
    after = np.linalg.norm(asked.points + moved - true, axis=-1)
    assert np.median(after) < 0.012
    pixels = (asked.pixels + 0.5) / 3 - 0.5
    again = settled(small, asked._replace(pixels=pixels.astype(np.float32)))
    assert np.median(np.linalg.norm(again - moved, axis=-1)) < 0.006


def test_what_nobody_else_shows_stays():
    made = scene()
    asked, _ = asked_of(made, 0.04)
    assert not settled(made, asked, known=(True, False, False)).any()
    none = asked._replace(view=np.full_like(asked.view, -1))
    assert not settled(made, none).any()
    one = settled(made, asked, known=(True, True, False))
    for view, changes in ((2, False), (1, True)):
        spoilt = (made[0].copy(), *made[1:])
        spoilt[0][view] = np.roll(spoilt[0][view], 6, axis=1)
        off = np.abs(settled(spoilt, asked, known=(True, True, False)) - one)
        assert (off.mean() > 0.005) if changes else (off.max() < 1e-6)


def test_neighbours_of_one_view_are_asked_together():
    made = scene()
    asked, true = asked_of(made, 0.04)
    spoilt = (made[0].copy(), *made[1:])
    noise = np.random.default_rng(2).normal(0, 0.6, spoilt[0].shape)
    spoilt[0][:] = np.clip(spoilt[0] + noise, -1, 1)
    together = np.linalg.norm(asked.points + settled(spoilt, asked) - true, axis=-1)
    alone = []
    for i in range(40):
        one = sweep.Asked(*(x[i : i + 1] for x in asked))
        alone.append(np.linalg.norm(one.points + settled(spoilt, one) - true[i]))
    assert together[:40].mean() < 0.9 * np.mean(alone)
