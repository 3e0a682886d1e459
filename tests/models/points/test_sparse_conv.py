"""Submanifold convolution and voxel means: golden values, dense convolution, and autodiff as
the judge.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.points import sparse_conv, voxel_hash

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/ptv3"


def gather_einsum(features, table, weight):
    """The plain form, differentiated by JAX: one group."""
    padded = jnp.concatenate([features, jnp.zeros_like(features[:1])])
    return jnp.einsum("p j c, j c d -> p d", padded[table], weight)


def random_cloud(seed=0, points=150, groups=2, side=6, channels=5):
    rng = np.random.default_rng(seed)
    grid = jnp.asarray(rng.integers(0, side, (groups, points, 3)), jnp.int32)
    valid = jnp.asarray(rng.random((groups, points)) < 0.8)
    voxels = jax.vmap(voxel_hash.voxelise)(grid, valid)
    features = jnp.asarray(rng.normal(size=(groups, points, channels)), jnp.float32)
    return grid, valid, voxels, features


def test_convolution_and_gradients_equal_the_reference():
    golden = np.load(GOLDEN / "subm_conv_k3.npz")
    table = jnp.where(golden["neighbour"] < 0, 1024, golden["neighbour"]).astype(jnp.int32)
    weight = golden["weight_KRSC"].reshape(24, 27, 16).transpose(1, 2, 0)

    def loss(features, weight, bias):
        out = sparse_conv.subm_conv(features, table, weight, bias)
        return jnp.sum(out * golden["out_grad"]), out

    (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
        jnp.asarray(golden["feat"]), jnp.asarray(weight), jnp.asarray(golden["bias"])
    )
    np.testing.assert_allclose(out, golden["out"], atol=1e-5)
    np.testing.assert_allclose(out, golden["out_dense_fp64"], atol=1e-5)
    np.testing.assert_allclose(grads[0], golden["feat_grad"], atol=1e-5)
    wanted = golden["weight_grad"].reshape(24, 27, 16).transpose(1, 2, 0)
    np.testing.assert_allclose(grads[1], wanted, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(grads[2], golden["bias_grad"], rtol=1e-5, atol=1e-5)


def test_our_tables_equal_the_reference_tables():
    golden = np.load(GOLDEN / "subm_conv_k3.npz")
    for cloud in np.unique(golden["batch"]):
        rows = np.flatnonzero(golden["batch"] == cloud)
        voxels = voxel_hash.voxelise(golden["grid_coord"][rows], np.ones(len(rows), bool))
        table = np.asarray(voxel_hash.neighbours(voxels.keys))
        order = np.append(np.asarray(voxels.order), -1)  # voxel row -> row of the cloud
        np.testing.assert_array_equal(
            np.append(rows, -1)[order[table]], golden["neighbour"][rows[voxels.order]]
        )


@pytest.mark.parametrize("kernel", [3, 5])
def test_custom_backward_equals_autodiff(kernel):
    _, _, voxels, x = random_cloud()
    table = jax.vmap(lambda keys: voxel_hash.neighbours(keys, kernel=kernel))(voxels.keys)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(kernel**3, 5, 7)), jnp.float32)
    ours = jax.vjp(lambda x, w: sparse_conv.subm_conv(x, table, w), x, weight)
    plain = jax.vjp(
        lambda x, w: jnp.stack([gather_einsum(x[i], table[i], w) for i in range(2)]), x, weight
    )
    np.testing.assert_allclose(ours[0], plain[0], atol=2e-5)
    g = jnp.asarray(np.random.default_rng(2).normal(size=ours[0].shape), jnp.float32)
    for a, b in zip(ours[1](g), plain[1](g), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * float(jnp.abs(b).max()) + 1e-6)


def test_large_clouds_in_chunks_equal_the_whole(monkeypatch):
    _, _, voxels, x = random_cloud()
    tables = {}
    for size in (1000, 32):  # 150 rows: the last chunk is not full
        monkeypatch.setattr(voxel_hash, "CHUNK", size)
        tables[size] = jax.vmap(lambda keys: voxel_hash.neighbours(keys))(voxels.keys)
    np.testing.assert_array_equal(tables[32], tables[1000])
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(27, 5, 7)), jnp.float32)
    results = []
    for size in (1000, 32):
        monkeypatch.setattr(sparse_conv, "CHUNK", size)
        out, pull = jax.vjp(lambda x, w: sparse_conv.subm_conv(x, tables[32], w), x, weight)
        results.append((out, *pull(jnp.cos(out))))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


def test_convolution_equals_a_dense_convolution():
    grid, _, voxels, x = random_cloud(groups=1)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(27, 5, 7)), jnp.float32)
    table = voxel_hash.neighbours(voxels.keys[0])
    cells = voxel_hash.unpack(voxels.keys[0])
    n = int((voxels.keys[0] != voxel_hash.EMPTY).sum())
    volume = jnp.zeros((6, 6, 6, 5)).at[tuple(cells[:n].T)].set(x[0, :n])
    dense = jax.lax.conv_general_dilated(
        volume[None],
        weight.reshape(3, 3, 3, 5, 7),
        (1, 1, 1),
        "SAME",
        dimension_numbers=("NXYZC", "XYZIO", "NXYZC"),
    )[0]
    ours = sparse_conv.subm_conv(x[0], table, weight)
    np.testing.assert_allclose(ours[:n], dense[tuple(cells[:n].T)], atol=1e-5)
    assert (np.asarray(ours[n:]) == 0).all()


def test_half_precision_keeps_its_dtype_and_sums_in_float32():
    _, _, voxels, x = random_cloud(channels=64)
    table = jax.vmap(voxel_hash.neighbours)(voxels.keys)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(27, 64, 8)) / 40, jnp.float32)
    exact = sparse_conv.subm_conv(x, table, weight)
    half = sparse_conv.subm_conv(x.astype(jnp.bfloat16), table, weight)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.05)


def means(x, grid, valid):
    """Voxel means by numpy, in the order of keys."""
    out = np.zeros_like(x)
    for group in range(len(x)):
        cells = np.unique(grid[group][valid[group]], axis=0)
        for row, cell in enumerate(cells):
            out[group, row] = x[group][valid[group] & (grid[group] == cell).all(-1)].mean(0)
    return out


def test_pool_and_spread():
    grid, valid, voxels, x = random_cloud()
    pooled = sparse_conv.pool_mean(x, voxels)
    np.testing.assert_allclose(pooled, means(*map(np.asarray, (x, grid, valid))), atol=1e-5)
    back = sparse_conv.spread(pooled, voxels)
    for group in range(2):
        keep = np.asarray(valid[group])
        np.testing.assert_array_equal(back[group][keep], pooled[group][voxels.row[group][keep]])
        assert (np.asarray(back[group][~keep]) == 0).all()
    largest = sparse_conv.pool_max(x, voxels)
    row = int(voxels.row[0][np.argmax(valid[0])])
    np.testing.assert_allclose(largest[0, row], x[0][voxels.row[0] == row].max(0))


def test_segmented_scan_equals_segment_sum():
    _, _, voxels, x = random_cloud(seed=4)
    ordered = sparse_conv.take(x, voxels.order)
    args = (ordered, voxels.sorted_row, voxels.end, voxels.counts)
    np.testing.assert_allclose(
        sparse_conv._sum_scan(*args), sparse_conv._sum_jraph(*args), atol=1e-5
    )


@pytest.mark.parametrize("name", ["pool_mean", "spread", "permute", "pool_max"])
def test_custom_gradients_equal_finite_structure(name):
    """The vjp of a linear map is its transpose: checked against the jacobian of a plain version."""
    _, valid, voxels, x = random_cloud(points=20, groups=1, side=3, channels=2)

    def plain(x):
        size = x.shape[1]
        hot = jax.nn.one_hot(voxels.row[0], size)  # rows beyond the last voxel are zero
        if name == "pool_mean":
            return (
                jnp.einsum("p q, g p d -> g q d", hot, x) / jnp.maximum(voxels.counts, 1)[..., None]
            )
        if name == "spread":
            return jnp.einsum("p q, g q d -> g p d", hot, x)
        if name == "permute":
            return x[:, voxels.order[0]]
        masked = jnp.where(hot.T[None, :, :, None] > 0, x[:, None], -jnp.inf)
        return jnp.where(voxels.counts[..., None] > 0, masked.max(2), 0.0)

    def ours(x):
        if name == "permute":
            return sparse_conv.permute(x, voxels.order, voxels.inverse)
        return getattr(sparse_conv, name)(x, voxels)

    y, pull = jax.vjp(ours, x)
    wanted, wanted_pull = jax.vjp(plain, x)
    g = jnp.asarray(np.random.default_rng(0).normal(size=y.shape), jnp.float32)
    np.testing.assert_allclose(y, wanted, atol=1e-6)
    np.testing.assert_allclose(pull(g)[0], wanted_pull(g)[0], atol=1e-6)


def test_backward_holds_no_scatter():
    _, _, voxels, x = random_cloud()
    table = jax.vmap(voxel_hash.neighbours)(voxels.keys)
    weight = jnp.ones((27, 5, 5))

    def loss(x, weight):
        x = sparse_conv.permute(x, voxels.order, voxels.inverse)
        return jnp.sum(sparse_conv.subm_conv(x, table, weight) ** 2)

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, weight))
    assert "scatter" not in text


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \(4, 3\), \(4, 26\), \(27, 3, 2\)"):
        sparse_conv.subm_conv(jnp.ones((4, 3)), jnp.zeros((4, 26), jnp.int32), jnp.ones((27, 3, 2)))
