"""Files of tensors as torch.save writes them, without torch."""

import io
import math
import pickle
import struct
import sys
import zipfile

import numpy as np

from syncmv4d_jax.weights import torch_pickle


def dumps(tensors: dict[str, np.ndarray], *, name: str = "archive") -> bytes:
    """Writes a state dict as torch.save does (zip format), for files that torch.load reads.

    Args:
      tensors: {key: array} of the dtypes of torch_pickle.DTYPES.
    """
    storage_names = {dtype: storage for storage, dtype in reversed(torch_pickle.STORAGES.items())}
    dtypes = torch_pickle.DTYPES.items()
    names = {dtype: storage_names[key] for key, dtype in dtypes if key in storage_names}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{name}/data.pkl", _state_dict_pickle(tensors, names))
        archive.writestr(f"{name}/byteorder", sys.byteorder)
        for index, array in enumerate(tensors.values()):
            archive.writestr(f"{name}/data/{index}", np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{name}/version", "3\n")
    return out.getvalue()


def _state_dict_pickle(tensors: dict[str, np.ndarray], names: dict[np.dtype, str]) -> bytes:
    """The pickle of {key: tensor}, opcode by opcode (protocol 2)."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw

    def integer(value: int) -> bytes:
        return pickle.dumps(int(value), 2)[2:-1]

    def integers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(integer, values)) + b"t"

    parts = [b"\x80\x02}("]
    for index, (key, array) in enumerate(tensors.items()):
        strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        storage = names[array.dtype]
        parts += [
            text(key), b"ctorch._utils\n_rebuild_tensor_v2\n((", text("storage"),
            b"ctorch\n", storage.encode(), b"\n", text(str(index)), text("cpu"),
            integer(array.size), b"tQ", integer(0), integers(array.shape), integers(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    return b"".join([*parts, b"u."])
