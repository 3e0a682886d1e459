"""Samples with cameras that move, on disk and in what other programs open."""

import json
import re

import fake_samples
import numpy as np

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import clouds, gltf, samples, sheet, usd

V, N = fake_samples.VIEWS, fake_samples.FRAMES


def rig():
    """Intrinsics, and poses [v n 3 4] that turn and go aside."""
    k, pose = fake_samples.cameras_of_rig((48, 64))
    every = np.repeat(pose[:, None], N, 1).astype(np.float64)
    for n in range(N):
        angle = 0.05 * n
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0],
                         [-np.sin(angle), 0, np.cos(angle)]])  # fmt: skip
        every[:, n] = turn @ every[:, n]
        every[:, n, 0, 3] += 0.02 * n
    return k, every


def test_samples_keep_the_path_of_their_cameras(tmp_path):
    k, every = rig()
    video = np.zeros((V, N, 32, 48, 3))
    samples.write(tmp_path / "a", {"video": video}, {"intrinsics": k, "extrinsics": every},
                  {"fps": 8.0})  # fmt: skip
    np.testing.assert_array_equal(samples.read(tmp_path / "a")["extrinsics"], every)
    still = {"intrinsics": k, "extrinsics": every[:, :1]}
    samples.write(tmp_path / "b", {"video": video}, still, {"fps": 8.0})
    assert samples.read(tmp_path / "b")["extrinsics"].shape == (V, 3, 4)


def test_usd_cameras_move_as_ours(tmp_path):
    k, every = rig()
    tracks = np.zeros((N, 1, 3)) + [0, 0, 1.0]
    made = {"intrinsics": k, "extrinsics": every, "size": (48, 64)}
    usd.write(tmp_path / "a.usda", {"a": tracks}, clouds.colours(tracks), fps=8, cameras=made)
    text = (tmp_path / "a.usda").read_text()
    blocks = re.findall(r"xformOp:transform\.timeSamples = \{(.*?)\n        \}", text, re.S)
    assert len(blocks) == V
    for v, block in enumerate(blocks):
        rows = re.findall(r"(\d+): \( (.*) \)", block)
        assert [int(n) for n, _ in rows] == list(range(N))
        for n, row in rows:
            matrix = np.array(re.findall(r"[-\d.e]+", row), float).reshape(4, 4).T
            eye = cameras.camera_centre(every[v, int(n)])
            np.testing.assert_allclose(matrix[:3, 3], eye, atol=1e-6)
            np.testing.assert_allclose(-matrix[:3, 2], every[v, int(n), 2, :3], atol=1e-6)


def test_gltf_cameras_move_as_ours(tmp_path):
    k, every = rig()
    tracks = np.zeros((N, 1, 3)) + [0, 0, 1.0]
    made = {"intrinsics": k, "extrinsics": every, "size": (48, 64)}
    gltf.write(tmp_path / "a.glb", {"a": tracks}, clouds.colours(tracks), fps=8, cameras=made)
    data = (tmp_path / "a.glb").read_bytes()
    length = int.from_bytes(data[12:16], "little")
    content, binary = json.loads(data[20 : 20 + length]), data[28 + length :]

    def values(index):
        accessor = content["accessors"][index]
        start = content["bufferViews"][accessor["bufferView"]]["byteOffset"]
        wide = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        flat = np.frombuffer(binary, "<f4", accessor["count"] * wide, start)
        return flat.reshape(accessor["count"], wide)

    (animation,) = content["animations"]
    moves = {}
    for channel in animation["channels"]:
        target, sampler = channel["target"], animation["samplers"][channel["sampler"]]
        if target["path"] != "weights":
            moves[content["nodes"][target["node"]]["name"], target["path"]] = sampler
    assert len(moves) == 2 * V
    for v in range(V):
        places = values(moves[f"view_{v + 1}", "translation"]["output"])
        np.testing.assert_allclose(places, cameras.camera_centre(every[v]), atol=1e-5)
        times = values(moves[f"view_{v + 1}", "rotation"]["input"])[:, 0]
        np.testing.assert_allclose(times, np.arange(N) / 8)
        x, y, z, w = values(moves[f"view_{v + 1}", "rotation"]["output"]).T
        back = np.stack([2 * (x * z + y * w), 2 * (y * z - x * w), 1 - 2 * (x**2 + y**2)], -1)
        angle = np.degrees(np.arccos(np.clip((-back * every[v, :, 2, :3]).sum(-1), -1, 1)))
        assert angle.max() < 0.6  # it looks through the middle of the image, not along the axis


def test_dots_on_sheets_follow_the_camera():
    k, every = rig()
    tracks = fake_samples.tracks_of_scene(np.random.default_rng(0))
    video = np.zeros((V, N, 48, 64, 3), np.uint8)
    moving = {"video": video, "tracks": tracks, "intrinsics": k, "extrinsics": every}
    first, last = ({**moving, "extrinsics": every[:, n]} for n in (0, N - 1))
    drawn, one, other = (sheet._drawn(x) for x in (moving, first, last))
    np.testing.assert_array_equal(drawn[:, 0], one[:, 0])
    assert (drawn[:, -1] != one[:, -1]).any() and drawn.shape == other.shape
