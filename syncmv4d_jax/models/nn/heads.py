"""Attention a few heads at a time, as many as have LOGITS logits: what a CPU's cache holds of them.

All keys of a head are at hand: nothing is rescaled, no key is padded. Backward computes the logits
again. Inside, arrays are [n g s d]: n turns of g heads of the batch, whichever follow each other.
benchmarks/RESULTS.md, "Attention on a CPU", has what it saves.
"""

import functools
import math

import einops
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from syncmv4d_jax.models.nn import cpu

LOGITS = 2**20  # of one turn: 4 MB in float32


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    *,
    masked: float,
    name: str,
) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v.

    Args:
      q: [b s h d].
      k, v: [b s_k h d].
      mask: bool, broadcastable to [b h s s_k], True = attend; or None.
      masked: what is added to the logits of masked keys.
      name: of what remat policies may keep: the output and what a softmax divides by.

    Returns:
      [b s h d], dtype of q.
    """
    (b, s, heads, _), keys = q.shape, k.shape[1]
    fit = max(LOGITS // (s * keys), 1)
    turn = next(g for g in range(min(fit, b * heads), 0, -1) if b * heads % g == 0)
    rows = functools.partial(_rows, turn=turn)
    if mask is not None and mask.shape[:2] == (1, 1):
        mask = jnp.broadcast_to(mask, (b * heads // turn, *mask.shape[1:]))
    elif mask is not None:
        mask = jnp.broadcast_to(mask, (b, heads, *mask.shape[2:]))
        mask = rows(einops.rearrange(mask, "b h s k -> b s h k"))
    out = _attend(rows(q), rows(k), rows(v), mask, masked, name)
    out = einops.rearrange(out, "n g s d -> (n g) s d")
    return einops.rearrange(out, "(b h) s d -> b s h d", h=heads)


def _rows(x, *, turn):
    x = einops.rearrange(x, "b s h d -> (b h) s d")
    return einops.rearrange(x, "(n g) s d -> n g s d", g=turn)


def _dot(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, a, b, preferred_element_type=jnp.float32)


def _logits(q, k, mask, masked):
    logits = _dot("gsd,gkd->gsk", q, k) / math.sqrt(q.shape[-1])
    return logits if mask is None else logits + jnp.where(mask, 0, masked)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q, k, v, mask, masked, name):
    return _forward(q, k, v, mask, masked, name)[0]


def _forward(q, k, v, mask, masked, name):
    def step(_, row):
        q, k, v, mask = row
        logits = _logits(q, k, mask, masked)
        top = jnp.max(logits, -1, keepdims=True)
        p = jnp.exp(logits - top)
        total = jnp.sum(p, -1, keepdims=True)
        out = _dot("gsk,gkd->gsd", p.astype(v.dtype), v) / total
        return None, (out.astype(q.dtype), top, total)

    _, kept = jax.lax.scan(step, None, (q, k, v, mask))
    kept = tuple(checkpoint_name(x, name) for x in kept)
    return kept[0], (q, k, v, mask, *kept)


def _backward(masked, name, saved, g):
    # Logits lie by key here: then two of the three products that read them need no transpose.
    del name
    q, k, v, mask, out, *columns = saved
    inner = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    columns = [jnp.swapaxes(x, -1, -2) for x in (inner, *columns)]
    mask = None if mask is None else jnp.swapaxes(mask, -1, -2)
    by_rows = q.dtype == jnp.bfloat16 and cpu.alone(q)

    def step(_, row):
        q, k, v, mask, g, inner, top, total = row
        p = jnp.exp(_logits(k, q, mask, masked) - top) / total
        dv = _dot("gks,gsd->gkd", p.astype(g.dtype), g)
        ds = p * (_dot("gkd,gsd->gks", v, g) - inner) / math.sqrt(q.shape[-1])
        ds = (ds if mask is None else jnp.where(mask, ds, 0)).astype(q.dtype)
        dk = _dot("gks,gsd->gkd", ds, q)
        if by_rows:
            dq = _dot("gsk,gkd->gsd", cpu.swapped(ds), k)
        else:
            dq = _dot("gks,gkd->gsd", ds, k)
        return None, tuple(x.astype(q.dtype) for x in (dq, dk, dv))

    _, (dq, dk, dv) = jax.lax.scan(step, None, (q, k, v, mask, g, *columns))
    return dq, dk, dv, None


_attend.defvjp(_forward, _backward)
