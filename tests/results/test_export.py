"""Exports of tracks: what the files say is what the sample holds."""

import importlib.util
import json
import re
import struct
import sys

import fake_samples
import numpy as np
import pytest

from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import clouds, export, gltf, samples, usd


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    fake_samples.write(folder, "a", fake_samples.truth(0))
    return folder / "a"


class Glb:
    """A parsed .glb with checked sizes."""

    def __init__(self, data):
        magic, version, total = struct.unpack_from("<III", data)
        assert (magic, version, total) == (0x46546C67, 2, len(data))
        size, kind = struct.unpack_from("<II", data, 12)
        assert kind == 0x4E4F534A and size % 4 == 0
        self.content = json.loads(data[20 : 20 + size])
        length, kind = struct.unpack_from("<II", data, 20 + size)
        assert kind == 0x004E4942 and length == self.content["buffers"][0]["byteLength"]
        self.data = data[28 + size :]
        assert len(self.data) == length

    def read(self, index):
        accessor = self.content["accessors"][index]
        view = self.content["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5125: "<u4", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        found = np.frombuffer(self.data, kind, accessor["count"] * width, view["byteOffset"])
        assert found.nbytes == view["byteLength"]
        found = found.reshape(-1, width)
        if "min" in accessor:
            np.testing.assert_allclose(found.min(0), accessor["min"], rtol=1e-6)
            np.testing.assert_allclose(found.max(0), accessor["max"], rtol=1e-6)
        return found


def places(glb, mesh, weights):
    """The octahedra's middles [k 3] under the weights of a moment."""
    primitive = mesh["primitives"][0]
    found = glb.read(primitive["attributes"]["POSITION"]).astype(np.float64)
    for target, weight in zip(primitive["targets"], weights, strict=True):
        found = found + weight * glb.read(target["POSITION"])
    return found.reshape(-1, 6, 3).mean(1)


def test_gltf_moves_the_points_along_the_tracks(sample, tmp_path):
    path = export.write("glb", sample, tmp_path / "new/a.glb", views=True)
    glb, arrays = Glb(path.read_bytes()), samples.read(sample)
    content = glb.content
    assert [m["name"] for m in content["meshes"]] == ["tracks", *(
        f"tracks_view_{v}" for v in (1, 2, 3))]  # fmt: skip
    (animation,) = content["animations"]
    sampler = animation["samplers"][0]
    times, weights = glb.read(sampler["input"])[:, 0], glb.read(sampler["output"]).reshape(9, 8)
    np.testing.assert_allclose(times, np.arange(9) / 8, rtol=1e-6)
    for n, wanted in enumerate(arrays["tracks"]):
        got = places(glb, content["meshes"][0], weights[n])
        np.testing.assert_allclose(got, wanted, atol=1e-6)
    middle = places(glb, content["meshes"][2], (weights[3] + weights[4]) / 2)
    own = arrays["tracks_per_view"][1]
    np.testing.assert_allclose(middle, (own[3] + own[4]) / 2, atol=1e-6)
    assert animation["channels"][2]["target"] == {"node": 3, "path": "weights"}
    indices = glb.read(content["meshes"][0]["primitives"][0]["indices"])
    assert indices.max() == 6 * arrays["tracks"].shape[1] - 1 and len(indices) % 3 == 0


def test_gltf_cameras_see_what_ours_see(sample, tmp_path):
    glb = Glb(export.write("glb", sample, tmp_path / "a.glb").read_bytes())
    arrays = samples.read(sample)
    nodes = [n for n in glb.content["nodes"] if "camera" in n]
    assert len(nodes) == len(glb.content["cameras"]) == 3
    for v, node in enumerate(nodes):
        to_world = np.array(node["matrix"]).reshape(4, 4).T
        lens = glb.content["cameras"][v]["perspective"]
        point = arrays["tracks"][0, :5].astype(float)
        x, y, z, _ = np.linalg.inv(to_world) @ np.c_[point, np.ones(5)].T
        assert (z < 0).all()  # in front of a camera that looks along -z
        half = np.tan(lens["yfov"] / 2)
        screen = np.stack([x / -z / half / lens["aspectRatio"], y / -z / half], -1)
        pixels, _ = cameras.project(point, arrays["intrinsics"][v], arrays["extrinsics"][v])
        height, width = arrays["video"].shape[2:4]
        wanted = (pixels + 0.5) / [width / 2, -height / 2] + [-1, 1]
        np.testing.assert_allclose(screen, wanted, atol=1e-5)


def test_gltf_cameras_of_a_crop_look_through_its_middle(tmp_path):
    k = np.array([[[500.0, 0, 20], [0, 500, -250], [0, 0, 1]]])
    pose = fake_samples.cameras_of_rig((48, 64))[1][1:2].astype(float)
    middle = cameras.unproject(np.array([[111.5, 79.5]]), np.array([2.0]), k[0], pose[0])
    rig = {"intrinsics": k, "extrinsics": pose, "size": (160, 224)}
    tracks = np.zeros((2, 1, 3))
    gltf.write(tmp_path / "a.glb", {"a": tracks}, clouds.colours(tracks), fps=8, cameras=rig)
    content = Glb((tmp_path / "a.glb").read_bytes()).content
    matrix = np.array(content["nodes"][-1]["matrix"]).reshape(4, 4).T
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    seen = np.linalg.inv(matrix) @ [*middle[0], 1]
    np.testing.assert_allclose(seen[:2], 0, atol=1e-6)
    assert seen[2] < 0


def test_usd_points_and_cameras(sample, tmp_path):
    text = export.write("usda", sample, tmp_path / "a.usda", views=True).read_text()
    arrays = samples.read(sample)
    assert text.startswith("#usda 1.0") and text.count("{") == text.count("}")
    assert text.count('def Points "') == 4 and "endTimeCode = 8" in text
    body = text[text.index('"tracks_view_2"') : text.index('"tracks_view_3"')]
    for n in (0, 8):
        row = re.search(rf"\s{n}: \[(.*)\]", body).group(1)
        got = np.array([float(x) for x in re.findall(r"[-\d.e]+", row)]).reshape(-1, 3)
        np.testing.assert_allclose(got, arrays["tracks_per_view"][1, n], atol=1e-5)


def test_rrd_is_a_kind_where_it_can_be_written(monkeypatch):
    for there, wanted in ((object(), export.KINDS), (None, ("glb", "usda", "ply"))):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, x=there: x)
        assert export.kinds() == wanted


