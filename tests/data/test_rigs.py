"""Cameras, poses, surfaces and texts of other people: one check each, whoever reads them."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import clips, reading, rigs, surfaces, user
from syncmv4d_jax.data.sources import obj, recordings, taco

SETTINGS = clips.Settings(size=(64, 96), frames=5, fps=15.0, points=64)
FRAMES = 9


def entries():
    return {
        name: {
            "K": k.ravel().tolist(),
            "R": pose[:, :3].ravel().tolist(),
            "T": pose[:, 3].tolist(),
            "imgSize": [tiny.SIZE[1], tiny.SIZE[0]],
        }
        for name, (k, pose) in tiny.rig(3).items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return tiny.write(tmp_path_factory.mktemp("rig"), frames=FRAMES, views=3)


def doors(tmp_path, cameras):
    """Everything that reads a file of cameras; each is called with a broken one."""
    text = cameras if isinstance(cameras, str) else json.dumps(cameras)
    (tmp_path / "surfaces").mkdir(exist_ok=True)
    (tmp_path / "recording.json").write_text(
        json.dumps({"fps": 30, "action": "stir", "tool": "spoon", "target": "bowl"})
    )
    for name in ("cameras.json", "calibration.json"):
        (tmp_path / name).write_text(text)
    videos = (tmp_path, tmp_path / "calibration.json", tmp_path / "out")
    return {
        "user": lambda: user.read(tmp_path, views=3, size=(64, 96)),
        "videos": lambda: user.from_videos(*videos),
        "plain layout": lambda: recordings.read_folder(tmp_path),
        "TACO": lambda: taco.read_calibration(tmp_path / "calibration.json"),
    }


def turned(change):
    """The rig with its R, T and K changed."""
    found = entries()
    for value in found.values():
        k, r = (np.array(value[key]).reshape(3, 3) for key in "KR")
        k, r, t = change(k, r, np.array(value["T"]))
        value |= {"K": k.ravel().tolist(), "R": r.ravel().tolist(), "T": t.tolist()}
    return found


SHARES = np.diag([1 / 160, 1 / 120, 1])
BROKEN = {
    "mirrored": (lambda k, r, t: (k, np.diag([-1, 1, 1]) @ r, t), "mirrors"),
    "no rotation": (lambda k, r, t: (k, 1.01 * r, t), "R is not a rotation"),
    "centimetres": (lambda k, r, t: (k, r, 100 * t), "up to 208 m apart: .*centimetres"),
    "millimetres": (lambda k, r, t: (k, r, 1000 * t), "03 m apart: .*or millimetres"),
    "kilometres": (lambda k, r, t: (k, r, t / 1000), "up to 0.00208 m apart: wanted metres"),
    "K in columns": (lambda k, r, t: (k.T, r, t), "K wants rows"),
    "K in shares": (lambda k, r, t: (SHARES @ k, r, t), "K has focal lengths .* not shares"),
    "K mirrored": (lambda k, r, t: (np.diag([1, -1, 1]) @ k, r, t), "K has focal lengths"),
    "centre beside": (lambda k, r, t: (k + 900 * np.eye(3, k=2), r, t), "K has its centre"),
    "NaN": (lambda k, r, t: (k, r, t * np.nan), "not finite"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_rig_that_cannot_be_is_refused_at_every_door(tmp_path, kind):
    change, message = BROKEN[kind]
    for call in doors(tmp_path, turned(change)).values():
        with pytest.raises(ValueError, match=message):
            call()


def test_distortion_is_refused_where_nobody_takes_it_out(tmp_path):
    found = entries()
    found["cam1"]["distCoeff"] = [-0.3, 0.1, 0, 0, 0]
    calls = doors(tmp_path, found)
    assert len(calls.pop("TACO")()) == 3  # its toolkit never applies them
    for call in calls.values():
        with pytest.raises(ValueError, match="camera 'cam1': distCoeff is .*undistort"):
            call()
    found["cam1"]["distCoeff"] = [0.0] * 5
    (tmp_path / "cameras.json").write_text(json.dumps(found))
    assert len(rigs.read(tmp_path / "cameras.json")) == 3
    found["cam1"]["k1"] = 0.2
    (tmp_path / "cameras.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"k1 is 0.2"):
        rigs.read(tmp_path / "cameras.json")


def test_a_camera_named_twice_is_refused(tmp_path):
    text = json.dumps(entries()).replace('"cam2"', '"cam1"')
    for call in doors(tmp_path, text).values():
        with pytest.raises(ValueError, match="the key 'cam1' twice"):
            call()


@pytest.mark.parametrize("kind", ["centimetres", "millimetres", "mirrored", "K in shares"])
def test_a_clip_is_made_of_a_rig_that_can_be(written, kind):
    recording = recordings.read_folder(written)
    change, message = BROKEN[kind]
    cameras = {}
    for name, camera in recording.cameras.items():
        pose = camera.extrinsics
        k, r, t = change(camera.intrinsics, pose[:, :3], pose[:, 3])
        cameras[name] = rigs.Camera(name, k, np.concatenate([r, t[:, None]], 1), camera.size)
    with pytest.raises(ValueError, match=message):
        clips.make(dataclasses.replace(recording, cameras=cameras), 30.0, SETTINGS)


def test_a_far_too_small_scene_is_seen_in_the_images(written):
    """Surfaces of metres before cameras of centimetres, near enough to pass as metres."""
    recording = recordings.read_folder(written)
    rig = {}
    for name, camera in recording.cameras.items():
        away = camera.extrinsics.copy()
        away[:, 3] *= 9
        wide = camera.intrinsics * np.array([[0.2], [0.2], [1]])
        rig[name] = rigs.Camera(name, wide + 60 * np.eye(3, k=2), away, camera.size)
    clouds = [surface.at(0) for surface in recording.surfaces]
    with pytest.raises(ValueError, match="take .*% of the images' diagonal"):
        rigs.check(rig, clouds)


def write_surface(folder, name="tool", **changes):
    vertices, faces = tiny.solids()["tool"]
    values = {"vertices": vertices, "faces": faces, "poses": tiny.poses(FRAMES)["tool"]}
    values = {k: v for k, v in (values | changes).items() if v is not None}
    np.savez(folder / f"{name}.npz", **values)
    return folder / f"{name}.npz"


def missing(poses, with_what):
    poses[4] = with_what
    return poses


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p, v: {"poses": np.swapaxes(p, 1, 2)}, "frame 0 is not .* in columns"),
        (lambda p, v: {"poses": p @ np.diag([-1, 1, 1, 1.0])}, "or it mirrors"),
        (lambda p, v: {"poses": missing(p, 0)}, "frame 4 .* all zeros: no pose"),
        (lambda p, v: {"poses": missing(p, np.nan)}, "frame 4 has no finite pose"),
        (lambda p, v: {"poses": p[:, :3]}, r"wanted poses \[n 4 4\], got \(9, 3, 4\)"),
        (lambda p, v: {"vertices": 1000 * v}, "centimetres or millimetres"),
        (lambda p, v: {"vertices": missing(np.tile(v, (9, 1, 1)), 0.1), "poses": None},
         "frame 4 has it in one point"),
        (lambda p, v: {"vertices": missing(np.tile(v, (9, 1, 1)), np.inf), "poses": None},
         "not finite, the first in frame 4"),
        (lambda p, v: {"faces": tiny.solids()["tool"][1] + 1}, "the first of which is 0"),
        (lambda p, v: {"faces": tiny.solids()["tool"][1] + 0.5}, "not whole numbers"),
        (lambda p, v: {"faces": np.zeros((0, 3), int)}, "no faces"),
        (lambda p, v: {"faces": np.array([[0, 1, 2, 3]])}, r"faces \[q 3\]"),
    ],
)  # fmt: skip
def test_a_surface_that_cannot_be_is_refused(tmp_path, change, message):
    path = write_surface(tmp_path, **change(tiny.poses(FRAMES)["tool"], tiny.solids()["tool"][0]))
    with pytest.raises(surfaces.BrokenSurface, match=message):
        surfaces.read(path)


def test_numbers_of_other_programs_are_read_equal(tmp_path):
    wanted = surfaces.read(write_surface(tmp_path))
    vertices, faces = tiny.solids()["tool"]
    got = surfaces.read(
        write_surface(
            tmp_path,
            vertices=np.asfortranarray(vertices.astype(">f8")),
            faces=faces.astype(">u4"),
            poses=tiny.poses(FRAMES)["tool"].astype(">f8"),
        )
    )
    np.testing.assert_array_equal(got.at(3), wanted.at(3))
    np.testing.assert_array_equal(got.faces, wanted.faces)


def test_a_recording_too_short_for_its_clip_is_refused(written):
    recording = recordings.read_folder(written)
    long = dataclasses.replace(SETTINGS, frames=21)
    with pytest.raises(
        ValueError, match="9 frames of 30 a second are 5 of a clip's 21, wanted 25%"
    ):
        clips.make(recording, 30.0, long)


def test_a_video_of_fewer_frames_than_poses_drops_its_view(written):
    recording = recordings.read_folder(written)
    every = tuple(
        dataclasses.replace(s, poses=np.concatenate([s.poses, s.poses])) for s in recording.surfaces
    )
    more = dataclasses.replace(recording, surfaces=every, frames=2 * FRAMES)
    with pytest.raises(ValueError, match="wanted 18 frames, one a pose, got 9"):
        clips.make(more, 30.0, SETTINGS)


QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"


@pytest.mark.parametrize(
    "text",
    [
        QUAD,
        QUAD.replace("\n", "\r\n"),
        "\ufeff" + QUAD,
        "# by a program\nmtllib a.mtl\no cup\ng side\n" + QUAD.replace("f ", "usemtl x\ns 1\nf "),
        QUAD.replace("f 1 2 3 4", "f -4 -3 -2 -1"),
        QUAD.replace("f 1 2 3 4", "vt 0 0\nvn 0 0 1\nf 1/1/1 2/1/1 3//1 4"),
        QUAD.replace("f 1 2 3 4", "f 1 2 \\\n3 4"),
        QUAD.replace("v 1 1 0", "v 1 1 0 0.5 0.5 0.5"),
        "v 9 9 9\n" + QUAD.replace("f 1 2 3 4", "f 2 3 4\nf 2 4 5\nl 1 2\np 1"),
    ],
)
def test_triangles_of_other_programs(tmp_path, text):
    (tmp_path / "a.obj").write_bytes(text.encode())
    vertices, faces = obj.parse(reading.text(tmp_path / "a.obj"), where="a.obj")
    np.testing.assert_array_equal(vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize(
    "text, message",
    [
        (QUAD.replace("f 1 2 3 4", "f 0 1 2"), "line 5: 'f 0 1 2': vertex 0"),
        (QUAD.replace("f 1 2 3 4", "f 1 2 9"), "names vertex 9 of 4"),
        (QUAD.replace("f 1 2 3 4", "f -9 1 2"), "vertex -9 of 4"),
        (QUAD.replace("f 1 2 3 4", "f 1 2"), "a face of 2 corners"),
        (QUAD.replace("v 1 1 0", "v 1 1"), "line 3"),
        (QUAD.replace("v 1 1 0", "v 1 nan 0"), "not finite"),
        (QUAD.replace("f 1 2 3 4", ""), "no faces"),
    ],
)
def test_broken_triangles_are_named(text, message):
    with pytest.raises(ValueError, match=f"a.obj.*{message}"):
        obj.parse(text, where="a.obj")


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_any_editor(tmp_path, code, end):
    raw = end.join(["a käse", "", " seq_2 ", ""]).encode(code)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe" * (code == "utf-16-le") + raw)
    assert reading.lines(tmp_path / "a.txt") == ["a käse", "seq_2"]


def test_what_is_no_text_or_no_json_is_named(tmp_path):
    path = tmp_path / "a.json"
    for raw, message in ((b"\xff\xfa", "wanted a text"), (b'{"a"\0', "zero bytes")):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=message):
            reading.text(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert reading.values(path) == {"a": 1}
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a.json: not JSON"):
        reading.values(path)


@pytest.mark.parametrize("words", ["", "  \n", "\ufeff", "\u200b\u200e", "\u2028", "\x07"])
def test_an_empty_prompt_is_refused(words):
    with pytest.raises(ValueError, match="somewhere: wanted a prompt"):
        reading.prompt(words, where="somewhere")
    with pytest.raises(ValueError, match="wanted a prompt"):
        dataclasses.replace(SETTINGS, text=words).prompt(("stir", "spoon", "bowl"))


def test_a_prompt_is_one_line():
    assert reading.prompt("\ufeffA cup\r\n of  tea", where="x") == "A cup of tea"


def test_systems_folders_are_no_recordings(written):
    root = written.parent
    for name in ("__MACOSX", ".seq0", "@eaDir"):
        (root / name).mkdir()
        (root / name / "recording.json").write_text("{}")
    (written / "surfaces/._tool.npz").write_bytes(b"\0\5")
    assert [source.id for source in recordings.folder_sources(root)] == ["seq0"]
    assert len(recordings.read_folder(written).surfaces) == 4


def test_json_that_is_too_deep_is_named(tmp_path):
    path = tmp_path / "cameras.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cameras.json: not JSON"):
        reading.values(path)


@pytest.mark.parametrize("kind", ["cut", "bits", "no file of arrays", "objects", "complex"])
def test_arrays_that_cannot_be_read_are_named(tmp_path, kind):
    path = tmp_path / "a.npz"
    values = {"objects": np.array([{}], object), "complex": np.ones(2, complex)}
    np.savez(path, x=values.get(kind, np.arange(100.0)))
    data = bytearray(path.read_bytes())
    data[200] ^= kind == "bits"
    path.write_bytes(
        {"cut": data[:300], "no file of arrays": b"\x93NUMPY\1\0v\0{" + bytes(60)}.get(kind, data)
    )
    with pytest.raises(ValueError, match="a.npz: (unreadable|x holds complex128)"):
        reading.arrays(path)


def test_a_member_without_numpys_mark_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", b"\xd3NUMPY\1\0 and so on")
    with pytest.raises(ValueError, match="a.npz: x is no array of numpy's"):
        reading.arrays(tmp_path / "a.npz")


def test_a_file_of_prompts_is_named(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffone\r\n\r\n two\n", encoding="utf-16")
    assert reading.prompts(path) == ["one", "two"]
    for text, said in (("\n \n", "wanted a prompt a line"), ("a\n\u200b\n", "an empty one")):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"prompts.txt: .*{said}"):
            reading.prompts(path)


@pytest.mark.parametrize("moves", [False, True])
def test_a_camera_is_read_as_it_was_stated(moves):
    k, pose = tiny.rig(3)["cam1"]
    path = np.stack([pose, pose + 0.01 * np.eye(3, 4, 3)]) if moves else None
    camera = rigs.Camera("a", k, np.asarray(pose), tiny.SIZE, path)
    said = json.loads(json.dumps(rigs.stated(camera)))
    assert np.shape(said["R"]) == ((2, 9) if moves else (9,))
    found = rigs.parse("a", said, where="x")
    assert found.size == camera.size and (found.path is None) == (not moves)
    for name in ("intrinsics", "extrinsics", "path"):
        np.testing.assert_array_equal(getattr(found, name), getattr(camera, name))
