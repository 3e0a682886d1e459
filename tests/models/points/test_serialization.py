"""Curves: golden codes of the reference, and the properties that any space-filling curve has."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncmv4d_jax.models.points import serialization

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/ptv3"


@pytest.mark.parametrize("order", serialization.ORDERS)
@pytest.mark.parametrize("depth", [4, 10])
def test_codes_and_orders_equal_the_reference(depth, order):
    golden = np.load(GOLDEN / f"serialization_d{depth}.npz")
    hi, lo = serialization.encode(golden["grid_coord"], depth=depth, order=order)
    code = (np.asarray(hi, np.int64) << 24) | np.asarray(lo, np.int64)
    np.testing.assert_array_equal(code, golden[f"code_{order}"])
    word = serialization.join(hi, lo, depth=depth)
    np.testing.assert_array_equal(word, golden[f"code_{order}"])
    for cloud in np.unique(golden["batch"]):
        rows = np.flatnonzero(golden["batch"] == cloud)
        wanted = golden[f"argsort_batch_{order}"]
        wanted = np.searchsorted(rows, wanted[golden["batch"][wanted] == cloud])
        forward, inverse = serialization.permutation(
            golden["grid_coord"][rows], np.ones(len(rows), bool), depth=depth, order=order
        )
        np.testing.assert_array_equal(forward, wanted)
        np.testing.assert_array_equal(forward[inverse], np.arange(len(rows)))


def test_cells_known_when_a_function_is_traced_are_encoded_and_checked():
    cells = jnp.array([[1, 2, 3], [7, 0, 5]], jnp.int32)
    wanted = serialization.encode(cells, depth=3, order="hilbert")
    traced = jax.jit(lambda x: serialization.encode(cells, depth=3, order="hilbert")[1] + x)
    np.testing.assert_array_equal(traced(0), wanted[1])
    with pytest.raises(ValueError, match=r"wanted cells in \[0, 4\)"):
        jax.jit(lambda: serialization.encode(cells, depth=2, order="z"))()


def test_two_words_equal_the_block_golden_codes():
    golden = np.load(GOLDEN / "block.npz")
    depth = int(golden["serialized_depth"])
    mask = (np.int64(1) << 3 * depth) - 1
    for i, order in enumerate(serialization.ORDERS):
        hi, lo = serialization.encode(golden["grid_coord"], depth=depth, order=order)
        codes = {int(c) & int(mask) for c in golden["serialized_code"][i]}
        ours = set(((np.asarray(hi, np.int64) << 24) | np.asarray(lo, np.int64)).tolist())
        if ours == codes:
            return
    pytest.fail("the first golden code row equals none of the four curves")


@pytest.mark.parametrize("order", serialization.ORDERS)
def test_a_curve_visits_every_cell_once_and_hilbert_moves_by_one(order):
    cells = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    hi, lo = serialization.encode(cells, depth=3, order=order)
    code = np.asarray(serialization.join(hi, lo, depth=3))
    np.testing.assert_array_equal(np.sort(code), np.arange(512))
    if order.startswith("hilbert"):
        steps = np.abs(np.diff(cells[np.argsort(code)], axis=0)).sum(-1)
        np.testing.assert_array_equal(steps, 1)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 8, 9, 10, 11, 16]))
def test_shifting_a_code_by_three_bits_halves_the_grid(seed, depth):
    grid = np.random.default_rng(seed).integers(0, 1 << depth, (64, 3))
    for order in serialization.ORDERS:
        fine = serialization.encode(grid, depth=depth, order=order)
        coarse = serialization.encode(grid >> 1, depth=depth - 1, order=order)
        fine, coarse = (
            (np.asarray(hi, np.int64) << 24) | np.asarray(lo, np.int64) for hi, lo in (fine, coarse)
        )
        np.testing.assert_array_equal(fine >> 3, coarse)
        assert fine.max() < 1 << 3 * depth


def test_trans_exchanges_x_and_y():
    grid = np.random.default_rng(0).integers(0, 1 << 12, (100, 3))
    for order in ("z", "hilbert"):
        a = serialization.encode(grid[:, [1, 0, 2]], depth=12, order=order)
        b = serialization.encode(grid, depth=12, order=f"{order}-trans")
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("depth", [10, 16])
def test_permutation_puts_invalid_rows_last_and_batches(depth):
    rng = np.random.default_rng(1)
    grid = jnp.asarray(rng.integers(0, 1 << depth, (3, 50, 3)), jnp.int32)
    valid = jnp.asarray(rng.random((3, 50)) < 0.6)
    forward, inverse = jax.jit(
        lambda g, m: serialization.permutation(g, m, depth=depth, order="hilbert")
    )(grid, valid)
    sorted_valid = np.take_along_axis(np.asarray(valid), np.asarray(forward), 1)
    assert (np.diff(sorted_valid.astype(int), axis=1) <= 0).all()
    one, _ = serialization.permutation(grid[1], valid[1], depth=depth, order="hilbert")
    np.testing.assert_array_equal(forward[1], one)
    np.testing.assert_array_equal(
        np.take_along_axis(forward, inverse, 1), np.tile(np.arange(50), (3, 1))
    )


def test_bad_input_says_what_was_wanted():
    cells = np.zeros((4, 3), np.int32)
    with pytest.raises(ValueError, match="order: wanted one of"):
        serialization.encode(cells, depth=4, order="peano")
    with pytest.raises(ValueError, match=r"depth: wanted 1\.\.16, got 17"):
        serialization.encode(cells, depth=17, order="z")
    with pytest.raises(ValueError, match="wanted integers"):
        serialization.encode(cells.astype(np.float32), depth=4, order="z")
    with pytest.raises(ValueError, match=r"\[0, 16\) at depth 4, got \[0, 16\]"):
        serialization.encode(cells + np.array([0, 0, 16]), depth=4, order="z")
    with pytest.raises(ValueError, match="48 bits"):
        serialization.join(cells, cells, depth=16)
    with pytest.raises(ValueError, match="valid: wanted shape"):
        serialization.permutation(cells, np.ones(3, bool), depth=4, order="z")
