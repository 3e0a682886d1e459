"""Which task, weights, stage folders and mesh a configuration means."""

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from syncmv4d_jax import configuration, tree
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import placement
from syncmv4d_jax.run import checkpoint, sections
from syncmv4d_jax.tasks import base

READ = {
    "data": data_config.DataConfig,
    "text": sections.TextConfig,
    "optim": sections.OptimConfig,
    "train": sections.TrainConfig,
    "sample": sections.SampleConfig,
    "evaluate": sections.EvaluateConfig,
    "plan": sections.PlanConfig,
}
PLAIN = ("mode", "seed", "task", "weights", "mesh", "sharding", "stages")


def read(config: ml_collections.ConfigDict, name: str = "") -> sections.Sections:
    """Reads a configuration, or that of the stage `name`; everything downstream takes the result.

    Raises:
      ValueError: an unknown section, key or axis (names the nearest), or a value that cannot be.
    """
    try:
        configuration.check_keys(config.keys(), (*READ, *PLAIN), "config", "sections")
        made = {
            key: configuration.section(cls, config.get(key), f"config.{key}")
            for key, cls in READ.items()
        }
        mesh = dict(config.get("mesh", {"fsdp": -1}))
        configuration.check_keys(mesh, meshes.AXES, "config.mesh", "axes")
        rules = meshes.parse_rules(config.get("sharding", ()))
    except ValueError as error:
        raise ValueError(f"config.stages, {name!r}: {error}" if name else str(error)) from error
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


def stages(config: ml_collections.ConfigDict) -> list[sections.Sections]:
    """Reads every stage of a configuration, in order; one without a name where there are none.

    Raises:
      ValueError: as `read` and `configuration.stages`; the stage is named.
    """
    read(config)
    return [read(own, name) for name, own in configuration.stages(config)]


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
        text="dit" in task_,
        weights=settings.weights,
    )


def load_mesh(config: Any) -> jax.sharding.Mesh | None:
    """Returns the mesh that a sample is cut over, None for one device; see the module docstring.

    Raises:
      ValueError: more devices wanted than this process has, or sizes that do not fit.
    """
    sizes = {axis: int(config.get("mesh", {}).get(axis, 1)) for axis in ("view", "sequence")}
    devices, ways = jax.local_devices(), math.prod(sizes.values())
    mesh = meshes.make_mesh(sizes, devices[:ways] if ways > 0 else devices)
    return mesh if mesh.size > 1 else None


def load_params(
    task: base.Task, config: Any, workdir: Path, mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
    """Returns all parts: trained in `workdir`, else from `config.weights`; placed on the devices.

    Raises:
      FileNotFoundError: a part is neither trained nor named in `config.weights`.
      ValueError: a part of another architecture; lists both differences.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    try:
        found = trained_params(config, workdir)
    except FileNotFoundError:
        found = {}
    for part, path in dict(config.get("weights", {})).items():
        if path and part not in found:
            found[part] = load_weights(part, path)
    there = _stages_there(config, workdir)
    if missing := sorted(shapes.keys() - found.keys()):
        raise FileNotFoundError(
            f"no weights for {missing}: {there or f'nothing was trained in {workdir}'} (run with "
            "--config.mode=train first) and config.weights names none"
        )
    found = {part: found[part] for part in shapes}
    origin = f"the checkpoint ({there})" if there else "the checkpoint"
    tree.check_same(shapes, found, wanted_from="the configured model", got_from=origin)
    if mesh is None:
        return jax.tree.map(lambda x, s: jnp.asarray(x, s.dtype), found, shapes)
    rules = meshes.parse_rules(config.get("sharding", ()))
    host = jax.tree.map(lambda x, s: np.asarray(x, s.dtype), found, shapes)
    return meshes.put(host, meshes.shardings(shapes, mesh, rules))


def _stages_there(config: Any, workdir: Path) -> str:
    """Says which stages have checkpoints, "" for a configuration without stages or without any."""
    names = [name for name, _ in configuration.stages(config) if name]
    there = [name for name in names if stage_directory(workdir, name).is_dir()]
    return f"{workdir} has stages {there} of {names}" if there else ""


def stage_directory(workdir: str | Path, name: str) -> Path:
    """Returns where a stage's checkpoints are; `name` is "" where there are no stages."""
    return Path(workdir) / "checkpoints" / name if name else Path(workdir) / "checkpoints"


def trained_params(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Returns the (averaged) weights of all parts trained so far, later stages first; numpy.

    Raises:
      FileNotFoundError: nothing was trained in `workdir`.
    """
    flat: dict[str, Any] = {}
    missing = None
    for name, _ in configuration.stages(config):
        try:
            flat |= tree.flatten(checkpoint.restore_params(stage_directory(workdir, name)))
        except FileNotFoundError as error:
            missing = error
    if not flat and missing:
        raise missing
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
    place = placement.Placement(mesh, kernel=train.attention, sequence=train.sequence)
    return make(config, placement=place)


def load_weights(part: str, path: str) -> dict[str, Any]:
    """Returns a part's weights as numpy: a file of `checkpoint.export`, or converted weights."""
    if str(path).endswith(".safetensors"):
        return checkpoint.load_params(path, part)
    weights = importlib.import_module("syncmv4d_jax.weights")
    return jax.tree.map(np.asarray, weights.load(part, path)[1])
