"""Converts a release folder of Wan2.2-TI2V-5B to ours (store.py), and ours to diffusers'.

Arrays are written layer by layer as they are read, so that memory stays at one tensor of the
source; the folder gets its name when all is done.
"""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from jax.typing import DTypeLike

from syncmv4d_jax import disk, models, tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.weights import engine, files, folders, store
from syncmv4d_jax.weights.tables import umt5, wan_dit, wan_vae

TABLES: dict[str, Callable[..., list[engine.Rule]]] = {
    "dit": wan_dit.rules,
    "vae": wan_vae.rules,
    "umt5": umt5.rules,
}
IGNORED = {"umt5": umt5.ALIASES}
SHARD_BYTES = 5 * 10**9  # of an exported safetensors file
USABLE = ("float32", "bfloat16", "float16")  # types that weights may keep


def shapes_of(part: str, config: models.Config) -> dict[str, tuple[int, ...]]:
    """Returns {path: shape} of a part's parameters."""
    wanted = tree.flatten(module.shapes(models.network(part, config), config))
    return {path: tuple(leaf.shape) for path, leaf in wanted.items()}


def _stacked(rules: list[engine.Rule], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    planned = engine.reference_slices(rules, shapes)
    return {path: tuple(s.layer for s in slices) for path, slices in planned.slices.items()}


def _from_release(src: Path, part: str, dtype: Any, scratch: Path) -> store.Leaves:
    found = folders.find(src, part)
    sizes, tokenizer = dict(found.sizes), found.tokenizer
    kinds = {str(entry.dtype) for entry in found.tensors.entries.values()}
    if dtype is None and (strange := sorted(kinds - set(USABLE))):
        raise ValueError(
            f"{part} of {src} is stored in {', '.join(strange)}, in which nothing runs; give a "
            "dtype (--dtype bfloat16)"
        )
    if found.spiece:
        tokenizer = [scratch / "spiece.model"]
        tokenizer[0].write_bytes(found.spiece)
    if part == "vae" and "latents_mean" not in sizes and sizes["z_dim"] == len(vae.WAN_MEAN):
        # The official code keeps the statistics, the checkpoint does not have them.
        sizes |= {"latents_mean": vae.WAN_MEAN, "latents_std": vae.WAN_STD}
    largest = max(found.tensors.entries.values(), key=lambda entry: math.prod(entry.shape))
    sizes["dtype"] = str(largest.dtype)
    config = store.build_config(part, sizes)
    shapes = shapes_of(part, config)
    planned = engine.plan(
        TABLES[part](config, found.layout),
        found.tensors.shapes,
        shapes,
        source=f"{part} of {src} ({found.layout})",
        ignore=IGNORED.get(part),
    )
    places = {(s.path, s.layer): s for slices in planned.slices.values() for s in slices}

    def read(path: str, layer: int | None) -> np.ndarray:
        place = places[path, layer]
        return place.transform.forward(found.tensors.entries[place.key].read())

    def digest() -> dict[str, Any]:
        return {
            "layout": found.layout,
            "files": {
                str(file.relative_to(src.parent if src.is_file() else src)): {
                    "bytes": file.stat().st_size,
                    "sha256": files.sha256(file),
                }
                for file in found.tensors.files
            },
        }

    return store.Leaves(
        config=config,
        shapes=shapes,
        dtypes={path: found.tensors.entries[s[0].key].dtype for path, s in planned.slices.items()},
        slices={path: tuple(s.layer for s in slices) for path, slices in planned.slices.items()},
        read=read,
        provenance=digest,
        tokenizer=tokenizer,
    )


def _from_converted(src: Path, part: str) -> store.Leaves:
    folder, index = store.read_index(part, src)
    config = store.build_config(part, index["config"])
    shapes = {path: tuple(shape) for path, shape in index["shapes"].items()}

    def read(path: str, layer: int | None) -> np.ndarray:
        array = store.open_array(folder, path)
        return array[... if layer is None else layer].read().result()

    return store.Leaves(
        config=config,
        shapes=shapes,
        dtypes={path: np.dtype(name) for path, name in index["dtypes"].items()},
        slices=_stacked(TABLES[part](config, "diffusers"), shapes),
        read=read,
        provenance=lambda: index["source"],
        tokenizer=sorted((folder / "tokenizer").glob("*")),
    )


def _write_diffusers(
    leaves: store.Leaves, part: str, folder: Path, dtype: DTypeLike | None, progress
) -> None:
    planned = engine.reference_slices(TABLES[part](leaves.config, "diffusers"), leaves.shapes)
    entries: dict[str, files.Entry] = {}
    for path, slices in planned.slices.items():
        target = np.dtype(dtype or leaves.dtypes[path])
        for s in slices:

            def read(s=s, target=target):
                array = leaves.read(s.path, s.layer).astype(target, copy=False)
                return s.transform.backward(array)

            entries[s.key] = files.Entry(planned.shapes[s.key], target, read)
    stem = folders.SUBFOLDERS[part][1]
    files.write_sharded(folder, stem, entries, shard_bytes=SHARD_BYTES, progress=progress)
    config = folders.diffusers_config(part, leaves.config)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def convert(
    src: str | Path,
    out: str | Path,
    *,
    to: str = "jax",
    parts: Sequence[str] | None = None,
    dtype: DTypeLike | None = None,
) -> None:
    """Converts a folder of weights. Nothing is left behind if it fails.

    Args:
      src: an official, diffusers or repackaged folder of Wan2.2-TI2V-5B, one repackaged file, or a
        converted folder.
      out: the new folder; parts may be added to an existing one.
      to: "jax", what weights.load reads, or "diffusers", a folder that diffusers loads.
      parts: of folders.PARTS; None: all of a folder, or the one of a file.
      dtype: e.g. "bfloat16"; None keeps the source's.

    Raises:
      ValueError: tensors that do not fit the model (all listed), a truncated file, another release,
        quantised weights, or a type in which nothing runs.
      FileNotFoundError: a missing part or shard.
      FileExistsError: `out` has one of the parts already.
    """
    src, out = Path(src), Path(out)
    if parts is None:
        parts = [folders.part_in(src)] if src.is_file() else folders.PARTS
    if to not in ("jax", "diffusers") or not set(parts) <= set(folders.PARTS) or not parts:
        raise ValueError(
            f"wanted to= of ('jax', 'diffusers') and parts of {folders.PARTS}, got {to!r}, {parts}"
        )
    name_of = {p: p if to == "jax" else folders.SUBFOLDERS[p][0] for p in parts}
    if there := [name for name in name_of.values() if (out / name).exists()]:
        raise FileExistsError(f"{out} has {', '.join(there)} already")
    converted = any((src / part / "index.json").exists() for part in folders.PARTS)
    write = store.write if to == "jax" else _write_diffusers
    with disk.beside(out) as partial, tempfile.TemporaryDirectory() as scratch:
        if converted:
            opened = {part: _from_converted(src, part) for part in parts}
        else:
            opened = {part: _from_release(src, part, dtype, Path(scratch)) for part in parts}
        for part, leaves in opened.items():
            folder = partial / name_of[part]
            folder.mkdir(parents=True)
            with tqdm.tqdm(
                total=_bytes(leaves, dtype), unit="B", unit_scale=True, desc=part
            ) as bar:
                write(leaves, part, folder, dtype, bar.update)
        if to == "diffusers":
            _finish_diffusers(opened, partial)
        out.mkdir(exist_ok=True)
        for item in sorted(partial.iterdir()):
            if item.is_dir() or not (out / item.name).exists():
                item.rename(out / item.name)


def _finish_diffusers(opened: dict[str, store.Leaves], folder: Path) -> None:
    """Tokenizer, scheduler and, for a whole release, the pipeline's index."""
    if "umt5" in opened:
        store.copy_tokenizer(opened["umt5"], folder / "tokenizer")
    if set(opened) == set(folders.PARTS):
        for name, content in folders.PIPELINE.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2))


def _bytes(leaves: store.Leaves, dtype: DTypeLike | None) -> int:
    sizes = (
        math.prod(shape) * np.dtype(dtype or leaves.dtypes[path]).itemsize
        for path, shape in leaves.shapes.items()
    )
    return sum(sizes)
