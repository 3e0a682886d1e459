"""Converted weights on disk: save a part, load it onto any sharding; weights/release.py converts.

A converted folder holds one folder per part:

    dit/index.json            format, config, dtype, {path: shape}, files it was made of with sha256
    dit/arrays/blocks.ffn...  one zarr3 array per parameter, chunked by layer, not compressed
    umt5/tokenizer/           the tokenizer files of the release

Arrays are written layer by layer as they are read, so that memory stays at one tensor of the
source; the index is written last and the folder gets its name when all is done.
"""

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from syncmv4d_jax import disk, models, tree
from syncmv4d_jax.models import conditioned
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.weights import slices

CHUNK_BYTES = 64 * 2**20  # of an array, within a layer


def _spec(folder: Path, path: str) -> dict[str, Any]:
    place = folder / "arrays" / path.replace("/", ".")
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place)}}


def open_array(folder: Path, path: str) -> ts.TensorStore:
    """Opens the array of a parameter; slices of it are read by `[...].read().result()`.

    Raises:
      FileNotFoundError: it is not there.
    """
    try:
        return ts.open(_spec(folder, path), open=True).result()
    except ValueError as error:
        raise FileNotFoundError(f"{folder}: no array of {path}: {error}") from error


def chunk_shape(shape: tuple[int, ...], *, stacked: bool, itemsize: int) -> list[int]:
    """One layer to a chunk, and parts of the layer's first axis where that is large."""
    chunk = [1, *shape[1:]] if stacked else list(shape)
    axis = int(stacked)
    if len(shape) > axis:
        row = math.prod(chunk[axis + 1 :]) * itemsize
        chunk[axis] = max(1, min(chunk[axis], CHUNK_BYTES // max(row, 1)))
    return chunk


def write_array(
    folder: Path,
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    layers: Sequence[int | None],
    read: Callable[[int | None], np.ndarray],
    progress: Callable[[int], Any],
) -> None:
    """Writes a parameter layer by layer.

    Args:
      folder, path: where.
      shape, dtype: of the whole array, layers stacked.
      layers: indices to ask `read` for; (None,) if the parameter is not stacked.
      read: layer -> array, cast to `dtype` here.
      progress: called with the bytes of every layer written.
    """
    chunk = chunk_shape(shape, stacked=layers[0] is not None, itemsize=dtype.itemsize)
    metadata = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    store = ts.open(
        _spec(folder, path) | {"metadata": metadata},
        dtype=ts.dtype(dtype.name),
        shape=shape,
        create=True,
    ).result()
    for layer in layers:
        array = np.ascontiguousarray(read(layer).astype(dtype, copy=False))
        store[... if layer is None else layer].write(array).result()
        progress(array.nbytes)


def weights_mark(path: str | Path, part: str) -> str:
    """Returns the hash of a converted part's index, "" where there is none to read."""
    for file in (Path(path) / part / "index.json", Path(path) / "index.json"):
        if path and file.is_file():
            content = json.loads(file.read_text())
            kept = {key: content.get(key) for key in ("part", "config", "source")}
            text = json.dumps(kept, sort_keys=True).encode()
            return hashlib.sha256(text).hexdigest()[:16]
    return ""


FORMAT = 1


class Leaves(NamedTuple):
    """A part in our layout, wherever it lies: parameters are read leaf by leaf, layer by layer.

    Attributes:
      config: the part's config.
      shapes: {path: shape}, layers stacked.
      dtypes: {path: dtype}.
      slices: {path: the layers to ask `read` for}; (None,) for what is not stacked.
      read: (path, layer) -> array.
      provenance: tells what it was read from, for the index (hashes the files).
      tokenizer: tokenizer files.
    """

    config: Any
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype]
    slices: dict[str, Sequence[int | None]]
    read: Callable[[str, int | None], np.ndarray]
    provenance: Callable[[], dict[str, Any]]
    tokenizer: list[Path]


def build_config(part: str, sizes: dict[str, Any]) -> Any:
    """Returns the part's config of fields read from JSON.

    Raises:
      ValueError: unknown fields, named.
    """
    cls: Any = models.CONFIGS[part]
    if "condition_channels" in sizes:
        cls = conditioned.ConditionedConfig
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(sizes.keys() - known):
        raise ValueError(f"{part}: the config has unknown fields {unknown}")
    as_tuple = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    return cls(**as_tuple)


def part_folder(part: str, path: Path) -> Path:
    """`path` may be the converted folder or the part's own."""
    for folder in (path / part, path):
        if (folder / "index.json").exists():
            return folder
    raise FileNotFoundError(
        f"{path}: wanted converted weights ({part}/index.json), found none; "
        "data_prep/convert_weights.py makes them"
    )


def read_index(part: str, path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the part's folder and its index.json.

    Raises:
      FileNotFoundError: no converted weights there.
      ValueError: another part or format.
    """
    folder = part_folder(part, path)
    index = json.loads((folder / "index.json").read_text())
    if index.get("format") != FORMAT or index.get("part") != part:
        raise ValueError(
            f"{folder}/index.json: wanted part {part!r} in format {FORMAT}, got "
            f"{index.get('part')!r} in format {index.get('format')}"
        )
    return folder, index


def write(
    leaves: Leaves, part: str, folder: Path, dtype: Any, progress: Callable[[int], Any]
) -> None:
    """Writes a part into an existing folder, in `dtype` or its own; `progress` is told bytes."""
    dtypes = {path: np.dtype(dtype or own) for path, own in leaves.dtypes.items()}
    for path, shape in leaves.shapes.items():
        write_array(
            folder,
            path,
            shape,
            dtypes[path],
            layers=leaves.slices[path],
            read=functools.partial(leaves.read, path),
            progress=progress,
        )
    config = dataclasses.asdict(leaves.config)
    if dtype:
        config["dtype"] = np.dtype(dtype).name
    copy_tokenizer(leaves, folder / "tokenizer")
    index = {
        "format": FORMAT,
        "part": part,
        "config": config,
        "shapes": leaves.shapes,
        "dtypes": {path: dtypes[path].name for path in dtypes},
        "source": leaves.provenance(),
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def copy_tokenizer(leaves: Leaves, folder: Path) -> None:
    """Copies the part's tokenizer files, where it has any, to a new folder."""
    if leaves.tokenizer:
        folder.mkdir(parents=True)
        for file in leaves.tokenizer:
            shutil.copyfile(file, folder / file.name)


def save(
    part: str,
    config: Any,
    params: dict[str, Any],
    out: str | Path,
    *,
    source: dict[str, Any],
    tokenizer_files: Sequence[Path] = (),
    dtype: Any = None,
) -> None:
    """Writes parameters made here (trained, or from a seed) as release.py writes converted ones.

    Args:
      out: the weights' folder; `out/part` is replaced as a whole.
      source: where they come from, for the index.
      tokenizer_files: kept with umt5, e.g. a spiece.model.
      dtype: as stored; None keeps each leaf's own.

    Raises:
      ValueError: parameters that do not fit the config.
    """
    folder = Path(out) / part
    wanted = module.shapes(models.network(part, config), config)
    tree.check_same(wanted, params, wanted_from=f"{part}'s config", got_from="the parameters")
    flat = {name: np.asarray(leaf) for name, leaf in tree.flatten(params).items()}
    leaves = Leaves(
        config=config,
        shapes={name: leaf.shape for name, leaf in flat.items()},
        dtypes={name: leaf.dtype for name, leaf in flat.items()},
        slices={name: (None,) for name in flat},
        read=lambda name, _: flat[name],
        provenance=lambda: source,
        tokenizer=list(tokenizer_files),
    )
    with disk.whole(folder) as partial:
        partial.mkdir()
        write(leaves, part, partial, dtype, lambda *_: None)


def source(part: str, path: str | Path) -> tuple[Any, slices.Files]:
    """Opens a converted part, to be read in slices.

    Args:
      part: "dit", "vae" or "umt5".
      path: the converted folder, or the part's folder in it.

    Returns:
      The part's config as stored, and its leaves, whose paths begin with the part.

    Raises:
      FileNotFoundError: no converted weights there.
      ValueError: weights that do not fit their config.
    """
    folder, index = read_index(part, Path(path))
    config = build_config(part, index["config"])
    wanted = module.shapes(models.network(part, config), config)
    stored = {p: jax.ShapeDtypeStruct(tuple(s), jnp.float32) for p, s in index["shapes"].items()}
    tree.check_same(
        wanted, tree.unflatten(stored), wanted_from=f"{part}'s config", got_from=str(folder)
    )

    def leaf(name: str) -> slices.Leaf:
        array = functools.cache(lambda: open_array(folder, name))
        dtype = np.dtype(index["dtypes"][name])
        return slices.Leaf(stored[name].shape, dtype, lambda place: array()[place].read().result())

    return config, slices.Files(str(folder), {f"{part}/{name}": leaf(name) for name in stored})


def load(
    part: str, path: str | Path, shardings: Any = None, dtype: Any = None
) -> tuple[Any, dict[str, Any]]:
    """Loads a converted part.

    Args:
      part, path: as in `source`.
      shardings: tree of shardings with the structure of the parameters, or one for all; every
        device (and host) then reads its own slices only. None puts whole arrays on the default
        device.
      dtype: of the parameters and of the config's activations; None keeps what is stored.

    Returns:
      The part's config (its activations in the dtype of the weights) and its parameters.

    Raises:
      As `source`.
      ValueError: shardings of other parameters.
    """
    config, found = source(part, path)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
    placed = shardings if isinstance(shardings, jax.sharding.Sharding | None) else None
    names = dict.fromkeys(found.leaves, placed)
    if shardings is not placed:
        given = {f"{part}/{name}": sharding for name, sharding in tree.flatten(shardings).items()}
        if lacking := sorted(names.keys() ^ given.keys()):
            raise ValueError(f"shardings and {part}'s parameters differ in {tree.sample(lacking)}")
        names = given
    params = found.load(
        {
            name: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=names[name])
            for name, leaf in found.leaves.items()
        }
    )
    return config, tree.unflatten(params)[part]
