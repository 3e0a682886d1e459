"""The one door to attention: softmax(q k^T / sqrt(d)) v, by named kernel, on one device.

| kernel    | what it is                                                             | memory in s |
|-----------|------------------------------------------------------------------------|-------------|
| "xla"     | jax.nn.dot_product_attention; any mask                                 | s^2         |
| "chunked" | online softmax over chunks of keys, recomputing backward; any mask     | s           |
| "heads"   | a few heads at a time (heads.py), recomputing backward; any mask       | s^2 of them |
| "splash"  | TPU Pallas flash kernel, padded to its tiles; masks over keys only     | s           |
| "cudnn"   | cuDNN flash attention, 16 bit only; masks over keys only               | s           |
| "auto"    | splash on TPU, cudnn on GPU, where they can; heads on a single CPU,    | -           |
|           | up to heads.LOGITS; else xla if small, or chunked                      |             |

cuDNN knows of keys only how many count, from the first on: under another mask keys are brought in
that order first, which attention does not mind. Odd counts of tokens, which its backward pass does
not take, are padded. What was chosen is logged once a shape. Softmax is float32 everywhere. Sharded
attention (machines/placement.py) wraps these kernels; models see a `Placement` only.
"""

import functools
import logging
import math

import einops
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from syncmv4d_jax.models.nn import cpu, heads

