"""Torch files without torch: containers, refused globals, damage; live against torch.save."""

import contextlib
import io
import os
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest

from syncmv4d_jax.weights import torch_pickle, torch_writer

RNG = np.random.default_rng(0)
STATE = {
    "a.weight": RNG.standard_normal((3, 4)).astype(np.float32),
    "a.bias": RNG.standard_normal(3).astype(ml_dtypes.bfloat16),
    "empty": np.zeros((0, 2), np.float32),
    "steps": np.array(7, np.int64),
}


def same(wanted, got):
    assert wanted.keys() == got.keys()
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype and got[key].shape == value.shape, key
        np.testing.assert_array_equal(got[key], value)


def test_zip():
    same(STATE, torch_pickle.load(torch_writer.dumps(STATE)))
    opened = torch_pickle.lazy(io.BytesIO(torch_writer.dumps(STATE)))
    assert isinstance(opened["a.bias"], torch_pickle.Tensor)
    assert opened["a.bias"].shape == (3,) and opened["a.bias"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(opened["a.weight"].read(), STATE["a.weight"])


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


class Sneaky:
    def __reduce__(self):
        return eval, ("1",)


@pytest.mark.parametrize("payload", [Evil(), Sneaky(), {"x": [Evil()]}, io.BytesIO])
def test_refuses(payload):
    with pytest.raises(torch_pickle.Refused, match="refused the global"):
        torch_pickle.load(pickle.dumps(payload))


def test_refuses_other_encodings():
    raw = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(torch_pickle.Refused, match="latin1"):
        torch_pickle.load(raw)


def test_damage():
    raw = torch_writer.dumps(STATE)
    for cut in (1, 3, len(raw) // 2, len(raw) - 5):
        with pytest.raises(ValueError, match="truncated|archive"):
            torch_pickle.load(raw[:cut])
    with pytest.raises(ValueError, match="truncated"):
        torch_pickle.load(b"")


def test_view_beyond_its_storage():
    storage = torch_pickle.Storage(np.dtype(np.float32), 4, lambda: b"\0" * 16)
    with pytest.raises(ValueError, match="leaves its storage"):
        torch_pickle.Tensor(storage, 1, (2, 2), (2, 1), storage.dtype).read()
    with pytest.raises(ValueError, match="leaves its storage"):
        torch_pickle.Tensor(storage, 3, (2,), (-1,), storage.dtype).read()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickle_of_arrays(protocol):
    arrays = {
        "c": np.arange(6).reshape(2, 3),
        "f": np.asfortranarray(RNG.standard_normal((3, 2)).astype(np.float32)),
        "big": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
    }
    value = {"a": arrays, "b": [1, "x", (2.5, None)], "c": np.float32(3)}
    got = torch_pickle.load(pickle.dumps(value, protocol))
    for key, array in arrays.items():
        np.testing.assert_array_equal(got["a"][key], array)
    assert got["b"] == value["b"] and got["c"] == 3
    with pytest.raises(torch_pickle.Refused, match="plain numbers"):
        torch_pickle.load(pickle.dumps(np.array([{}], object), protocol))


def test_npy_of_one_object():
    """What numpy.save writes of a dictionary; of arrays of objects, or code, nothing."""
    value = {"left": {"rot": np.ones((2, 3)), "name": "x"}, "n": np.float32(2)}
    got = torch_pickle.npy(saved(value))
    np.testing.assert_array_equal(got["left"]["rot"], np.ones((2, 3)))
    assert got["left"]["name"] == "x" and got["n"] == 2
    np.testing.assert_array_equal(torch_pickle.npy(saved(np.arange(3))), np.arange(3))
    with pytest.raises(ValueError, match="wanted one object"):
        torch_pickle.npy(saved(np.array([{}, {}], object)))
    with pytest.raises(torch_pickle.Refused, match="refused the global"):
        torch_pickle.npy(saved(print))
    with pytest.raises(ValueError, match="truncated"):
        torch_pickle.npy(saved(value)[:-30])


def saved(value):
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def test_any_damage_is_an_error():
    bases = [torch_writer.dumps(STATE), pickle.dumps({"a": np.arange(3), "b": np.ones(2)}, 4)]
    for trial in range(600):
        raw = bytearray(bases[trial % 2])
        raw[RNG.integers(len(raw))] = RNG.integers(256)
        # Anything else fails the test; a value that changes unnoticed is possible.
        with contextlib.suppress(ValueError, torch_pickle.Refused, MemoryError):
            torch_pickle.load(bytes(raw))


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save(zipped):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    state = {
        "whole": base.reshape(4, 6), "view": base.reshape(4, 6)[1:3, ::2], "t": base.view(4, 6).T,
        "half": base.half(), "bf16": base.bfloat16(), "flag": base > 3, "long": base.long(),
        "parameter": torch.nn.Parameter(base), "scalar": torch.tensor(2.5),
    }  # fmt: skip
    out = io.BytesIO()
    torch.save(state, out, _use_new_zipfile_serialization=zipped)
    got = torch_pickle.load(out.getvalue())
    for key, value in state.items():
        np.testing.assert_array_equal(got[key].astype(np.float32), value.detach().float().numpy())
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    out = io.BytesIO()
    torch.save(module.state_dict(), out, _use_new_zipfile_serialization=zipped)
    same({k: v.numpy() for k, v in module.state_dict().items()}, torch_pickle.load(out.getvalue()))


@pytest.mark.parity
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_dict_of_tensors(protocol):
    torch = pytest.importorskip("torch")
    poses = {
        f"{i:05d}": {"hand_pose": torch.randn(48), "hand_trans": torch.randn(3, requires_grad=True)}
        for i in (1, 2)
    }
    raw = pickle.dumps(poses, protocol)
    got = torch_pickle.load(raw)
    for frame, tensors in poses.items():
        for name, value in tensors.items():
            np.testing.assert_array_equal(got[frame][name], value.detach().numpy())


@pytest.mark.parity
def test_tensor_of_a_gpu():
    torch = pytest.importorskip("torch")
    storage, value = io.BytesIO(), torch.randn(5)
    torch.save(value, storage, _use_new_zipfile_serialization=False)
    # A tensor saved on a GPU differs by the location tag of its storage.
    tags = [b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"]
    assert tags[0] in storage.getvalue()
    got = torch_pickle.load(storage.getvalue().replace(*tags))
    np.testing.assert_array_equal(got, value.numpy())


@pytest.mark.parity
def test_torch_reads_what_we_write():
    torch = pytest.importorskip("torch")
    state = torch.load(io.BytesIO(torch_writer.dumps(STATE)), weights_only=True)
    for key, value in STATE.items():
        assert tuple(state[key].shape) == value.shape
        np.testing.assert_array_equal(state[key].float().numpy(), value.astype(np.float32))


@pytest.mark.parametrize(
    "raw",
    [
        b"}r\xf0\xff\xff\x7f.",  # a place in the memo for which an unpickler makes gigabytes
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",  # bytes beyond the file
        b"(" * 100_000 + b"t" * 100_000 + b".",  # deeper than python's stack
    ],
)
def test_what_would_take_all_memory_or_stack_is_refused(raw):
    with pytest.raises((ValueError, torch_pickle.Refused), match="refused the number|truncated"):
        torch_pickle.load(b"\x80\x02" + raw)


def test_a_value_numbered_beyond_the_file_is_refused():
    with pytest.raises(torch_pickle.Refused, match="the number 65536 of a value in a pickle of 9"):
        torch_pickle.load(b"\x80\x02}r\0\0\1\0.")
