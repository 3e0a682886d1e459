"""Every kernel against a plain softmax, forward and backward, with masks and lengths."""

import functools
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.nn import attention, heads


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


@pytest.mark.parametrize("kernel", ["auto", "xla", "chunked", "heads"])
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


@pytest.mark.parametrize("turns", [1, 2, 6])
@pytest.mark.parametrize("mask", [(1, 1, 1, 7), (1, 1, 5, 7), (2, 1, 1, 7), (2, 3, 5, 7)])
def test_heads_in_turns(monkeypatch, turns, mask):
    """Also turns that do not end with a row of the batch, masks of fewer axes, nothing to see."""
    monkeypatch.setattr(heads, "LOGITS", 6 // turns * 5 * 7 + 1)
    seen = jax.random.bernoulli(jax.random.key(5), 0.5, mask)
    seen = seen.at[0, 0, 0].set(seen[0, 0, 0] & (mask[2] == 1))
    check("heads", mask=seen, s=5, s_k=7, heads=3)
    q, k, v, _ = inputs(s=5, s_k=7, heads=3)
    attend = jax.jit(functools.partial(attention.attend, kernel="heads"))
    text = attend.lower(q, k, v).as_text()
    assert f"{6 // turns}x5x7xf32" in text


@pytest.mark.parametrize("kernel", ["chunked", "heads"])
@pytest.mark.parametrize(("dtype", "copies"), [("float32", 0), ("bfloat16", 1)])
def test_kernels_have_the_gradients_of_all_logits(dtype, copies, kernel):
    """In bfloat16 on one CPU from a copy of the logits' gradients by rows, which products want."""
    q, k, v, _ = inputs(s=40, s_k=600)
    q, k, v = (x.astype(dtype) for x in (q, k, v))

    def loss(q, kernel):
        y = attention.attend(q, k.astype(q.dtype), v.astype(q.dtype), kernel=kernel)
        return jnp.sum(jnp.square(y.astype(jnp.float32)))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    wanted = gradient(q.astype(jnp.float32), "xla")
    error = jnp.max(jnp.abs(gradient(q, kernel).astype(jnp.float32) - wanted))
    assert float(error / jnp.max(jnp.abs(wanted))) < (0.02 if copies else 1e-5)
    assert gradient.lower(q, kernel).as_text().count("LayoutConstraint") == copies


@pytest.mark.parametrize("masked", [False, True])
def test_splash_matches_softmax_in_the_interpreter(masked):
    lengths = jnp.array([200, 131]) if masked else None
    check("splash", lengths=lengths, interpret=True, s=150, s_k=200, d=128, atol=1e-4)


def test_splash_with_several_blocks_of_keys(monkeypatch):
    monkeypatch.setattr(attention, "SPLASH_KEYS", 256)
    monkeypatch.setattr(attention, "SPLASH_BLOCK", 128)
    assert attention.key_tiles(600) == (256, 128)
    check("splash", lengths=None, interpret=True, s=150, s_k=600, d=128, atol=1e-4)


@pytest.mark.parametrize("masked", ["none", "lengths", "keys", "both", "nothing"])
def test_cudnn_is_called_with_even_tokens_and_counts_of_keys(monkeypatch, masked):
    """Everything around the kernel, which a plain softmax over the counted keys stands in for."""
    plain, calls = jax.nn.dot_product_attention, []

    def stand_in(q, k, v, *, key_value_seq_lengths, query_seq_lengths, implementation):
        calls.append((q.shape[1], k.shape[1], implementation))
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
        counts = {"key_value_seq_lengths": key_value_seq_lengths}
        if key_value_seq_lengths is not None:
            counts["query_seq_lengths"] = query_seq_lengths
        return plain(q, k, v, implementation="xla", **counts)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    monkeypatch.setattr(attention, "refusal", lambda kernel, q, mask: None)  # float32 here
    lengths = jnp.array([20, 31]) if masked in ("lengths", "both") else None
    mask = None
    if masked in ("keys", "both"):
        mask = jax.random.bernoulli(jax.random.key(5), 0.5, (2, 1, 1, 33))
    check("cudnn", mask=mask, lengths=lengths, s=21, s_k=33)
    if masked == "nothing":  # a row without keys is finite, and so are its gradients
        q, k, v, _ = inputs(s=21, s_k=33)
        none = jnp.zeros((2, 1, 1, 33), bool)
        grads = jax.grad(lambda *x: jnp.sum(attention.attend(*x, mask=none, kernel="cudnn")))
        assert np.isfinite(grads(q, k, v)).all()
    assert set(calls) == {(22, 34, "cudnn")}


def test_seen_first_is_a_permutation_and_its_inverse():
    seen = jnp.array([[False, True, False, True, True], [False] * 5, [True] * 5])
    order, inverse, count = attention._seen_first(seen)
    np.testing.assert_array_equal(order[0], [1, 3, 4, 0, 2])
    np.testing.assert_array_equal(np.take_along_axis(order, inverse, 1), [[0, 1, 2, 3, 4]] * 3)
    np.testing.assert_array_equal(count, [3, 0, 5])


def test_chunked_keeps_no_square_buffer():
    q, k, v, _ = inputs(s=1100)

    def loss(q, k, v):
        return jnp.sum(jnp.square(attention.attend(q, k, v, kernel="chunked")))

    text = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, v).compile().as_text()
    assert re.search(r"\[[\d,]*1100,256\]", text)
    assert not re.search(r"\[[\d,]*(1100|1280),(1100|1280)\]", text)


