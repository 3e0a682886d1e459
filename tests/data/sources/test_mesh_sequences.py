"""Meshes over time out of glTF, OBJ sequences, PC2 and MDD: within 0.1 mm of what was written."""

import base64
import json

import mesh_files
import numpy as np
import pytest
import tiny

from syncmv4d_jax.data.sources import gltf_reader, mesh_sequences

FPS, FRAMES = 30.0, 7
NEAR = 1e-4  # metres


def meshes():
    """{name: (vertices [n p 3] metres z up, faces, poses [n 4 4], local vertices [p 3])}."""
    found, motion = {}, tiny.poses(FRAMES)
    for name, (vertices, faces) in tiny.solids().items():
        pose = motion[name].copy()
        turn = np.radians(20) * np.arange(FRAMES) / FRAMES  # tilted, too
        tilt = np.tile(np.eye(3), (FRAMES, 1, 1))
        tilt[:, 1, 1] = tilt[:, 2, 2] = np.cos(turn)
        tilt[:, 2, 1], tilt[:, 1, 2] = np.sin(turn), -np.sin(turn)
        pose[:, :3, :3] = pose[:, :3, :3] @ tilt
        world = np.einsum("nij,pj->npi", pose[:, :3, :3], vertices) + pose[:, None, :3, 3]
        found[name] = (world, faces, pose, vertices)
    return found


def check(found, wanted):
    assert set(found) == set(wanted)
    for name, (vertices, faces, *_) in wanted.items():
        np.testing.assert_array_equal(found[name].faces, faces)
        np.testing.assert_allclose(found[name].vertices, vertices, atol=NEAR)


def test_rigid_gltf(tmp_path):
    """Nodes with keys of translation and rotation, below a node that turns z up into y up."""
    file, nodes, listed, animation = mesh_files.Gltf(), [], [], {"channels": [], "samplers": []}
    wanted = meshes()
    times = file.add(np.arange(FRAMES)[:, None] / FPS)
    for i, (name, (_, faces, pose, local)) in enumerate(wanted.items()):
        listed.append(file.mesh(name, local, faces))
        nodes.append({"name": name, "mesh": i})
        for path, values in (
            ("translation", pose[:, :3, 3]),
            ("rotation", mesh_files.quaternions(pose[:, :3, :3])),
        ):
            animation["channels"].append(
                {"sampler": len(animation["samplers"]), "target": {"node": i, "path": path}}
            )
            animation["samplers"].append({"input": times, "output": file.add(values)})
    half = 0.5**0.5
    nodes.append({"children": [0, 1, 2, 3], "rotation": [-half, 0, 0, half]})
    file.save(tmp_path / "a.glb", nodes=nodes, meshes=listed, animations=[animation])
    found = mesh_sequences.read(tmp_path / "a.glb", FPS)
    check(found, wanted)
    slow = mesh_sequences.read(tmp_path / "a.glb", FPS / 2)
    np.testing.assert_allclose(slow["tool"].vertices, wanted["tool"][0][::2], atol=NEAR)


def test_skinned_and_morphing_gltf(tmp_path):
    """Two joints that carry halves of a mesh, and a bulge that comes and goes."""
    vertices, faces, poses, local = meshes()["left"]
    other = meshes()["right"][2]
    share = (local[:, 2] > 0) * 0.7 + 0.1
    bulge = 0.01 * local
    weights = np.linspace(0, 1, FRAMES)
    moved = local + weights[:, None, None] * bulge
    carried = [
        np.einsum("nij,npj->npi", p[:, :3, :3], moved) + p[:, None, :3, 3] for p in (poses, other)
    ]
    wanted = share[None, :, None] * carried[0] + (1 - share)[None, :, None] * carried[1]
    file = mesh_files.Gltf()
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, :3, 3] = [0.1, 0.2, -0.3]  # a joint whose frame is elsewhere
    shifted = other @ np.linalg.inv(bind[1])
    own = {
        "JOINTS_0": file.add(np.tile([0, 1, 0, 0], (len(local), 1)), mesh_files.USHORT),
        "WEIGHTS_0": file.add(np.stack([share, 1 - share, 0 * share, 0 * share], 1)),
    }
    mesh = file.mesh("m", local, faces, attributes=own, targets=[{"POSITION": file.add(bulge)}])
    times = file.add(np.arange(FRAMES)[:, None] / FPS)
    animation = {"channels": [], "samplers": []}
    for node, path, values in (
        (1, "translation", poses[:, :3, 3]),
        (1, "rotation", mesh_files.quaternions(poses[:, :3, :3])),
        (2, "translation", shifted[:, :3, 3]),
        (2, "rotation", mesh_files.quaternions(shifted[:, :3, :3])),
        (0, "weights", weights[:, None]),
    ):
        animation["channels"].append(
            {"sampler": len(animation["samplers"]), "target": {"node": node, "path": path}}
        )
        animation["samplers"].append({"input": times, "output": file.add(values)})
    file.save(
        tmp_path / "a.glb",
        nodes=[{"name": "hand", "mesh": 0, "skin": 0, "translation": [9, 9, 9]}, {}, {}],
        meshes=[mesh],
        skins=[{"joints": [1, 2], "inverseBindMatrices": file.add(bind.swapaxes(1, 2))}],
        animations=[animation],
    )
    found = mesh_sequences.read(tmp_path / "a.glb", FPS, up="z")
    np.testing.assert_allclose(found["hand"].vertices, wanted, atol=NEAR)


