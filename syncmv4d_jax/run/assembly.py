"""Which task, weights, stage folders and mesh a configuration means."""

import importlib
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from syncmv4d_jax import configuration, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import checkpoint
from syncmv4d_jax.tasks import base


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
    task: Any, config: Any, workdir: Path, mesh: jax.sharding.Mesh | None = None
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
    rules = tuple((str(p), tuple(axes)) for p, axes in config.get("sharding", ()))
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


def load_task(config: ml_collections.ConfigDict) -> base.Task:
    """Returns the task that `config.task.name` names: `syncmv4d_jax.tasks.<name>.make(config)`."""
    name = config.task.name
    target = name if ":" in name else f"syncmv4d_jax.tasks.{name}:make"
    return configuration.load(target, {}, "config.task.name")(config)


def load_weights(part: str, path: str) -> dict[str, Any]:
    """Returns a part's weights as numpy: a file of `checkpoint.export`, or converted weights."""
    if str(path).endswith(".safetensors"):
        return checkpoint.load_params(path, part)
    weights = importlib.import_module("syncmv4d_jax.weights")
    return jax.tree.map(np.asarray, weights.load(part, path)[1])
