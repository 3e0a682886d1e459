"""Warm-up task of the aligner: corruption, loss, gradients, and that training aligns."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from syncmv4d_jax import schema, tree
from syncmv4d_jax.geometry import cameras, corruption
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.tasks import base, dpa

SIZE = (64, 96)
TINY = {"width": 16, "heads": 2, "depth": 1, "coarse_blocks": 1, "cpe_channels": 8, "patch": 64,
        "octaves": 4, "remat": False}  # fmt: skip


def batch(seed=0, b=2, v=3, n=5, k=24):
    """A batch of schema.BATCH: a rigid body that turns and moves, three cameras 2 m away."""
    rng = np.random.default_rng(seed)
    body = rng.normal(size=(b, 1, k, 3)) * 0.08
    angle = rng.uniform(-1, 1, (b, 1, 1)) * np.linspace(0, 1, n)[None, :, None]
    turn = np.stack(
        [
            np.cos(angle) * body[..., 0] - np.sin(angle) * body[..., 1],
            np.sin(angle) * body[..., 0] + np.cos(angle) * body[..., 1],
            np.broadcast_to(body[..., 2], (b, n, k)),
        ],
        -1,
    )
    path = rng.uniform(-0.1, 0.1, (b, 1, 1, 3)) * np.linspace(0, 1, n)[None, :, None, None]
    tracks = (turn + path).astype(np.float32)
    eyes = [[2.0, 0.3, 0.8], [-0.4, 2.0, 0.9], [-1.5, -1.2, 1.1]]
    poses = [
        cameras.look_at(np.float32(eye), np.zeros(3, np.float32), np.float32([0, 0, 1]))
        for eye in eyes[:v]
    ]
    extrinsics = np.tile(np.stack(poses)[None, :, :3], (b, 1, 1, 1)).astype(np.float32)
    intrinsics = np.array([[90, 0, 47.5], [0, 90, 31.5], [0, 0, 1]], np.float32)
    made = {
        "text": np.zeros((b, 4, 8), np.float32),
        "text_lengths": np.ones(b, np.int32),
        "tracks": tracks,
        "visibility": rng.random((b, v, n, k)) < 0.8,
        "anchors": np.zeros((b, v, k, 2), np.float32),
        "anchor_valid": np.ones((b, v, k), bool),
        "intrinsics": np.tile(intrinsics, (b, v, 1, 1)),
        "extrinsics": extrinsics[:, :, None],
        "scale": np.tile(np.float32([1.8, 2.3]), (b, v, 1)),
        "frame_valid": np.arange(n)[None].repeat(b, 0) < n - 1,
        "latent_valid": np.ones((b, 2), bool),
        "view_index": np.tile(np.arange(v, dtype=np.int32), (b, 1)),
    }
    schema.check(made, where="test")
    return {key: jnp.asarray(x) for key, x in made.items()}


@functools.cache
def task(**options):
    config = {"name": "dpa", "size": SIZE, "dpa": TINY, "corruption": {}, "sample_steps": 4}
    return dpa.make(ml_collections.ConfigDict({"task": config | options}))


@functools.cache
def params():
    return jax.jit(task().init)(jax.random.key(0))


def spoil(given, **changes):
    tracks = jnp.repeat(given["tracks"][:, None], 3, axis=1)
    t = jnp.asarray([0.0, 1.0])
    settings = corruption.Corruption(**changes)
    function = functools.partial(corruption.corrupt, corruption=settings)
    args = (tracks, given["extrinsics"][:, :, 0], given["visibility"], t, jax.random.key(3))
    return tracks, *jax.jit(function)(*args)


NONE = {"outliers": (0, 0), "dropped": (0, 0), "gaps": (0, 0), "offset": 0.0, "depth": 0.0}


def test_jitter_grows_with_time_and_what_is_unseen_is_missing():
    given = batch(k=200)
    tracks, coarse, confidence = spoil(given, **NONE)
    seen = np.array(given["visibility"])
    np.testing.assert_array_equal(np.asarray(confidence) > 0, seen)
    assert (np.asarray(coarse)[~seen] == 0).all()
    error, seen[:, :, 0] = np.asarray(coarse - tracks), False  # frame 0 has its own test
    assert error[0][seen[0]].std() == pytest.approx(0.003, rel=0.05)
    assert error[1][seen[1]].std() == pytest.approx(0.015, rel=0.05)


def test_in_frame_0_points_stay_on_their_rays():
    given = batch(k=60)
    tracks, coarse, confidence = spoil(given)
    centre = cameras.camera_centre(given["extrinsics"][:, :, 0])[:, :, None]
    known = np.asarray(confidence > 0)
    way, ray = np.asarray(coarse - centre[:, :, None]), np.asarray(tracks - centre[:, :, None])
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    off = np.linalg.norm(np.cross(way, ray), axis=-1)
    assert off[:, :, 0][known[:, :, 0]].max() < 1e-5
    assert off[:, :, 1:][known[:, :, 1:]].mean() > 5e-3
    assert np.abs(coarse - tracks)[:, :, 0][known[:, :, 0]].mean() > 5e-3  # depth is spoiled


def test_offsets_scales_outliers_and_gaps_have_the_stated_size():
    given = batch(k=200)
    seen = np.asarray(given["visibility"])
    quiet = NONE | {"jitter": (0.0, 0.0)}
    tracks, coarse, _ = spoil(given, **quiet | {"offset": 0.05})
    error = np.where(seen[..., None], coarse - tracks, np.nan)[:, :, 1:]
    assert 0.005 < np.nanmax(np.abs(error)) <= 0.05
    assert np.nanmax(np.nanstd(error, axis=(2, 3))) < 1e-6  # rigid: one offset a view
    tracks, coarse, _ = spoil(given, **quiet | {"depth": 0.05})
    centre = cameras.camera_centre(given["extrinsics"])[:, :, None]
    ratio = np.linalg.norm(coarse - centre, axis=-1) / np.linalg.norm(tracks - centre, axis=-1)
    ratio = np.where(seen, ratio, np.nan)
    assert np.nanmax(np.abs(ratio - 1)) <= 0.05 + 1e-5
    assert np.nanmax(np.nanstd(ratio, axis=(2, 3))) < 1e-5
    tracks, coarse, confidence = spoil(given, **quiet | {"outliers": (0.2, 0.2)})
    wrong = np.linalg.norm(coarse - tracks, axis=-1)[seen] > 1e-6
    assert wrong.mean() == pytest.approx(0.2, abs=0.03)
    assert np.asarray(confidence)[seen][wrong].mean() < np.asarray(confidence)[seen][~wrong].mean()
    _, _, confidence = spoil(given, **quiet | {"gaps": (0.5, 0.5), "dropped": (0.1, 0.1)})
    assert 0.15 < (np.asarray(confidence)[seen] == 0).mean() < 0.4


def test_errors_of_views_shrink_with_their_factor():
    given = batch(k=60)
    quiet = NONE | {"jitter": (0.0, 0.0), "offset": 0.05, "depth": 0.05}
    tracks, coarse, confidence = spoil(given, **quiet)
    known = np.asarray(confidence > 0)[..., None]
    whole = np.where(known, coarse - tracks, 0)
    half = np.where(known, spoil(given, **quiet | {"views": (0.5, 0.5)})[1] - tracks, 0)
    np.testing.assert_allclose(half, 0.5 * whole, atol=1e-6)
    assert np.abs(whole).max() > 0.005


def test_tracks_without_any_measurement_do_not_count():
    confidence = jnp.zeros((2, 3, 5, 4)).at[0, 1, 2, 3].set(0.5)
    known = np.asarray(aligner.known(confidence))
    assert known.shape == (2, 1, 1, 4) and known.sum() == 1 and known[0, 0, 0, 3]


def test_loss_gradients_and_masks():
    given, one = batch(), task()
    assert isinstance(one, base.Task)
    run = jax.jit(jax.value_and_grad(lambda p, g, r: one.loss(p, {}, g, r), has_aux=True))
    (loss, scalars), grads = run(params(), given, jax.random.key(1))
    assert np.isfinite(loss) and scalars.keys() == {"velocity", "chamfer", "distance"}
    moved = {name for name, g in tree.flatten(grads).items() if bool(jnp.any(g != 0))}
    assert moved == {"dpa/head/kernel", "dpa/head/bias"}  # zero-initialised: only the head at first
    given["tracks"] = given["tracks"].at[:, -1].set(100.0)  # a padded frame
    assert float(run(params(), given, jax.random.key(1))[0][0]) == pytest.approx(float(loss), 1e-4)


@pytest.mark.slow
def test_sampling_refines_given_tracks():
    given, one = batch(), task()
    sample = jax.jit(one.refine)
    out = sample(params(), given, jax.random.key(0))
    assert out["tracks"].shape == given["tracks"].shape
    valid = np.asarray(given["frame_valid"])
    error = np.linalg.norm(out["tracks"] - given["tracks"], axis=-1)[valid]
    again = sample(
        params(),
        given
        | {"tracks": given["tracks"] + 5.0}
        | {"coarse": out["coarse"], "confidence": out["confidence"]},
        jax.random.key(0),
    )
    # Two programs, one with the corruption in it: they round differently.
    np.testing.assert_allclose(again["tracks"], out["tracks"], atol=1e-5)
    wrong = np.linalg.norm(out["coarse"] - given["tracks"][:, None], axis=-1)
    measured = (np.asarray(out["confidence"]) > 0) & valid[:, None, :, None]
    assert np.median(error) < np.median(wrong[measured])


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"config.task: unknown keys \['sizes'\]"):
        task(sizes=3)
    given = batch()
    with pytest.raises(ValueError, match="seen"):
        spoil(given | {"visibility": given["visibility"][..., :-1]})


@pytest.mark.slow
def test_training_improves_on_the_closed_form_start():
    one, optimiser = task(), optax.adam(3e-3)
    weights = params()
    state = optimiser.init(weights)

    @jax.jit
    def update(weights, state, given, rng):
        (_, scalars), grads = jax.value_and_grad(
            lambda p: one.loss(p, {}, given, rng), has_aux=True
        )(weights)
        change, state = optimiser.update(grads, state, weights)
        return optax.apply_updates(weights, change), state, scalars["velocity"]

    losses = []
    for i in range(150):
        weights, state, loss = update(weights, state, batch(i % 20), jax.random.key(i))
        losses.append(float(loss))
    assert np.mean(losses[-30:]) < 0.85 * np.mean(losses[:30])