def test_a_cubic_spline_is_its_polynomial():
    """Keys and tangents of t^3 - 2 t give t^3 - 2 t between them; steps stay, ends hold."""
    value = lambda t: t**3 - 2 * t  # noqa: E731
    slope = lambda t: 3 * t**2 - 2  # noqa: E731
    keys = np.array([0.0, 0.5, 2.0])
    values = np.stack([slope(keys), value(keys), slope(keys)], 1)[..., None]
    channel = gltf_reader.Channel(keys, values, "CUBICSPLINE")
    t = np.linspace(0, 2, 41)
    found = gltf_reader.sampled(channel, t, turn=False)
    np.testing.assert_allclose(found[:, 0], value(t), atol=1e-12)
    step = gltf_reader.Channel(keys, values[:, 1], "STEP")
    got = gltf_reader.sampled(step, np.array([-1, 0.4, 0.5, 1.9, 2.0, 3.0]), turn=False)[:, 0]
    np.testing.assert_allclose(got, value(keys)[[0, 0, 1, 1, 2, 2]])
    quarter = np.array([[0, 0, 0, 1.0], [0, 0, np.sin(np.pi / 4), np.cos(np.pi / 4)]])
    turn = gltf_reader.Channel(np.array([0.0, 1.0]), quarter * [[1], [-1]], "LINEAR")
    third = gltf_reader.sampled(turn, np.array([1 / 3]), turn=True)
    angle = np.pi / 12
    np.testing.assert_allclose(np.abs(third[0]), [0, 0, np.sin(angle), np.cos(angle)], atol=1e-12)


def test_point_caches_and_sequences(tmp_path):
    wanted = meshes()
    for name, (vertices, faces, *_) in wanted.items():
        mesh_files.write_sequence(tmp_path / "objs", name, vertices, faces)
    check(mesh_sequences.read(tmp_path / "objs", FPS), wanted)
    vertices, faces, *_ = wanted["tool"]
    one = {"cache": wanted["tool"]}
    mesh_files.write_pc2(tmp_path / "cache.pc2", vertices, faces)
    check(mesh_sequences.read(tmp_path / "cache.pc2", FPS), one)
    mesh_files.write_mdd(tmp_path / "cache.mdd", vertices, faces, np.arange(FRAMES) / FPS)
    check(mesh_sequences.read(tmp_path / "cache.mdd", FPS), one)
    between = mesh_sequences.read(tmp_path / "cache.mdd", 2 * FPS)["cache"].vertices
    np.testing.assert_allclose(between[1], (vertices[0] + vertices[1]) / 2, atol=NEAR)
    millimetres = mesh_files.y_up(1000 * vertices)
    mesh_files.write_pc2(tmp_path / "cache.pc2", millimetres, faces)
    check(mesh_sequences.read(tmp_path / "cache.pc2", FPS, unit=0.001, up="y"), one)


