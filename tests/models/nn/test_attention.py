"""Every kernel against a plain softmax, forward and backward, with masks and lengths."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.nn import attention


def reference(q, k, v, valid):
    """softmax attention in one expression; valid: [b heads s s_k] bool."""
    logits = jnp.einsum("bshd,bzhd->bhsz", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhsz,bzhd->bshd", jax.nn.softmax(jnp.where(valid, logits, -1e30)), v)


def inputs(b=2, s=70, s_k=1100, heads=2, d=16, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = [(b, s, heads, d), (b, s_k, heads, d), (b, s_k, heads, d), (b, s, heads, d)]
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def check(kernel, *, mask=None, lengths=None, interpret=False, atol=2e-5, **sizes):
    q, k, v, probe = inputs(**sizes)
    valid = jnp.ones((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), bool)
    if mask is not None:
        valid = valid & mask
    if lengths is not None:
        valid = valid & (jnp.arange(k.shape[1])[None] < lengths[:, None])[:, None, None]

    def ours(q, k, v):
        y = attention.attend(
            q, k, v, mask=mask, lengths=lengths, kernel=kernel, interpret=interpret
        )
        return jnp.sum(y * probe), y

    def theirs(q, k, v):
        y = reference(q, k, v, valid)
        return jnp.sum(y * probe), y

    got, wanted = (
        jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(q, k, v) for f in (ours, theirs)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, wanted)


@pytest.mark.parametrize("kernel", ["auto", "xla", "chunked"])
@pytest.mark.parametrize("masked", ["none", "lengths", "keys", "full"])
def test_kernel_matches_softmax(kernel, masked):
    mask = lengths = None
    if masked == "lengths":
        lengths = jnp.array([1100, 513])
    if masked == "keys":
        mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 1, 1, 1100))
    if masked == "full":
        mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 2, 70, 1100))
        lengths = jnp.array([900, 1100])
    check(kernel, mask=mask, lengths=lengths)


def test_chunks_of_fewer_keys():
    check("chunked", s=5, s_k=7)


@pytest.mark.parametrize("masked", [False, True])
def test_splash_matches_softmax_in_the_interpreter(masked):
    lengths = jnp.array([200, 131]) if masked else None
    check("splash", lengths=lengths, interpret=True, s=150, s_k=200, d=128, atol=1e-4)


def test_splash_with_several_blocks_of_keys(monkeypatch):
    monkeypatch.setattr(attention, "SPLASH_KEYS", 256)
    monkeypatch.setattr(attention, "SPLASH_BLOCK", 128)
    assert attention.key_tiles(600) == (256, 128)
    check("splash", lengths=None, interpret=True, s=150, s_k=600, d=128, atol=1e-4)


def test_chunked_keeps_no_square_buffer():
    q, k, v, _ = inputs(s=1100)

    def loss(q, k, v):
        return jnp.sum(jnp.square(attention.attend(q, k, v, kernel="chunked")))

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile().as_text()
    assert re.search(r"\[[\d,]*1100,256\]", text)
    assert not re.search(r"\[[\d,]*(1100|1280),(1100|1280)\]", text)


def test_softmax_is_float32_for_bfloat16_inputs():
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in inputs())
    valid = jnp.ones((2, 2, 70, 1100), bool)
    wanted = reference(*(x.astype(jnp.float32) for x in (q, k, v)), valid)
    for kernel in ("xla", "chunked"):
        got = attention.attend(q, k, v, kernel=kernel)
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=1e-2)


def test_auto_chooses_by_platform_and_size():
    small = jnp.zeros((1, 64, 2, 128), jnp.bfloat16)
    large = jax.ShapeDtypeStruct((1, 9000, 2, 128), jnp.float32)
    full = jnp.ones((1, 1, 64, 64), bool)
    assert attention.choose("cpu", small, small, None) == "xla"
    assert attention.choose("cpu", large, large, None) == "chunked"
    assert attention.choose("tpu", small, small, None) == "splash"
    assert attention.choose("tpu", small, small, full) == "xla"
    assert attention.choose("gpu", small, small, None) == "cudnn"
    assert attention.choose("gpu", large, large, None) == "chunked"


def test_tile_divides():
    assert [attention.tile(s) for s in (128, 640, 1024, 8704)] == [128, 128, 512, 512]


def test_keys_come_in_few_equal_blocks():
    sizes = (100, 512, 1980, 8588, 8704, 25764)
    tiles = [attention.key_tiles(s) for s in sizes]
    assert tiles == [(128, 128), (512, 512), (2048, 512), (3072, 512), (3072, 512), (3072, 512)]
    assert -(-8588 // 3072) == 3  # parts of the queries' gradient at full size


def test_wrong_calls_raise():
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="wanted a kernel of"):
        attention.attend(q, k, v, kernel="flash")
    with pytest.raises(ValueError, match="wanted q"):
        attention.attend(q, k, v[:, :5])
    with pytest.raises(ValueError, match="broadcastable"):
        attention.attend(q, k, v, mask=jnp.ones((2, 1, 1, 5), bool))
    with pytest.raises(ValueError, match="wanted lengths"):
        attention.attend(q, k, v, lengths=jnp.array([3]))
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        attention.attend(q, k, v, kernel="cudnn")
    with pytest.raises(ValueError, match="mask over keys"):
        attention.attend(q, k, v, mask=jnp.ones((1, 1, 70, 1100), bool), kernel="splash")
