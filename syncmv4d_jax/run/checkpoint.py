"""Checkpoints: asynchronous orbax saves, verified restores.

Orbax restores flipped bytes without a word, so each save also records one number per leaf, the
fingerprint: sum over elements of bits(x_i) * w_i modulo 2^32, with odd pseudo-random weights w_i of
the element's global index. The sum does not depend on the mesh; an odd weight is invertible, so any
single changed element changes it. `Store.restore` recomputes it and falls back to the previous good
step.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from syncmv4d_jax import tree

Tree = Any
log = logging.getLogger(__name__)


def _bits(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}.get(x.dtype.itemsize)
    if unsigned is None:
        raise ValueError(f"fingerprint: wanted a dtype of 1, 2 or 4 bytes, got {x.dtype}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _fingerprint(x: jax.Array) -> jax.Array:
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):  # no reshape: a sharded array stays where it is
        iota = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        index += iota * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    weight = index * jnp.uint32(2654435761)
    weight = ((weight ^ (weight >> 15)) * jnp.uint32(2246822519)) | jnp.uint32(1)
    return jnp.sum(_bits(x) * weight, dtype=jnp.uint32)


@jax.jit
def _fingerprints(state: Tree) -> Tree:
    return jax.tree.map(_fingerprint, jax.device_put(state, jax.memory.Space.Device))


def fingerprints(state: Tree) -> dict[str, int]:
    """Returns {path: 32-bit fingerprint} of a tree of arrays, whatever their sharding."""
    return {name: int(x) for name, x in tree.flatten(_fingerprints(state)).items()}


def mark(state: Tree) -> str:
    """Returns one hash of all fingerprints, "" of a tree without leaves."""
    return joined(fingerprints(state)) if jax.tree.leaves(state) else ""


def part_marks(params: Tree, parts: Iterable[str]) -> dict[str, str]:
    """Returns {part: hash} of some parts, the same whether float32 or bfloat16 was loaded."""
    return {part: joined(tree.flatten(_halves(params[part]))) for part in parts}


def leaf_mark(leaf: jax.Array) -> jax.Array:
    """What a leaf adds to `part_marks`, [] uint32: of one that is not kept, see `joined`."""
    return _halves(leaf)


def joined(leaves: Mapping[str, Any]) -> str:
    """One hash of {path: fingerprint}, of a part of its `leaf_mark`s."""
    text = json.dumps({name: int(x) for name, x in leaves.items()}, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


@jax.jit
def _halves(state: Tree) -> Tree:
    half = lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x  # noqa: E731
    return _fingerprints(jax.tree.map(half, state))


class Store:
    """The checkpoints of one training stage, ``directory/<step>``.

    Args:
      directory: made if missing; half-written saves of an earlier run are removed.
      keep: number of latest checkpoints kept.
      keep_every: steps divisible by this are kept for good, 0 = none.

    Raises:
      PermissionError: the directory cannot be made or written.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, keep_every: int = 0) -> None:
        self.directory = Path(directory).absolute()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PermissionError(
                f"checkpoints: cannot make {self.directory} ({error.strerror}); "
                "give a writable --workdir"
            ) from error
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self._failed = ""  # why the last save was lost
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory, options=self._options, item_names=("state", "meta")
        )

    def steps(self) -> list[int]:
        """Returns the complete steps on disk, ascending."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Returns the last complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Tree, meta: Mapping[str, Any]) -> bool:
        """Starts a save of `state` and JSON-able `meta`; copying to host is done on return.

        A save that fails (full disk, lost mount) is reported, its remains are removed, and training
        goes on: the older checkpoints are intact. Returns whether the save was started.
        """
        meta = {"fingerprints": fingerprints(state), **meta}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if not _all_processes(self.wait()):
            self._reopen()  # orbax would raise the old error once more
        try:
            return self._manager.save(step, args=args, force=True)
        except Exception as error:  # noqa: BLE001 - orbax and tensorstore raise many kinds
            self._give_up(step, error)
            return False

    def wait(self) -> bool:
        """Waits for the save in progress; returns whether it ended well."""
        try:
            self._manager.wait_until_finished()
            return True
        except Exception as error:  # noqa: BLE001
            self._give_up(None, error)
            return False

    def _reopen(self) -> None:
        try:
            self._manager.close()
        except Exception as error:  # noqa: BLE001 - told before; the new one starts clean
            log.info("closing: %s", type(error).__name__)
        self._manager = self._open()

    def _give_up(self, step: int | None, error: Exception) -> None:
        self._failed = f"{type(error).__name__}: {str(error)[:300]}"
        what = "a checkpoint" if step is None else f"the checkpoint before or at step {step}"
        log.warning(
            "%s in %s could not be written (%s: %s); training goes on, the last good step is %s",
            *(what, self.directory, type(error).__name__, str(error)[:500], self.latest_on_disk()),
        )
        if jax.process_count() > 1:
            return  # other processes may still write: the next start cleans up
        for torn in self.directory.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(torn, ignore_errors=True)  # the disk may be full: give the space back
        self._manager.reload()

    def promise(self, step: int) -> None:
        """Closes, and checks that a step is on disk, with all that belongs to it.

        Raises:
          OSError: it is not; says what came in the way.
        """
        self.close()
        path = self.directory / str(step)
        reason = self._failed or "it is not there"
        if path.is_dir():
            try:
                part, leaves, _ = _leaves(path)
                marks = {k for k in meta(path)["fingerprints"] if k.startswith(f"{part}/")}
                lost = marks - {f"{part}/{name}" for name in leaves}
                reason = f"it lacks {tree.sample(sorted(lost))}" if lost else ""
            except Exception as error:  # noqa: BLE001 - a damaged checkpoint raises many kinds
                reason = f"{type(error).__name__}: {str(error)[:300]}"
        if not _all_processes(not reason):
            raise OSError(
                f"the last checkpoint, {path}, could not be written ({reason}); the last good step "
                f"is {self.latest_on_disk()}, from which the same command goes on"
            )

    def restore(self, abstract: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """Restores the newest checkpoint whose fingerprints hold.

        Args:
          abstract: tree of jax.ShapeDtypeStruct with the shardings wanted now.

        Returns:
          (step, state, meta), or None where there is no checkpoint.

        Raises:
          ValueError: the checkpoint is of another architecture (lists both differences), or none
            of the checkpoints is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            found = self._try(step, abstract)
            if found is not None:
                return step, *found
            self._set_aside(step)
        if steps:
            raise ValueError(
                f"{self.directory}: none of the checkpoints {steps} is whole; they were moved to "
                f"{self.directory / 'corrupt'}. Start in another --workdir or restore a copy."
            )
        return None

    def _try(self, step: int, abstract: Tree) -> tuple[Tree, dict[str, Any]] | None:
        try:
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
            meta = dict(meta["meta"])
            self._check_same(step, meta, abstract)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state, good = self._manager.restore(step, args=args)["state"], True
            wrong = _differences(meta.pop("fingerprints"), fingerprints(state))
        except Mismatch:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged checkpoint raises many kinds
            good, wrong = False, [f"{type(error).__name__}: {str(error)[:300]}"]
        good = _all_processes(good and not wrong)
        if good:
            return state, meta
        log.warning(
            "checkpoint %s/%d is damaged (%s); falling back to the one before",
            *(self.directory, step, tree.sample(wrong) or "seen by another process"),
        )
        return None

    def _check_same(self, step: int, meta: dict[str, Any], abstract: Tree) -> None:
        wanted, got = set(tree.flatten(abstract)), set(meta["fingerprints"])
        saved = {k: tuple(v) for k, v in meta.pop("shapes", {}).items()}
        now = {name: tuple(leaf.shape) for name, leaf in tree.flatten(abstract).items()}
        differ = [f"{k}: here {now[k]}, saved {v}" for k, v in saved.items() if now.get(k, v) != v]
        if wanted != got or differ:
            raise Mismatch(
                f"{self.directory}/{step} is a checkpoint of another architecture or optimiser:\n"
                f"  only here: {tree.sample(sorted(wanted - got), 20) or 'none'}\n"
                f"  only in the checkpoint: {tree.sample(sorted(got - wanted), 20) or 'none'}\n"
                f"  shapes: {tree.sample(sorted(differ), 20) or 'all equal'}\n"
                "Use another --workdir, or the config that made it."
            )

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        if jax.process_index() == 0:
            aside = self.directory / "corrupt"
            aside.mkdir(exist_ok=True)
            number = sum(p.name.startswith(f"{step}-") for p in aside.iterdir())
            os.replace(self.directory / str(step), aside / f"{step}-{number}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._manager = self._open()

    def latest_on_disk(self) -> int | None:
        """Like `latest`, without the open store (also after `close`)."""
        return max(
            (int(p.name) for p in self.directory.glob("*") if p.name.isdigit()), default=None
        )

    def close(self) -> None:
        """Waits and frees the threads."""
        self.wait()
        try:
            self._manager.close()
        except Exception as error:  # noqa: BLE001 - orbax raises what `wait` has told once more
            log.info("closing: %s", type(error).__name__)


class Mismatch(ValueError):
    """The checkpoint's tree is not the one wanted."""


def _differences(wanted: Mapping[str, int], got: Mapping[str, int]) -> list[str]:
    return [name for name in sorted(wanted) if wanted[name] != got[name]]


def _all_processes(good: bool) -> bool:
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


def shapes(state: Tree) -> dict[str, list[int]]:
    """Returns {path: shape}, JSON-able, for the meta of `Store.save`."""
    return {name: list(leaf.shape) for name, leaf in tree.flatten(state).items()}


class Trained:
    """What a stage left: its averages, the raw weights where none were kept. A `slices.Source`.

    `step` is that of the checkpoint that was read last.

    Args:
      directory: of one stage, as given to `Store`; nothing in it is moved or written.
      step: None for the newest whole one.

    Raises:
      FileNotFoundError: no checkpoint.
      ValueError: none of the candidates can be opened.
    """

    def __init__(self, directory: str | Path, *, step: int | None = None) -> None:
        directory = Path(directory).absolute()
        self.where = str(directory)
        found = sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())
        self._steps = [s for s in reversed(found) if step in (None, s)]
        if not self._steps:
            raise FileNotFoundError(
                f"{directory}: wanted a checkpoint{'' if step is None else f' of step {step}'}, "
                f"found {found or 'none'}; train first with --config.mode=train and the same "
                "--workdir"
            )
        self.step = self._steps[0]
        self.shapes = self._whole(lambda path: {k: x.shape for k, x in _leaves(path)[1].items()})
        self.beside = self._whole(lambda path: dict(meta(path).get("beside", {})))

    def _whole(self, read: Callable[[Path], Any]) -> Any:
        """Returns what `read` gives of the newest checkpoint that it can read, in all processes."""
        for step in self._steps:
            result, reason = None, ""
            try:
                result = read(Path(self.where) / str(step))
            except Exception as error:  # noqa: BLE001 - a damaged checkpoint raises many kinds
                reason = f"{type(error).__name__}: {str(error)[:300]}"
                log.warning("checkpoint %s/%d is damaged (%s)", self.where, step, reason)
            if _all_processes(not reason):
                self.step = step
                return result
        raise ValueError(f"{self.where}: none of the checkpoints {self._steps} is whole")

    def load(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """As `slices.Source.load`: verified as stored, then cast."""
        default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def how(name: str) -> ocp.RestoreArgs:
            return ocp.ArrayRestoreArgs(sharding=wanted[name].sharding or default)

        stored = self._whole(lambda path: _read(path, {name: how(name) for name in wanted}))
        # One by one: what was read is freed where a cast replaces it.
        return {name: stored.pop(name).astype(wanted[name].dtype) for name in wanted}

    def numpy(self) -> dict[str, Any]:
        """Returns everything as a dict tree of numpy arrays; the devices need not be there."""
        how = dict.fromkeys(self.shapes, ocp.RestoreArgs(restore_type=np.ndarray))
        return tree.unflatten(self._whole(lambda path: _read(path, how)))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def meta(path: Path) -> dict[str, Any]:
    """Returns what was given to `Store.save` beside the state; `path`: of one step.

    Raises:
      ValueError: damaged.
    """
    try:
        return dict(ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path / "meta"))
    except Exception as error:  # noqa: BLE001 - a damaged checkpoint raises many kinds
        raise ValueError(
            f"{path}: its meta cannot be read ({type(error).__name__}); remove this folder, and "
            "the same command goes on from the checkpoint before"
        ) from error


