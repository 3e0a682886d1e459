"""Calibrations of other programs, written here by their own rules: the same cameras come back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign_rigs import (
    BENT,
    FISH,
    FORMS,
    NAMES,
    SIZE,
    UNIT,
    colmap_bin,
    colmap_txt,
    intrinsics,
    nerfstudio,
    opencv,
    pose,
)
from PIL import Image

from syncmv4d_jax.data import calibrations, user

ROOT = Path(__file__).parents[2]


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
    with pytest.raises(ValueError, match="images.bin: no images of COLMAP, or a dam"):
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
