"""From a configuration to the things it names: dataclasses, functions, stages."""

import dataclasses
import importlib
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections


def section(cls: type, values: Mapping[str, Any] | None, where: str) -> Any:
    """Returns the dataclass `cls` filled from a section of the configuration.

    Raises:
      ValueError: an unknown key; lists the known ones.
    """
    values = dict(values or {})
    known = [field.name for field in dataclasses.fields(cls)]
    if unknown := sorted(values.keys() - set(known)):
        raise ValueError(f"{where}: unknown keys {unknown}; the keys are {known}")

    def freeze(x: Any) -> Any:
        return tuple(freeze(y) for y in x) if isinstance(x, list | tuple) else x

    return cls(**{key: freeze(value) for key, value in values.items()})


def load(name: str, table: Mapping[str, str], where: str) -> Callable[..., Any]:
    """Returns the function a configuration names, through `table` or as "module:function".

    Raises:
      ValueError: no such name, module or function.
    """
    target = table.get(name, name)
    module, _, function = target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name not in (None, module):
            raise
        raise ValueError(
            f"{where}={name!r}: wanted one of {sorted(table)} or 'module:function' ({error})"
        ) from error


def stages(config: ml_collections.ConfigDict) -> list[tuple[str, ml_collections.ConfigDict]]:
    """Returns (name, configuration) of each stage; [("", config)] where there are none.

    A stage replaces single entries; where its `task` has another name than the configuration's, it
    replaces that section as a whole.

    Raises:
      ValueError: a stage without a name, two of the same name, or an unknown section.
    """
    listed = [dict(stage) for stage in config.get("stages", ())]
    result: list[tuple[str, ml_collections.ConfigDict]] = []
    for overrides in listed:
        name = str(overrides.pop("name", ""))
        if not name or name in dict(result) or not name.isidentifier():
            raise ValueError(f"config.stages: wanted distinct names (identifiers), got {name!r}")
        if unknown := sorted(overrides.keys() - set(config.keys())):
            raise ValueError(f"config.stages, {name!r}: unknown sections {unknown}")
        own = ml_collections.ConfigDict(config.to_dict())
        own.stages = ()
        if overrides.get("task", {}).get("name", own.task.get("name")) != own.task.get("name"):
            own.task = ml_collections.ConfigDict()
        own.update(ml_collections.ConfigDict(overrides).to_dict())
        result.append((name, own))
    return result or [("", config)]


def unknown_keys(argv: list[str]) -> list[str]:
    """Returns one message for each --config.a.b=c whose key the configuration does not have."""
    named = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
    path, _, variant = (named or [""])[-1].partition(":")
    if not Path(path).is_file():
        return []
    config, messages = runpy.run_path(path)["get_config"](*[variant] * bool(variant)), []
    for arg in argv:
        if not arg.startswith("--config."):
            continue
        section, path = config, arg.removeprefix("--config.").split("=")[0].split(".")
        for i, key in enumerate(path):
            keys = list(section.keys()) if hasattr(section, "keys") else []
            if key not in keys:
                where = ".".join(["config", *path[:i]])
                messages.append(f"{arg}: {where} has no key {key!r}; it has {keys}")
                break
            section = section[key]
    return messages
