"""Leaves at rest into shards: the same values, and no more on the host than a piece of a shard."""

import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit
from syncmv4d_jax.weights import exports, slices, store

CONFIG = wan_config.DiTConfig(
    dim=64, ffn_dim=256, heads=2, layers=6, patch=(1, 1, 1), in_channels=8, out_channels=8,
    freq_dim=64, text_dim=32, text_len=8, dtype="float32",
)  # fmt: skip
P = jax.sharding.PartitionSpec


@pytest.fixture(scope="module")
def params():
    made = module.init(dit.DiT, CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: x + jnp.arange(x.size).reshape(x.shape) / x.size, made)


@pytest.fixture(scope="module")
def source(params, tmp_path_factory):
    """source(form) -> what is read in slices: a converted folder or an exported file."""
    folder = tmp_path_factory.mktemp("weights")
    store.save("dit", CONFIG, params, folder, source={})
    exports.write({"dit": params}, folder / "all.safetensors")
    opened = {
        "converted": lambda: store.source("dit", folder)[1],
        "exported": lambda: exports.source(folder / "all.safetensors", "dit"),
    }
    return lambda form: opened[form]()


def cut(shape, axes):
    """A sharding over the last but one axis, or the last where there is one."""
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    spec = [None] * len(shape)
    for i in (len(shape) - 2, len(shape) - 1):
        if i >= 0 and shape[i] % 8 == 0:
            spec[i] = axes
            break
    return jax.sharding.NamedSharding(mesh, P(*spec))


def wanted(found, axes, dtype):
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=cut(shape, axes) if axes else None)
        for name, shape in found.shapes.items()
    }


@pytest.mark.parametrize("form", ["converted", "exported"])
@pytest.mark.parametrize("axes", [("a", "b"), ("a",), ()])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_values_dtypes_and_shardings(source, params, form, axes, dtype):
    found = source(form)
    got = found.load(wanted(found, axes, dtype))
    flat = tree.flatten({"dit": params})
    assert got.keys() == flat.keys()
    for name, x in got.items():
        assert x.dtype == dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(flat[name]).astype(dtype))
        if axes:
            assert x.sharding.is_equivalent_to(cut(x.shape, axes), x.ndim)


@pytest.mark.parametrize("form", ["converted", "exported"])
def test_no_read_is_larger_than_a_piece_of_a_shard(source, monkeypatch, form):
    """Bytes that each read asks for; those of a leaf are read once for all that hold them alike."""
    monkeypatch.setattr(slices, "PIECE", 2048)
    found, asked = source(form), {}

    def spied(name, leaf):
        def read(index):
            x = leaf.read(index)
            asked.setdefault(name, []).append(x.nbytes)
            return x

        return leaf._replace(read=read)

    spy = slices.Files("spy", {name: spied(name, leaf) for name, leaf in found.leaves.items()})
    spy.load(wanted(found, ("a",), np.float32))  # two devices hold each shard
    for name, shape in found.shapes.items():
        whole = 4 * int(np.prod(shape))
        assert sum(asked[name]) == whole, name
        assert max(asked[name]) <= 2048, name
    assert max(len(reads) for reads in asked.values()) > 100


def test_pieces_cover_an_array_once(monkeypatch):
    monkeypatch.setattr(slices, "PIECE", 4 * 10)
    for shape in [(), (7,), (3, 4), (2, 3, 5), (5, 40), (1, 0, 3)]:
        seen = np.zeros(shape, int)
        for index in slices.pieces(shape, 4):
            assert seen[index].size <= 10
            seen[index] += 1
        assert (seen == 1).all()


def test_little_is_under_way_at_once(source, monkeypatch):
    """Shards that are being read stay within STAGING, or there is one."""
    monkeypatch.setattr(slices, "STAGING", 100_000)
    monkeypatch.setattr(slices, "READERS", 8)
    found, now, most = source("exported"), [0], [0]
    filled, several = slices._filled, threading.Event()

    def counted(leaf, index, dtype):
        now[0] += 1
        most[0] = max(most[0], now[0])
        if now[0] > 1:
            several.set()
        several.wait(1)  # on one core the first would be done before the second begins
        x = filled(leaf, index, dtype)
        now[0] -= 1
        assert now[0] == 0 or x.nbytes < 100_000
        return x

    monkeypatch.setattr(slices, "_filled", counted)
    found.load(wanted(found, (), np.float32))
    assert most[0] > 1


def test_a_truncated_file_is_told(tmp_path, params):
    path = tmp_path / "x.safetensors"
    exports.write({"dit": params}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated: its header wants"):
        exports.source(path, "dit")
