"""Calibrations as other programs write them, by their own rules: three cameras of one rig."""

import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation

from syncmv4d_jax.geometry import cameras

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
