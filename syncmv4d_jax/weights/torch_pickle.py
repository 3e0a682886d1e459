"""Reads tensors that torch wrote, without torch, and without running what a pickle asks for.

Three containers are understood, told apart by their first bytes:

- the zip format of torch.save (since 1.6): a pickle beside one raw file per storage;
- the legacy format: magic number, protocol, system information, pickle, then the raw storages;
- a plain pickle of Python containers that hold tensors, whose storages are nested legacy files.

A global outside of the allow list raises before anything is called. Tensors of any device are read
as numpy arrays; bfloat16 and float8 come as ml_dtypes types. `lazy` leaves the tensors of a zip in
the file until each is read.
"""

import collections
import contextlib
import dataclasses
import io
import pickle
import pickletools
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int16": np.dtype(np.int16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
}
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}  # fmt: skip


class Refused(pickle.UnpicklingError):
    """The pickle asks for a global that is not on the allow list."""


@contextlib.contextmanager
def _damage_is_value_error():
    """Damaged bytes make pickle and zipfile raise nearly anything; it comes out as ValueError."""
    try:
        yield
    except (Refused, ValueError):
        raise
    except Exception as error:
        said = str(error) or type(error).__name__  # MemoryError says nothing
        raise ValueError(f"truncated, or not a file of torch tensors: {said}") from error


@dataclasses.dataclass
class Storage:
    """A flat run of elements; `read` fetches its bytes."""

    dtype: np.dtype
    size: int
    read: Callable[[], bytes]

    def array(self) -> np.ndarray:
        """Returns the elements [size] of `dtype`."""
        with _damage_is_value_error():
            raw = self.read()
        if len(raw) < self.size * self.dtype.itemsize:
            raise ValueError(
                f"storage of {self.size} {self.dtype}: wanted {self.size * self.dtype.itemsize} "
                f"bytes, got {len(raw)} (truncated file)"
            )
        return np.frombuffer(raw, self.dtype, self.size)


