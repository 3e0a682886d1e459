"""In how many bits weights are held while sampling: `config.sample.precision`, `config.text`'s.

    ""          as the networks are made, float32
    bfloat16    kernels of blocks (nearly all weights) as bfloat16
    int8        ... as integers of 8 bits with a scale for each output (models/nn/quantised.py)
    float8      ... as e4m3 floats with such a scale

Leaves are quantised one by one as they are loaded, so that a card never holds more than the result
and one kernel (of all layers) in float32. What data_prep/quantise.py wrote is loaded as it is.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import checkpoint, initial
from syncmv4d_jax.weights import slices

Tree = Any


def shapes(given: Tree, precision: str) -> Tree:
    """Returns shapes of parameters as they are held with `config.sample.precision`."""
    if precision in quantised.LARGEST:
        return jax.eval_shape(functools.partial(quantised.params, kind=precision), given)

    def one(name: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        held = jnp.dtype(precision) if precision and quantised.chosen(name) else x.dtype
        return jax.ShapeDtypeStruct(x.shape, held)

    return tree.map_named(one, given)


def stored(given: Tree, found: Mapping[str, slices.Source]) -> Tree:
    """Returns shapes with quantised kernels where what was found for them is quantised."""
    flat: dict[str, Any] = {}
    for name, x in tree.flatten(given).items():
        pair = f"{name}/{quantised.VALUES}"
        source = found.get(pair)
        if not isinstance(source, slices.Files):  # checkpoints are of training
            flat[name] = x
            continue
        kind = quantised.kind(source.leaves[pair].dtype)
        made = jax.eval_shape(functools.partial(quantised.quantise, kind=kind), x)
        flat |= {f"{name}/{key}": leaf for key, leaf in made.items()}
    return tree.unflatten(flat)


def load(
    found: Mapping[str, slices.Source],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    precision: str,
) -> dict[str, Any]:
    """Returns the wanted leaves as a dict tree, held with `config.sample.precision`."""
    mine = [name for name in wanted if precision and quantised.chosen(name)]
    rest = {name: leaf for name, leaf in wanted.items() if name not in mine}
    flat: dict[str, Any] = dict(initial.load(found, rest))
    for name in mine:
        leaf = wanted[name]
        if precision not in quantised.LARGEST:
            leaf = jax.ShapeDtypeStruct(leaf.shape, precision, sharding=leaf.sharding)
        (one,) = initial.load(found, {name: leaf}).values()
        if precision in quantised.LARGEST:
            made = jax.jit(quantised.quantise, static_argnums=1)(one, precision)
            flat |= {f"{name}/{key}": x for key, x in made.items()}
        else:
            flat[name] = one
    return tree.unflatten(flat)


def part_marks(
    found: Mapping[str, slices.Source],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    parts: Iterable[str],
) -> dict[str, str]:
    """`checkpoint.part_marks` of parts as they are stored, read again leaf by leaf: of what `load`
    makes of them in 8 bits they would be others."""
    marks = {}
    for part in parts:
        numbers = {}
        for name in [name for name in wanted if name.startswith(f"{part}/")]:
            (one,) = initial.load(found, {name: wanted[name]}).values()
            numbers[name.removeprefix(f"{part}/")] = checkpoint.leaf_mark(one)
        marks[part] = checkpoint.joined(numbers)
    return marks
