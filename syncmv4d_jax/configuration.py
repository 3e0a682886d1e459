"""From a configuration to the things it names: dataclasses, functions, stages, unknown keys."""

import dataclasses
import difflib
import importlib
import runpy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

# Keys that a former version had, and what became of them.
MOVED = {
    "train.minimum_sharded": "gone: leaves below 2**16 elements stay whole, config.sharding cuts "
    "what it names",
    "optim.eps": "gone: it is 1e-8",
    "optim.momentum": "gone: Muon's is 0.95",
    "optim.muon": "gone: Muon takes the kernels that are matrices",
}


def hint(key: str, known: Iterable[str], where: str) -> str:
    """Returns what to say of an unknown key: where it went, else what it is near to, else ""."""
    path = ".".join([*where.split("config")[-1].strip(".").split("."), key]).strip(".")
    if path in MOVED:
        return f"{key!r} is {MOVED[path]}"
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"{key!r} is near {near[0]!r}" if near else ""


def check_keys(keys: Iterable[str], known: Iterable[str], where: str, what: str = "keys") -> None:
    """Raises ValueError where a key is not among the known; names the nearest one, and all."""
    known = list(known)
    if wrong := sorted(set(keys) - set(known)):
        hints = "; ".join(filter(None, (hint(key, known, where) for key in wrong)))
        told = f" ({hints})" if hints else ""
        raise ValueError(f"{where}: unknown {what} {wrong}{told}; the {what} are {known}")


def section(cls: type, values: Mapping[str, Any] | None, where: str) -> Any:
    """Returns the dataclass `cls` filled from a section of the configuration.

    Raises:
      ValueError: an unknown key; names the nearest one and all others.
    """
    values = dict(values or {})
    check_keys(values, (field.name for field in dataclasses.fields(cls)), where)
    return cls(**{key: _frozen(value) for key, value in values.items()})


def _frozen(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return tuple(_frozen(y) for y in x)
    return x.to_dict() if isinstance(x, ml_collections.ConfigDict) else x


def at_least(least: int, where: str, settings: Any, *names: str) -> None:
    """Raises ValueError where one of the named settings of `where` is less."""
    for name in names:
        if (came := getattr(settings, name)) < least:
            raise ValueError(f"{where}.{name}: wanted at least {least}, got {came}")


def shares(where: str, settings: Any, *names: str) -> None:
    """Raises ValueError where one of the named settings of `where` is no share."""
    for name in names:
        if not 0 <= (came := getattr(settings, name)) <= 1:
            raise ValueError(f"{where}.{name}: wanted 0..1, got {came}")


def one_of(where: str, settings: Any, **wanted: tuple) -> None:
    """Raises ValueError where one of the named settings of `where` is none of those wanted."""
    for name, values in wanted.items():
        if (came := getattr(settings, name)) not in values:
            raise ValueError(f"{where}.{name}: wanted one of {values}, got {came!r}")


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
      ValueError: a stage without a name, two of the same name, an unknown section, or a value of
        another type than it has in the configuration.
    """
    listed = [dict(stage) for stage in config.get("stages", ())]
    result: list[tuple[str, ml_collections.ConfigDict]] = []
    for overrides in listed:
        name = str(overrides.pop("name", ""))
        if not name or name in dict(result) or not name.isidentifier():
            raise ValueError(f"config.stages: wanted distinct names (identifiers), got {name!r}")
        where = f"config.stages, {name!r}"
        check_keys(overrides, config.keys(), where, "sections")
        given = config.get("weights", {})
        check_keys(overrides.get("weights", ()), given, f"{where}, config.weights")
        own = ml_collections.ConfigDict(config.to_dict())
        own.stages = ()
        if overrides.get("task", {}).get("name", own.task.get("name")) != own.task.get("name"):
            own.task = ml_collections.ConfigDict()
        try:
            own.update(ml_collections.ConfigDict(overrides).to_dict())
        except TypeError as error:
            raise ValueError(f"{where}: {error}") from error
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
        section, steps = config, arg.removeprefix("--config.").split("=")[0].split(".")
        for i, key in enumerate(steps):
            keys = list(section.keys()) if hasattr(section, "keys") else []
            if key not in keys:
                where = ".".join(["config", *steps[:i]])
                told = hint(key, keys, where)
                told = f" ({told})" if told else ""
                messages.append(f"{arg}: {where} has no key {key!r}{told}; it has {keys}")
                break
            section = section[key]
    return messages
