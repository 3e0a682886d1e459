"""Distillation of a sampler: few steps and guidance folded in, for Wan and for MJD."""

import types
from typing import Any

from syncmv4d_jax.configuration import section
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.tasks import syncmv4d, wan_ti2v
from syncmv4d_jax.tasks.distill import systems, targets, task


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> task.Distill:
    """Builds the task from `config.task`: that of the task `of`, and a section distill.

    Raises:
      ValueError: another `of`, or as that task.
    """
    values = dict(config.task)
    values.pop("name", None)
    of = values.pop("of", "")
    settings = section(targets.Settings, values.pop("distill", {}), "config.task.distill")
    inner = types.SimpleNamespace(task=values)
    if of == wan_ti2v.WanTI2V.name:
        system: systems.System = systems.Wan(wan_ti2v.make(inner, placement=placement))
    elif of == syncmv4d.task.SyncMV4D.name:
        system = systems.MJD(syncmv4d.make(inner, placement=placement))
    else:
        names = wan_ti2v.WanTI2V.name, syncmv4d.task.SyncMV4D.name
        raise ValueError(f"config.task.of: wanted the task that is taught, {names}, got {of!r}")
    return task.Distill(system=system, settings=settings)
