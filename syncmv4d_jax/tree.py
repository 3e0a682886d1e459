"""Named paths over pytrees: the one way this project selects parameters.

A path is the "/"-joined key path of a leaf, e.g. ``dit/blocks/self_attn/q/kernel``. Freezing,
learning rates, sharding, LoRA and checkpoint merging are regexes over these paths (``re.search``).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

Tree = Any


def path_name(path: Sequence[Any]) -> str:
    """Returns the "/"-joined name of a jax key path."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns {path: leaf} in traversal order."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten` for trees made of dicts with string keys."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def map_named(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Maps `function(name, leaf, *other_leaves)` over the leaves of `tree`."""
    return jax.tree.map_with_path(lambda path, *xs: function(path_name(path), *xs), tree, *rest)


def mask(tree: Tree, pattern: str) -> Tree:
    """Returns a tree of bools: whether `pattern` is found in each leaf's path."""
    compiled = re.compile(pattern)
    return map_named(lambda name, _: compiled.search(name) is not None, tree)


def split(tree: dict[str, Any], pattern: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a dict tree into (leaves whose path matches `pattern`, the others), both pruned dicts.

    Raises:
      ValueError: the pattern matches no leaf.
    """
    compiled = re.compile(pattern)
    flat = flatten(tree)
    chosen = {name: leaf for name, leaf in flat.items() if compiled.search(name)}
    if not chosen:
        raise ValueError(
            f"pattern {pattern!r} matches none of {len(flat)} paths, e.g. {sample(flat)}"
        )
    return unflatten(chosen), unflatten({n: x for n, x in flat.items() if n not in chosen})


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `split`: both halves as one tree, of parts that are in both too."""
    return unflatten(flatten(first) | flatten(second))


def count(tree: Tree) -> int:
    """Returns the number of scalars in a tree of arrays or shapes."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def sample(items: Iterable[str], limit: int = 5) -> str:
    """Returns the first few names for an error message."""
    items = list(items)
    tail = f", ... ({len(items)} in all)" if len(items) > limit else ""
    return ", ".join(items[:limit]) + tail


def check_same(wanted: Tree, got: Tree, *, wanted_from: str, got_from: str) -> None:
    """Checks that two trees have the same paths and shapes.

    Raises:
      ValueError: lists what only one side has and every shape that differs.
    """
    a, b = flatten(wanted), flatten(got)
    missing, extra = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    shapes = [
        f"{name}: wanted {tuple(a[name].shape)}, got {tuple(b[name].shape)}"
        for name in a.keys() & b.keys()
        if tuple(a[name].shape) != tuple(b[name].shape)
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{got_from} does not fit {wanted_from}:\n"
            f"  missing in {got_from}: {sample(missing, 20) or 'none'}\n"
            f"  unknown to {wanted_from}: {sample(extra, 20) or 'none'}\n"
            f"  shapes: {sample(sorted(shapes), 20) or 'all equal'}"
        )
