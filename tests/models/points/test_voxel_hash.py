"""Voxels and neighbour tables: equal by three methods and by brute force, on ordinary and on
bad clouds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncmv4d_jax.models.points import voxel_hash

CAPACITY = 96


def cloud(seed, kind, count=CAPACITY):
    """A cloud of `count` points in CAPACITY rows; the others are not valid and hold rubbish."""
    rng = np.random.default_rng(seed)
    grid = {
        "surface": rng.integers(0, 12, (CAPACITY, 3)) * np.array([1, 1, 0]) + 5,
        "random": rng.integers(0, voxel_hash.CELLS, (CAPACITY, 3)),
        "one voxel": np.full((CAPACITY, 3), 7),
        "border": rng.choice([0, 1, voxel_hash.CELLS - 2, voxel_hash.CELLS - 1], (CAPACITY, 3)),
        "duplicates": rng.integers(0, 2, (CAPACITY, 3)) + 30,
    }[kind]
    valid = rng.permutation(np.arange(CAPACITY) < count)
    return grid.astype(np.int32), valid


def brute_table(cells, kernel):
    rows = {tuple(cell): i for i, cell in enumerate(cells)}
    return np.array(
        [[rows.get(tuple(c + o), CAPACITY) for o in voxel_hash.offsets(kernel)] for c in cells]
    )


voxelise = jax.jit(voxel_hash.voxelise)
TABLES = {
    (kernel, method): jax.jit(
        lambda keys, k=kernel, m=method: voxel_hash.neighbours(keys, kernel=k, method=m)
    )
    for kernel in (3, 5)
    for method in ("sort", "hash")
}


def check_voxels(grid, valid):
    voxels = voxelise(grid, valid)
    wanted, row, counts = (
        np.unique(grid[valid], axis=0, return_inverse=True, return_counts=True)
        if valid.any()
        else (np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    )
    n = len(wanted)
    np.testing.assert_array_equal(voxel_hash.unpack(voxels.keys)[:n], wanted)
    assert (np.asarray(voxels.keys[n:]) == voxel_hash.EMPTY).all()
    np.testing.assert_array_equal(voxels.row[valid], row.reshape(-1))
    assert (np.asarray(voxels.row)[~valid] == CAPACITY).all()
    np.testing.assert_array_equal(voxels.counts, np.pad(counts, (0, CAPACITY - n)))
    np.testing.assert_array_equal(np.asarray(voxels.row)[voxels.order], voxels.sorted_row)
    np.testing.assert_array_equal(np.asarray(voxels.order)[voxels.inverse], np.arange(CAPACITY))
    np.testing.assert_array_equal(np.asarray(voxels.sorted_row)[voxels.end[:n]], np.arange(n))
    for kernel in (3, 5):
        table = np.asarray(TABLES[kernel, "sort"](voxels.keys))
        np.testing.assert_array_equal(table, TABLES[kernel, "hash"](voxels.keys))
        np.testing.assert_array_equal(table[:n], brute_table(wanted, kernel).reshape(n, kernel**3))
        assert (table[n:] == CAPACITY).all()
    return voxels, n


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from(["surface", "random", "one voxel", "border", "duplicates"]),
    st.integers(0, CAPACITY),
)
def test_voxels_and_tables_equal_brute_force(seed, kind, count):
    check_voxels(*cloud(seed, kind, count))


def test_two_hundred_random_sizes():
    rng = np.random.default_rng(3)
    for i, count in enumerate(rng.integers(0, CAPACITY + 1, 200)):
        grid, valid = cloud(i, "surface", count)
        voxels = voxelise(grid, valid)
        n = int((np.asarray(voxels.keys) != voxel_hash.EMPTY).sum())
        assert n == len(np.unique(grid[valid], axis=0))
        assert int(voxels.counts.sum()) == count
        np.testing.assert_array_equal(
            TABLES[3, "sort"](voxels.keys),
            TABLES[3, "hash"](voxels.keys),
            err_msg=f"{count} points",
        )


@pytest.mark.parametrize("kind", ["surface", "one voxel", "duplicates"])
def test_dense_look_up_equals_sort(kind):
    grid, valid = cloud(0, kind, 80)
    keys = voxelise(grid, valid).keys
    for kernel in (3, 5):
        dense = voxel_hash.neighbours(keys, kernel=kernel, method="dense", cells=64)
        np.testing.assert_array_equal(dense, TABLES[kernel, "sort"](keys))


def test_dense_look_up_at_its_border():
    grid = np.random.default_rng(0).choice([0, 1, 14, 15], (CAPACITY, 3)).astype(np.int32)
    keys = voxelise(grid, np.ones(CAPACITY, bool)).keys
    dense = voxel_hash.neighbours(keys, kernel=5, method="dense", cells=16)
    np.testing.assert_array_equal(dense, TABLES[5, "sort"](keys))


def test_tables_are_symmetric_and_invariant_to_whole_cell_shifts_and_capacity():
    grid, valid = cloud(5, "surface", 70)
    voxels, n = check_voxels(grid, valid)
    table = np.asarray(TABLES[3, "sort"](voxels.keys))
    rows, taps = np.nonzero(table < CAPACITY)
    np.testing.assert_array_equal(table[table[rows, taps], 26 - taps], rows)
    shifted = voxelise(grid + np.array([100, 3, 900]), valid)
    np.testing.assert_array_equal(TABLES[3, "sort"](shifted.keys), table)
    np.testing.assert_array_equal(shifted.row, voxels.row)
    larger = voxel_hash.voxelise(np.pad(grid, ((0, 40), (0, 0))), np.pad(valid, (0, 40)))
    wide = np.asarray(voxel_hash.neighbours(larger.keys))[:n]
    np.testing.assert_array_equal(np.where(wide == CAPACITY + 40, CAPACITY, wide), table[:n])


def test_vmap_equals_one_by_one():
    clouds = [cloud(i, "surface", 20 * i) for i in range(4)]
    grid, valid = (jnp.stack(x) for x in zip(*clouds, strict=True))
    batch = jax.vmap(voxel_hash.voxelise)(grid, valid)
    for method in ("sort", "hash"):
        tables = jax.vmap(lambda keys, m=method: voxel_hash.neighbours(keys, method=m))(batch.keys)
        for i in range(4):
            np.testing.assert_array_equal(tables[i], TABLES[3, method](batch.keys[i]))


def test_quantise_drops_what_is_not_finite_and_clips_the_rest():
    points = jnp.array([[0.05, 0.0, 0.0], [jnp.nan, 0, 0], [0, jnp.inf, 0], [1e9, -1e9, 0.25]])
    grid, valid = voxel_hash.quantise(points, jnp.ones(4, bool), cell=0.1, origin=-0.1)
    np.testing.assert_array_equal(valid, [True, False, False, True])
    np.testing.assert_array_equal(
        grid[jnp.array([0, 3])], [[1, 1, 1], [voxel_hash.CELLS - 1, 0, 3]]
    )


def test_bad_input_says_what_was_wanted():
    grid, valid = cloud(0, "surface")
    with pytest.raises(ValueError, match="wanted grid"):
        voxel_hash.voxelise(grid, valid[:-1])
    with pytest.raises(ValueError, match=r"wanted cells in \[0, 1020\), got \[5, 2000\]"):
        voxel_hash.voxelise(
            np.where(valid[:, None] & (np.arange(96) == 0)[:, None], 2000, grid), valid
        )
    keys = voxelise(grid, valid).keys
    with pytest.raises(ValueError, match="kernel: wanted 1, 3 or 5"):
        voxel_hash.neighbours(keys, kernel=7)
    with pytest.raises(ValueError, match="wanted cells in 1..256, got None"):
        voxel_hash.neighbours(keys, method="dense")
    with pytest.raises(ValueError, match="method: wanted"):
        voxel_hash.neighbours(keys, method="magic")
