"""Meshes and depth over HTTP: decoded by another process, drawn before a job, read by the maker."""

import base64
import dataclasses
import json

import fake_maker
import mesh_files
import moving_solids
import numpy as np
import pytest
import serving
import tiny
import two_views
from moving_solids import npz, zipped
from PIL import Image

from configs import hvg3d, strag
from syncmv4d_jax import pipeline
from syncmv4d_jax.data.sources import mesh_sequences
from syncmv4d_jax.geometry import paths
from syncmv4d_jax.serve import app, deep, drawn, errors, maker, meshes, openapi, requests

SIZE, FRAMES = (32, 48), 5
MOVING, DEEP = serving.MOVING, serving.DEEP
TOLD = {"fps": 30.0, "unit": 1.0, "up": "", "labels": {}}


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Folder of OBJ files, and the camera and the picture of what they show."""
    folder = tmp_path_factory.mktemp("meshes")
    moving_solids.write(folder, 6)
    picture = (folder / "front.png").read_bytes()
    return folder / "objs", (folder / "cameras.json").read_text(), picture


def archive(folder):
    return moving_solids.archive(folder, "../scans/")


def test_a_job_with_meshes_has_what_the_command_line_reads(tmp_path, moving):
    folder, rig, picture = moving
    with serving.studio(tmp_path, fake_maker.load, wants=MOVING) as (port, _):
        files = {"images": [("a.png", picture)], "meshes": [("s.zip", archive(folder))]}
        fields = {"prompt": "stir", "cameras": rig, "fps": "15", "labels": '{"target": "object"}'}
        status, job = serving.send(port, "/v1/videos", fields, **files)
        assert status == 202 and job["cameras"] == ["front"], job
        assert job["request"]["fps"] == 15 and job["request"]["labels"] == {"target": "object"}
        inputs = tmp_path / job["id"] / "inputs"
        names = ["000.png", "cameras.json", "meshes.npz"]
        assert sorted(path.name for path in inputs.iterdir()) == names
        wanted, found = mesh_sequences.read(folder, 15.0), meshes.stored(inputs / "meshes.npz")
        assert found.keys() == wanted.keys()
        for name, mesh in wanted.items():
            for ours, theirs in zip(found[name], mesh, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        again = {"prompt": "b", "inputs_of": job["id"], "fps": "30"}
        assert serving.send(port, "/v1/videos", again)[0] == 202
        status, answer = serving.send(port, "/v1/videos", again | {"unit": "0.001"})
        assert status == 400 and answer["error"]["where"] == "inputs_of"
        status, answer = serving.send(port, "/v1/videos", {"prompt": "a", "cameras": rig},
                              images=files["images"])  # fmt: skip
        assert answer["error"]["message"] == "meshes: wanted the meshes that move, got no file"
        before = sorted(path.name for path in tmp_path.iterdir())
        status, look = serving.send(port, "/v1/looks", {"fps": "15"}, meshes=files["meshes"])
        told = look["meshes"]
        assert status == 200 and told["frames"] == 6 and set(told["names"]) == set(wanted)
        assert sorted(path.name for path in tmp_path.iterdir()) == before  # nothing is kept


def test_a_job_with_depth_is_read_and_its_path_is_checked(tmp_path):
    depth = np.linspace(1, 2, 32 * 48, dtype=np.float32).reshape(SIZE)
    files = {"images": [("a.png", two_views.png())], "depth": [("a.npz", npz(depth=depth))]}
    with serving.studio(tmp_path, fake_maker.load, wants=DEEP) as (port, _):
        fields = {"prompt": "a", "field_of_view": "60", "camera_path": "orbit:20"}
        status, job = serving.send(port, "/v1/videos", fields, **files)
        assert status == 202 and job["request"]["camera_path"] == "orbit:20", job
        with np.load(tmp_path / job["id"] / "inputs/depth.npz") as found:
            np.testing.assert_array_equal(found["depth"], depth)
            assert abs(np.degrees(2 * np.arctan(24 / found["intrinsics"][0, 0])) - 60) < 1e-9
        status, text, _ = serving.ask(port, "/v1/path?camera_path=orbit:20&pivot=0,1.5,0")
        eyes = np.array(json.loads(text)["eyes"])
        np.testing.assert_allclose(np.linalg.norm(eyes - [0, 1.5, 0], axis=1), 1.5, atol=1e-3)
        assert eyes.shape == (FRAMES, 3) and np.abs(eyes[0]).max() < 1e-6
        turned = np.degrees(np.arctan2(np.abs(eyes[-1][0]), 1.5 - eyes[-1][1]))
        assert abs(turned - 20) < 0.1
        for query, where in (("orbit:200&pivot=0,1,0", "camera_path"), ("orbit&pivot=1", "pivot")):
            status, text, _ = serving.ask(port, f"/v1/path?camera_path={query}")
            assert status == 400 and json.loads(text)["error"]["where"] == where


def drawn_path(frames=FRAMES):
    frame = {"K": [50, 0, 23.5, 0, 50, 15.5, 0, 0, 1], "R": np.eye(3).ravel().tolist(),
             "T": [0, 0, 0]}  # fmt: skip
    return {"size": list(SIZE), "frames": [frame] * frames}


def test_camera_paths_are_named_drawn_or_refused():
    taken = lambda text, wants=DEEP: requests.shapes({"camera_path": text}, wants)  # noqa: E731
    whole = json.dumps(drawn_path())
    for text in ("", "circle", "dolly:-0.5", whole):
        assert taken(text) == {"camera_path": text}
    for text, words in (
        ("/etc/passwd.json", "wanted a file or one of"),
        ("orbit:61", "wanted at most 60 degrees, got 61"),
        ("to_view:1", "camera_path: wanted one of .'static', 'dolly'"),
        (f"orbit:0.{'0' * 40}x", "wanted a number behind the colon"),
        (json.dumps(drawn_path(4)), "wanted 5 frames, as the video has, or 1, got 4"),
        ('{"size": [32, 48]', "camera_path: not JSON"),
        (whole.replace("50", "NaN", 1), "numbers that are not finite"),
    ):
        with pytest.raises(errors.Refused, match=words) as caught:
            taken(text)
        assert caught.value.where == "camera_path"
    with pytest.raises(errors.Refused, match="no weights that draw other views"):
        taken("orbit", dataclasses.replace(DEEP, paths=()))
    with pytest.raises(errors.Refused, match="no field 'camera_path'"):
        requests.parameters({"prompt": "a", "camera_path": "orbit"}, MOVING)


def test_meshes_that_cannot_be_used_are_refused_by_their_own_names(tmp_path, moving, monkeypatch):
    folder, rig, _ = moving
    monkeypatch.setattr(meshes, "UNPACKED", 10**6)
    outside = {"asset": {"version": "2.0"}, "buffers": [{"uri": "../../secret", "byteLength": 4}]}
    outside |= {"meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
                "nodes": [{"mesh": 0}], "accessors": [{"bufferView": 0, "componentType": 5126,
                "count": 3, "type": "VEC3"}], "bufferViews": [{"buffer": 0}]}  # fmt: skip
    whole = [("s.zip", archive(folder))]
    cases = (
        ([("a.fbx", b"x")], {}, "a.fbx: wanted .glb, .gltf", "meshes"),
        ([("a.zip", b"PK")], {}, "a.zip: no .zip, or a damaged one", "meshes"),
        ([("a.zip", zipped(("a.txt", "x")))], {}, "a.zip: no meshes in it", "meshes"),
        ([("a.zip", zipped(("a_000.obj", bytes(10**7))))], {}, "at most 0 MiB", "meshes"),
        ([("x.pc2", b"POINTCACHE2\0")], {}, "x.pc2: no PC2 point cache", "meshes"),
        ([("a b.glb", b"glTF")], {}, "a b.glb: no ", "meshes"),
        ([("a.gltf", json.dumps(outside).encode())], {}, "'../../secret' is not in its folder",
         "meshes"),
        (whole, {"labels": {"x": "object"}}, "labels: no meshes ['x']; there are", "labels"),
        (whole, {"unit": 100.0}, "m wide:", "meshes"),
    )  # fmt: skip
    for number, (rows, changes, words, where) in enumerate(cases):
        target = tmp_path / str(number)
        target.mkdir()
        files = []
        for i, (name, data) in enumerate(rows):
            files.append((name, target / f"{i}.mesh"))
            files[-1][1].write_bytes(data)
        with pytest.raises(drawn.Wrong) as caught:
            meshes.read(target, files, TOLD | changes)
        assert words in str(caught.value) and caught.value.where == where, str(caught.value)
        assert str(tmp_path) not in str(caught.value)
        assert not (target / "scratch").exists()
    away = json.loads(rig)
    away["front"]["T"] = [0, 0, 60.0]
    (tmp_path / "cameras.json").write_text(json.dumps(away))
    (tmp_path / "0.mesh").write_bytes(whole[0][1])
    with pytest.raises(drawn.Wrong, match="cameras.json and the meshes") as caught:
        meshes.read(tmp_path, [("s.zip", tmp_path / "0.mesh")], TOLD)
    assert caught.value.where == "cameras"


def test_too_many_vertices_are_refused(tmp_path, moving, monkeypatch):
    monkeypatch.setattr(meshes, "VERTICES", 10)
    (tmp_path / "0.mesh").write_bytes(archive(moving[0]))
    with pytest.raises(drawn.Wrong, match="vertices in all frames, wanted at most 10"):
        meshes.read(tmp_path, [("s.zip", tmp_path / "0.mesh")], TOLD)


def test_a_point_cache_goes_with_the_faces_of_its_name(tmp_path):
    vertices, faces = next(iter(tiny.solids().values()))
    moved = np.stack([vertices, vertices + [0.0, 0.0, 0.1]])
    mesh_files.write_pc2(tmp_path / "left hand.pc2", moved, faces)
    files = [(path.name, path) for path in sorted(tmp_path.iterdir())]
    found = meshes.read(tmp_path, files, TOLD)
    assert found["names"] == ["left hand"] and found["labels"] == ["left hand"]
    assert found["frames"] == 2 and set(found["mesh"]) == {0}


def test_the_points_of_an_image_with_depth_are_in_its_colours(tmp_path):
    lens = np.array([[50, 0, 23.5], [0, 50, 15.5], [0, 0, 1.0]])
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0] = 255, 128, 0
    Image.fromarray(pixels).save(tmp_path / "000.png")
    depth = np.linspace(1, 2, 32 * 48, dtype=np.float32).reshape(SIZE)
    (tmp_path / "a.depth").write_bytes(npz(depth=depth, K=lens))
    told = deep.read(tmp_path, "a.npz", tmp_path / "a.depth", {"size": SIZE})
    np.testing.assert_allclose(np.reshape(told["K"], (3, 3)), lens)
    assert told["colours"] == ["#ff8000"] * 48 + ["#000000"] * 31 * 48
    steps = np.frombuffer(base64.b64decode(told["generated"]), "<i2").reshape(-1, 3)
    found = steps * told["unit"] + told["centre"]  # y is the depth of a level camera
    np.testing.assert_allclose(found[:, 1], depth.ravel(), atol=1e-3)
    np.testing.assert_allclose(found[0], [-0.47, 1.0, 0.31], atol=1e-3)


def test_depth_that_cannot_be_used_is_refused_by_its_own_name(tmp_path):
    (tmp_path / "000.png").write_bytes(two_views.png())
    good = np.ones(SIZE, np.float32)
    for data, words in (
        (npz(depth=good[:-1]), "x y.npz: depth is 31 x 48, its image is 32 x 48"),
        (npz(depth=good * np.nan), "x y.npz: 100.0% of the depths are inf or NaN"),
        (npz(z=good), "x y.npz: has no array depth"),
        (b"PK", "x y.npz: cannot be read as npz or npy"),
    ):
        (tmp_path / "a.depth").write_bytes(data)
        with pytest.raises(drawn.Wrong) as caught:
            deep.read(tmp_path, "x y.npz", tmp_path / "a.depth", {"size": SIZE})
        assert words in str(caught.value) and caught.value.where == "depth"
        assert str(tmp_path) not in str(caught.value)
    (tmp_path / "a.depth").write_bytes(npz(depth=good))
    with pytest.raises(drawn.Wrong, match=r"x.npz: has no intrinsics \[3 3\]") as caught:
        deep.read(tmp_path, "x.npz", tmp_path / "a.depth", {"size": SIZE})
    assert caught.value.where == "field_of_view"


def test_a_configuration_says_what_its_form_has():
    followed = maker.wants(hvg3d.get_config("debug"))
    assert followed.meshes and followed.cameras and followed.views == 1 and not followed.paths
    assert followed.files == ("images", "meshes") and "fps" in followed.fields
    config = strag.get_config("debug").copy_and_resolve_references().unlock()
    alone = maker.wants(config)
    assert alone.depth and not alone.cameras and alone.views == 1 and alone.paths == ()
    config.sample.synthesis = "views.safetensors"
    rows = {row["name"]: row for row in maker.wants(config).paths}
    assert "to_view" not in rows and rows["orbit"]["most"] == paths.FARTHEST
    assert rows["dolly"] == {"name": "dolly", "amount": 0.25, "most": 0.6,
                             "unit": "of the pivot's depth"}  # fmt: skip


@pytest.mark.parametrize("wants", [MOVING, DEEP], ids=["meshes", "depth"])
def test_the_document_has_the_fields_of_the_task(wants):
    found = openapi.document(wants, app.Limits())
    form = found["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert set(form["schema"]["properties"]) == {*wants.fields, *wants.files}
    assert set(form["schema"]["required"]) >= {"prompt", *wants.files}
    look = found["paths"]["/v1/looks"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert look["schema"]["required"] == []


def test_the_maker_gives_meshes_and_depth_to_the_pipeline(tmp_path):
    np.savez(
        tmp_path / "meshes.npz", names=["cup"], faces_0=[[0, 1, 2]], vertices_0=np.eye(3)[None]
    )
    (tmp_path / "000.png").write_bytes(two_views.png())
    (tmp_path / "cameras.json").write_text("{}")
    found = maker._inputs(tmp_path, {"fps": 15.0, "labels": {"cup": "object"}})
    assert found["up"] == "z" and found["fps"] == 15 and found["labels"] == {"cup": "object"}
    np.testing.assert_array_equal(found["meshes"]["cup"][1], np.eye(3)[None])
    (tmp_path / "depth.npz").write_bytes(b"")
    for text, wanted in (("orbit", "orbit"), (json.dumps(drawn_path()), drawn_path()), ("", "")):
        found = maker._inputs(tmp_path, {"camera_path": text})
        assert found["camera_path"] == wanted and found["depth"] == tmp_path / "depth.npz"
        assert np.shape(found["images"]) == (*SIZE, 3)


def test_a_pipeline_is_of_what_its_task_reads(monkeypatch):
    made = []
    for kind in ("HVG3DPipeline", "MoRe4DPipeline"):
        init = lambda self, config, workdir: made.append(type(self))  # noqa: E731
        monkeypatch.setattr(getattr(pipeline, kind), "__init__", init)
    for config in (hvg3d, strag):
        pipeline.of(config.get_config("debug"))
    assert made == [pipeline.HVG3DPipeline, pipeline.MoRe4DPipeline]
