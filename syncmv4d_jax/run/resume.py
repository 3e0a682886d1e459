"""What a stage's checkpoints were made from, and what another start may change.

Three kinds of settings:

    order   seed, records, split, share: another order of examples. Refused.
    rest    task, optimiser, batch, weights, how examples are read: told, and training goes on;
            refused where the stage is finished, as nothing would be made with them.
    others  how often is logged and saved, the mesh, names of folders: not compared.

A checkpoint counts the examples that it has seen, whatever batches they came in: a reader of other
batches or another number of processes goes on at that place of the same order.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syncmv4d_jax import recipe
from syncmv4d_jax.data import records
from syncmv4d_jax.run import checkpoint, sections
from syncmv4d_jax.weights import store

log = logging.getLogger(__name__)
ORDER = ("name", "split", "share")  # of config.data
PLACES = ("records", "cache")  # compared by content
LATER = ("pairs",)  # of config.data: not told where it is off, so that older runs go on
WAY = "give the former again, or another --workdir"


def recipe_of(stage: sections.Sections) -> dict[str, Any]:
    """Returns the recipe of a stage's checkpoints, see the module docstring."""
    data = recipe.plain(stage.data)
    order = {key: data.pop(key) for key in ORDER}
    for gone in (*PLACES, *(key for key in LATER if not data[key])):
        del data[gone]
    train = stage.train
    return recipe.of(
        order={"seed": stage.seed, **order, "records": records_mark(stage)},
        task=stage.task,
        optim=stage.optim.decisive,
        batch_size=train.batch_size,
        frozen_dtype=train.frozen_dtype,
        data=data | {"cache": bool(stage.data.cache)},
        weights={part: _weights_mark(part, path) for part, path in stage.weights.items() if path},
    )


def _weights_mark(part: str, path: str) -> str:
    return store.weights_mark(path, part) or recipe.content(path)


def records_mark(stage: sections.Sections) -> str:
    """A mark of the index of the records that are read, "" without any."""
    if not stage.data.records:
        return ""
    size = stage.task.get("size")
    try:
        root = records.find(stage.data.records, tuple(size) if size else None)
    except FileNotFoundError:
        return ""
    return recipe.content(root / "index.json")


def check(where: Path, meta: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares a checkpoint that training goes on from with the settings now.

    Args:
      where: of the checkpoint, for messages.
      meta: what it says of itself.
      now: the recipe of the stage.

    Raises:
      recipe.Other: another order of examples; names what it was made from.
    """
    if rest := _compare(where, meta, now):
        log.warning("%s: training goes on with other settings: %s", where, "; ".join(rest))


def last(stage: sections.Sections, folder: Path) -> Path | None:
    """Returns the last checkpoint of a stage that is finished, None of one that is not.

    Args:
      folder: of the stage's checkpoints. With `train.minutes` the last one says that it is.
    """
    if (folder / str(stage.train.steps)).is_dir():
        return folder / str(stage.train.steps)
    there = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    if stage.train.minutes and there:
        newest = folder / str(max(there))
        return newest if checkpoint.meta(newest).get("ended") else None
    return None


def finished(where: Path, now: Mapping[str, Any]) -> None:
    """Compares the last checkpoint of a finished stage with the settings now; args as in `check`.

    Raises:
      recipe.Other: they would have made another one.
      ValueError: it cannot be read.
    """
    if rest := _compare(where, checkpoint.meta(where), now):
        raise recipe.Other(
            f"{where} is the last checkpoint, nothing is left to train with other settings "
            f"({'; '.join(rest)}); {WAY}"
        )


def _compare(where: Path, meta: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Refuses another order; returns the other differences."""
    was = dict(meta.get("recipe", {"order": {"seed": meta["seed"]}}))
    order = now["order"]
    before = {key: x for key, x in was.pop("order").items() if key in order and x != ""}
    after = {key: order[key] for key in before if order[key] != ""}
    before = {key: before[key] for key in after}
    if differ := recipe.differences(before, after):
        raise recipe.Other(
            f"{where}: the order of examples was made from something else "
            f"({'; '.join(differ)}); {WAY}"
        )
    return recipe.differences(was, {key: now[key] for key in now if key in was})


def seen(meta: Mapping[str, Any], step: int) -> int:
    """Returns how many examples a checkpoint has seen."""
    return int(meta.get("examples", step * meta["batch_size"]))


def batches(examples: int, batch_size: int, *, was: int) -> int:
    """Returns how many batches of `batch_size` so many examples are.

    Raises:
      recipe.Other: no whole number: some would be seen twice, or never.
    """
    if examples % batch_size:
        raise recipe.Other(
            f"config.train.batch_size: was {was}, is {batch_size}: {examples} examples are seen, "
            f"which is no whole number of batches of {batch_size}; wanted a divisor of {examples}"
        )
    return examples // batch_size
