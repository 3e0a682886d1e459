"""A small umT5 with nothing trivial in it, and transformers' encoder that holds its weights."""

import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import umt5
from syncmv4d_jax.weights import engine
from syncmv4d_jax.weights.tables import umt5 as table

CONFIG = umt5.UMT5Config(
    vocab=384, dim=64, heads=4, d_head=24, ffn_dim=160, layers=3, dtype="float32"
)


def random_params(config, seed=0):
    """Parameters with nothing trivial in them."""
    rng = np.random.default_rng(seed)

    def leaf(name, shape):
        if name.endswith("scale"):
            return 1 + 0.3 * rng.standard_normal(shape.shape).astype(np.float32)
        fan = shape.shape[-2] if name.endswith("kernel") else 1
        return rng.standard_normal(shape.shape).astype(np.float32) / np.float32(fan**0.5)

    return tree.map_named(leaf, module.shapes(umt5.UMT5, config))


def batch(length, seed=1):
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 384, (2, length)).astype(np.int32)
    mask = np.arange(length)[None] < np.array([[length], [max(1, length // 3)]])
    return np.where(mask, ids, 0), mask


def transformers_encoder(torch, params):
    """transformers' encoder holding `params`."""
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(
        vocab_size=CONFIG.vocab, d_model=CONFIG.dim, d_kv=CONFIG.d_head, d_ff=CONFIG.ffn_dim,
        num_layers=CONFIG.layers, num_heads=CONFIG.heads, feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )  # fmt: skip
    theirs = transformers.UMT5EncoderModel(config).eval()
    state = engine.to_reference(table.rules(CONFIG, "diffusers"), params)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    theirs.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return theirs