@dataclasses.dataclass
class Tensor:
    """A strided view of a storage that is read on demand."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """Returns the tensor as a contiguous array."""
        flat = self.storage.array()
        if flat.dtype != self.dtype:
            flat = flat.view(self.dtype)
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= flat.size:
            raise ValueError(
                f"tensor {self.shape} with strides {self.strides} at {self.offset} leaves its "
                f"storage of {flat.size} elements"
            )
        strides = [step * flat.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return np.array(view, order="C")


def _tensor(storage: Storage, offset, size, stride, *_, dtype: np.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError(f"a tensor wants a storage, got {type(storage).__name__}")
    dtype = storage.dtype if dtype is None else dtype
    return Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)), dtype)


def _tensor_of_dtype(storage, offset, size, stride, grad, hooks, dtype, *_) -> Tensor:
    return _tensor(storage, offset, size, stride, dtype=dtype)


def _parameter(data: Any, *_) -> Any:
    return data


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Refused(f"refused _codecs.encode to {encoding!r}, wanted 'latin1'")
    return text.encode("latin1")


def _nested_storage(raw: bytes) -> Storage:
    return _legacy(io.BytesIO(raw))


class _NumpyType:
    """Stands for numpy.dtype; plain numbers only."""

    def __init__(self, code: str, *_):
        if not re.fullmatch(r"[fiu][1248]|b1", str(code)):
            raise Refused(f"refused an array of type {code!r}, wanted plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class NumpyArray:
    """Stands for a pickled numpy array, rebuilt here since numpy trusts what a pickle tells it."""

    def __init__(self, *_):
        self._parts: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self._parts = shape, dtype, "F" if fortran else "C", raw

    def read(self) -> np.ndarray:
        """Returns the array."""
        if self._parts is None:
            raise ValueError("a pickled array has no content")
        shape, dtype, order, raw = self._parts
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, dtype.dtype).astype(dtype.dtype.newbyteorder("="))
        return flat.reshape(shape, order=order)


def _numpy_buffer(raw: bytes, dtype: _NumpyType, shape: tuple, order: str) -> NumpyArray:
    array = NumpyArray()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _numpy_scalar(dtype: _NumpyType, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.dtype, 1)[0]


def _numpy_globals() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): NumpyArray,
        ("numpy", "dtype"): _NumpyType,
    }
    for package in ("numpy.core", "numpy._core"):
        found[f"{package}.multiarray", "_reconstruct"] = NumpyArray
        found[f"{package}.multiarray", "scalar"] = _numpy_scalar
        found[f"{package}.numeric", "_frombuffer"] = _numpy_buffer
    return found


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_dtype,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _nested_storage,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): _latin1,
    **_numpy_globals(),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{("torch", name): DTYPES[dtype] for name, dtype in STORAGES.items()},
    **{("torch.cuda", name): DTYPES[dtype] for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): DTYPES["uint8"],
}


def check_memo(file: BinaryIO) -> None:
    """Reads over the pickle at the position of `file`; an unpickler makes room for its numbers.

    Raises:
      Refused: it numbers a value beyond the bytes there are.
    """
    begin = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(begin)
    with contextlib.suppress(ValueError):  # damage; what it is says whoever reads
        for code, value, _ in pickletools.genops(file):
            if code.name in ("PUT", "LONG_BINPUT") and int(value or 0) > size:
                raise Refused(f"refused the number {value} of a value in a pickle of {size} bytes")
    file.seek(begin)


class _Unpickler(pickle.Unpickler):
    """Resolves allowed globals and, through `storage_of`, the storages of the container."""

    def __init__(self, file: BinaryIO, storage_of: Callable[[tuple], Any] | None = None):
        check_memo(file)
        super().__init__(file)
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            said = f"{module}.{name}"[:80]
            raise Refused(f"refused the global {said}: a file of tensors has no use for it")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._storage_of is None or not isinstance(pid, tuple) or pid[:1] != ("storage",):
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        return self._storage_of(pid)


def _zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = set(archive.namelist())
    pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"not a torch archive: {len(pickles)} data.pkl inside, wanted one")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise ValueError("torch archive of the other byte order")
    storages: dict[str, Storage] = {}

    def storage_of(pid: tuple) -> Storage:
        _, dtype, key, _, size = pid
        if key not in storages:
            storages[key] = Storage(dtype, size, lambda: archive.read(f"{root}data/{key}"))
        return storages[key]

    return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage_of).load()


def _legacy(file: BinaryIO) -> Any:
    """The legacy container at the position of `file`; the storages are read at once."""
    if (magic := _Unpickler(file).load()) != MAGIC:
        raise ValueError(f"not a legacy torch file: magic number {magic!r}")
    if (protocol := _Unpickler(file).load()) != PROTOCOL:
        raise ValueError(f"legacy torch file: wanted protocol {PROTOCOL}, got {protocol!r}")
    if not _Unpickler(file).load().get("little_endian", True):
        raise ValueError("legacy torch file of the other byte order")
    storages: dict[str, Storage] = {}
    raw: dict[str, bytes] = {}

    def storage_of(pid: tuple) -> Storage:
        _, dtype, key, _, size, view = pid
        if view is not None:
            raise ValueError("legacy torch file with storage views: not supported")
        return storages.setdefault(key, Storage(dtype, size, lambda: raw[key]))

    result = _Unpickler(file, storage_of).load()
    for key in _Unpickler(file).load():
        storage, header = storages[key], file.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.size:
            raise ValueError(f"legacy torch file: storage {key} is truncated or has another size")
        raw[key] = file.read(storage.size * storage.dtype.itemsize)
    return result


def _is_tensor_file(start: bytes) -> bool:
    """Whether a pickle begins with the legacy magic number (its ten bytes, in any protocol)."""
    return MAGIC.to_bytes(10, "little") in start


def lazy(file: bytes | BinaryIO) -> Any:
    """Reads a file with `Tensor` in place of every tensor.

    Args:
      file: the bytes, or a seekable binary file that stays open while tensors are read.

    Returns:
      The pickled containers (dicts, lists, numbers, strings) holding `Tensor`s and `NumpyArray`s.

    Raises:
      Refused: the pickle asks for a global outside of the allow list.
      ValueError: truncated, of another format or byte order.
    """
    file = io.BytesIO(file) if isinstance(file, (bytes, bytearray, memoryview)) else file
    file.seek(0)
    start = file.read(64)
    file.seek(0)
    with _damage_is_value_error():
        if start[:2] == b"PK":
            return _zip(file)
        return _legacy(file) if _is_tensor_file(start) else _Unpickler(file).load()


class _AnyType(_NumpyType):
    """numpy.dtype of plain numbers, or of objects, which are what the pickle holds."""

    def __init__(self, code: str, *rest):
        if re.fullmatch(r"O[48]?", str(code)):
            self.dtype = np.dtype(object)
        else:
            super().__init__(code, *rest)

    def __setstate__(self, state: tuple) -> None:
        if self.dtype != object:
            super().__setstate__(state)


class _AnyArray(NumpyArray):
    """An array of plain numbers, or a single object in one of none dimensions."""

    def read(self) -> Any:
        """Returns the array, or the object."""
        if self._parts is None or self._parts[1].dtype != object:
            return super().read()
        shape, _, _, content = self._parts
        if shape != () or not isinstance(content, list) or len(content) != 1:
            raise ValueError(f"wanted one object, got an array of objects {shape}")
        return read_all(content[0])


class _ObjectUnpickler(_Unpickler):
    """Of what numpy.save pickles."""

    def find_class(self, module: str, name: str) -> Any:
        own = {"_reconstruct": _AnyArray, "ndarray": _AnyArray, "dtype": _AnyType}
        found = super().find_class(module, name)
        return own[name] if module.split(".")[0] == "numpy" and name in own else found


def npy(content: bytes) -> Any:
    """Reads a .npy file: an array of plain numbers, or the one object that numpy.save pickled.

    Raises:
      Refused, ValueError: as `lazy`.
    """
    file = io.BytesIO(content)
    with _damage_is_value_error():
        form = np.lib.format
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
        version = form.read_magic(file)
        if version not in read:
            raise ValueError(f"a .npy file of version {version}")
        _, _, dtype = read[version](file)
        if not dtype.hasobject:
            return np.load(io.BytesIO(content), allow_pickle=False)
        return read_all(_ObjectUnpickler(io.BytesIO(content[file.tell() :])).load())


def load(file: bytes | BinaryIO) -> Any:
    """Reads a file with numpy arrays in place of tensors; arguments and errors as `lazy`."""
    with _damage_is_value_error():
        return read_all(lazy(file))


def read_all(node: Any) -> Any:
    """Replaces every `Tensor` inside dicts, lists and tuples by its array."""
    if isinstance(node, (Tensor, NumpyArray)):
        with _damage_is_value_error():
            return node.read()
    if isinstance(node, Storage):
        return node.array()
    if isinstance(node, dict):
        return {key: read_all(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(read_all(value) for value in node)
    return node
