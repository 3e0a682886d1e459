"""Cameras and poses of other people, checked in one place, whoever reads them.

    {"<camera>": {"K": [9], "R": [9], "T": [3], "imgSize": [width, height]}, ...}

or, of a camera that moves, R [n 9] and T [n 3], a row a frame. K and R rows first, x_cam = R x + T,
OpenCV axes (x right, y down, z forward), metres, pixels. Every camera of a recording, of a user's
folder and of a calibration comes through `parse`, every rig through `check`, every pose of a body
through `rigid`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import reading
from syncmv4d_jax.geometry import cameras as pinhole

TURN = 5e-3  # how far R R^T may be from 1: numbers that were rounded to three digits
BASELINE = 20.0  # metres between two cameras; hands are filmed from nearer
DISTANCE = 15.0  # metres from a camera to what it looks at
NEAREST = 0.005  # metres between the two cameras of a rig that are farthest apart
SEEN = 0.02  # least part of an image's diagonal that the tracked surfaces take
UNITS = "wanted metres; are these centimetres or millimetres?"
DISTORTION = (
    "distCoeff", "distCoeffs", "dist_coeffs", "dist", "distortion", "distortion_coefficients",
    "distortionCoefficients", "D", "k1", "k2", "k3", "k4", "p1", "p2", "radial", "tangential",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Camera:
    """name; intrinsics [3 3] pixels; extrinsics [3 4] world to camera, metres, of frame 0; size
    (h, w). path: extrinsics [n 3 4] of a camera that moves, None of one that stands still."""

    name: str
    intrinsics: np.ndarray
    extrinsics: np.ndarray
    size: tuple[int, int]
    path: np.ndarray | None = None

    def at(self, index: np.ndarray) -> np.ndarray:
        """Extrinsics [n 3 4] at frames `index` [n], [3 4] of a camera that stands still."""
        return self.extrinsics if self.path is None else self.path[index]


def read(path: str | Path, *, undistorted: bool = False) -> dict[str, Camera]:
    """Reads the cameras of a file.

    Args:
      undistorted: the videos are known to be so: coefficients beside the cameras count for nothing.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not JSON, no camera, or one that `parse` or a rig that `check` refuses.
    """
    raw = reading.values(path)
    if not isinstance(raw, dict) or not raw:
        raise ValueError(f"{path}: wanted {{camera: {{K, R, T, imgSize}}}} of at least one camera")
    found = {}
    for name, value in raw.items():
        where = f"{path}, camera {name!r}"
        found[name] = parse(name, value, where=where, undistorted=undistorted)
    check(found, where=str(path))
    return found


def parse(name: str, value: Any, *, where: str, undistorted: bool = False) -> Camera:
    """Returns the camera of one entry.

    Raises:
      ValueError: a number that is missing, or a camera that cannot be.
    """
    try:
        width, height = (int(x) for x in np.asarray(value["imgSize"], np.float64).reshape(2))
        intrinsics = np.asarray(value["K"], np.float64).reshape(3, 3)
        rotation = np.asarray(value["R"], np.float64).reshape(-1, 3, 3)
        translation = np.asarray(value["T"], np.float64).reshape(-1, 3, 1)
        if len(rotation) != len(translation) or not len(rotation):
            raise ValueError(f"{len(rotation)} rotations and {len(translation)} translations")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: wanted K [9], R [9], T [3], imgSize [2], or of a camera that moves R [n 9] "
            f"and T [n 3], got {error!r}"
        ) from error
    poses = np.concatenate([rotation, translation], axis=2)
    path = poses if len(poses) > 1 else None
    camera = Camera(name, intrinsics, poses[0], (height, width), path)
    check_camera(camera, where=where)
    if not undistorted:
        _no_distortion(value, where)
    return camera


def stated(camera: Camera) -> dict[str, list[float]]:
    """Returns the entry of a camera, as `parse` reads it."""
    poses = camera.extrinsics if camera.path is None else camera.path
    return {
        "K": camera.intrinsics.ravel().tolist(),
        "R": poses[..., :3].reshape(*poses.shape[:-2], 9).tolist(),
        "T": poses[..., 3].tolist(),
        "imgSize": [camera.size[1], camera.size[0]],
    }


def _no_distortion(value: Mapping[str, Any], where: str) -> None:
    for key in DISTORTION:
        given = value.get(key)
        numbers = list(given.values()) if isinstance(given, dict) else given
        try:
            bent = numbers is not None and np.any(np.asarray(numbers, np.float64) != 0)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {key}: wanted numbers, got {given!r}") from error
        if bent:
            raise ValueError(
                f"{where}: {key} is {given}: lens distortion is not taken out here; undistort the "
                "pictures, give the K of what results, and leave the coefficients out"
            )


def check_camera(camera: Camera, *, where: str, cropped: bool = False) -> None:
    """Checks one camera by itself. cropped: of a crop, whose centre may lie outside of it.

    Raises:
      ValueError: K or R that no camera has.
    """
    k, (height, width) = camera.intrinsics, camera.size
    if min(height, width) < 1:
        raise ValueError(f"{where}: imgSize is {width} x {height}")
    if not np.isfinite(k).all() or not np.isfinite(camera.extrinsics).all():
        raise ValueError(f"{where}: numbers that are not finite")
    if np.abs(k[[1, 2, 2, 2], [0, 0, 1, 2]] - np.array([0, 0, 0, 1.0])).max() > 1e-6:
        raise ValueError(f"{where}: K wants rows (fx s cx), (0 fy cy), (0 0 1), got {k.tolist()}")
    if k[0, 0] <= 0 or k[1, 1] <= 0:
        raise ValueError(f"{where}: K has focal lengths {k[0, 0]}, {k[1, 1]}; wanted OpenCV's axes")
    shares = np.array([k[0, 0] / width, k[1, 1] / height])
    if (shares < 0.1).any() or (shares > 200).any():
        raise ValueError(
            f"{where}: K has focal lengths {k[0, 0]:.4g}, {k[1, 1]:.4g} for an image of {width} x "
            f"{height}: wanted pixels, not shares of the image or millimetres"
        )
    if abs(k[0, 1]) > 0.1 * k[0, 0]:
        raise ValueError(f"{where}: K has a skew of {k[0, 1]}")
    for axis, middle, extent in (("x", k[0, 2], width), ("y", k[1, 2], height)):
        if not cropped and not -extent < middle < 2 * extent:
            raise ValueError(f"{where}: K has its centre at {axis} = {middle} of {extent} pixels")
    every = camera.extrinsics[None] if camera.path is None else camera.path
    for n, turn in enumerate(every[:, :, :3]):
        at = f"{where}, frame {n}" if camera.path is not None else where
        if not np.isfinite(every[n]).all():
            raise ValueError(f"{at}: numbers that are not finite")
        if np.abs(turn @ turn.T - np.eye(3)).max() > TURN:
            raise ValueError(f"{at}: R is not a rotation")
        if np.linalg.det(turn) < 0:
            raise ValueError(f"{at}: R is not a rotation: it mirrors (determinant -1)")


def check(
    rig: Mapping[str, Camera], clouds: Sequence[np.ndarray] = (), *, where: str = "calibration"
) -> None:
    """Checks the cameras of a rig against each other and against what they look at.

    Args:
      clouds: vertices [p 3] of the tracked surfaces at one time, metres, world; where there are.

    Raises:
      ValueError: a camera that cannot be, or distances that are not metres.
    """
    for name, camera in rig.items():
        check_camera(camera, where=f"{where}, camera {name!r}")
    centres = np.stack([pinhole.camera_centre(camera.extrinsics) for camera in rig.values()])
    apart = np.linalg.norm(centres[:, None] - centres, axis=-1).max()
    if apart > BASELINE or 0 < apart < NEAREST:
        raise ValueError(f"{where}: its cameras are up to {apart:.3g} m apart: {UNITS}")
    middle = _focus(rig, centres)
    if len(clouds):
        middle = np.concatenate(clouds).mean(0)
    if middle is not None:
        far = np.median(np.linalg.norm(centres - middle, axis=-1))
        if far > DISTANCE:
            raise ValueError(f"{where}: its cameras are {far:.3g} m from what they see: {UNITS}")
    if len(clouds):
        _check_seen(rig, np.concatenate(clouds), where)


def _focus(rig: Mapping[str, Camera], centres: np.ndarray) -> np.ndarray | None:
    """The point nearest to all optical axes, None where they are nearly parallel."""
    axes = np.stack([camera.extrinsics[2, :3] for camera in rig.values()])
    across = np.eye(3) - axes[:, :, None] * axes[:, None]  # takes the part along an axis out
    total = across.sum(0)
    if np.linalg.eigvalsh(total)[0] < 0.02 * len(axes):
        return None
    return np.linalg.solve(total, np.einsum("vab,vb->a", across, centres))


def _check_seen(rig: Mapping[str, Camera], points: np.ndarray, where: str) -> None:
    shares = []
    for camera in rig.values():
        pixels, depth = pinhole.project(points, camera.intrinsics, camera.extrinsics)
        if (depth > 0).all():
            shares.append(np.linalg.norm(np.ptp(pixels, axis=0)) / np.hypot(*camera.size))
    if shares and np.median(shares) < SEEN:
        raise ValueError(
            f"{where}: the tracked surfaces take {np.median(shares):.2%} of the images' diagonal: "
            f"of surfaces and cameras {UNITS}"
        )


def rigid(poses: np.ndarray, *, where: str) -> np.ndarray:
    """Returns poses [n 4 4] of a body, body to world, float64.

    Raises:
      ValueError: another shape, or a row that is not a rotation and a translation; names it.
    """
    poses = np.asarray(poses, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise ValueError(f"{where}: wanted poses [n 4 4], got {poses.shape}")
    finite = np.isfinite(poses).all((1, 2))
    if not finite.all():
        raise ValueError(f"{where}: frame {int(np.argmin(finite))} has no finite pose")
    turns = poses[:, :3, :3]
    off = np.abs(turns @ np.moveaxis(turns, 1, 2) - np.eye(3)).max((1, 2))
    off = np.maximum(off, np.abs(poses[:, 3] - np.array([0, 0, 0, 1.0])).max(1))
    wrong = (off > 1e-2) | (np.linalg.det(turns) < 0)
    if wrong.any():
        frame = int(np.argmax(wrong))
        said = "it is all zeros: no pose" if not poses[frame].any() else "or it mirrors"
        raise ValueError(
            f"{where}: frame {frame} is not a rotation and a translation in columns, {said}"
        )
    return poses