log = logging.getLogger(__name__)
# Values saved by remat policies "save_attention" and "offload".
OUTPUT_NAME = "attention"
KERNELS = ("auto", "xla", "chunked", "heads", "splash", "cudnn")
# "auto" leaves "xla" for "chunked" where a head has more logits than this. On CPUs the chunks win
# in time too, from the aligner's patches of 256 points on; for 776 tokens and 48 of text they do
# not. On a single one "heads" is faster than both (benchmarks/RESULTS.md, "Attention on a CPU").
XLA_LIMIT = {"cpu": 200 * 200, "gpu": 256 * 256, "tpu": 2048 * 2048}
CHUNK = 256
CUDNN_WIDTH = 128  # of a head; Hopper and later take 256
# Splash reads queries in blocks of up to SPLASH_BLOCK, keys in up to SPLASH_KEYS, SPLASH_BLOCK of
# them at a time. Backward writes a part of the queries' gradient for every block of keys: with 17
# blocks of 512 these parts were the largest value of a training step at full size, 2.5 GiB.
SPLASH_TILE = 128
SPLASH_BLOCK = 512
SPLASH_KEYS = 3072
MASKED = -1e30


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: jax.Array | None = None,
    lengths: jax.Array | None = None,
    kernel: str = "auto",
    platform: str | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Multi-head attention.

    Args:
      q: [b s heads d].
      k, v: [b s_k heads d].
      mask: bool, broadcastable to [b heads s s_k], True = attend. "splash" and "cudnn" take
        [b 1 1 s_k] only.
      lengths: [b] int, keys at and beyond it are masked.
      kernel: one of KERNELS.
      platform: "cpu", "gpu" or "tpu" that "auto" chooses for; None: this process's.
      interpret: run "splash" in the Pallas interpreter (tests on a CPU).

    Returns:
      [b s heads d], dtype of q.

    Raises:
      ValueError: unknown kernel, shapes that do not fit, a mask or dtype it cannot take.
    """
    _check(q, k, v, mask, lengths)
    best = choose(platform or jax.default_backend(), q, k, mask)
    kernel = best if kernel == "auto" else kernel
    if wrong := refusal(kernel, q, mask):
        raise ValueError(f'attend: {wrong}; kernel="auto" would choose {best!r}')
    masks = [("a mask over keys" if _over_keys(mask) else "a mask")] if mask is not None else []
    _tell(kernel, q.shape, k.shape[1], str(q.dtype), *masks, *["lengths"] * (lengths is not None))
    if kernel == "cudnn":
        return checkpoint_name(_cudnn(q, k, v, mask, lengths), OUTPUT_NAME)
    if lengths is not None:
        keys = einops.rearrange(_counted(lengths, k.shape[1]), "b k -> b 1 1 k")
        mask = keys if mask is None else mask & keys
    # Outputs carry OUTPUT_NAME for remat policies; flash kernels name theirs with the log-sum-exp.
    if kernel == "chunked":
        return _chunked(q, k, v, mask)
    if kernel == "heads":
        return heads.attend(q, k, v, mask, masked=MASKED, name=OUTPUT_NAME)
    if kernel == "splash":
        return _splash(q, k, v, mask, interpret=interpret)
    y = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    return checkpoint_name(y, OUTPUT_NAME)


def choose(platform: str, q: jax.Array, k: jax.Array, mask: jax.Array | None) -> str:
    """Returns the kernel that "auto" stands for on `platform` ("cpu", "gpu", "tpu")."""
    flash = {"tpu": "splash", "gpu": "cudnn"}.get(platform)
    if flash and refusal(flash, q, mask) is None:
        return flash
    logits = q.shape[1] * k.shape[1]
    if platform == "cpu" and logits <= heads.LOGITS and cpu.alone(q):
        return "heads"
    return "xla" if logits <= XLA_LIMIT[platform] else "chunked"


def refusal(kernel: str, q: jax.Array, mask: jax.Array | None) -> str | None:
    """Returns why a kernel cannot take queries [b s heads d] and a mask, None where it can."""
    if kernel not in KERNELS:
        return f"wanted a kernel of {KERNELS}, got {kernel!r}"
    if kernel in ("splash", "cudnn") and mask is not None and not _over_keys(mask):
        return f"{kernel} takes a mask over keys [b 1 1 s_k], got {mask.shape}"
    if kernel == "cudnn" and q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cudnn takes bfloat16 or float16, got {q.dtype}"
    if kernel == "cudnn" and (q.shape[-1] % 8 or q.shape[-1] > CUDNN_WIDTH):
        return f"cudnn takes heads of a multiple of 8 up to {CUDNN_WIDTH}, got {q.shape[-1]}"
    return None


def _over_keys(mask: jax.Array) -> bool:
    return mask.shape[1:3] == (1, 1)


def _counted(lengths: jax.Array, keys: int) -> jax.Array:
    """lengths [b] -> [b keys] bool, True below the length."""
    return jnp.arange(keys)[None] < lengths[:, None]


@functools.cache
def _tell(kernel: str, q: tuple[int, ...], keys: int, dtype: str, *masks: str) -> None:
    """Logs what was chosen, once a process for the same shapes."""
    of = f" with {', '.join(masks)}" if masks else ""
    log.info("attention: %s for q %s %s and %d keys%s", kernel, list(q), dtype, keys, of)


def _check(q, k, v, mask, lengths) -> None:
    b, _, many, d = q.shape
    if k.shape != v.shape or (k.shape[0], *k.shape[2:]) != (b, many, d):
        raise ValueError(
            "attend: wanted q [b s heads d], k and v [b k heads d], "
            f"got {q.shape}, {k.shape}, {v.shape}"
        )
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        dtypes = ", ".join(str(x.dtype) for x in (q, k, v))
        raise ValueError(f"attend: wanted q, k and v of one dtype, got {dtypes}")
    wanted = (b, many, q.shape[1], k.shape[1])
    if mask is not None and (
        mask.ndim != 4 or any(m not in (1, w) for m, w in zip(mask.shape, wanted, strict=True))
    ):
        raise ValueError(f"attend: wanted a mask broadcastable to {wanted}, got {mask.shape}")
    if mask is not None and mask.dtype != jnp.bool_:
        raise ValueError(f"attend: wanted a mask of bool, True = attend, got {mask.dtype}")
    if lengths is not None and (
        lengths.shape != (b,) or not jnp.issubdtype(lengths.dtype, jnp.integer)
    ):
        raise ValueError(
            f"attend: wanted lengths [b] = ({b},) of int, got {lengths.shape} {lengths.dtype}"
        )


# Chunked: flash attention in plain XLA. Forward keeps the output and log-sum-exp; backward walks
# the chunks of keys again. Inside, queries are [b heads s d] and chunks of keys [n b heads c d].


def _chunked(q, k, v, mask):
    size = min(CHUNK, k.shape[1])
    chunks = -(-k.shape[1] // size)
    pad = chunks * size - k.shape[1]
    if pad:
        valid = einops.rearrange(jnp.arange(k.shape[1] + pad) < k.shape[1], "k -> 1 1 1 k")
        if mask is not None:
            wide = jnp.broadcast_to(mask, (*mask.shape[:3], k.shape[1]))
            valid = valid & jnp.pad(wide, ((0, 0), (0, 0), (0, 0), (0, pad)))
        mask = valid
        k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (k, v))
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:3], chunks * size))
        mask = einops.rearrange(mask, "b h s (n c) -> n b h s c", n=chunks)
    split = functools.partial(einops.rearrange, pattern="b (n c) h d -> n b h c d", n=chunks)
    out = _flash(einops.rearrange(q, "b s h d -> b h s d"), split(k), split(v), mask)
    return einops.rearrange(out, "b h s d -> b s h d")


def _logits(q, k, mask):
    """q: [b h s d], k: [b h c d] -> [b h s c] float32."""
    scale = 1 / math.sqrt(q.shape[-1])
    x = jnp.einsum("bhsd,bhcd->bhsc", q, k, preferred_element_type=jnp.float32) * scale
    # Added, as the mask is small: chosen, jax takes it, broadcast over all queries, out of a loop
    # that is run again in the backward pass, for all chunks at once: 5 GiB at full size.
    return x if mask is None else x + jnp.where(mask, 0, MASKED)


@jax.custom_vjp
def _flash(q, k, v, mask):
    return _flash_forward(q, k, v, mask)[0]


def _flash_forward(q, k, v, mask):
    def step(carry, chunk):
        top, total, out = carry
        k, v, mask = chunk
        logits = _logits(q, k, mask)
        new_top = jnp.maximum(top, jnp.max(logits, -1, keepdims=True))
        p = jnp.exp(logits - new_top)
        decay = jnp.exp(top - new_top)
        part = jnp.einsum(
            "bhsc,bhcd->bhsd", p.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return (new_top, total * decay + jnp.sum(p, -1, keepdims=True), out * decay + part), None

    column = (*q.shape[:3], 1)
    start = (
        jnp.full(column, MASKED, jnp.float32),
        jnp.zeros(column, jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
    )
    (top, total, out), _ = jax.lax.scan(step, start, (k, v, mask))
    out = checkpoint_name((out / total).astype(q.dtype), OUTPUT_NAME)
    return out, (q, k, v, mask, out, checkpoint_name(top + jnp.log(total), OUTPUT_NAME))


def _flash_backward(saved, g):
    # Logits are [b h c s] here: then two of the three products that read them need no transpose.
    q, k, v, mask, out, log_total = saved
    inner = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1)[:, :, None]
    log_total, mask = jnp.swapaxes(log_total, -1, -2), _swap(mask)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    rows = q.dtype == jnp.bfloat16 and cpu.alone(q)

    def step(dq, chunk):
        k, v, mask = chunk
        p = jnp.exp(_logits(k, q, mask) - log_total)
        dv = dot("bhcs,bhsd->bhcd", p.astype(g.dtype), g)
        ds = p * (dot("bhcd,bhsd->bhcs", v, g) - inner) / math.sqrt(q.shape[-1])
        ds = ds.astype(q.dtype)
        dk = dot("bhcs,bhsd->bhcd", ds, q)
        if rows:
            part = dot("bhsc,bhcd->bhsd", cpu.swapped(ds), k)
        else:
            part = dot("bhcs,bhcd->bhsd", ds, k)
        return dq + part, (dk.astype(k.dtype), dv.astype(v.dtype))

    dq, (dk, dv) = jax.lax.scan(step, jnp.zeros(q.shape, jnp.float32), (k, v, mask))
    return dq.astype(q.dtype), dk, dv, None


def _swap(mask):
    return None if mask is None else jnp.swapaxes(mask, -1, -2)


_flash.defvjp(_flash_forward, _flash_backward)


def _splash(q, k, v, mask, *, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    (b, s, heads, d), s_k = q.shape, k.shape[1]
    pad_q, pad_d = -s % SPLASH_TILE, -d % SPLASH_TILE
    block_k, compute = key_tiles(s_k)
    pad_k = -s_k % block_k
    valid = jnp.ones((b, s_k), bool) if mask is None else jnp.broadcast_to(mask[:, 0, 0], (b, s_k))
    # Segments: real keys are 0, as all queries; masked keys are 1 and meet no query.
    kv_segment = jnp.pad(~valid, ((0, 0), (0, pad_k)), constant_values=True).astype(jnp.int32)
    segments = splash.SegmentIds(q=jnp.zeros((b, s + pad_q), jnp.int32), kv=kv_segment)
    kernel = _splash_kernel(heads, s + pad_q, s_k + pad_k, block_k, compute, interpret)

    def prepare(x, pad):
        x = jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, pad_d)))
        return einops.rearrange(x, "b s h d -> b h s d")

    q = q * jnp.asarray(1 / math.sqrt(d), q.dtype)
    out = jax.vmap(kernel)(prepare(q, pad_q), prepare(k, pad_k), prepare(v, pad_k), segments)
    return einops.rearrange(out[:, :, :s, :d], "b h s d -> b s h d")


def _splash_kernel(heads, s_q, s_k, block_k, compute, interpret):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    block_q = tile(s_q)
    sizes = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_k,
        block_kv_compute=compute,
        block_q_dkv=block_q,
        block_kv_dkv=block_k,
        block_kv_dkv_compute=compute,
        use_fused_bwd_kernel=True,
    )
    return splash.make_splash_mha(
        splash.MultiHeadMask([splash.FullMask((s_q, s_k))] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=OUTPUT_NAME,
        interpret=interpret,
    )


def tile(s: int) -> int:
    """Returns the largest multiple of SPLASH_TILE up to SPLASH_BLOCK that divides s."""
    return max(n for n in range(SPLASH_TILE, SPLASH_BLOCK + 1, SPLASH_TILE) if s % n == 0)


def key_tiles(s: int) -> tuple[int, int]:
    """Returns (keys of a block, keys computed at a time) for s keys, to be padded to whole blocks.

    As few blocks of up to SPLASH_KEYS as there can be, of equal size.
    """
    if s <= SPLASH_BLOCK:
        whole = s + -s % SPLASH_TILE
        return whole, whole
    blocks = -(-s // SPLASH_KEYS)
    return SPLASH_BLOCK * -(-s // (blocks * SPLASH_BLOCK)), SPLASH_BLOCK


def _cudnn(q, k, v, mask, lengths):
    s, keys = q.shape[1], k.shape[1]
    if mask is not None:
        seen = jnp.broadcast_to(mask[:, 0, 0], (len(k), keys))
        seen = seen if lengths is None else seen & _counted(lengths, keys)
        order, inverse, lengths = _seen_first(seen)
        k, v = _reorder(k, order, inverse), _reorder(v, order, inverse)
    if keys % 2 and lengths is None:
        lengths = jnp.full((len(k),), keys)
    even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))  # noqa: E731
    q, k, v = (even(x) if x.shape[1] % 2 else x for x in (q, k, v))
    if lengths is not None:  # rows that see nothing see one key: no sum of nothing
        lengths = jnp.maximum(lengths, 1).astype(jnp.int32)
    y = jax.nn.dot_product_attention(
        q,
        k,
        v,
        key_value_seq_lengths=lengths,
        query_seq_lengths=None if lengths is None else jnp.full_like(lengths, q.shape[1]),
        implementation="cudnn",
    )
    return y[:, :s]


def _seen_first(seen: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """seen: [b k] bool -> the order that puts seen keys first, its inverse [b k], their count."""
    order = jnp.argsort(~seen, axis=1, stable=True)
    place, rest = jnp.cumsum(seen, axis=1), jnp.cumsum(~seen, axis=1)
    inverse = jnp.where(seen, place, place[:, -1:] + rest) - 1
    return order, inverse, place[:, -1]


@jax.custom_vjp
def _reorder(x: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """x: [b k h d], rows by `order` [b k]; back it gathers by `inverse` instead of scattering."""
    return jnp.take_along_axis(x, order[:, :, None, None], axis=1)


_reorder.defvjp(
    lambda x, order, inverse: (_reorder(x, order, inverse), (order, inverse)),
    lambda saved, g: (_reorder(g, saved[1], saved[0]), None, None),
)