def test_cameras_keep_the_names_that_users_gave_them(tmp_path):
    assert clouds.views(2, ()) == ["view_1", "view_2"]
    rig = {"intrinsics": np.array([[[50.0, 0, 24], [0, 50, 16], [0, 0, 1]]]), "size": (32, 48)}
    rig |= {"extrinsics": np.eye(4)[None, :3], "names": ["left/caf\u00e9 1"]}
    tracks = np.zeros((2, 1, 3))
    how = {"fps": 8, "cameras": rig}
    gltf.write(tmp_path / "a.glb", {"a": tracks}, clouds.colours(tracks), **how)
    names = [node["name"] for node in Glb((tmp_path / "a.glb").read_bytes()).content["nodes"]]
    assert names == ["world", "a", "view_1_left_caf__1"]
    usd.write(tmp_path / "a.usda", {"a": tracks}, clouds.colours(tracks), **how)
    assert 'def Camera "view_1_left_caf__1"' in (tmp_path / "a.usda").read_text()


def test_usd_cameras_see_what_ours_see(tmp_path):
    k = np.array([[[500.0, 0, 20], [0, 480, -250], [0, 0, 1]]])
    pose = fake_samples.cameras_of_rig((48, 64))[1][1:2].astype(float)
    rig = {"intrinsics": k, "extrinsics": pose, "size": (160, 224)}
    tracks = np.random.default_rng(0).normal(0, 0.1, (2, 5, 3)) + [0, 0, 1]
    usd.write(tmp_path / "a.usda", {"a": tracks}, clouds.colours(tracks), fps=8, cameras=rig)
    text = (tmp_path / "a.usda").read_text()
    lens = {key: float(x) for key, x in re.findall(r"float (\w+) = (\S+)", text)}
    numbers = re.search(r"xformOp:transform = \((.*)\)", text).group(1)
    matrix = np.array([float(x) for x in re.findall(r"[-\d.e]+", numbers)]).reshape(4, 4)
    x, y, z, _ = (np.c_[tracks[0], np.ones(5)] @ np.linalg.inv(matrix)).T
    film = lens["focalLength"] * np.stack([x, y], -1) / -z[:, None]
    shift = [lens["horizontalApertureOffset"], lens["verticalApertureOffset"]]
    screen = (film - shift) / [lens["horizontalAperture"] / 2, lens["verticalAperture"] / 2]
    pixels, _ = cameras.project(tracks[0], k[0], pose[0])
    wanted = (pixels + 0.5) / [112, -80] + [-1, 1]
    np.testing.assert_allclose(screen, wanted, atol=1e-4)


