"""Rows without a model: what they learn, what they look at, and that a file keeps them."""

import dataclasses

import numpy as np
import pytest

from syncmv4d_jax.metrics import priors

RAMP = np.linspace(0, 1, 5)[:, None]
WAYS = {"brush": np.array([0.1, 0, 0]), "cut": np.array([0, -0.08, 0.02])}


def scene(rng, action="brush", tool="roller", gain=0.0):
    """A square in each crop; the path is the action's plus `gain` times the square's place."""
    at = rng.uniform(-0.4, 0.4, 2)
    middle = np.array([48, 32]) + at * [48, 32]
    y, x = np.mgrid[:64, :96]
    mask = (np.abs(x - middle[0]) < 8) & (np.abs(y - middle[1]) < 8)
    pseudo = np.repeat(np.where(mask, 128, 0)[..., None], 3, -1).astype(np.uint8)
    images = rng.integers(0, 255, (3, 64, 96, 3), np.uint8)
    prompt = f"A person uses a {tool} to {action} a plate."
    made = priors.layout(prompt, (action, tool, "plate"), images, np.tile(pseudo, (3, 1, 1, 1)))
    way = WAYS[action] + gain * np.append(at, 0)
    return priors.Scene(made, RAMP * way, action, rng.normal(size=4))


def test_words_are_the_action_whatever_the_tool_is_called():
    rng = np.random.default_rng(0)
    names = {scene(rng, tool=tool).layout.words for tool in ("roller", "brush")}
    assert names == {"A person uses a _ to brush a _."}
    assert scene(rng, "cut").layout.words != names.pop()


def test_the_mean_path_is_that_of_the_same_words():
    rng = np.random.default_rng(1)
    fitted = priors.Priors([scene(rng, action) for action in ("brush", "cut") for _ in range(4)])
    for action, way in WAYS.items():
        found = fitted.paths(scene(rng, action).layout)
        np.testing.assert_allclose(found["mean_path"], RAMP * way, atol=1e-12)
        np.testing.assert_allclose(found["nearest"], RAMP * way, atol=1e-12)
    strange = dataclasses.replace(scene(rng).layout, words="A person juggles.")
    mean = (WAYS["brush"] + WAYS["cut"]) / 2
    np.testing.assert_allclose(fitted.paths(strange)["mean_path"], RAMP * mean, atol=1e-12)


def test_the_ridge_reads_a_crop_that_gives_the_future_away():
    rng = np.random.default_rng(2)
    fitted = priors.Priors([scene(rng, gain=0.2) for _ in range(60)])
    errors = {"mean_path": [], "crop_ridge": []}
    for _ in range(20):
        one = scene(rng, gain=0.2)
        for row, values in errors.items():
            values.append(np.linalg.norm(fitted.paths(one.layout)[row][-1] - one.path[-1]))
    assert np.mean(errors["crop_ridge"]) < 0.2 * np.mean(errors["mean_path"])


def test_the_nearest_scene_is_the_one_that_looks_alike():
    rng = np.random.default_rng(3)
    pairs = [scene(rng, gain=0.3) for _ in range(12)]
    fitted = priors.Priors(pairs)
    for one in pairs:
        np.testing.assert_allclose(fitted.paths(one.layout)["nearest"], one.path, atol=1e-12)


def test_a_path_is_of_the_points_that_are_seen():
    tracks = np.zeros((5, 3, 3))
    tracks[:, 0] = RAMP * [1, 2, 3]
    seen = np.array([True, False, False])
    np.testing.assert_allclose(priors.path(tracks, seen), RAMP * [1, 2, 3])
    start = np.ones((3, 3))
    found = priors.moved(start, {"mean_path": RAMP * [1, 2, 3]})["mean_path"]
    assert found.shape == (5, 3, 3)
    np.testing.assert_allclose(found[-1], start + [1, 2, 3])


def test_a_file_keeps_them(tmp_path):
    rng = np.random.default_rng(4)
    fitted = priors.Priors([scene(rng, action, gain=0.1) for action in WAYS for _ in range(5)])
    fitted.save(tmp_path / "priors.npz")
    again, made = priors.Priors.load(tmp_path / "priors.npz"), scene(rng, gain=0.1).layout
    assert len(again) == 10 and again.namer.actions == fitted.namer.actions
    np.testing.assert_allclose(again.namer.signatures, fitted.namer.signatures, rtol=1e-3)
    for row, wanted in fitted.paths(made).items():
        np.testing.assert_allclose(again.paths(made)[row], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="at least one training scene"):
        priors.Priors([])
    np.savez(tmp_path / "other.npz", words=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: wanted priors"):
        priors.Priors.load(tmp_path / "other.npz")
