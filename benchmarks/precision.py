"""What weights of 8 bits change: one block of full width, of Wan's transformer and of umT5.

    python benchmarks/precision.py [--tokens 256]

A block of width 3072 (umT5: 4096) with weights of Xavier's size, some columns of them 8 times as
large, as trained kernels have them, and activations in bfloat16. Lines `name error`: the rms of
what the block adds, against the same block with float32 weights and activations, over its rms;
first plain bfloat16, which is what 8 bits are to be compared with. Weights are random: how trained
ones fare shows on samples alone.
"""

import argparse
import dataclasses
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from syncmv4d_jax.models.nn import module, protocol, quantised
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, umt5


def weights(network: type, config: object, key: jax.Array) -> dict:
    """Random weights with a few large columns in every kernel, modulation and norms near one."""

    def one(path, x):
        own = jax.random.fold_in(key, hash(jax.tree_util.keystr(path)) % 2**31)
        large = jnp.where(jax.random.uniform(own, x.shape[-1:]) < 0.01, 8.0, 1.0)
        return x * large if x.ndim > 2 else x + 0.02 * jax.random.normal(own, x.shape)

    return jax.tree.map_with_path(one, module.init(network, config, key))


def dit_block(tokens: int):
    """(network, config at float32, run) of one layer of Wan's transformer."""
    config = dataclasses.replace(wan_config.DiTConfig(), layers=1, dtype="float32")
    keys = jax.random.split(jax.random.key(1), 3)
    side = int(tokens**0.5)
    x = jax.random.normal(keys[0], (1, 1, 2 * side, 2 * side, config.in_channels))
    text = jax.random.normal(keys[1], (1, 64, config.text_dim))

    def run(model):
        grid_x, grid = model.embed(x)
        times, spread = model.timing(jnp.array([600.0]), grid)
        text_rows = model.text_embedding(text.astype(model.config.dtype), None)
        after = model.run_blocks(
            grid_x, text_rows, time=model.time_projection(model.time_embedding(times)),
            spread=spread, rotation=model.rotation(grid), lengths=None, placement=protocol.LOCAL,
        )  # fmt: skip
        return after - grid_x

    return dit.DiT, config, run


def text_block(tokens: int):
    """(network, config at float32, run) of one layer of umT5, small in vocabulary."""
    config = dataclasses.replace(umt5.XXL, layers=1, vocab=1024, dtype="float32")
    ids = jax.random.randint(jax.random.key(2), (1, tokens), 1, 1024)
    return umt5.UMT5, config, lambda model: model(ids, jnp.ones_like(ids))


def main() -> None:
    """Measures both networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=256)
    tokens = parser.parse_args().tokens
    for name, (network, config, run) in (("dit", dit_block(tokens)), ("umt5", text_block(tokens))):
        given = jax.jit(lambda n=network, c=config: weights(n, c, jax.random.key(0)))()
        low = dataclasses.replace(config, dtype="bfloat16")

        def out(config, given, network=network, run=run):
            made = jax.jit(lambda p: run(module.bind(network, config, p)))(given)
            return made.astype(jnp.float32)

        exact, half = out(config, given), out(low, given)
        size = jnp.sqrt(jnp.mean(jnp.square(exact)))
        print(f"{name}_bfloat16 {jnp.sqrt(jnp.mean(jnp.square(half - exact))) / size:.5f}")
        for kind in quantised.LARGEST:
            found = out(low, quantised.params(given, kind))
            error = jnp.sqrt(jnp.mean(jnp.square(found - exact))) / size
            print(f"{name}_{kind} {error:.5f}", flush=True)


if __name__ == "__main__":
    main()
