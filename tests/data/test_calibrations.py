"""Calibrations of other programs, written here by their own rules: the same cameras come back."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from syncmv4d_jax.data import calibrations, user
from syncmv4d_jax.geometry import cameras

ROOT = Path(__file__).parents[2]
SIZE = (96, 128)  # h, w
EYES = np.array([[1.2, 0.9, 0.7], [-1.1, 1.0, 0.9], [0.1, -1.4, 0.8]])
NAMES = ("back", "left", "right")
BENT = (-0.21, 0.05, 0.002, -0.001)
FISH = (-0.04, 0.01, -0.002, 0.0005)
UNIT = 0.25  # metres


def intrinsics(i):
    return np.array([[110.0 + i, 0, 62.5 + i], [0, 112.0 - i, 48.0], [0, 0, 1]])


def pose(i):
    up = np.array([0.0, 0, 1])
    return np.asarray(cameras.look_at(EYES[i], np.zeros(3), up), np.float64)


def quaternion(turn):
    x, y, z, w = Rotation.from_matrix(turn).as_quat()
    return w, x, y, z


def colmap_parameters(i, fish):
    k = intrinsics(i)
    return (k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5, *(FISH if fish else BENT))


def colmap_txt(folder, fish=False):
    model = "OPENCV_FISHEYE" if fish else "OPENCV"
    rows = ["# Camera list", "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    rows += [
        f"{i + 1} {model} {SIZE[1]} {SIZE[0]} "
        + " ".join(map(repr, map(float, colmap_parameters(i, fish))))
        for i in range(3)
    ]
    (folder / "cameras.txt").write_text("\n".join(rows) + "\n")
    rows = ["# Image list with two lines of data per image:"]
    for i, name in enumerate(NAMES):
        numbers = [*quaternion(pose(i)[:, :3]), *(pose(i)[:, 3] / UNIT)]
        rows += [
            f"{i + 7} {' '.join(repr(float(x)) for x in numbers)} {i + 1} {name}.jpg",
            "" if i else "1.0 2.0 -1",
        ]
    (folder / "images.txt").write_text("\n".join(rows) + "\n")
    return folder


def colmap_bin(folder):
    data = struct.pack("<Q", 3)
    for i in range(3):
        data += struct.pack("<iiQQ8d", i + 1, 4, SIZE[1], SIZE[0], *colmap_parameters(i, False))
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", 3)
    for i, name in enumerate(NAMES):
        numbers = (*quaternion(pose(i)[:, :3]), *(pose(i)[:, 3] / UNIT))
        data += struct.pack("<i7di", i + 7, *numbers, i + 1) + f"{name}.png\0".encode()
        data += struct.pack("<Q", i) + struct.pack("<ddq", 1.0, 2.0, -1) * i
    (folder / "images.bin").write_bytes(data)
    return folder


def nerfstudio(folder):
    frames = []
    for i, name in enumerate(NAMES):
        whole = np.eye(4)
        whole[:3] = pose(i)
        whole[:3, 3] /= UNIT
        back = np.linalg.inv(whole) @ np.diag([1.0, -1, -1, 1])
        k = intrinsics(i)
        lens = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2] + 0.5, "cy": k[1, 2] + 0.5}
        place = {"file_path": f"images/{name}.png", "transform_matrix": back.tolist()}
        frames.append(place | lens)
    whole = {"camera_model": "OPENCV", "w": SIZE[1], "h": SIZE[0], "frames": frames}
    whole |= dict(zip(("k1", "k2", "p1", "p2"), BENT, strict=True))
    (folder / "transforms.json").write_text(json.dumps(whole))
    return folder / "transforms.json"


def opencv(folder):
    def matrix(x):
        x = np.atleast_2d(x)
        numbers = ", ".join(repr(float(v)) for v in x.ravel())
        sizes = f"rows: {x.shape[0]}\n   cols: {x.shape[1]}"
        return f"!!opencv-matrix\n   {sizes}\n   dt: d\n   data: [ {numbers} ]"

    rows = ["%YAML:1.0", "---"]
    for i, name in enumerate(NAMES):
        turn = Rotation.from_matrix(pose(i)[:, :3]).as_rotvec()[:, None] if i else pose(i)[:, :3]
        parts = {
            "image_width": SIZE[1],
            "image_height": SIZE[0],
            "camera_matrix": matrix(intrinsics(i)),
            "distortion_coefficients": matrix([BENT]),
            "rvec" if i else "R": matrix(turn),
            "tvec": matrix(pose(i)[:, 3:] / UNIT),
        }
        text = "\n".join(f"{key}: {value}" for key, value in parts.items())
        rows += [f"{name}:", *(f"   {row}" for row in text.splitlines())]
    (folder / "rig.yml").write_text("\n".join(rows) + "\n")
    return folder / "rig.yml"


def qualisys(folder):
    def said(tag, values):
        return f"<{tag} " + " ".join(f'{k}="{float(x)!r}"' for k, x in values.items()) + "/>"

    rows = ["<?xml version='1.0' encoding='ASCII'?>", "<calibration><cameras>"]
    for i, name in enumerate(NAMES):
        turn, k = pose(i)[:, :3] * [[1], [-1], [-1]], 64 * intrinsics(i)
        centre = 1000 * -pose(i)[:, :3].T @ pose(i)[:, 3]
        view = {"left": 4, "top": 2, "right": SIZE[1] + 3, "bottom": SIZE[0] + 1}
        place = {f"r{a + 1}{b + 1}": turn[a, b] for a in range(3) for b in range(3)}
        place |= dict(zip("xyz", centre, strict=True))
        lens = {
            "focalLengthU": k[0, 0],
            "focalLengthV": k[1, 1],
            "centerPointU": k[0, 2] + 64 * 4,
            "centerPointV": k[1, 2] + 64 * 2,
            "radialDistortion1": 64 * BENT[0],
            "radialDistortion2": 64 * BENT[1],
            "radialDistortion3": 0,
            "tangentalDistortion1": 64 * BENT[2],
            "tangentalDistortion2": 64 * BENT[3],
        }
        inside = said("fov_video", view) + said("transform", place) + said("intrinsic", lens)
        rows.append(f'<camera serial="{name}">{inside}</camera>')
    (folder / "rig.qca.txt").write_text("\n".join([*rows, "</cameras></calibration>"]))
    return folder / "rig.qca.txt"


FORMS = {"colmap txt": colmap_txt, "colmap bin": colmap_bin, "nerfstudio": nerfstudio,
         "opencv": opencv, "qualisys": qualisys}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_rig_comes_back_from_every_form(form, tmp_path):
    path = FORMS[form](tmp_path)
    metres = None if form == "qualisys" else UNIT
    found = calibrations.read(path, metres=metres)
    assert sorted(found) == list(NAMES)
    for i, name in enumerate(NAMES):
        one = found[name]
        np.testing.assert_allclose(one.camera.intrinsics, intrinsics(i), atol=1e-9)
        np.testing.assert_allclose(one.camera.extrinsics, pose(i), atol=1e-7)
        np.testing.assert_allclose(one.bent[:4], BENT, rtol=1e-12)
        assert one.camera.size == SIZE and not one.fisheye
    if metres:
        with pytest.raises(ValueError, match="no unit of its own"):
            calibrations.read(path)


@pytest.mark.parametrize("fish", [False, True])
def test_points_lie_where_the_pinhole_says_after_undistorting(fish, tmp_path):
    """Dots drawn where the lens shows them are found where K alone would have shown them."""
    cv2 = pytest.importorskip("cv2")
    one = calibrations.read(colmap_txt(tmp_path, fish), metres=UNIT)["left"]
    assert one.fisheye == fish and one.bent == (FISH if fish else (*BENT, 0, 0, 0, 0))
    k, found = one.camera.intrinsics, 0
    for x, y in ((-0.35, -0.25), (0.3, 0.2), (0.05, -0.3), (-0.3, 0.28)):
        point = np.array([[[x, y, 1.0]]])
        project = cv2.fisheye.projectPoints if fish else cv2.projectPoints
        seen, _ = project(point, np.zeros(3), np.zeros(3), k, np.array(one.bent))
        u, v = seen.ravel()
        grid = np.mgrid[: SIZE[0], : SIZE[1]]
        blob = np.exp(-((grid[1] - u) ** 2 + (grid[0] - v) ** 2) / (2 * 1.5**2))
        image = np.repeat(np.round(255 * blob)[..., None], 3, -1).astype(np.uint8)
        straight = calibrations.undistort(image, one).astype(float)[..., 0]
        at = [(straight * axis).sum() / straight.sum() for axis in (grid[1], grid[0])]
        wanted = k[:2] @ point.ravel()
        np.testing.assert_allclose(at, wanted, atol=0.25)
        found += np.abs(np.subtract((u, v), wanted)).max() > 0.5
    assert found >= 2  # the lens moves some of them
    with pytest.raises(ValueError, match="it is 128 x 96, its image is 12 x 8"):
        calibrations.undistort(np.zeros((8, 12, 3), np.uint8), one)


def test_what_cannot_be_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"frames": [{"file_path": "x.png"}]}')
    (tmp_path / "b.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, words in {
        "a.json": r"frames\[0\]: wanted file_path, transform_matrix",
        "b.txt": "no calibration of COLMAP",
        "empty": "wanted a COLMAP model",
    }.items():
        with pytest.raises(ValueError, match=words):
            calibrations.read(tmp_path / path, metres=1.0)
    with pytest.raises(FileNotFoundError, match="no such calibration"):
        calibrations.read(tmp_path / "none.yml")
    folder = tmp_path / "model"
    folder.mkdir()
    colmap_bin(folder)
    (folder / "images.bin").write_bytes((folder / "images.bin").read_bytes()[:-30])
    with pytest.raises(ValueError, match="ends too early or is damaged"):
        calibrations.read(folder, metres=1.0)
    with pytest.raises(ValueError, match="give the model's folder"):
        calibrations.read(folder / "cameras.bin", metres=1.0)
    text = colmap_txt(tmp_path / "empty").joinpath("cameras.txt").read_text()
    (tmp_path / "empty/cameras.txt").write_text(text.replace("OPENCV", "FOV"))
    with pytest.raises(ValueError, match="lens model FOV; wanted one of"):
        calibrations.read(tmp_path / "empty", metres=1.0)
    with pytest.raises(ValueError, match="cameras are up to .* wanted metres"):
        calibrations.read(opencv(tmp_path), metres=100.0)


def test_the_command_makes_a_folder_to_sample_from(tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "images").mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((*SIZE, 3), 60 * i, np.uint8)).save(tmp_path / f"images/{name}.png")
    command = [sys.executable, ROOT / "data_prep/import_cameras.py", "--src", nerfstudio(tmp_path),
               "--images", tmp_path / "images", "--out", tmp_path / "out"]  # fmt: skip
    run = lambda *more: subprocess.run(  # noqa: E731
        [*command, *more], capture_output=True, text=True, cwd=ROOT
    )
    assert "no unit of its own" in run().stderr and not (tmp_path / "out").exists()
    done = run("--metres-per-unit", str(UNIT), "--views", "right", "back")
    assert done.returncode == 0, done.stderr
    assert "view 0 is right; right, back" in done.stdout and "lenses taken out" in done.stdout
    views = user.read(tmp_path / "out", views=2, size=SIZE)
    assert views.names == ("right", "back")
    np.testing.assert_allclose(views.extrinsics[0, 0], pose(2), atol=1e-6)
    np.testing.assert_allclose(views.intrinsics[1], intrinsics(0), atol=1e-4)
    assert "is there already" in run("--metres-per-unit", str(UNIT)).stderr
    assert "no cameras ['top']" in run("--metres-per-unit", "1", "--views", "top").stderr
