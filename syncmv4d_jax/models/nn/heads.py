"""Attention a few heads at a time, as many as have LOGITS logits: what a CPU's cache holds of them.

With all keys of a head at hand a softmax is one, with nothing to rescale and no keys to pad.
Backward computes the logits again from their log-sum-exp. Inside, rows are [n g s d]: n turns of g
heads of the batch, any g of them. benchmarks/RESULTS.md, "Attention on a CPU", has what it saves.
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
      name: of what remat policies may keep: the output and the log-sum-exp.

    Returns:
      [b s h d], dtype of q.
    """
    (b, s, heads, _), keys = q.shape, k.shape[1]
    fit = max(LOGITS // (s * keys), 1)
    turn = next(g for g in range(min(fit, b * heads), 0, -1) if b * heads % g == 0)
    rows = functools.partial(_rows, turn=turn)
    bias = None
    if mask is not None:
        bias = jnp.where(mask, 0, masked).astype(jnp.float32)
        if mask.shape[:2] == (1, 1):
            bias = jnp.broadcast_to(bias, (b * heads // turn, *bias.shape[1:]))
        else:
            bias = jnp.broadcast_to(bias, (b, heads, *bias.shape[2:]))
            bias = einops.rearrange(bias, "b h s k -> (b h) s k")
            bias = einops.rearrange(bias, "(n g) s k -> n g s k", g=turn)
    out = _attend(rows(q), rows(k), rows(v), bias, name)
    out = einops.rearrange(out, "n g s d -> (n g) s d")
    return einops.rearrange(out, "(b h) s d -> b s h d", h=heads)


def _rows(x, *, turn):
    x = einops.rearrange(x, "b s h d -> (b h) s d")
    return einops.rearrange(x, "(n g) s d -> n g s d", g=turn)


def _dot(pattern: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, a, b, preferred_element_type=jnp.float32)


def _logits(q, k, bias):
    logits = _dot("gsd,gkd->gsk", q, k) / math.sqrt(q.shape[-1])
    return logits if bias is None else logits + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, bias, name):
    return _forward(q, k, v, bias, name)[0]


def _forward(q, k, v, bias, name):
    def step(_, row):
        q, k, v, bias = row
        logits = _logits(q, k, bias)
        top = jnp.max(logits, -1, keepdims=True)
        p = jnp.exp(logits - top)
        total = jnp.sum(p, -1, keepdims=True)
        out = _dot("gsk,gkd->gsd", p.astype(v.dtype), v) / total
        return None, (out.astype(q.dtype), top + jnp.log(total))

    _, (out, log_total) = jax.lax.scan(step, None, (q, k, v, bias))
    out, log_total = checkpoint_name(out, name), checkpoint_name(log_total, name)
    return out, (q, k, v, bias, out, log_total)


def _backward(name, saved, g):
    # Logits lie by key here: then two of the three products that read them need no transpose.
    del name
    q, k, v, bias, out, log_total = saved
    inner = jnp.sum(g.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    inner, log_total = (jnp.swapaxes(x, -1, -2) for x in (inner, log_total))
    bias = None if bias is None else jnp.swapaxes(bias, -1, -2)

    def step(_, row):
        q, k, v, bias, log_total, inner, g = row
        p = jnp.exp(_logits(k, q, bias) - log_total)
        dv = _dot("gks,gsd->gkd", p.astype(g.dtype), g)
        ds = p * (_dot("gkd,gsd->gks", v, g) - inner) / math.sqrt(q.shape[-1])
        ds = ds.astype(q.dtype)
        dk = _dot("gks,gsd->gkd", ds, q)
        if q.dtype == jnp.bfloat16:
            dq = _dot("gsk,gkd->gsd", cpu.swapped(ds), k)
        else:
            dq = _dot("gks,gkd->gsd", ds, k)
        return None, tuple(x.astype(q.dtype) for x in (dq, dk, dv))

    _, (dq, dk, dv) = jax.lax.scan(step, None, (q, k, v, bias, log_total, inner, g))
    return dq, dk, dv, None


_attend.defvjp(_forward, _backward)
