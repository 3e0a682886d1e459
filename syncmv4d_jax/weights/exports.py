"""Parameters in one safetensors file, keyed by path: what a run exports and another starts from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax.experimental import multihost_utils

from syncmv4d_jax import tree
from syncmv4d_jax.weights import files, slices

Tree = Any


def write(
    params: Tree, path: str | Path, *, dtype: str = "float32", metadata: Mapping[str, Any] = {}
) -> None:
    """Writes a dict tree as one file, whole or not at all.

    Args:
      params: dict tree of arrays; only process 0 writes.
      path: ends in ``.safetensors``.
      dtype: "float32", "bfloat16" or "float16"; integers and values of 8 bits keep theirs, "": all.
      metadata: JSON-able, stored under the key "json" (config, step, command).
    """
    several, arrays = jax.process_count() > 1, {}
    for name, leaf in tree.flatten(params).items():
        whole = multihost_utils.process_allgather(leaf, tiled=True) if several else leaf
        leaf = np.asarray(whole)
        cast = dtype and jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize > 1
        arrays[name] = np.ascontiguousarray(leaf.astype(jnp.dtype(dtype)) if cast else leaf)
    if jax.process_index() != 0:
        return
    marks = json.dumps(dict(metadata), sort_keys=True)
    files.save(path, arrays, {"json": marks})


def metadata(path: str | Path) -> dict[str, Any]:
    """What `write` stored beside the arrays: config, step.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that was not exported by a run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: wanted a .safetensors file at {path}, found none")
    with safetensors.safe_open(str(path), "np") as file:
        text = (file.metadata() or {}).get("json")
    if text is None:
        raise ValueError(f"{path}: says nothing of its run: not a file that a training exported")
    return json.loads(text)


def source(path: str | Path, part: str = "") -> slices.Files:
    """Opens what `write` wrote, to be read in slices.

    Args:
      path: the file.
      part: only this top-level key ("dit", "vae", ...); "" = everything.

    Raises:
      FileNotFoundError: no such file.
      KeyError: the file has no such part.
      ValueError: a truncated file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: wanted a .safetensors file at {path}, found none")
    leaves = files.leaves(path)
    chosen = {k: leaf for k, leaf in leaves.items() if not part or k.startswith(f"{part}/")}
    if not chosen:
        parts = sorted({key.split("/")[0] for key in leaves})
        raise KeyError(f"{path}: wanted part {part!r}, found parts {parts}")
    return slices.Files(str(path), chosen, told(path).get("beside"))


def told(path: Path) -> dict[str, Any]:
    """The metadata of `write`, {} where there is none."""
    with safetensors.safe_open(path, "numpy") as file:
        found = json.loads((file.metadata() or {}).get("json", "{}"))
    return found if isinstance(found, dict) else {}


def read(path: str | Path, part: str = "", *, dtype: str = "float32") -> dict[str, Any]:
    """Reads what `write` wrote, as numpy.

    Args:
      path, part: as in `source`; a part is returned without its key.
      dtype: of floating leaves on return; "": as they are stored.

    Raises:
      As `source`.
    """
    flat = {}
    for name, leaf in source(path, part).leaves.items():
        x = leaf.read((slice(None),) * len(leaf.shape))
        cast = dtype and jnp.issubdtype(x.dtype, jnp.floating)
        key = name.removeprefix(f"{part}/") if part else name
        flat[key] = x.astype(jnp.dtype(dtype)) if cast else x
    return tree.unflatten(flat)