def test_refused_files(tmp_path):
    wanted = meshes()["tool"]
    mesh_files.write_pc2(tmp_path / "cut.pc2", wanted[0], wanted[1])
    (tmp_path / "cut.pc2").write_bytes((tmp_path / "cut.pc2").read_bytes()[:-4])
    mesh_files.write_pc2(tmp_path / "alone.pc2", wanted[0], wanted[1])
    (tmp_path / "alone.obj").unlink()
    mesh_files.write_mdd(tmp_path / "back.mdd", wanted[0], wanted[1], -np.arange(FRAMES))
    mesh_files.write_sequence(tmp_path / "gap", "m", wanted[0], wanted[1])
    (tmp_path / "gap" / "m_000003.obj").unlink()
    mesh_files.write_sequence(tmp_path / "other", "m", wanted[0], wanted[1])
    mesh_files.write_obj(tmp_path / "other/m_000002.obj", wanted[0][2], wanted[1][::-1])
    nan = wanted[0].copy()
    nan[3, 5] = np.nan
    mesh_files.write_pc2(tmp_path / "nan.pc2", nan, wanted[1])
    mesh_files.write_obj(tmp_path / "nan.obj", wanted[0][0], wanted[1])
    (tmp_path / "scene.abc").write_bytes(b"Ogawa")
    file = mesh_files.Gltf()
    mesh = file.mesh("m", wanted[3], wanted[1])
    draco = ["KHR_draco_mesh_compression"]
    file.save(tmp_path / "draco.glb", meshes=[mesh], nodes=[{"mesh": 0}], extensionsRequired=draco)
    file.save(tmp_path / "empty.glb", meshes=[mesh], nodes=[{}])
    ring = [{"mesh": 0, "children": [1]}, {"children": [0]}]
    file.save(tmp_path / "ring.glb", meshes=[mesh], nodes=ring)
    strip = {"name": "m", "primitives": [{**mesh["primitives"][0], "mode": 5}]}
    file.save(tmp_path / "strip.glb", meshes=[strip], nodes=[{"mesh": 0}])
    content = {"nodes": [{"mesh": 0}], "meshes": [mesh], "bufferViews": file.views,
               "accessors": file.accessors}  # fmt: skip
    short = base64.b64encode(bytes(file.data[:-8])).decode()
    content["buffers"] = [{"uri": f"data:application/octet-stream;base64,{short}"}]
    (tmp_path / "short.gltf").write_text(json.dumps(content))
    for name, message in {
        "cut.pc2": "damaged: version 1", "back.mdd": "times do not rise",
        "gap": "frame 3 of 'm' is missing", "other": "faces are others than",
        "nan.pc2": "not finite, the first in frame 3", "scene.abc": "export it as glTF",
        "draco.glb": "Compression off", "empty.glb": "no node has a mesh",
        "strip.glb": "triangulate it", "short.gltf": "truncated",
        "ring.glb": "node 0 hangs below itself",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            mesh_sequences.read(tmp_path / name, FPS)
    for name, message in {"alone.pc2": "faces in alone.obj", "none.glb": "no such file"}.items():
        with pytest.raises(FileNotFoundError, match=message):
            mesh_sequences.read(tmp_path / name, FPS)
    whole = base64.b64encode(bytes(file.data)).decode()
    content["buffers"] = [{"uri": f"data:application/octet-stream;base64,{whole}"}]
    (tmp_path / "whole.gltf").write_text(json.dumps(content))
    found = mesh_sequences.read(tmp_path / "whole.gltf", FPS, up="z")
    np.testing.assert_allclose(found["m"].vertices, wanted[3][None], atol=NEAR)


def test_a_gltf_file_names_no_place_outside_of_its_folder(tmp_path):
    """Who sends one to a server reads none of the server's files by it."""
    secret = np.zeros((3, 3), "<f4").tobytes()
    told = {
        "asset": {"version": "2.0"}, "buffers": [{"uri": "../secret", "byteLength": 36}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}], "nodes": [{"mesh": 0}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0}],
    }  # fmt: skip
    (tmp_path / "secret").write_bytes(secret)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.gltf"
    for uri in ("../secret", str(tmp_path / "secret")):
        told["buffers"][0]["uri"] = uri
        path.write_text(json.dumps(told))
        with pytest.raises(ValueError, match="is not in its folder"):
            mesh_sequences.read(path, FPS)
    (tmp_path / "in" / "secret").write_bytes(secret)
    told["buffers"][0]["uri"] = "secret"
    path.write_text(json.dumps(told))
    assert len(mesh_sequences.read(path, FPS)) == 1
