"""Converted weights on disk: save a part, load it onto any sharding; release.py converts.

A converted folder holds one folder per part:

    dit/index.json            format, config, dtype, {path: shape}, files it was made of with sha256
    dit/arrays/blocks.ffn...  one zarr3 array per parameter, chunked by layer, not compressed
    umt5/tokenizer/           the tokenizer files of the release

Arrays are written layer by layer as they are read, so that memory stays at one tensor of the
source; the index is written last and the folder gets its name when all is done.
"""

import concurrent.futures
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import models, tokenizer, tree
from syncmv4d_jax.conversion import store
from syncmv4d_jax.nn import module

FORMAT = 1
READERS = 4


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
    cls = models.CONFIGS[part]
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(sizes.keys() - known):
        raise ValueError(f"{part}: the config has unknown fields {unknown}")
    as_tuple = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    return cls(**as_tuple)


def _part_folder(part: str, path: Path) -> Path:
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
    folder = _part_folder(part, path)
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
        store.write_array(
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
    wanted = module.shapes(models.MODELS[part], config)
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
    partial = folder.with_name(f".{part}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(leaves, part, partial, dtype, lambda *_: None)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load(
    part: str, path: str | Path, shardings: Any = None, dtype: Any = None
) -> tuple[Any, dict[str, Any]]:
    """Loads a converted part.

    Args:
      part: "dit", "vae" or "umt5".
      path: the converted folder, or the part's folder in it.
      shardings: tree of shardings with the structure of the parameters, or one for all; every
        device (and host) then reads its own slices only. None puts whole arrays on the default
        device.
      dtype: of the parameters and of the config's activations; None keeps what is stored.

    Returns:
      The part's config (its activations in the dtype of the weights) and its parameters.

    Raises:
      FileNotFoundError: no converted weights there.
      ValueError: weights that do not fit their config.
    """
    folder, index = read_index(part, Path(path))
    config = build_config(part, index["config"])
    if dtype is not None:
        config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
    wanted = module.shapes(models.MODELS[part], config)
    stored = {p: jax.ShapeDtypeStruct(tuple(s), jnp.float32) for p, s in index["shapes"].items()}
    tree.check_same(
        wanted, tree.unflatten(stored), wanted_from=f"{part}'s config", got_from=str(folder)
    )
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = tree.map_named(lambda *_: shardings, wanted)
    placed = tree.flatten(shardings) if shardings is not None else {}
    if placed and placed.keys() != stored.keys():
        lacking = sorted(stored.keys() ^ placed.keys())
        raise ValueError(f"shardings and {part}'s parameters differ in {tree.sample(lacking)}")

    def read(name: str) -> jax.Array:
        array = store.open_array(folder, name)
        target = np.dtype(dtype or index["dtypes"][name])

        def fetch(place: Any) -> np.ndarray:
            return array[place].read().result().astype(target, copy=False)

        if name in placed:
            return jax.make_array_from_callback(tuple(array.shape), placed[name], fetch)
        return jnp.asarray(fetch(...))

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        return config, tree.unflatten(dict(zip(stored, pool.map(read, stored), strict=True)))


def load_tokenizer(path: str | Path, *, max_length: int = tokenizer.MAX_LENGTH):
    """Returns the tokenizer of a converted folder.

    Raises:
      FileNotFoundError: the release had no spiece.model.
    """
    folder = _part_folder("umt5", Path(path)) / "tokenizer"
    model = folder / "spiece.model"
    if not model.exists():
        raise FileNotFoundError(f"{folder}: wanted spiece.model (google/umt5-xxl in the release)")
    return tokenizer.Tokenizer(model.read_bytes(), max_length=max_length)


class TextEncoder:
    """Prompts to features: the tokenizer and the encoder of a converted folder."""

    def __init__(
        self,
        path: str | Path,
        tokenizer_path: str | Path | None = None,
        *,
        max_length: int = tokenizer.MAX_LENGTH,
    ):
        """Loads both.

        Args:
          path: converted folder with umt5.
          tokenizer_path: a spiece.model; None takes the one of the converted folder.
          max_length: rows of the features.
        """
        if tokenizer_path:
            model = Path(tokenizer_path).read_bytes()
            self._tokenizer = tokenizer.Tokenizer(model, max_length=max_length)
        else:
            self._tokenizer = load_tokenizer(path, max_length=max_length)
        self._config, self._params = load("umt5", path)
        if self._tokenizer.vocab > self._config.vocab:
            raise ValueError(
                f"{path}: the tokenizer has {self._tokenizer.vocab} pieces, the encoder's table "
                f"{self._config.vocab} rows"
            )

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes b prompts.

        Returns:
          features [b l d] float32, zero beyond the text, and lengths [b] int32.

        Raises:
          ValueError: a prompt of more than max_length tokens.
        """
        ids, mask = self._tokenizer.encode_batch(texts)
        features = models.apply("umt5", self._config, self._params, ids=ids, mask=mask)
        return np.asarray(features, np.float32), mask.sum(axis=1, dtype=np.int32)
