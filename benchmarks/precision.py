"""What weights of 8 bits change: one block of full width, of Wan's transformer and of umT5.

    python benchmarks/precision.py [--tokens 256] [--draws 4]

A block of width 3072 (umT5: 4096), activations in bfloat16. `even` weights are of Xavier's size;
of `large` ones a hundredth of a kernel's rows and of its columns are 8 times as large: a column has
a scale of its own, a row has not and takes the steps of its columns with it. Weights, inputs and
what is large are drawn anew `--draws` times. Columns:

    float32   rms of what the block adds, less that with float32 weights and activations, over the
              latter's rms. Plain bfloat16 has such an error too, and 8 bits come on top of it
    bfloat16  the same against plain bfloat16, over the same rms: what changes for whoever has that
    ratio     the first column over that of bfloat16, of each draw

each with its standard error over draws. It says how far another draw of such weights would be; how
trained ones fare shows on samples alone.
"""

import argparse
import dataclasses
import os
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models.nn import module, protocol, quantised
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, umt5

SHARE, LARGE = 0.01, 8.0  # of the rows and of the columns of a kernel, and how much larger


def weights(network: type, config: object, key: jax.Array, *, large: bool) -> dict:
    """Random weights: kernels of Xavier's size, modulation and norms near one."""

    def sizes(key, count):
        return jnp.where(jax.random.uniform(key, (count,)) < SHARE, LARGE, 1.0)

    def one(path, x):
        # By the path's own number: Python's hash of a string is another one in every process.
        own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        if x.ndim <= 2:
            return x + 0.02 * jax.random.normal(own, x.shape)
        if not large:
            return x
        rows, columns = jax.random.split(own)
        larger = sizes(rows, x.shape[-2])[:, None] * sizes(columns, x.shape[-1])[None]
        return x * jnp.broadcast_to(larger, x.shape)

    return jax.tree.map_with_path(one, module.init(network, config, key))


def dit_block(tokens: int):
    """(network, config at float32, inputs of a key, run) of one layer of Wan's transformer."""
    config = dataclasses.replace(wan_config.DiTConfig(), layers=1, dtype="float32")
    side = int(tokens**0.5)

    def inputs(key):
        keys = jax.random.split(key)
        x = jax.random.normal(keys[0], (1, 1, 2 * side, 2 * side, config.in_channels))
        return x, jax.random.normal(keys[1], (1, 64, config.text_dim))

    def run(model, x, text):
        grid_x, grid = model.embed(x)
        times, spread = model.timing(jnp.array([600.0]), grid)
        text_rows = model.text_embedding(text.astype(model.config.dtype), None)
        after = model.run_blocks(
            grid_x, text_rows, time=model.time_projection(model.time_embedding(times)),
            spread=spread, rotation=model.rotation(grid), lengths=None, placement=protocol.LOCAL,
        )  # fmt: skip
        return after - grid_x

    return dit.DiT, config, inputs, run


def text_block(tokens: int):
    """(network, config at float32, inputs of a key, run) of one layer of umT5, of few words."""
    config = dataclasses.replace(umt5.XXL, layers=1, vocab=1024, dtype="float32")

    def inputs(key):
        return (jax.random.randint(key, (1, tokens), 1, config.vocab),)

    return umt5.UMT5, config, inputs, lambda model, ids: model(ids, jnp.ones_like(ids))


def errors(network, config, inputs, run, *, large: bool, draws: int) -> dict[str, np.ndarray]:
    """{kind: [draws 2], the columns float32 and bfloat16} of "bfloat16" and those of 8 bits."""

    def program(config):
        def out(params, given):
            return run(module.bind(network, config, params), *given).astype(jnp.float32)

        return jax.jit(out)

    exact, low = program(config), program(dataclasses.replace(config, dtype="bfloat16"))
    make = jax.jit(lambda key: weights(network, config, key, large=large))
    found: dict[str, list] = {kind: [] for kind in ("bfloat16", *quantised.LARGEST)}
    for draw in range(draws):
        keys = jax.random.split(jax.random.key(draw))
        params, given = make(keys[0]), inputs(keys[1])
        wanted, half = exact(params, given), low(params, given)
        for kind, rows in found.items():
            own = half
            if kind != "bfloat16":
                own = low(quantised.params(params, kind), given)
            off = [jnp.mean(jnp.square(own - x)) / jnp.mean(jnp.square(wanted))
                   for x in (wanted, half)]  # fmt: skip
            rows.append(np.sqrt(off))
    return {kind: np.asarray(rows) for kind, rows in found.items()}


def main() -> None:
    """Measures both networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    if args.draws < 2:
        parser.error("--draws: wanted at least 2, an error bar is over draws")

    def shown(values):
        return f"{np.mean(values):.4g} ± {np.std(values, ddof=1) / len(values) ** 0.5:.2g}"

    print("| network, weights | precision | float32 | bfloat16 | ratio |\n|---|---|---|---|---|")
    for name, parts in (("dit", dit_block(args.tokens)), ("umt5", text_block(args.tokens))):
        for large in (False, True):
            found = errors(*parts, large=large, draws=args.draws)
            for kind, rows in found.items():
                cells = [shown(rows[:, 0])]
                cells += [shown(rows[:, 1])] if kind != "bfloat16" else ["0"]
                cells += [shown(rows[:, 0] / found["bfloat16"][:, 0])]
                label = f"{name}, {'large' if large else 'even'}"
                print(f"| {label} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
