"""Calibrations of other programs -> the cameras of rigs.py, in its axes, pixels and metres.

What a file is is told by its content:

    COLMAP      a model's folder, cameras and images as .txt or .bin; world to camera; the first
                pixel's centre is at 0.5; no unit
    nerfstudio  transforms.json: camera to world, OpenGL axes (y up, looking along -z), 0.5; no unit
    OpenCV      FileStorage yaml: camera_matrix, distortion_coefficients, R and T or rvec and tvec,
                world to camera, in the unit of the board
    Qualisys    .qca.txt, XML: focal lengths and centres in 1/64 pixel, camera axes turned about x
                by 180 degrees, millimetres

A form without a unit wants it from the caller: metres a unit. Lens models are those that OpenCV
takes out (`undistort`): k1 k2 p1 p2 k3 ... and, of fisheyes, Kannala and Brandt's k1 to k4.
"""

import dataclasses
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from syncmv4d_jax.data import reading, rigs

HALF = 0.5  # of COLMAP's and nerfstudio's pixels: their first centre
MILLIMETRE = 1e-3
FISHEYES = ("OPENCV_FISHEYE", "fisheye")
# COLMAP's number -> model, parameters: src/colmap/sensor/models.h
MODELS = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
}
BENT = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # OpenCV's order


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A camera and its lens: `bent` are OpenCV's coefficients, () for none; fisheye: of which."""

    camera: rigs.Camera
    bent: tuple[float, ...] = ()
    fisheye: bool = False


class _Lens(NamedTuple):
    size: tuple[int, int]  # (h, w)
    intrinsics: np.ndarray
    bent: tuple[float, ...]
    fisheye: bool


def read(path: str | Path, *, metres: float | None = None) -> dict[str, Calibrated]:
    """Reads the cameras of a file or of a COLMAP model's folder, by name.

    Args:
      metres: a unit of the file has; None: its form says it.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: no form that is known, a form without a unit and no `metres`, a lens model or a
        camera that cannot be.
    """
    path = Path(path)
    with reading.parsing(path, "calibration"):
        return _read(path, metres)


def _read(path: Path, metres: float | None) -> dict[str, Calibrated]:
    form = _form(path)
    units = {"Qualisys": MILLIMETRE, "TACO": 1.0}
    unit = units.get(form) if metres is None else metres
    if unit is None or not unit > 0:
        raise ValueError(
            f"{path}: {form} has no unit of its own; say how many metres one of its units is "
            "(--metres-per-unit, from a distance that you have measured)"
        )
    found: dict[str, Calibrated] = {}
    for one in _READERS[form](path):
        if one.camera.name in found:
            raise ValueError(f"{path}: two cameras are named {one.camera.name!r}")
        found[one.camera.name] = _scaled(one, unit)
    if not found:
        raise ValueError(f"{path}: {form} without a camera")
    rigs.check({name: c.camera for name, c in found.items()}, where=str(path))
    return found


