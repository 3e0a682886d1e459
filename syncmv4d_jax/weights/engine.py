"""Conversion between a reference checkpoint's keys and our parameter paths: a table and its audit.

A table is a list of rules. A rule ties a reference key to one of our paths by two templates and
says how the array is laid out anew:

    Rule("blocks.{n}.self_attn.{a}.weight", "blocks/self_attn/{a}/kernel", TRANSPOSE)

`{n}` is the index along the leading layer axis of our stacked leaf and does not occur in the path;
every other `{name}` occurs on both sides and stands for letters, digits and underscores without a
dot or slash. One table serves both directions. `plan` matches it against what a checkpoint has and
what a model wants, and lists everything that does not fit before anything is read.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax import tree

Shape = tuple[int, ...]
Array = Any  # numpy array


@dataclasses.dataclass(frozen=True)
class Transform:
    """A change of layout of one array (of one layer): pure reshapes and transpositions."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]


IDENTITY = Transform(lambda x: x, lambda x: x)
TRANSPOSE = Transform(lambda x: x.T, lambda x: x.T)  # [d_out d_in] <-> [d_in d_out]


class Rule(NamedTuple):
    """Reference key template, our path template, change of layout."""

    key: str
    path: str
    transform: Transform = IDENTITY


class Slice(NamedTuple):
    """Where one reference array goes: `path`, or layer `layer` of it; transform of its rule."""

    key: str
    path: str
    layer: int | None
    transform: Transform


class Plan(NamedTuple):
    """slices: {path: its slices in layer order}; shapes: {reference key: shape}."""

    slices: dict[str, list[Slice]]
    shapes: dict[str, Shape]


@functools.lru_cache(maxsize=4096)
def _compile(template: str) -> re.Pattern:
    seen, pattern = set(), ""
    for piece in re.split(r"(\{\w+\})", template):
        name = piece[1:-1]
        if not piece.startswith("{"):
            pattern += re.escape(piece)
        elif name in seen:
            pattern += f"(?P={name})"
        else:
            seen.add(name)
            pattern += rf"(?P<{name}>\d+)" if name == "n" else rf"(?P<{name}>\w+?)"
    return re.compile(pattern)


def _fill(template: str, fields: Mapping[str, str]) -> str:
    return template.format(**fields)


def locate(rules: Sequence[Rule], key: str) -> list[Slice]:
    """Returns every place where the table puts a reference key (one, in a sound table)."""
    found = []
    for rule in rules:
        if match := _compile(rule.key).fullmatch(key):
            fields = match.groupdict()
            layer = fields.pop("n", None)
            layer = None if layer is None else int(layer)
            found.append(Slice(key, _fill(rule.path, fields), layer, rule.transform))
    return found


def reference_slices(rules: Sequence[Rule], wanted: Mapping[str, Shape]) -> Plan:
    """Lists the reference keys and shapes that make up our parameters.

    Args:
      rules: the table.
      wanted: {our path: shape}.

    Raises:
      ValueError: lists every path that no rule, or more than one, leads to.
    """
    slices: dict[str, list[Slice]] = {}
    shapes: dict[str, Shape] = {}
    problems = []
    for path, shape in wanted.items():
        found = [(r, m) for r in rules if (m := _compile(r.path).fullmatch(path))]
        if len(found) != 1:
            problems.append(f"{path}: {len(found)} rules lead to it, wanted one")
            continue
        rule, match = found[0]
        layers = range(shape[0]) if "{n}" in rule.key else [None]
        slices[path] = []
        for layer in layers:
            key = _fill(rule.key, {**match.groupdict(), "n": str(layer)})
            slices[path].append(Slice(key, path, layer, rule.transform))
            inner = shape if layer is None else shape[1:]
            shapes[key] = laid_out(rule.transform.backward, inner)
    if problems:
        raise ValueError("the table does not cover the model:\n  " + "\n  ".join(problems))
    return Plan(slices, shapes)


@functools.lru_cache(maxsize=4096)
def laid_out(function: Callable[[Array], Array], shape: Shape) -> Shape:
    """Returns the shape that a layout change gives to an array of `shape`."""
    return tuple(function(np.broadcast_to(np.int8(0), shape)).shape)


def plan(
    rules: Sequence[Rule],
    given: Mapping[str, Shape],
    wanted: Mapping[str, Shape],
    *,
    source: str,
    ignore: str | None = None,
) -> Plan:
    """Matches a checkpoint with a model.

    Args:
      rules: the table.
      given: {reference key: shape} of the checkpoint.
      wanted: {our path: shape} of the model.
      source: the checkpoint's name, for the message.
      ignore: regex of keys that may be left over (aliases of tied weights).

    Raises:
      ValueError: lists keys the table does not know, keys it knows twice, keys that are missing,
        and shapes that differ, all at once.
    """
    ignored = re.compile(ignore) if ignore else None
    given = {k: tuple(s) for k, s in given.items() if not (ignored and ignored.fullmatch(k))}
    expected = reference_slices(rules, wanted)
    unmatched, twice = [], []
    for key in given:
        places = locate(rules, key)
        if len(places) > 1:
            twice.append(f"{key} -> {', '.join(place.path for place in places)}")
        elif not places or key not in expected.shapes:
            unmatched.append(key)
    missing = [k for k in expected.shapes if k not in given]
    wrong = [
        f"{key}: wanted {expected.shapes[key]}, got {shape}"
        for key, shape in given.items()
        if key in expected.shapes and shape != expected.shapes[key]
    ]
    if unmatched or twice or missing or wrong:
        kinds = {
            "unknown keys": unmatched, "keys matched twice": twice, "missing keys": missing,
            "wrong shapes": wrong,
        }  # fmt: skip
        lines = [f"  {kind}: {tree.sample(sorted(x), 50)}" for kind, x in kinds.items() if x]
        raise ValueError(f"{source} does not fit the model:\n" + "\n".join(lines))
    return expected


def to_ours(
    rules: Sequence[Rule],
    tensors: Mapping[str, Array],
    wanted: Mapping[str, Shape],
    *,
    source: str,
    ignore: str | None = None,
) -> dict[str, Any]:
    """Converts a reference state dict in memory; returns a dict tree. Raises as `plan` does."""
    planned = plan(
        rules, {k: v.shape for k, v in tensors.items()}, wanted, source=source, ignore=ignore
    )
    flat = {}
    for path, slices in planned.slices.items():
        arrays = [s.transform.forward(np.asarray(tensors[s.key])) for s in slices]
        flat[path] = arrays[0] if slices[0].layer is None else np.stack(arrays)
    return tree.unflatten(flat)


def to_reference(rules: Sequence[Rule], params: tree.Tree) -> dict[str, Array]:
    """Converts a dict tree of our parameters to a reference state dict; inverse of `to_ours`."""
    flat = {path: np.asarray(leaf) for path, leaf in tree.flatten(params).items()}
    planned = reference_slices(rules, {path: leaf.shape for path, leaf in flat.items()})
    return {
        s.key: s.transform.backward(flat[path] if s.layer is None else flat[path][s.layer])
        for path, slices in planned.slices.items()
        for s in slices
    }
