"""Which task, weights, stage folders and mesh a configuration means."""

import contextlib
import dataclasses
import functools
import math
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from syncmv4d_jax import configuration, disk, tree
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data import drawn_pairs
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import placement
from syncmv4d_jax.models.nn import protocol, quantised
from syncmv4d_jax.run import checkpoint, initial, precision, sections
from syncmv4d_jax.tasks import base
from syncmv4d_jax.weights import slices

READ = {
    "data": data_config.DataConfig,
    "text": sections.TextConfig,
    "optim": sections.OptimConfig,
    "train": sections.TrainConfig,
    "sample": sections.SampleConfig,
    "evaluate": sections.EvaluateConfig,
    "plan": sections.PlanConfig,
    "serve": sections.ServeConfig,
}
PLACES = {  # keys that name files
    "data": ("records", "cache"),
    "text": ("weights",),
    "sample": ("images", "prompts", "features", "recording"),
    "evaluate": ("samples", "features", "priors"),
    "serve": ("token_file",),
}
PLAIN = ("mode", "seed", "task", "weights", "mesh", "sharding", "stages")


def read(config: ml_collections.ConfigDict, name: str = "") -> sections.Sections:
    """Reads a configuration, or that of the stage `name`; everything downstream takes the result.

    Raises:
      ValueError: an unknown section, key or axis (names the nearest), or a value that cannot be.
    """
    with _named(name):
        configuration.check_keys(config.keys(), (*READ, *PLAIN), "config", "sections")
        made = {
            key: configuration.section(cls, config.get(key), f"config.{key}")
            for key, cls in READ.items()
        }
        mesh = dict(config.get("mesh", {"fsdp": -1}))
        configuration.check_keys(mesh, meshes.AXES, "config.mesh", "axes")
        rules = meshes.parse_rules(config.get("sharding", ()))
    _check_local(made, config.get("weights", {}))
    if not made["optim"].steps:
        made["optim"] = dataclasses.replace(made["optim"], steps=made["train"].steps)
    return sections.Sections(
        name=name,
        seed=int(config.get("seed", 0)),
        task=config.get("task", {}),
        weights=dict(config.get("weights", {})),
        mesh=mesh,
        sharding=rules,
        source=config,
        **made,
    )


def _check_local(made: dict[str, Any], weights: Any) -> None:
    """Refuses addresses where a configuration names files: nothing here reads them."""
    for name, keys in PLACES.items():
        for key in keys:
            disk.local(getattr(made[name], key), where=f"config.{name}.{key}")
    for part, path in weights.items():
        disk.local(path, where=f"config.weights.{part}")


def stages(config: ml_collections.ConfigDict) -> list[sections.Sections]:
    """Reads every stage of a configuration, in order; one without a name where there are none.

    Raises:
      ValueError: as `read`, `configuration.stages` and `task`; the stage is named.
    """
    read(config)
    found = [read(own, name) for name, own in configuration.stages(config)]
    for stage in found:  # made for its errors: a typo in the last stage is told before the first
        with _named(stage.name):
            task(stage.source)
    return found


@contextlib.contextmanager
def _named(stage: str) -> Iterator[None]:
    """Errors about the input begin with the stage's name, where it has one."""
    try:
        yield
    except ValueError as error:
        if not stage:
            raise
        raise ValueError(f"config.stages, {stage!r}: {error}") from error


def wanted(settings: sections.Sections) -> data_config.Wanted:
    """Returns what the task of a configuration wants of an example, None where it does not say."""
    task_ = settings.task
    size = task_.get("size")
    return data_config.Wanted(
        size=tuple(size) if size else None,
        frames=task_.get("frames"),
        views=task_.get("views"),
        points=task_.get("points"),
        representation=task_.get("motion_repr"),
        cloud=task_.get("cloud"),
        tracking=task_.get("tracking") if "cloud" in task_ else None,
        colours=task_.get("colours", False),
        gain=task_.get("gain") if task_.get("flow_form", "depth") == "depth" else None,
        pairs=drawn_pairs.Pairs.asked(task_) if "same_view" in task_ else {},
        text="dit" in task_,
        weights=settings.weights,
    )


def load_mesh(settings: sections.Sections) -> jax.sharding.Mesh | None:
    """Returns the mesh that a sample is cut over, None for one device; see run/sample.py.

    Raises:
      ValueError: more devices wanted than this process has, or sizes that do not fit.
    """
    sizes = {axis: int(settings.mesh.get(axis, 1)) for axis in ("view", "sequence")}
    devices, ways = jax.local_devices(), math.prod(sizes.values())
    mesh = meshes.make_mesh(sizes, devices[:ways] if ways > 0 else devices)
    return mesh if mesh.size > 1 else None


