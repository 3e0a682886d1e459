"""Writes recordings as TACO writes them: what `taco` reads, and what TACO's own toolkit would.

Hand poses are pickles of torch tensors, made here without torch: each tensor is a call of
torch._utils._rebuild_tensor_v2 on a storage that is a small file of torch's legacy format. Every
file is written under another name and renamed; the folder of the hand poses comes last, so that a
sequence that `taco.index` lists is whole.
"""

import json
import pickle
import struct
from pathlib import Path

import av
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import mp4, rigs
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.weights import torch_pickle

EGOCENTRIC_VIDEOS, EGOCENTRIC_CAMERAS = "Egocentric_RGB_Videos", "Egocentric_Camera_Parameters"


def write_video(path: Path, frames: np.ndarray, *, fps: float = taco.FPS, qp: int = 12) -> None:
    """Writes frames [n h w 3] uint8 as H.264 with a key frame every half second.

    The quantiser is constant: a rate control that looks ahead would let a first frame depend on
    those that follow.

    Raises:
      ValueError: odd height or width (4:2:0 needs even ones).
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"{path}: wanted an even height and width, got {height} x {width}")
    with disk.whole(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.options = {"qp": str(qp), "preset": "veryfast", "g": "15", **mp4.X264}
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_calibration(path: Path, cameras: dict[str, rigs.Camera]) -> None:
    """Writes calibration.json; also the form of cameras.json."""
    raw = {
        name: {
            "K": camera.intrinsics.ravel().tolist(),
            "R": camera.extrinsics[:, :3].ravel().tolist(),
            "T": camera.extrinsics[:, 3].tolist(),
            "distCoeff": [0.0] * 5,
            "imgSize": [camera.size[1], camera.size[0]],
            "rectifyAlpha": 0.0,
        }
        for name, camera in cameras.items()
    }
    write(path, json.dumps(raw, indent=1).encode())


def write_egocentric(
    entry: taco.Entry, frames: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray
) -> None:
    """Writes the head camera: frames [n h w 3], intrinsics [3 3], extrinsics [n 3 4]."""
    folder = entry.folder(EGOCENTRIC_CAMERAS)
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "egocentric_intrinsic.txt", intrinsics)
    pose = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    pose[:, :3] = extrinsics
    np.save(folder / "egocentric_frame_extrinsic.npy", pose)
    write_video(entry.folder(EGOCENTRIC_VIDEOS) / "color.mp4", frames)


def write_path(
    entry: taco.Entry,
    name: str,
    frames: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
) -> None:
    """Writes a camera that moves: frames [n h w 3], intrinsics [3 3], extrinsics [n 3 4]."""
    entries = [
        {"K": intrinsics.ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
         "T": pose[:, 3].tolist()}
        for pose in extrinsics
    ]  # fmt: skip
    content = {"size": list(frames.shape[1:3]), "fps": taco.FPS, "frames": entries}
    write_video(entry.folder(taco.PATHS) / f"{name}.mp4", frames)
    write(entry.folder(taco.PATHS) / f"{name}.json", json.dumps(content).encode())


def write_object(
    entry: taco.Entry,
    role: str,
    identifier: str,
    *,
    poses: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
) -> None:
    """Writes the poses [n 4 4] of the tool or target, and its mesh (metres; stored in cm) once."""
    folder = entry.folder(taco.POSES)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{role}_{identifier}.npy", poses.astype(np.float32))
    path = entry.root / taco.MODELS[0] / f"{identifier}_cm.obj"
    if not path.is_file():
        lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in vertices * 100]
        lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
        write(path, ("\n".join(lines) + "\n").encode())


def write_hands(entry: taco.Entry, hands: dict[str, tuple]) -> None:
    """Writes {"left" | "right": (pose [n 48], translation [n 3], betas [10])}; call it last."""
    with disk.whole(entry.folder(taco.HANDS)) as partial:
        partial.mkdir()
        for side, (pose, translation, betas) in hands.items():
            frames = {
                f"{i + 1:05d}": {"hand_pose": pose[i], "hand_trans": translation[i]}
                for i in range(len(pose))
            }
            (partial / f"{side}_hand.pkl").write_bytes(pickle_tensors(frames))
            shape = pickle_tensors({"hand_shape": np.asarray(betas)})
            (partial / f"{side}_hand_shape.pkl").write_bytes(shape)


def write(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    with disk.whole(path) as partial:
        partial.write_bytes(data)


def pickle_tensors(tree: dict, *, device: str = "cpu") -> bytes:
    """A pickle (protocol 3) of nested dicts of arrays, the arrays as float32 torch tensors.

    Args:
      device: tag of the storages; TACO's may say "cuda:0".
    """
    return b"\x80\x03" + _node(tree, device) + b"."


def _node(node: dict | np.ndarray, device: str) -> bytes:
    if not isinstance(node, dict):
        return _tensor(np.asarray(node, np.float32), device)
    items = b"".join(_text(key) + _node(value, device) for key, value in node.items())
    return b"}(" + items + b"u"


def _tensor(array: np.ndarray, device: str) -> bytes:
    raw = _storage(array, device)
    strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
    return b"".join([
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        b"ctorch.storage\n_load_from_bytes\nB", struct.pack("<I", len(raw)), raw, b"\x85R",
        _integer(0), _integers(array.shape), _integers(strides),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ])  # fmt: skip


def _storage(array: np.ndarray, device: str) -> bytes:
    """A storage in the legacy format: three headers, the storage's id, its key, its bytes."""
    system = {
        "protocol_version": torch_pickle.PROTOCOL,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    headers = [torch_pickle.MAGIC, torch_pickle.PROTOCOL, system]
    identity = [
        b"\x80\x02(", _text("storage"), b"ctorch\nFloatStorage\n", _text("0"), _text(device),
        _integer(array.size), b"NtQ.",
    ]  # fmt: skip
    return b"".join([
        *(pickle.dumps(header, 2) for header in headers), *identity,
        pickle.dumps(["0"], 2), struct.pack("<q", array.size), array.astype("<f4").tobytes(),
    ])  # fmt: skip


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _integers(values) -> bytes:
    return b"(" + b"".join(_integer(int(value)) for value in values) + b"t"
