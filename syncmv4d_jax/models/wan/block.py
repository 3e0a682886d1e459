"""A block of Wan's diffusion transformer and its parts; dit.py has the formulas and the layout."""

from collections.abc import Callable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import layers, protocol, rope
from syncmv4d_jax.models.wan import config as wan_config


class Keys(NamedTuple):
    """Keys and values of embedded text, [b l heads k], or [layers b l heads k] of all blocks."""

    k: jax.Array
    v: jax.Array


class Attention(nnx.Module):
    """Self or cross attention; q and k are RMS-normed over the full width, before the heads."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        d = config.dim
        self.heads = config.heads
        self.q = layers.Linear(d, d, rngs=rngs)
        self.k = layers.Linear(d, d, rngs=rngs)
        self.v = layers.Linear(d, d, rngs=rngs)
        self.o = layers.Linear(d, d, rngs=rngs)
        self.norm_q = layers.RMSNorm(d, eps=config.eps, rngs=rngs) if config.qk_norm else None
        self.norm_k = layers.RMSNorm(d, eps=config.eps, rngs=rngs) if config.qk_norm else None

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | Keys | None = None,
        *,
        rotation: rope.Rotation | None = None,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        placement: protocol.Placement = protocol.LOCAL,
        kind: str = "intra",
    ) -> jax.Array:
        """x: [b s d], context: [b l d] (default x) -> [b s d]; masks as in attention.attend.

        A context of fewer rows serves as many consecutive rows of x each: [(b v) s d], [b l d].
        """
        if isinstance(context, Keys):
            q, k, v = self.queries(x), *context
        else:
            q, k, v = self.project(x, x if context is None else context)
        if len(k) != len(q):  # several rows of tokens read one text
            k, v = (einops.repeat(a, "b l h k -> (b v) l h k", v=len(q) // len(k)) for a in (k, v))
        if rotation is not None:
            q, k = rope.apply(q, rotation), rope.apply(k, rotation)
        return self.join(placement.attend(q, k, v, mask=mask, lengths=lengths, kind=kind))

    def project(self, x: jax.Array, context: jax.Array) -> tuple[jax.Array, ...]:
        """x: [b s d], context: [b l d] -> normed queries [b s heads k], keys, values [b l ...]."""
        return (self.queries(x), *self.keys(context))

    def queries(self, x: jax.Array) -> jax.Array:
        """x: [b s d] -> normed queries [b s heads k]."""
        q = self.q(x)
        q = q if self.norm_q is None else self.norm_q(q)
        return einops.rearrange(q, "b s (h k) -> b s h k", h=self.heads)

    def keys(self, context: jax.Array) -> Keys:
        """context: [b l d] -> normed keys, and values."""
        k, v = self.k(context), self.v(context)
        k = k if self.norm_k is None else self.norm_k(k)
        return Keys(*(einops.rearrange(a, "b l (h k) -> b l h k", h=self.heads) for a in (k, v)))

    def join(self, y: jax.Array) -> jax.Array:
        """y: [b s heads k] -> the output projection [b s d]."""
        return self.o(einops.rearrange(y, "b s h k -> b s (h k)"))


class FeedForward(nnx.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        self.linear_0 = layers.Linear(config.dim, config.ffn_dim, rngs=rngs)
        self.linear_2 = layers.Linear(config.ffn_dim, config.dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b s d] -> [b s d]."""
        return self.linear_2(layers.gelu(self.linear_0(x)))


class Block(nnx.Module):
    """One Wan block. Extensions subclass it, add sub-modules and recompose the residual steps.

    The steps take x [b s d] (residual dtype) and the already chosen modulation vectors, each
    [b 1|s d] float32, and return the new x.
    """

    def __init__(self, config: wan_config.DiTConfig, *, rngs: nnx.Rngs):
        d = config.dim
        self.config = config
        self.modulation = nnx.Param(jax.random.normal(rngs.params(), (1, 6, d)) / d**0.5)
        self.self_attn = Attention(config, rngs=rngs)
        self.cross_attn = Attention(config, rngs=rngs)
        norm3 = layers.LayerNorm(d, eps=config.eps, rngs=rngs)
        self.norm3 = norm3 if config.cross_attn_norm else None
        self.ffn = FeedForward(config, rngs=rngs)

    @jax.named_scope("self_attention")
    def attend(
        self,
        x: jax.Array,
        *,
        shift: jax.Array,
        scale: jax.Array,
        gate: jax.Array,
        rotation: rope.Rotation | None,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """x + gate * self_attn(modulate(x)). `lengths` [b]: tokens beyond it are not attended."""
        y = layers.modulate(x, shift, scale, eps=self.config.eps).astype(self.config.dtype)
        y = self.self_attn(
            y, rotation=rotation, mask=mask, lengths=lengths, placement=placement, kind="intra"
        )
        return self.add(x, y, gate)

    @jax.named_scope("text_attention")
    def cross(
        self,
        x: jax.Array,
        context: jax.Array | Keys,
        *,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """x + cross_attn(norm3(x), context); context [b l d], all rows attended, ungated."""
        y = x if self.norm3 is None else self.norm3(x)
        y = self.cross_attn(y.astype(self.config.dtype), context, placement=placement, kind="cross")
        return self.add(x, y)

    @jax.named_scope("feed_forward")
    def feed(
        self, x: jax.Array, *, shift: jax.Array, scale: jax.Array, gate: jax.Array
    ) -> jax.Array:
        """x + gate * ffn(modulate(x))."""
        y = layers.modulate(x, shift, scale, eps=self.config.eps).astype(self.config.dtype)
        return self.add(x, self.ffn(y), gate)

    def add(self, x: jax.Array, y: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        """x + gate * y in float32, kept in the residual dtype."""
        y = y.astype(jnp.float32)
        y = y if gate is None else y * gate
        return (x.astype(jnp.float32) + y).astype(self.config.residual_dtype)

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array,
        *,
        time: jax.Array,
        spread: Callable[[jax.Array], jax.Array],
        rotation: rope.Rotation | None,
        lengths: jax.Array | None = None,
        placement: protocol.Placement = protocol.LOCAL,
    ) -> jax.Array:
        """Runs the block.

        Args:
          x: [b s d] residual dtype.
          context: [b l d] activation dtype, the embedded text.
          time: [b j 6 d] float32, projected embedding of the j distinct timesteps.
          spread: maps vectors of the j timesteps [b j d] to tokens [b 1|s d].
          rotation: rope tables of the tokens.
          lengths: [b] int, number of true tokens where the sequence is padded.
          placement: see models/nn/attention.py.

        Returns:
          [b s d] residual dtype.
        """
        vectors = self.modulation[...][None] + time
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            spread(vectors[:, :, i]) for i in range(6)
        )
        x = self.attend(
            x,
            shift=shift,
            scale=scale,
            gate=gate,
            rotation=rotation,
            lengths=lengths,
            placement=placement,
        )
        x = self.cross(x, context, placement=placement)
        return self.feed(x, shift=ffn_shift, scale=ffn_scale, gate=ffn_gate)