def _leaves(path: Path) -> tuple[str, dict[str, Any], Any]:
    """Returns the key of the weights in the state ("ema" or "params"), their leaves, the state."""
    # Orbax misses a file there that only a lone item has, and says so at each start.
    with _quiet("absl"), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        whole = dict(reader.metadata(path / "state").item_metadata)
    part = "ema" if whole["ema"] else "params"
    return part, tree.flatten(whole[part]), whole


def _read(path: Path, how: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
    """Returns the leaves that `how` names, verified."""
    marks = meta(path)["fingerprints"]
    part, leaves, whole = _leaves(path)
    # So much at once: else orbax holds all shards on the host beside those on the devices.
    largest = max(math.prod(leaves[name].shape) for name in how) * 4
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=1 + largest // 2**30)
    with warnings.catch_warnings(), ocp.Checkpointer(handler) as reader:
        warnings.simplefilter("ignore")  # orbax would read shardings from the file
        target = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, whole)

        def item(name: str, leaf: Any) -> Any:
            there = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            return there if name in how else ocp.PLACEHOLDER

        target[part] = tree.map_named(item, whole[part])
        args = jax.tree.map(lambda leaf: ocp.RestoreArgs(), target)
        args[part] = tree.map_named(lambda name, _: how.get(name, ocp.RestoreArgs()), target[part])
        args = ocp.args.PyTreeRestore(item=target, restore_args=args)
        found = tree.flatten(reader.restore(path / "state", args)[part])
    found = {name: found[name] for name in how}
    wanted = {name: marks[f"{part}/{name}"] for name in how}
    if wrong := _differences(wanted, fingerprints(found)):
        raise ValueError(f"fingerprints differ: {tree.sample(wrong)}")
    return found


def restore_params(directory: str | Path, *, step: int | None = None) -> dict[str, Any]:
    """Reads the averaged weights (the raw ones where no average was kept) as numpy arrays.

    Args:
      directory, step: as in `Trained`.

    Raises:
      FileNotFoundError: no checkpoint.
      ValueError: none of the candidates is whole.
    """
    return Trained(directory, step=step).numpy()