def test_masks_of_chunks_are_not_kept_for_all_queries():
    """In layers that are recomputed, where jax takes out of a loop what no query changes."""
    q, k, v, _ = inputs()

    def layer(x, _):
        lengths = jnp.full((2,), 1000)
        return x + attention.attend(x, k, v, lengths=lengths, kernel="chunked"), None

    def loss(x):
        return jnp.sum(jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, length=3)[0])

    text = jax.jit(jax.grad(loss)).lower(q).as_text()
    assert "2x2x70x256xf32" in text  # the logits of a chunk
    assert "5x2x2x70x256" not in text  # something of all five chunks


def test_softmax_is_float32_for_bfloat16_inputs():
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in inputs())
    valid = jnp.ones((2, 2, 70, 1100), bool)
    wanted = reference(*(x.astype(jnp.float32) for x in (q, k, v)), valid)
    for kernel in ("xla", "chunked", "heads"):
        got = attention.attend(q, k, v, kernel=kernel)
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=1e-2)


def test_auto_chooses_by_platform_and_size():
    small = jnp.zeros((1, 64, 2, 128), jnp.bfloat16)
    large = jax.ShapeDtypeStruct((1, 9000, 2, 128), jnp.float32)
    full = jnp.ones((1, 1, 64, 64), bool)
    assert attention.choose("cpu", small, small, None) == "heads"
    assert attention.choose("cpu", large, large, None) == "chunked"
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    place, chosen = jax.NamedSharding(mesh, jax.P()), []
    meshed = jax.ShapeDtypeStruct(small.shape, small.dtype, sharding=place)
    jax.jit(lambda x: chosen.append(attention.choose("cpu", x, x, None))).lower(meshed)
    assert chosen == ["xla"]
    assert attention.choose("tpu", small, small, None) == "splash"
    assert attention.choose("tpu", small, small, full) == "xla"
    assert attention.choose("gpu", small, small, None) == "cudnn"
    assert attention.choose("gpu", large, large, None) == "chunked"
    # What cuDNN cannot take goes to a kernel without all logits at once.
    middle, keys = jnp.zeros((1, 512, 2, 128), jnp.bfloat16), jnp.ones((1, 1, 1, 512), bool)
    assert attention.choose("gpu", middle, middle, keys) == "cudnn"
    assert attention.choose("gpu", middle, middle, jnp.ones((1, 1, 512, 512), bool)) == "chunked"
    wide = jnp.zeros((1, 512, 2, 256), jnp.bfloat16)
    assert attention.choose("gpu", wide, wide, None) == "chunked"


def test_the_kernel_is_logged_once_a_shape(caplog):
    attention._tell.cache_clear()
    q, k, v, _ = inputs(s=9, s_k=11)
    with caplog.at_level(logging.INFO, attention.__name__):
        for _ in range(2):
            attention.attend(q, k, v, lengths=jnp.array([3, 4]))
    assert caplog.messages == [
        "attention: heads for q [2, 9, 2, 16] float32 and 11 keys with lengths"
    ]


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
    with pytest.raises(ValueError, match="of one dtype, got float32, bfloat16, float32"):
        attention.attend(q, k.astype(jnp.bfloat16), v)
    with pytest.raises(ValueError, match="wanted lengths"):
        attention.attend(q, k, v, lengths=jnp.array([3]))
    with pytest.raises(ValueError, match="lengths .* of int, got .* float32"):
        attention.attend(q, k, v, lengths=jnp.array([3.0, 4.0]))
    with pytest.raises(ValueError, match="a mask of bool"):
        attention.attend(q, k, v, mask=jnp.zeros((2, 1, 1, 1100)))


def test_what_a_named_kernel_cannot_take_says_what_it_takes_and_what_auto_would_choose():
    q, k, v, _ = inputs()
    full = jnp.ones((1, 1, 70, 1100), bool)
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    for kernel, arrays, mask, platform, said in (
        ("cudnn", (q, k, v), None, "gpu", "cudnn takes bfloat16 or float16, .* 'chunked'"),
        ("cudnn", half, full, "gpu", r"cudnn takes a mask over keys \[b 1 1 s_k\], .* 'chunked'"),
        ("cudnn", [x[..., :12] for x in half], None, "tpu", "multiple of 8 .* got 12; .*'splash'"),
        ("splash", (q, k, v), full, "tpu", "splash takes a mask over keys .*'xla'"),
    ):
        with pytest.raises(ValueError, match=said):
            attention.attend(*arrays, mask=mask, kernel=kernel, platform=platform)