def _form(path: Path) -> str:
    if path.is_dir():
        if any((path / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return "COLMAP"
        raise ValueError(f"{path}: wanted a COLMAP model (cameras.bin, images.bin) or a file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such calibration")
    if path.name in ("cameras.bin", "cameras.txt", "images.bin", "images.txt"):
        raise ValueError(f"{path}: give the model's folder, it has both files: {path.parent}")
    head = reading.text(path)[:4096].lstrip()
    if head.startswith("{"):
        raw = reading.values(path)
        return "nerfstudio" if isinstance(raw, dict) and "frames" in raw else "TACO"
    if head.startswith("%YAML"):
        return "OpenCV"
    if head.startswith("<") and "<calibration" in head:
        return "Qualisys"
    raise ValueError(
        f"{path}: no calibration of COLMAP, nerfstudio, OpenCV (%YAML), Qualisys or TACO's form"
    )


def _scaled(found: Calibrated, unit: float) -> Calibrated:
    pose = found.camera.extrinsics.copy()
    pose[:, 3] *= unit
    return dataclasses.replace(found, camera=dataclasses.replace(found.camera, extrinsics=pose))


def _calibrated(name: str, lens: _Lens, pose: np.ndarray) -> Calibrated:
    """pose: [3 4] world to camera."""
    camera = rigs.Camera(name, lens.intrinsics, pose, lens.size)
    rigs.check_camera(camera, where=f"camera {name!r}")
    if not np.isfinite(lens.bent).all():
        raise ValueError(f"camera {name!r}: distortion that is not finite: {lens.bent}")
    bent = lens.bent if any(lens.bent) else ()
    return Calibrated(camera, bent, lens.fisheye and bool(bent))


def _pinhole(fx: float, fy: float, cx: float, cy: float, skew: float = 0.0) -> np.ndarray:
    return np.array([[fx, skew, cx], [0, fy, cy], [0, 0, 1.0]])


# COLMAP.


def _colmap(folder: Path) -> Iterator[Calibrated]:
    binary = (folder / "cameras.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    if not (folder / f"images{suffix}").is_file():
        raise FileNotFoundError(f"{folder / f'images{suffix}'}: not found beside cameras{suffix}")
    own, placed = folder / f"cameras{suffix}", folder / f"images{suffix}"
    with reading.parsing(own, "cameras of COLMAP"):
        lenses = (_lenses_bin if binary else _lenses_txt)(own)
    with reading.parsing(placed, "images of COLMAP"):
        poses = list((_images_bin if binary else _images_txt)(placed))
    for name, camera, pose in sorted(poses, key=lambda found: found[0]):
        if camera not in lenses:
            raise ValueError(f"{folder}: image {name!r} is of camera {camera}, which is not there")
        yield _calibrated(Path(name).stem, lenses[camera], pose)


def _colmap_lens(model: str, width: int, height: int, values: list[float], where: str) -> _Lens:
    names = {name: words.split() for name, words in MODELS.values()}.get(model)
    if names is None:
        known = [name for name, _ in MODELS.values()]
        raise ValueError(f"{where}: lens model {model}; wanted one of {known}")
    if len(values) != len(names):
        raise ValueError(f"{where}: {model} wants {names}, got {len(values)} numbers")
    own = dict(zip(names, values, strict=True))
    own |= {"fx": own["f"], "fy": own["f"]} if "f" in own else {}
    fisheye = model in FISHEYES
    order = ("k1", "k2", "k3", "k4") if fisheye else BENT
    bent = tuple(own.get(key, 0.0) for key in order)
    k = _pinhole(own["fx"], own["fy"], own["cx"] - HALF, own["cy"] - HALF)
    return _Lens((int(height), int(width)), k, bent, fisheye)


def _colmap_pose(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """turn: quaternion (w, x, y, z)."""
    return np.concatenate([Rotation.from_quat(np.roll(turn, -1)).as_matrix(), shift[:, None]], 1)


def _rows(path: Path) -> Iterator[list[str]]:
    yield from (row.split() for row in reading.text(path).splitlines() if row[:1] != "#")


def _lenses_txt(path: Path) -> dict[int, _Lens]:
    found = {}
    for row in _rows(path):
        if row:
            width, height, *values = (float(x) for x in row[2:])
            where = f"{path}, camera {row[0]}"
            found[int(row[0])] = _colmap_lens(row[1], int(width), int(height), values, where)
    return found


def _images_txt(path: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    for row in list(_rows(path))[::2]:  # each is followed by its points, maybe none
        if row:
            pose = np.array([float(x) for x in row[1:8]])
            yield " ".join(row[9:]), int(row[8]), _colmap_pose(pose[:4], pose[4:])


def _lenses_bin(path: Path) -> dict[int, _Lens]:
    data, found, at = path.read_bytes(), {}, 8
    for _ in range(struct.unpack_from("<Q", data)[0]):
        camera, model, width, height = struct.unpack_from("<iiQQ", data, at)
        name, words = MODELS.get(model, (f"number {model}", ""))
        count = len(words.split())
        values = list(struct.unpack_from(f"<{count}d", data, at + 24))
        where = f"{path}, camera {camera}"
        found[camera] = _colmap_lens(name, width, height, values, where)
        at += 24 + 8 * count
    return found


def _images_bin(path: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    data, at = path.read_bytes(), 8
    for _ in range(struct.unpack_from("<Q", data)[0]):
        pose = np.array(struct.unpack_from("<7d", data, at + 4))
        camera, end = struct.unpack_from("<i", data, at + 60)[0], data.index(b"\0", at + 64)
        name = data[at + 64 : end].decode()
        points = struct.unpack_from("<Q", data, end + 1)[0]
        at = end + 9 + 24 * points
        if at > len(data):
            raise IndexError(f"{name}: {points} points")
        yield name, camera, _colmap_pose(pose[:4], pose[4:])


# nerfstudio.


def _nerfstudio(path: Path) -> Iterator[Calibrated]:
    whole = reading.values(path)
    for i, frame in enumerate(whole["frames"]):
        where, own = f"{path}, frames[{i}]", {**whole, **frame}
        try:
            pose = np.asarray(own["transform_matrix"], np.float64).reshape(4, 4)
            size = int(own["h"]), int(own["w"])
            centre = float(own["cx"]) - HALF, float(own["cy"]) - HALF
            k = _pinhole(float(own["fl_x"]), float(own["fl_y"]), *centre)
            name = Path(own["file_path"]).stem
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: wanted file_path, transform_matrix [4 4], w, h, fl_x, fl_y, cx, cy: "
                f"{error!r}"
            ) from error
        model = own.get("camera_model", "OPENCV")
        if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV_FISHEYE"):
            raise ValueError(f"{where}: camera_model {model!r}; wanted OPENCV, OPENCV_FISHEYE")
        order = ("k1", "k2", "k3", "k4") if model in FISHEYES else BENT
        bent = tuple(float(own.get(key, 0.0)) for key in order)
        pose[:, 1:3] *= -1  # OpenGL's camera looks along -z, y up
        turn = pose[:3, :3].T
        pose = np.concatenate([turn, -turn @ pose[:3, 3:]], axis=1)
        yield _calibrated(name, _Lens(size, k, bent, model in FISHEYES), pose)


# OpenCV.


class _Loader(yaml.SafeLoader):
    """YAML of OpenCV's FileStorage."""


def _matrix(loader: yaml.Loader, node: yaml.MappingNode) -> np.ndarray:
    own = loader.construct_mapping(node, deep=True)
    return np.asarray(own["data"], np.float64).reshape(own["rows"], own["cols"])


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix)
WORDS = {  # what calibration programs call it
    "k": ("camera_matrix", "cameraMatrix", "K", "M"),
    "bent": ("distortion_coefficients", "distCoeffs", "dist_coeffs", "D"),
    "turn": ("R", "rotation", "rvec", "rotation_vector"),
    "shift": ("T", "t", "translation", "tvec", "translation_vector"),
    "width": ("image_width", "width"),
    "height": ("image_height", "height"),
}


def _opencv(path: Path) -> Iterator[Calibrated]:
    text = reading.text(path).rstrip().replace("%YAML:1.0", "").replace("%YAML:1.1", "")
    try:
        raw = yaml.load(text, Loader=_Loader)  # safe: a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not YAML as OpenCV's FileStorage writes it: {error}") from error
    several = isinstance(raw, dict) and all(isinstance(x, dict) for x in raw.values())
    for name, values in raw.items() if several else [(path.stem, raw)]:
        yield _opencv_camera(name, values, f"{path}, camera {name!r}")


def _opencv_camera(name: str, values: Any, where: str) -> Calibrated:
    def of(key: str) -> Any:
        for word in WORDS[key]:
            if isinstance(values, dict) and word in values:
                return values[word]
        raise ValueError(f"{where}: wanted one of {WORDS[key]}")

    try:
        k, turn = np.asarray(of("k"), np.float64), np.asarray(of("turn"), np.float64)
        shift = np.asarray(of("shift"), np.float64).reshape(3, 1)
        bent = tuple(float(x) for x in np.ravel(of("bent")))
        size = int(of("height")), int(of("width"))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{where}: wanted numbers: {error}") from error
    if turn.size == 3:
        turn = Rotation.from_rotvec(turn.ravel()).as_matrix()
    if k.shape != (3, 3) or turn.shape != (3, 3):
        raise ValueError(f"{where}: wanted matrices [3 3], got {k.shape} and {turn.shape}")
    fisheye = str(values.get("model", values.get("camera_model", ""))).lower() in FISHEYES
    if len(bent) > (4 if fisheye else len(BENT)):
        raise ValueError(f"{where}: {len(bent)} distortion coefficients are not handled")
    return _calibrated(name, _Lens(size, k, bent, fisheye), np.concatenate([turn, shift], axis=1))


# Qualisys.


def _qualisys(path: Path) -> Iterator[Calibrated]:
    try:
        root = ElementTree.fromstring(reading.text(path).strip().encode())
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: not XML as Qualisys writes it: {error}") from error
    for own in root.iter("camera"):
        name, where = own.get("serial", ""), f"{path}, camera {own.get('serial')!r}"

        def numbers(tag: str, *keys: str, own: Any = own, where: str = where) -> list[float]:
            found = own.find(tag)
            try:
                return [float(found.attrib[key]) for key in keys]
            except (AttributeError, KeyError, ValueError) as error:
                raise ValueError(f"{where}: wanted {tag} with {keys}: {error!r}") from error

        left, top, right, bottom = numbers("fov_video", "left", "top", "right", "bottom")
        fx, fy, cx, cy = (x / 64 for x in numbers("intrinsic", "focalLengthU", "focalLengthV",
                                                  "centerPointU", "centerPointV"))  # fmt: skip
        k1, k2, k3 = (numbers("intrinsic", f"radialDistortion{i}")[0] for i in (1, 2, 3))
        p1, p2 = (
            numbers("intrinsic", f"tangentalDistortion{i}")[0] for i in (1, 2)
        )  # its spelling
        rows = [f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
        turn = np.array(numbers("transform", *rows)).reshape(3, 3) * [[1], [-1], [-1]]
        centre = np.array(numbers("transform", "x", "y", "z"))[:, None]
        size = int(bottom - top) + 1, int(right - left) + 1
        # NOTE(parity): the coefficients are divided by 64 too (Pose2Sim, calib_qca_fun).
        bent = tuple(x / 64 for x in (k1, k2, p1, p2, k3))
        lens = _Lens(size, _pinhole(fx, fy, cx - left, cy - top), bent, fisheye=False)
        yield _calibrated(name, lens, np.concatenate([turn, -turn @ centre], axis=1))


def _taco(path: Path) -> Iterator[Calibrated]:
    raw = reading.values(path)
    for name, camera in rigs.read(path, undistorted=True).items():
        value = raw[name]
        bent = next((value[key] for key in rigs.DISTORTION if key in value), ())
        yield Calibrated(camera, tuple(float(x) for x in np.ravel(bent)) if np.any(bent) else ())


_READERS: dict[str, Callable[[Path], Iterator[Calibrated]]] = {
    "COLMAP": _colmap,
    "nerfstudio": _nerfstudio,
    "OpenCV": _opencv,
    "Qualisys": _qualisys,
    "TACO": _taco,
}


def undistort(image: np.ndarray, found: Calibrated) -> np.ndarray:
    """Returns an image [h w 3] uint8 as the camera's K alone would have taken it; the same for a
    lens that bends nothing.

    Raises:
      ValueError: an image of another size.
      ModuleNotFoundError: OpenCV is not installed; says how it is.
    """
    size = found.camera.size
    if image.shape[:2] != size:
        raise ValueError(
            f"camera {found.camera.name!r}: it is {size[1]} x {size[0]}, its image is "
            f"{image.shape[1]} x {image.shape[0]}"
        )
    if not found.bent:
        return image
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"camera {found.camera.name!r} has a lens that bends ({found.bent}); taking it out "
            "needs OpenCV: pip install 'syncmv4d_jax[cameras]'"
        ) from error
    k, bent = found.camera.intrinsics, np.asarray(found.bent)
    if found.fisheye:
        return cv2.fisheye.undistortImage(image, k, bent, Knew=k)
    return cv2.undistort(image, k, bent)


def as_json(found: dict[str, Calibrated]) -> str:
    """The cameras, without lenses, as cameras.json has them."""
    rig = {name: rigs.stated(c.camera) for name, c in found.items()}
    return json.dumps(rig, indent=1)