def load_params(
    task: base.Task,
    settings: sections.Sections,
    workdir: Path,
    mesh: jax.sharding.Mesh | None = None,
    *,
    parts: Collection[str] | None = None,
) -> dict[str, Any]:
    """Returns all parts: trained in `workdir`, else from `config.weights`; in their shards.

    Args:
      parts: of the task, those that are wanted; None: all.

    Raises:
      FileNotFoundError: a part is neither trained nor named in `config.weights`.
      ValueError: a part of another architecture; lists both differences.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    for part in (
        *(task.teachers if isinstance(task, base.Taught) else ()),
        *(task.judges if isinstance(task, base.Judged) else ()),
    ):
        shapes.pop(part, None)
    if parts is not None:
        shapes = {part: x for part, x in shapes.items() if part in parts}
    found: dict[str, slices.Source] = {
        name: source
        for directory in stage_directories(settings.source, workdir)
        for source in [checkpoint.Trained(directory)]
        for name in source.shapes
    }
    lacking = {name.split("/")[0] for name in tree.flatten(shapes) if name not in found}
    trained = {name.split("/")[0] for name in found}
    for part, path in settings.weights.items():
        if parts is not None and part not in parts:
            continue
        if path and (part not in trained or part in lacking):  # adapters train a part in part
            source = initial.weights(part, path)
            found = dict.fromkeys(source.shapes, source) | found
    there = _stages_there(settings.source, workdir)
    if missing := sorted(shapes.keys() - {name.split("/")[0] for name in found}):
        raise FileNotFoundError(
            f"no weights for {missing}: {there or f'nothing was trained in {workdir}'} (run with "
            "--config.mode=train first) and config.weights names none"
        )
    found = {name: source for name, source in found.items() if name.split("/")[0] in shapes}
    shapes = precision.stored(shapes, found)
    have = {name: jax.ShapeDtypeStruct(s.shapes[name], jnp.float32) for name, s in found.items()}
    origin = f"the checkpoint ({there})" if there else "the checkpoint"
    tree.check_same(
        shapes, tree.unflatten(have), wanted_from="the configured model", got_from=origin
    )
    flat: dict[str, Any] = tree.flatten(shapes)
    placed: dict[str, Any] = dict.fromkeys(flat)
    if mesh is not None:
        initial.check_rules(settings.sharding, flat)
        placed = tree.flatten(meshes.shardings(shapes, mesh, settings.sharding))
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed[name])
        for name, leaf in flat.items()
    }
    params = precision.load(found, wanted, settings.sample.precision)
    if parts is None:  # what is trained, and what it belongs to, are there
        own = tree.flatten(tree.split(shapes, task.trainable)[0])
        marked = functools.partial(checkpoint.part_marks, params)
        if settings.sample.precision in quantised.LARGEST:  # the marks are of what was stored
            marked = functools.partial(precision.part_marks, found, wanted)
        initial.check_beside(task, [found[name] for name in own], marked)
    return params


def origins(settings: sections.Sections, workdir: Path) -> dict[str, str]:
    """Returns {part: where `load_params` finds it: a step of a stage, or a path}."""
    found = {part: str(path) for part, path in settings.weights.items() if path}
    for directory in stage_directories(settings.source, workdir):
        source = checkpoint.Trained(directory)
        where = f"step {source.step} of {directory.relative_to(workdir)}"
        found |= {name.split("/")[0]: where for name in source.shapes}
    return found


def command() -> str:
    """The command line of this process, without machine paths before the program's name."""
    return " ".join(["python -m syncmv4d_jax.main", *sys.argv[1:]])


def _stages_there(config: Any, workdir: Path) -> str:
    """Says which stages have checkpoints, "" for a configuration without stages or without any."""
    names = [name for name, _ in configuration.stages(config) if name]
    there = [name for name in names if stage_directory(workdir, name).is_dir()]
    return f"{workdir} has stages {there} of {names}" if there else ""


def stage_directory(workdir: str | Path, name: str) -> Path:
    """Returns where a stage's checkpoints are; `name` is "" where there are no stages."""
    return Path(workdir) / "checkpoints" / name if name else Path(workdir) / "checkpoints"


def stage_directories(config: ml_collections.ConfigDict, workdir: str | Path) -> list[Path]:
    """Returns where the stages' checkpoints are, of those that have any, in order."""
    folders = [stage_directory(workdir, name) for name, _ in configuration.stages(config)]
    return [folder for folder in folders if any(p.name.isdigit() for p in folder.glob("*"))]


def trained_params(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Returns the (averaged) weights of all parts trained so far, later stages first; numpy.

    Raises:
      FileNotFoundError: nothing was trained in `workdir`.
    """
    flat: dict[str, Any] = {}
    for directory in stage_directories(config, workdir):
        flat |= tree.flatten(checkpoint.restore_params(directory))
    if not flat:
        raise FileNotFoundError(f"{workdir}: nothing was trained there; --config.mode=train does")
    return tree.unflatten(flat)


def task(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh | None = None) -> base.Task:
    """Returns the task that `config.task.name` names: `syncmv4d_jax.tasks.<name>.make(config)`.

    Args:
      mesh: that it runs on, with the attention of `config.train`; None is one device.
    """
    name = config.task.name
    target = name if ":" in name else f"syncmv4d_jax.tasks.{name}:make"
    make = configuration.load(target, {}, "config.task.name")
    if mesh is None:
        return make(config)
    train = read(config).train
    if mesh.size == 1:  # perhaps of another machine, whose kernels are meant
        platform = mesh.devices.flat[0].platform
        return make(config, placement=protocol.Local(train.attention, platform))
    place = placement.Placement(mesh, kernel=train.attention, sequence=train.sequence)
    return make(config, placement=place)
