"""Actions are told from changes, not from looks."""

import dots
import numpy as np
import pytest

from syncmv4d_jax.metrics import actions


def namer():
    clips = [dots.clip(way, row) for way in dots.WAYS for row in (2, 6, 10)]
    names = [way for way in dots.WAYS for _ in range(3)]
    return actions.Namer(np.stack([actions.signature(x) for x in clips]), names)


@pytest.mark.parametrize("way", dots.WAYS)
def test_another_dot_of_another_colour_is_named_by_its_way(way):
    assert namer().name(dots.clip(way, 8, colour=(90, 220, 140))) == way


def test_what_stands_in_the_picture_is_not_looked_at():
    plain = dots.clip("goes on", 4)
    busy = plain.copy()
    busy[:, :, 12:] = np.random.default_rng(0).integers(0, 255, (4, 24, 3), np.uint8)
    np.testing.assert_allclose(actions.signature(busy), actions.signature(plain), atol=1e-9)


def test_a_video_that_stands_still_says_nothing():
    still = np.repeat(dots.clip("goes on", 4)[:, :1], 9, axis=1)
    assert not actions.signature(still).any()
    assert namer().name(still) == namer().name(np.zeros_like(still))


def test_views_count_alike():
    one, other = dots.clip("goes on", 4), dots.clip("comes back", 9)
    both = actions.signature(np.concatenate([one, other]))
    mean = (actions.signature(one) + actions.signature(other)) / 2
    np.testing.assert_allclose(both, mean)


def test_videos_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"5 frames, training videos had another number"):
        namer().name(dots.clip("goes on", 4)[:, :5])
    with pytest.raises(ValueError, match="two frames or more, got 1"):
        actions.signature(dots.clip("goes on", 4)[:, :1])
