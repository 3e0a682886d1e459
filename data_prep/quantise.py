"""Weights of 8 bits for sampling: a transformer's blocks, from converted weights or an export.

    python data_prep/quantise.py --src /data/wan --out wan_int8.safetensors --to int8
    python -m syncmv4d_jax.main ... --config.mode=sample --config.weights.dit=wan_int8.safetensors

halves what bfloat16 takes on disk and on the device; docs/speed.md says what it changes. Training
refuses such a file. `--config.sample.precision=int8` does the same while weights are loaded.
"""

import argparse
import sys

import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import disk, tree
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import initial
from syncmv4d_jax.weights import exports


def main() -> None:
    """Parses the flags and converts; a bad source ends with its message."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=disk.local, required=True, help="folder, or an exported file")
    parser.add_argument("--out", type=disk.local, required=True, help="safetensors file to write")
    parser.add_argument("--part", default="dit", help="of the source (dit)")
    parser.add_argument("--to", choices=sorted(quantised.LARGEST), default="int8")
    flags = parser.parse_args()
    try:
        leaves = initial.weights(flags.part, flags.src).leaves
        flat = {}
        for name, leaf in leaves.items():
            x = leaf.read((slice(None),) * len(leaf.shape))
            one = {name: jnp.asarray(x)} if quantised.chosen(name) else {name: x}
            quantised.replace(one, flags.to)
            flat |= {key: np.asarray(value) for key, value in one.items()}
        told = {"precision": flags.to, "source": str(flags.src)}
        exports.write(tree.unflatten(flat), flags.out, metadata=told)
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"quantise: {error}")


if __name__ == "__main__":
    main()
