"""Tensor files, read one tensor at a time: safetensors (single or in shards) and torch's .pth.

A safetensors file is an eight-byte header length, a JSON header {key: {dtype, shape, data_offsets}}
and the raw tensors. We read and write it with our own few lines because bfloat16 has no numpy type
in the safetensors package, and because sizes can be checked before anything is read.
"""

import contextlib
import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from syncmv4d_jax import disk
from syncmv4d_jax.weights import slices, stated, torch_pickle

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
GGUF = (
    "a GGUF file: its weights are quantised; take the safetensors of the release instead "
    "(huggingface-cli download Wan-AI/Wan2.2-TI2V-5B)"
)
# First bytes of files that stand where tensors are wanted.
OTHERS = {
    b"GGUF": GGUF,
    b"version https://git-lfs": "a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"<!doctype": "a web page, not the file; download it again",
    b"<html": "a web page, not the file; download it again",
}
VARIANTS = ("fp32", "bf16", "fp16")  # of diffusers' files: <stem>.fp16.safetensors


class Entry(NamedTuple):
    """A tensor of a file that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Tensors(NamedTuple):
    """The tensors of a checkpoint and the files they lie in."""

    entries: dict[str, Entry]
    files: list[Path]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{key: shape}."""
        return {key: entry.shape for key, entry in self.entries.items()}


def _read_at(path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(start)
        data = np.fromfile(file, dtype, math.prod(shape))
    return data.reshape(shape)


def refuse_others(path: Path) -> None:
    """Says by a file's first bytes that it is no file of tensors, and what to do.

    Raises:
      ValueError: it is one of OTHERS.
    """
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    for mark, what in OTHERS.items():
        if start[: len(mark)].lower() == mark.lower():
            raise ValueError(f"{path}: {what}")


def _start(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and what stands before them."""
    refuse_others(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise ValueError(f"{path}: truncated, or not a safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length), object_pairs_hook=stated.once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not a safetensors file: no {{key: tensor}} in its header")
    return 8 + length, header


def metadata(path: Path) -> dict[str, str]:
    """Returns what a safetensors file says beside its tensors."""
    found = _start(path)[1].get("__metadata__") or {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: __metadata__ is no {{name: text}}: {found!r:.60}")
    return found


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype, int]]:
    """Returns {key: (shape, dtype, its place in the file)}, checked against the file's size.

    Tensors follow each other without a gap, as the format has it.
    """
    size, (first, header) = path.stat().st_size, _start(path)
    header.pop("__metadata__", None)
    found, at = {}, 0
    places = {key: _place(path, key, entry) for key, entry in header.items()}
    for key, (shape, dtype, begin, end) in sorted(places.items(), key=lambda x: x[1][2:]):
        if begin != at:
            raise ValueError(f"{path}: {key} begins at {begin}, the tensor before it ends at {at}")
        found[key], at = (shape, dtype, first + begin), end
    if first + at != size:
        raise ValueError(f"{path}: truncated: its header wants {first + at} bytes, it has {size}")
    return {key: found[key] for key in header}


def _place(path: Path, key: str, entry: Any) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, type, begin and end of a tensor, as its entry in a header says."""
    try:
        name, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a safetensors file: {key} has no {error}") from error
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"{path}: {key} has the type {name}, wanted one of {', '.join(DTYPES)}")
    if not whole or end - begin != math.prod(shape) * DTYPES[name].itemsize:
        raise ValueError(f"{path}: {key} {shape} {name} does not fill {begin!r}..{end!r} bytes")
    return shape, DTYPES[name], begin, end


def _safetensors(path: Path) -> dict[str, Entry]:
    def entry(key: str, shape: tuple[int, ...], dtype: np.dtype, at: int) -> Entry:
        where = f"{path}: {key}"
        return Entry(shape, dtype, lambda: finite(_read_at(path, at, shape, dtype), where))

    return {key: entry(key, *found) for key, found in _header(path).items()}


def finite(array: np.ndarray, where: str) -> np.ndarray:
    """Returns an array of weights; of any type.

    Raises:
      ValueError: values that are not finite, counted.
    """
    if array.dtype.kind not in "iub" and (bad := int((~np.isfinite(array)).sum())):
        raise ValueError(f"{where} {array.shape}: {bad} values are not finite; fetch it again")
    return array


def leaves(path: Path) -> dict[str, slices.Leaf]:
    """Opens one file, to be read in slices.

    Raises:
      ValueError: not a safetensors file, or a truncated one.
    """

    def leaf(key: str, shape: tuple[int, ...], dtype: np.dtype, at: int) -> slices.Leaf:
        def read(index: slices.Index) -> np.ndarray:
            if not math.prod(shape):
                return np.empty(shape, dtype)[index]
            return finite(np.array(np.memmap(path, dtype, "r", at, shape)[index]), f"{path}: {key}")

        return slices.Leaf(shape, dtype, read)

    return {key: leaf(key, *found) for key, found in _header(path).items()}


def open_safetensors(paths: list[Path]) -> Tensors:
    """Opens files whose keys together make a checkpoint.

    Raises:
      ValueError: a truncated file, or a key that is in two files.
    """
    entries: dict[str, Entry] = {}
    for path in paths:
        found = _safetensors(path)
        if both := sorted(found.keys() & entries.keys()):
            raise ValueError(f"{path}: {both[0]} and {len(both) - 1} more are in another shard too")
        entries |= found
    return Tensors(entries, list(paths))


def open_sharded(folder: Path, stem: str) -> Tensors:
    """Opens `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` names.

    Where there is neither, the files of the one of VARIANTS that is there.

    Raises:
      FileNotFoundError: neither is there, or a shard that the index names is missing.
      ValueError: a truncated shard, shards that do not hold what the index says, or several
        variants.
    """
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if not index.exists() and not single.exists():
        variants = [
            (folder / f"{stem}.safetensors.index.{v}.json", folder / f"{stem}.{v}.safetensors")
            for v in VARIANTS
        ]
        found = [pair for pair in variants if pair[0].exists() or pair[1].exists()]
        if len(found) > 1:
            names = [path.name for pair in found for path in pair if path.exists()]
            raise ValueError(f"{folder}: wanted one variant of {stem}, found {names}")
        if not found:
            there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
            raise FileNotFoundError(
                f"{folder}: wanted {single.name} or {index.name}, found neither but {there[:8]}"
            )
        index, single = found[0]
    if not index.exists():
        return open_safetensors([single])
    places = stated.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not set(map(type, places.values())) <= {str}:
        raise ValueError(f"{index}: wanted weight_map: {{key: shard}}, got {places!r:.60}")
    shards = sorted(set(places.values()))
    if strange := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{index}: shards are beside it, got {strange[0]!r}")
    if missing := [name for name in shards if not (folder / name).exists()]:
        raise FileNotFoundError(f"{index} names shards that are missing: {', '.join(missing)}")
    tensors = open_safetensors([folder / name for name in shards])
    if absent := sorted(places.keys() - tensors.entries.keys()):
        raise ValueError(f"{index}: its shards lack {len(absent)} keys, e.g. {absent[:3]}")
    return tensors


def open_pth(path: Path) -> Tensors:
    """Opens a state dict that torch.save wrote; its tensors stay in the file until they are read.

    Raises:
      ValueError: truncated, not a state dict, or one that asks for more than tensors.
    """
    refuse_others(path)
    file = path.open("rb")
    try:
        state = torch_pickle.lazy(file)
    except (ValueError, torch_pickle.Refused) as error:
        file.close()
        raise ValueError(f"{path}: {error}") from error
    inner = [v for v in state.values() if _is_state(v)] if isinstance(state, dict) else []
    if not _is_state(state) and len(inner) == 1:  # {"state_dict": ...}, {"model": ..., "step": 3}
        state = inner[0]
    if not _is_state(state):
        file.close()
        got = f"a dict of {list(state)[:8]}" if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path}: wanted a state dict {{key: tensor}}, got {got}")
    if strange := [key for key in state if not isinstance(key, str)]:
        file.close()
        raise ValueError(f"{path}: names of tensors are texts, got {strange[0]!r}")

    def entry(key: str, tensor: torch_pickle.Tensor) -> Entry:
        def read() -> np.ndarray:
            try:
                found = tensor.read()
            except (ValueError, OverflowError, MemoryError) as error:
                raise ValueError(f"{path}: {key}: {error}") from error
            return finite(found, f"{path}: {key}")

        return Entry(tensor.shape, tensor.dtype, read)

    return Tensors({key: entry(key, tensor) for key, tensor in state.items()}, [path])


