"""umT5 text encoder (umT5-XXL is Wan2.2's): T5 v1.1 with a relative position bias in every layer.

    x = embedding[ids]
    per layer:  x += o(softmax(q k^T + bias[bucket(j - i)] + mask) v),   q, k, v of RMS(x)
                x += fc2(fc1(RMS(x)) * gelu(gate(RMS(x))))
    y = RMS(x)

No bias vectors, no 1 / sqrt(d) in the attention, softmax and norm statistics in float32. Names
follow wan/modules/t5.py (`gate.0` is `gate`); kernels are [d_in d_out]; layers are scanned.
Source: Chung et al. 2023 (arXiv:2304.09151); wan/modules/t5.py of Wan2.2.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import layers


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Sizes of an encoder; `dtype` names the activations' type."""

    vocab: int = 256384
    dim: int = 4096
    heads: int = 64
    d_head: int = 64
    ffn_dim: int = 10240
    layers: int = 24
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6
    dtype: str = "bfloat16"

    def __post_init__(self):
        if self.buckets % 4 or self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"UMT5Config: wanted buckets a multiple of 4 and max_distance > buckets / 4, got "
                f"buckets={self.buckets}, max_distance={self.max_distance}"
            )


XXL = UMT5Config()
TINY = UMT5Config(
    vocab=384, dim=16, heads=2, d_head=12, ffn_dim=40, layers=2, buckets=32, dtype="float32"
)


def relative_bucket(offset: np.ndarray, *, buckets: int, max_distance: int) -> np.ndarray:
    """Returns the bucket of each relative position.

    Half of the buckets are for keys after the query. In each half the small distances have their
    own bucket, the larger ones share logarithmic buckets up to `max_distance`.

    Args:
      offset: any shape, int: key position - query position.

    Returns:
      As `offset`, int32 in [0, buckets).
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offset)
    # NOTE(parity): float32 and truncation, as in the reference; the boundaries depend on it.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    large = np.minimum(exact + ratio.astype(np.int32), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, large)


class Attention(nnx.Module):
    """Bidirectional attention with an additive position bias."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.config = config
        inner = config.heads * config.d_head
        self.q = layers.Linear(config.dim, inner, use_bias=False, rngs=rngs)
        self.k = layers.Linear(config.dim, inner, use_bias=False, rngs=rngs)
        self.v = layers.Linear(config.dim, inner, use_bias=False, rngs=rngs)
        self.o = layers.Linear(inner, config.dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array, bias: jax.Array, mask: jax.Array) -> jax.Array:
        """x: [b l d], bias: [heads l l] float32, mask: [b l] bool (keys) -> [b l d]."""
        q, k, v = (
            einops.rearrange(a, "b l (h k) -> b l h k", h=self.config.heads)
            for a in (self.q(x), self.k(x), self.v(x))
        )
        scores = jnp.einsum("bihk,bjhk->bhij", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None], scores + bias[None], jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        y = jnp.einsum("bhij,bjhk->bihk", weights, v)
        return self.o(einops.rearrange(y, "b l h k -> b l (h k)"))


class FeedForward(nnx.Module):
    """Gated feed-forward: fc2(fc1(x) * gelu(gate(x)))."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.gate = layers.Linear(config.dim, config.ffn_dim, use_bias=False, rngs=rngs)
        self.fc1 = layers.Linear(config.dim, config.ffn_dim, use_bias=False, rngs=rngs)
        self.fc2 = layers.Linear(config.ffn_dim, config.dim, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b l d] -> [b l d]."""
        return self.fc2(self.fc1(x) * layers.gelu(self.gate(x)))


class Embedding(nnx.Module):
    """A table of vectors."""

    def __init__(self, entries: int, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (entries, width), jnp.float32))

    def __call__(self, index: jax.Array) -> jax.Array:
        """index: [...] int -> [... width]."""
        return jnp.take(self.embedding[...], index, axis=0)


class Block(nnx.Module):
    """One encoder layer, pre-norm."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.norm1 = layers.RMSNorm(config.dim, eps=config.eps, rngs=rngs)
        self.attn = Attention(config, rngs=rngs)
        self.pos_embedding = Embedding(config.buckets, config.heads, rngs=rngs)
        self.norm2 = layers.RMSNorm(config.dim, eps=config.eps, rngs=rngs)
        self.ffn = FeedForward(config, rngs=rngs)

    def __call__(self, x: jax.Array, buckets: jax.Array, mask: jax.Array) -> jax.Array:
        """x: [b l d], buckets: [l l] int32, mask: [b l] bool -> [b l d]."""
        bias = self.pos_embedding(buckets).astype(jnp.float32)
        x = x + self.attn(self.norm1(x), einops.rearrange(bias, "i j h -> h i j"), mask)
        return x + self.ffn(self.norm2(x))


class UMT5(nnx.Module):
    """The encoder."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.token_embedding = Embedding(config.vocab, config.dim, rngs=rngs)
        self.blocks = nnx.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.layers))
        self.norm = layers.RMSNorm(config.dim, eps=config.eps, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Encodes token ids.

        Args:
          ids: [b l] int32, 0 where padded.
          mask: [b l] bool or int, true tokens.

        Returns:
          [b l d] activation dtype; rows of padding are zero, as the DiT wants them.

        Raises:
          ValueError: shapes that differ.
        """
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"umt5: wanted ids and mask [b l], got {ids.shape} and {mask.shape}")
        config, mask = self.config, mask.astype(bool)
        position = np.arange(ids.shape[1])
        buckets = jnp.asarray(
            relative_bucket(
                position[None, :] - position[:, None],
                buckets=config.buckets,
                max_distance=config.max_distance,
            )
        )
        x = self.token_embedding(ids).astype(config.dtype)
        x, _ = jax.lax.scan(lambda x, block: (block(x, buckets, mask), None), x, self.blocks)
        return jnp.where(mask[..., None], self.norm(x), 0)
