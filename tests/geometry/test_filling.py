"""Colours from around: what is known stays, what is near counts, no size matters."""

import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.geometry import filling, view_pairs

SIZES = [(1, 1), (1, 7), (5, 1), (8, 16), (13, 9)]


def known(size, share=0.5):
    rng = np.random.default_rng(0)
    return rng.uniform(size=size) < share, rng.uniform(-1, 1, (*size, 3)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_known_stays_and_the_rest_is_between(size):
    there, colours = known((2, *size))
    there[:, 0, 0] = True
    spoilt = np.where(there[..., None], colours, 7.0)
    made = np.asarray(filling.filled(jnp.asarray(spoilt), jnp.asarray(there, jnp.float32)))
    np.testing.assert_array_equal(made[there], colours[there])
    for clip, kept, own in zip(made, there, colours, strict=True):
        low, high = own[kept].min(0) - 1e-6, own[kept].max(0) + 1e-6
        assert ((low <= clip) & (clip <= high)).all()


@pytest.mark.parametrize("size", SIZES)
def test_one_colour_fills_all_and_none_is_0(size):
    there = np.zeros(size, np.float32)
    there[-1, -1] = 1e-3
    colours = jnp.full((*size, 3), 0.25)
    np.testing.assert_allclose(filling.filled(colours, jnp.asarray(there)), 0.25, atol=1e-6)
    assert not np.asarray(filling.filled(colours, jnp.zeros(size))).any()


def test_near_counts_more_than_far():
    there = np.zeros((16, 16), np.float32)
    there[:, 0] = there[:, -1] = 1
    made = np.asarray(filling.filled(jnp.linspace(-1, 1, 16)[None, :, None] * there[..., None],
                                     jnp.asarray(there)))[8, :, 0]  # fmt: skip
    assert (np.diff(made) > -1e-6).all() and made[1] < -0.6 and made[-2] > 0.6
    np.testing.assert_allclose(made, -made[::-1], atol=1e-6)


def test_a_picture_of_twice_the_size_is_filled_alike():
    there, colours = known((8, 12), 0.3)
    twice = lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)  # noqa: E731
    small, large = (
        np.asarray(filling.filled(jnp.asarray(c), jnp.asarray(w, jnp.float32)))
        for c, w in ((colours, there), (twice(colours), twice(there)))
    )
    pooled = large.reshape(8, 2, 12, 2, 3).mean((1, 3))
    assert np.abs(pooled - small).mean() < 0.15 * np.abs(small).mean()


def test_what_is_covered_but_not_sure_counts_a_tenth():
    covered, sure = np.array([True, True, False]), np.array([True, False, False])
    assert np.asarray(filling.weight(covered, sure)).tolist() == pytest.approx([1, 0.1, 0])
    render = jnp.asarray([[[255, 255, 255], [0, 0, 0], [9, 9, 9]]], jnp.uint8)
    seen = lambda fill: np.asarray(  # noqa: E731
        view_pairs.shown(render, covered[None], sure[None], fill=fill)
    )[0, :, 0]
    np.testing.assert_allclose(seen(False), [1, -1, 0])
    filled = seen(True)
    assert filled[0] == 1 and 0.5 < filled[1] < 1 and 0.5 < filled[2] < 1
