"""Ring attention: queries stay, blocks of keys and values pass by, the softmax is online.

For more shards of a sequence than heads, where Ulysses ends (Liu et al., 2023).
"""

import math

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax.models.nn import attention


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    lengths: jax.Array | None,
    *,
    axes: tuple[str, ...],
    ways: int,
) -> jax.Array:
    """Attention of a device's queries with the keys of all devices; inside shard_map.

    Args:
      q, k, v: [b s heads d], this device's tokens.
      mask: [b heads s s_k] bool or broadcastable, s_k over all devices.
      lengths: [b] int, keys at and beyond it (of all devices) are masked.
      axes: mesh axes of the ring.
      ways: devices in it.

    Returns:
      [b s heads d], dtype of q; softmax in float32.
    """
    me, size = jax.lax.axis_index(axes), k.shape[1]
    if mask is not None and mask.shape[3] == 1:
        mask = jnp.broadcast_to(mask, (*mask.shape[:3], size * ways))
    backwards = [(i, (i - 1) % ways) for i in range(ways)]

    @jax.checkpoint
    def step(carry, i):
        k, v, top, total, out = carry
        start = (me + i) % ways * size  # the block that has arrived by now
        logits = jnp.einsum("bshd,bkhd->bhsk", q, k, preferred_element_type=jnp.float32)
        logits = logits / math.sqrt(q.shape[-1])
        if lengths is not None:
            valid = (start + jnp.arange(size))[None] < lengths[:, None]
            logits = jnp.where(valid[:, None, None], logits, attention.MASKED)
        if mask is not None:
            seen = jax.lax.dynamic_slice_in_dim(mask, start, size, axis=3)
            logits = jnp.where(seen, logits, attention.MASKED)
        new = jnp.maximum(top, jnp.max(logits, -1, keepdims=True))
        p, decay = jnp.exp(logits - new), jnp.exp(top - new)
        part = jnp.einsum("bhsk,bkhd->bhsd", p.astype(v.dtype), v)
        k, v = (jax.lax.ppermute(x, axes, backwards) for x in (k, v))
        total = total * decay + jnp.sum(p, -1, keepdims=True)
        return (k, v, new, total, out * decay + part.astype(jnp.float32)), None

    b, s, heads, d = q.shape
    column = jnp.zeros((b, heads, s, 1), jnp.float32)
    zero = jnp.zeros((b, heads, s, d), jnp.float32)
    start = (k, v, column + attention.MASKED, column, zero)
    (*_, total, out), _ = jax.lax.scan(step, start, jnp.arange(ways))
    return einops.rearrange(out / total, "b h s d -> b s h d").astype(q.dtype)