def test_points_that_are_not_finite(tmp_path):
    tracks = np.arange(24, dtype=float).reshape(4, 2, 3)
    tracks[0, 0] = tracks[2, 0] = np.nan
    filled, kept = clouds.finite(tracks)
    np.testing.assert_array_equal(filled[[0, 2], 0], tracks[[1, 1], 0])
    np.testing.assert_array_equal(filled[:, 1], tracks[:, 1])
    tracks[:, 0] = np.nan
    assert clouds.finite(tracks)[1].tolist() == [False, True] and kept.all()
    gltf.write(tmp_path / "a.glb", {"a": tracks}, clouds.colours(tracks), fps=8)
    mesh = Glb((tmp_path / "a.glb").read_bytes()).content["meshes"][0]
    assert len(mesh["weights"]) == 3
    with pytest.raises(ValueError, match="no finite point"):
        gltf.write(tmp_path / "b.glb", {"a": tracks * np.nan}, clouds.colours(tracks), fps=8)
    with pytest.raises(ValueError, match="wanted 2 colours"):
        gltf.write(tmp_path / "b.glb", {"a": tracks}, np.zeros((3, 3), np.uint8), fps=8)
    gltf.write(tmp_path / "c.glb", {"a": tracks[:1]}, clouds.colours(tracks), fps=8)
    assert "animations" not in Glb((tmp_path / "c.glb").read_bytes()).content
    export.ply(tmp_path / "p", tracks, tmp_path / "c.glb")
    assert b"element vertex 1\n" in (tmp_path / "p/frame_0003.ply").read_bytes()


def test_ply_sequence(sample, tmp_path):
    folder = export.write("ply", sample, tmp_path / "out")
    tracks = samples.read(sample)["tracks"]
    assert len(list(folder.glob("frame_*.ply"))) == len(tracks)
    head, body = (folder / "frame_0004.ply").read_bytes().split(b"end_header\n", 1)
    assert b"element vertex 90\n" in head
    rows = np.frombuffer(body, [("place", "<f4", 3), ("colour", "u1", 3)])
    np.testing.assert_array_equal(rows["place"], tracks[4])
    np.testing.assert_array_equal(rows["colour"], clouds.colours(tracks))
    with np.load(folder / "tracks.npz") as arrays:
        np.testing.assert_array_equal(arrays["tracks"], tracks)
    export.ply(folder, tracks[:2], sample / "tracks.npz")  # no frame of the former stays
    assert len(list(folder.iterdir())) == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no export's \(notes.txt\); give another --out"):
        export.ply(folder, tracks, sample / "tracks.npz")
    assert len(list(folder.iterdir())) == 4


def test_rerun_is_asked_for_by_name(sample, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ImportError, match=r"syncmv4d_jax\[viz\]"):
        export.write("rrd", sample, tmp_path / "a.rrd")
    with pytest.raises(ValueError, match="wanted one of"):
        export.write("abc", sample, tmp_path / "a.abc")


@pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="no rerun-sdk")
def test_a_rerun_recording(sample, tmp_path):
    path = export.write("rrd", sample, tmp_path / "a.rrd", views=True)
    data = path.read_bytes()
    assert data[:4] in (b"RRF2", b"RRF0", b"RRIO")
    for name in (b"/world/tracks", b"/world/tracks_view_3", b"/world/view_2/image"):
        assert name in data, name


def test_a_sample_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        export.write("glb", tmp_path / "none", tmp_path / "a.glb")
