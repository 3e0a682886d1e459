"""umT5 encoder: true sizes, position buckets, padding, a committed golden, transformers live."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from umt5_reference import CONFIG, batch, random_params, transformers_encoder

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import umt5

GOLDEN = Path(__file__).parent.parent / "golden/umt5"


def encode(config, params, ids, mask):
    return module.bind(umt5.UMT5, config, params)(jnp.asarray(ids), jnp.asarray(mask))


def test_true_size():
    assert tree.count(module.shapes(umt5.UMT5, umt5.XXL)) == 5_680_910_336


def test_buckets():
    golden = np.load(GOLDEN / "t5_rel_bucket.npz")
    ours = umt5.relative_bucket(golden["relative_position"], buckets=32, max_distance=128)
    np.testing.assert_array_equal(ours, golden["rel_bucket"])


def test_padding_does_not_reach_the_text():
    params = random_params(umt5.TINY)
    ids, mask = batch(9)
    y = encode(umt5.TINY, params, ids, mask)
    longer = encode(
        umt5.TINY, params, np.pad(ids, ((0, 0), (0, 5))), np.pad(mask, ((0, 0), (0, 5)))
    )
    np.testing.assert_allclose(longer[:, :9], y, atol=1e-5)
    assert not np.asarray(longer[:, 9:]).any() and not np.asarray(y)[~mask].any()
    changed = encode(umt5.TINY, params, np.where(mask, ids, 7), mask)
    np.testing.assert_array_equal(changed, y)


def test_golden():
    golden = np.load(GOLDEN / "encoder.npz")
    y = encode(
        CONFIG,
        random_params(CONFIG),
        *batch(37),
    )
    np.testing.assert_allclose(y, golden["features"], atol=1e-4)


def test_bad_shapes():
    with pytest.raises(ValueError, match="wanted ids and mask"):
        encode(
            umt5.TINY,
            random_params(umt5.TINY),
            np.zeros((2, 3), int),
            np.zeros((2, 4), bool),
        )


@pytest.mark.parity
@pytest.mark.parametrize("length", [512, 37, 1])
def test_equals_transformers(length):
    torch = pytest.importorskip("torch")
    params = random_params(CONFIG)
    theirs = transformers_encoder(torch, params)
    ids, mask = batch(length)
    with torch.no_grad():
        y = theirs(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state
    y = np.where(mask[..., None], y.numpy(), 0)
    np.testing.assert_allclose(jax.jit(lambda: encode(CONFIG, params, ids, mask))(), y, atol=1e-4)