def _is_state(node: Any) -> bool:
    tensors = isinstance(node, dict) and all(
        isinstance(value, torch_pickle.Tensor) for value in node.values()
    )
    return tensors and bool(node)


def open_any(path: Path) -> Tensors:
    """Opens a file by its suffix: safetensors, or what torch wrote; raises as both."""
    refuse_others(path)
    if path.suffix.lower() in (".pth", ".pt", ".bin", ".ckpt"):
        return open_pth(path)
    return open_safetensors([path])


def sha256(path: Path) -> str:
    """Returns the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sharded(
    folder: Path,
    stem: str,
    tensors: dict[str, Entry],
    *,
    shard_bytes: int,
    progress: Callable[[int], Any],
) -> None:
    """Writes safetensors shards and their index (or one file), reading one tensor at a time.

    Args:
      folder, stem: as in `open_sharded`.
      tensors: {key: entry}, written in this order.
      shard_bytes: largest size of a shard, if it holds more than one tensor.
      progress: called with the bytes of every tensor written.
    """
    shards: list[dict[str, Entry]] = [{}]
    filled = 0
    for key, entry in tensors.items():
        size = _size(entry)
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = entry
        filled += size
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}.safetensors"
        if len(shards) > 1:
            name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, progress=progress)
        weight_map |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(_size(entry) for entry in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_safetensors(
    path: Path, tensors: dict[str, Entry], *, progress: Callable[[int], Any] = lambda n: None
) -> None:
    """Writes one file; arguments as in `write_sharded`."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for key, (begin, entry) in zip(tensors, _offsets(tensors), strict=True):
        header[key] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, begin + _size(entry)],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with contextlib.closing(path.open("wb")) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in tensors.values():
            file.write(np.ascontiguousarray(entry.read()).view(np.uint8).data)
            progress(_size(entry))


def save(path: str | Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes arrays as one safetensors file, whole or not at all.

    Raises:
      OSError: the disk does not take it.
    """
    try:
        with disk.whole(path) as partial:
            safetensors_numpy.save_file(arrays, partial, metadata=metadata)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def entry_of(array: np.ndarray) -> Entry:
    """Wraps an array in memory."""
    return Entry(array.shape, array.dtype, lambda: array)


def _size(entry: Entry) -> int:
    return math.prod(entry.shape) * entry.dtype.itemsize


def _offsets(tensors: dict[str, Entry]) -> Iterator[tuple[int, Entry]]:
    at = 0
    for entry in tensors.values():
        yield at, entry
        at += _size(entry)
