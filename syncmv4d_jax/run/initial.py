"""Initial parameters: where each leaf comes from, and all of them in their shards.

A leaf has the value of the first of these that has it:

    1  the newest checkpoint of the stage itself: run/train.py restores the trainable half
    2  the averages that earlier stages left, the last one's first
    3  `config.weights`: converted weights, or a file that a run exported
    4  `Task.grow`, from the leaves that 2 and 3 gave
    5  `Task.init` and the seed

2 and 3 are read slice by slice into the shards of this process's devices, at the dtype wanted
there (weights/slices.py); nothing of them stays on the host.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.models.nn import quantised
from syncmv4d_jax.run import checkpoint, sections
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import exports, slices, store

Tree = Any
PUBLISHED = {"lpips": "lpips_alex"}  # part -> network whose published files a folder holds


def weights(part: str, path: str) -> slices.Files:
    """Opens what `config.weights` names for a part.

    Raises:
      FileNotFoundError, KeyError, ValueError: nothing there, or not of this part.
    """
    if str(path).endswith(".safetensors"):
        return exports.source(path, part)
    if part in PUBLISHED:
        from syncmv4d_jax.metrics.networks import weights as feature_weights  # all networks: here

        params = feature_weights.load(PUBLISHED[part], path).params
        flat = tree.flatten({part: params})
        return slices.Files(
            path, {n: slices.Leaf(x.shape, x.dtype, x.__getitem__) for n, x in flat.items()}
        )
    return store.source(part, path)[1]


class Parameters:
    """The leaves of a stage's task: their shapes, halves, shardings, and where values come from.

    Args:
      task: of the stage.
      stage: its sections.
      mesh: of the run.
      earlier: folders of the earlier stages' checkpoints, in order.

    Raises:
      FileNotFoundError, KeyError: something that is named is not there.
      ValueError: it does not fit the task (lists both differences), a part that must be given is
        not, or a rule of `config.sharding` names no leaf.
    """

    def __init__(
        self,
        task: base.Task,
        stage: sections.Sections,
        mesh: jax.sharding.Mesh,
        earlier: Sequence[Path] = (),
    ) -> None:
        self._task, self._key = task, jax.random.fold_in(jax.random.key(stage.seed), 0)
        shapes = jax.eval_shape(task.init, self._key)
        trainable = tree.flatten(tree.split(shapes, task.trainable)[0]).keys()
        self.trainable = [name for name in tree.flatten(shapes) if name in trainable]
        self.frozen = [name for name in tree.flatten(shapes) if name not in trainable]
        check_rules(stage.sharding, tree.flatten(shapes))
        placed = tree.flatten(meshes.shardings(shapes, mesh, stage.sharding))
        frozen_dtype = jnp.dtype(stage.train.frozen_dtype)

        def leaf(name: str, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            floating = jnp.issubdtype(shape.dtype, jnp.floating)
            dtype = frozen_dtype if floating and name not in trainable else shape.dtype
            return jax.ShapeDtypeStruct(shape.shape, dtype, sharding=placed[name])

        self.leaves = {name: leaf(name, shape) for name, shape in tree.flatten(shapes).items()}
        self._given = self._find(stage, earlier)
        if not stage.train.random_frozen:
            self._check_frozen(stage)

    def _find(self, stage: sections.Sections, earlier: Sequence[Path]) -> dict[str, slices.Source]:
        found: list[slices.Source] = []
        found += [weights(part, path) for part, path in stage.weights.items() if path]
        found += [checkpoint.Trained(directory) for directory in earlier]
        given = {name: source for source in found for name in source.shapes}
        for name, source in given.items():
            if re.search(quantised.LEAVES, name):
                raise ValueError(
                    f"{source.where} holds weights of 8 bits ({name}), which only sampling reads: "
                    "train from those that they were made of"
                )
        there = {name: source.shapes[name] for name, source in given.items()}
        names = common(
            {name: leaf.shape for name, leaf in self.leaves.items()},
            there,
            new=stage.train.new,
            unused=stage.train.unused,
        )
        return {name: given[name] for name in names}

    def _check_frozen(self, stage: sections.Sections) -> None:
        for part in self._task.frozen_parts:
            names = [name for name in self.leaves if name.startswith(f"{part}/")]
            if lacking := [name for name in names if name not in self._given]:
                where = f"stage {stage.name}" if stage.name else "train"
                raise ValueError(
                    f"{where}: task {self._task.name!r} keeps {part!r} frozen, but "
                    f"{len(lacking)} of its parameters would be random, e.g. "
                    f"{tree.sample(lacking)}; give converted weights by config.weights.{part} or "
                    "train it in an earlier stage (config.train.random_frozen=True for a dry run)"
                )

    @property
    def sources(self) -> Iterable[slices.Source]:
        """Where leaves of the trained half come from."""
        return [self._given[name] for name in self.trainable if name in self._given]

    def abstract(self, names: Iterable[str]) -> dict[str, Any]:
        """Returns some leaves' shapes, dtypes and shardings as a dict tree."""
        return tree.unflatten({name: self.leaves[name] for name in names})

    def make(self, names: Iterable[str]) -> dict[str, Any]:
        """Returns the values of some leaves as a dict tree of arrays in their shards."""
        wanted = list(names)
        if set(wanted) <= self._given.keys():
            return tree.unflatten(load(self._given, {n: self.leaves[n] for n in wanted}))
        # All of them: a program for some might round otherwise than the one for all did.
        flat = load(self._given, {name: self.leaves[name] for name in self._given})
        flat |= self._fresh([name for name in self.leaves if name not in flat])
        if self._given:
            flat = self._grown(flat)
        return tree.unflatten({name: flat[name] for name in wanted})

    def _fresh(self, names: Sequence[str]) -> dict[str, jax.Array]:
        placed = {name: self.leaves[name].sharding for name in names}

        @functools.partial(jax.jit, out_shardings=placed)
        def init() -> dict[str, jax.Array]:
            made = tree.flatten(self._task.init(self._key))
            return {name: made[name].astype(self.leaves[name].dtype) for name in names}

        return init()

    def _grown(self, flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
        placed = {name: leaf.sharding for name, leaf in self.leaves.items()}

        @functools.partial(jax.jit, donate_argnums=0, out_shardings=placed)
        def grow(flat: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return tree.flatten(self._task.grow(tree.unflatten(flat), frozenset(self._given)))

        return grow(flat)


def load(
    given: Mapping[str, slices.Source], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Returns the wanted leaves that a source is given for, source by source."""
    loaded: dict[str, jax.Array] = {}
    for source in dict.fromkeys(given.values()):
        mine = {name: leaf for name, leaf in wanted.items() if given.get(name) is source}
        loaded |= source.load(mine) if mine else {}
    return loaded


def check_beside(
    task: base.Task,
    given: Iterable[slices.Source],
    marked: Callable[[Iterable[str]], dict[str, str]],
) -> dict[str, str]:
    """Returns the marks of what a task's trained half belongs to, {} where it belongs to nothing.

    Args:
      given: where its parameters came from.
      marked: `checkpoint.part_marks` of the other parts' parameters.

    Raises:
      ValueError: some of them were trained beside others.
    """
    if not isinstance(task, base.Belonging):
        return {}
    marks = marked(task.beside)
    for source in dict.fromkeys(given):
        for part in task.beside:
            wanted = source.beside.get(part, marks[part])
            if wanted != marks[part]:
                raise ValueError(
                    f"{source.where} was trained beside another {part!r} (hash {wanted}, here "
                    f"{marks[part]}), and means nothing beside this one: give the {part} that it "
                    f"was trained with by config.weights.{part}"
                )
    return marks


def common(
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    new: str = "",
    unused: str = "",
) -> list[str]:
    """Returns the paths that a model and what was found for it have in common, part by part.

    Args:
      wanted, found: {path: shape}; parts that only one of them has are left alone.
      new: regex of paths that may be missing, "" = none.
      unused: regex of paths that may have been found for nothing, "" = none.

    Raises:
      ValueError: lists the paths that only one has, and shapes that differ.
    """
    parts = {name.split("/")[0] for name in wanted} & {name.split("/")[0] for name in found}
    a = {name: shape for name, shape in wanted.items() if name.split("/")[0] in parts}
    b = {name: shape for name, shape in found.items() if name.split("/")[0] in parts}
    missing = [name for name in a if name not in b and not (new and re.search(new, name))]
    extra = [name for name in b if name not in a and not (unused and re.search(unused, name))]
    both = [name for name in a if name in b]
    differ = [
        f"{name}: model {tuple(a[name])}, checkpoint {tuple(b[name])}"
        for name in both
        if tuple(a[name]) != tuple(b[name])
    ]
    if missing or extra or differ:
        raise ValueError(
            "checkpoint and model differ:\n"
            f"  only in the model ({len(missing)}): {tree.sample(missing, 20) or 'none'}\n"
            f"  only in the checkpoint ({len(extra)}): {tree.sample(extra, 20) or 'none'}\n"
            f"  shapes: {tree.sample(sorted(differ), 20) or 'all equal'}"
        )
    return both


def check_rules(rules: meshes.Rules, names: Iterable[str]) -> None:
    """Raises ValueError where a rule of `config.sharding` is found in no path."""
    names = list(names)
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"config.sharding: {pattern!r} is found in none of {len(names)} parameter paths, "
                f"e.g. {tree.sample(names)}"
            )
