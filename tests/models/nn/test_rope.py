"""Rotary positions against the reference's tables and outputs; properties."""

from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.nn import rope

GOLDEN = Path(__file__).parents[2] / "golden" / "wan_dit" / "prims.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def test_pairs_are_split_over_the_axes():
    assert rope.split(128) == (22, 21, 21)
    assert rope.split(24) == (4, 4, 4)
    assert rope.split(8) == (2, 1, 1)
    with pytest.raises(ValueError, match="even head width"):
        rope.split(7)


@pytest.mark.parametrize("static", [True, False])
def test_tables_match_reference(golden, static):
    positions = einops.repeat(np.arange(64), "p -> p a", a=3)
    positions = positions if static else jnp.asarray(positions)
    cos, sin = rope.rotations(positions, d_head=128)
    np.testing.assert_allclose(cos, golden["rope_freqs_real_first64"], atol=1e-7)
    np.testing.assert_allclose(sin, golden["rope_freqs_imag_first64"], atol=1e-7)


def test_rotation_matches_reference_and_leaves_padding(golden):
    grid = tuple(int(n) for n in golden["rope_grid"][0])
    x = jnp.asarray(golden["rope_in"])
    positions = rope.grid_positions(grid, pad_to=x.shape[1])
    got = rope.apply(x, rope.rotations(positions, d_head=128))
    np.testing.assert_allclose(got, golden["rope_out"], atol=1e-6)
    np.testing.assert_array_equal(got[:, np.prod(grid) :], x[:, np.prod(grid) :])


def test_only_relative_positions_matter_and_norms_are_kept():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 6, 2, 24))
    positions = np.random.default_rng(0).integers(0, 50, (6, 3))
    dots = []
    for offset in (0, 17):
        r = rope.rotations(positions + offset, d_head=24)
        a, b = rope.apply(q, r), rope.apply(k, r)
        np.testing.assert_allclose(
            np.linalg.norm(a, axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5
        )
        dots.append(jnp.einsum("bshd,bzhd->bhsz", a, b))
    np.testing.assert_allclose(dots[0], dots[1], atol=1e-4)


def test_positions_may_differ_between_samples():
    x = jax.random.normal(jax.random.key(0), (2, 6, 2, 24))
    positions = jax.random.randint(jax.random.key(1), (2, 6, 3), 0, 30)
    got = rope.apply(x, rope.rotations(positions, d_head=24))
    for i in range(2):
        one = rope.apply(x[i : i + 1], rope.rotations(np.asarray(positions[i]), d_head=24))
        np.testing.assert_allclose(got[i : i + 1], one, atol=1e-6)


def test_bad_positions_raise():
    with pytest.raises(ValueError, match=r"\[... s 3\]"):
        rope.rotations(np.zeros((4, 2), int), d_head=24)
    with pytest.raises(ValueError, match="0..1023"):
        rope.rotations(np.full((4, 3), 1024), d_head=24)
    with pytest.raises(ValueError, match="pad_to=5"):
        rope.grid_positions((1, 2, 3), pad_to=5)
