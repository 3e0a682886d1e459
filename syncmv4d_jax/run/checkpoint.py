"""Checkpoints: asynchronous orbax saves, verified restores, merging, and small single-file exports.

Orbax restores flipped bytes without a word, so each save also records one number per leaf, the
fingerprint: sum over elements of bits(x_i) * w_i modulo 2^32, with odd pseudo-random weights w_i of
the element's global index. The sum does not depend on the mesh; an odd weight is invertible, so any
single changed element changes it. `Store.restore` recomputes it and falls back to the previous good
step.
"""

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from safetensors import numpy as safetensors_numpy
from safetensors import safe_open

from syncmv4d_jax import disk, tree

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
    return jax.tree.map(_fingerprint, state)


def fingerprints(state: Tree) -> dict[str, int]:
    """Returns {path: 32-bit fingerprint} of a tree of arrays, whatever their sharding."""
    return {name: int(x) for name, x in tree.flatten(_fingerprints(state)).items()}


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
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory, options=self._options, item_names=("state", "meta")
        )

    def steps(self) -> list[int]:
        """Returns the complete steps on disk, ascending."""
        return sorted(self._manager.all_steps())

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
        self._manager.close()


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


def restore_params(directory: str | Path, *, step: int | None = None) -> dict[str, Any]:
    """Reads the averaged weights (the raw ones where no average was kept) as numpy arrays.

    Args:
      directory: of one stage, as given to `Store`.
      step: None for the newest whole one; nothing is moved or written.

    Raises:
      FileNotFoundError: no checkpoint.
      ValueError: none of the candidates is whole.
    """
    directory = Path(directory).absolute()
    found = sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit())
    candidates = [s for s in reversed(found) if step in (None, s)]
    if not candidates:
        raise FileNotFoundError(
            f"{directory}: wanted a checkpoint{'' if step is None else f' of step {step}'}, found "
            f"{found or 'none'}; train first with --config.mode=train and the same --workdir"
        )
    for candidate in candidates:
        try:
            return _read_params(directory / str(candidate))
        except Exception as error:  # noqa: BLE001 - a damaged checkpoint raises many kinds
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            log.warning("checkpoint %s/%d is damaged (%s)", directory, candidate, reason)
    raise ValueError(f"{directory}: none of the checkpoints {candidates} is whole")


def _read_params(path: Path) -> dict[str, Any]:
    meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(path / "meta")
    with warnings.catch_warnings(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        warnings.simplefilter("ignore")  # orbax would read shardings from the file; numpy here
        whole = dict(reader.metadata(path / "state").item_metadata)
        part = "ema" if whole["ema"] else "params"
        target = jax.tree.map(lambda leaf: ocp.PLACEHOLDER, whole)
        target[part] = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), whole[part])
        # As numpy: the devices that wrote it need not exist here.
        how = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), target)
        args = ocp.args.PyTreeRestore(item=target, restore_args=how)
        params = reader.restore(path / "state", args)[part]
    params = jax.tree.map(np.asarray, params)
    wanted = {name: meta["fingerprints"][f"{part}/{name}"] for name in tree.flatten(params)}
    if wrong := _differences(wanted, fingerprints(params)):
        raise ValueError(f"fingerprints differ: {tree.sample(wrong)}")
    return params


def merge(init: Tree, restored: Tree, *, new: str = "", unused: str = "") -> dict[str, Any]:
    """Returns `init` with the leaves of `restored` in place, matched by path.

    Args:
      init: dict tree of arrays or shapes, the model as it is now.
      restored: dict tree of arrays.
      new: regex of paths that may keep their initial value, "" = none.
      unused: regex of paths of `restored` that may be left out, "" = none.

    Raises:
      ValueError: lists paths only one side has (beyond the two regexes) and shapes that differ.
    """
    a, b = tree.flatten(init), tree.flatten(restored)

    def allowed(pattern: str, name: str) -> bool:
        return bool(pattern) and re.search(pattern, name) is not None

    missing = [name for name in a if name not in b and not allowed(new, name)]
    extra = [name for name in b if name not in a and not allowed(unused, name)]
    differ = [
        f"{name}: model {tuple(a[name].shape)}, checkpoint {tuple(b[name].shape)}"
        for name in a.keys() & b.keys()
        if tuple(a[name].shape) != tuple(b[name].shape)
    ]
    if missing or extra or differ:
        raise ValueError(
            "checkpoint and model differ:\n"
            f"  only in the model ({len(missing)}): {tree.sample(missing, 20) or 'none'}\n"
            f"  only in the checkpoint ({len(extra)}): {tree.sample(extra, 20) or 'none'}\n"
            f"  shapes: {tree.sample(sorted(differ), 20) or 'all equal'}"
        )
    return tree.unflatten({name: b.get(name, leaf) for name, leaf in a.items()})


def export(
    params: Tree, path: str | Path, *, dtype: str = "float32", metadata: Mapping[str, Any] = {}
) -> None:
    """Writes a dict tree as one safetensors file, whole or not at all.

    Args:
      params: dict tree of arrays; only process 0 writes.
      path: ends in ``.safetensors``.
      dtype: "float32", "bfloat16" or "float16"; integer leaves keep theirs.
      metadata: JSON-able, stored under one key (config, seed, command).
    """
    path = Path(path)
    fetch = multihost_utils.process_allgather if jax.process_count() > 1 else jax.device_get
    arrays = {}
    for name, leaf in tree.flatten(params).items():
        leaf = np.asarray(fetch(leaf, tiled=True) if jax.process_count() > 1 else fetch(leaf))
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        arrays[name] = np.ascontiguousarray(leaf.astype(jnp.dtype(dtype)) if floating else leaf)
    if jax.process_index() != 0:
        return
    marks = json.dumps(dict(metadata), sort_keys=True)
    with disk.whole(path) as partial:
        safetensors_numpy.save_file(arrays, partial, metadata={"json": marks})


def load_params(path: str | Path, part: str = "", *, dtype: str = "float32") -> dict[str, Any]:
    """Reads what `export` wrote.

    Args:
      path: the safetensors file.
      part: only this top-level key ("dit", "vae", ...), returned without it; "" = everything.
      dtype: of floating leaves on return (numpy).

    Raises:
      FileNotFoundError: no such file.
      KeyError: the file has no such part.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: wanted a .safetensors file at {path}, found none")
    prefix = f"{part}/" if part else ""
    with safe_open(path, framework="flax") as file:  # flax: bfloat16 has no numpy code
        keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
        if not keys:
            parts = sorted({key.split("/")[0] for key in file.keys()})  # noqa: SIM118
            raise KeyError(f"{path}: wanted part {part!r}, found parts {parts}")
        flat = {key[len(prefix) :]: np.asarray(file.get_tensor(key)) for key in keys}
    cast = {
        name: x.astype(jnp.dtype(dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x
        for name, x in flat.items()
    }
    return tree.unflatten(cast)
