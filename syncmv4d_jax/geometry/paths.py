"""Camera paths: named ones around a scene, ones from a file, and what is refused.

A path gives intrinsics and world to camera [R|t] of every frame. Named paths start at a source
camera and turn about a pivot, the median of the scene's points; s runs from 0 to 1, eased:

    static              dolly            forward by a quarter of the pivot's depth
    forward_backward    there and back   orbit   30 degrees about the world's up, round the pivot
    circle              the centre on a circle of a tenth of the depth, looking at the pivot
    pan, roll           15, 10 degrees where it stands
    to_view:V           to the camera of view V: rotations by slerp, the centre on an arc

`orbit:45` gives another amount. Orbit and circle keep the pivot on its pixel.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.geometry import cameras

AMOUNTS = {
    "static": 0.0, "dolly": 0.25, "forward_backward": 0.25, "orbit": 30.0, "circle": 0.1,
    "pan": 15.0, "roll": 10.0, "to_view": 0.0,
}  # fmt: skip
LIMITS = {"dolly": 0.6, "forward_backward": 0.6, "circle": 0.5}  # of amounts that are no angles
FARTHEST = 60.0  # degrees from the nearest source, as the pivot sees it; and between axes
MOST = 1e9  # of a number in a file
TURN = 5e-3  # how far R R^T may be from 1


class Path(NamedTuple):
    """intrinsics [n 3 3] px; extrinsics [n 3 4] world to camera, metres."""

    intrinsics: np.ndarray
    extrinsics: np.ndarray


def _about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The rotation [3 3] about an axis, right-handed."""
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.radians(degrees)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least rotation [3 3] that takes the direction `first` to `second`."""
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    axis = np.cross(first, second)
    if np.linalg.norm(axis) < 1e-12:
        return np.eye(3)
    angle = np.degrees(np.arctan2(np.linalg.norm(axis), first @ second))
    return _about(axis, float(angle))


def _axis_angle(rotation: np.ndarray) -> tuple[np.ndarray, float]:
    """Axis and degrees of a rotation [3 3] of less than half a turn."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                     rotation[1, 0] - rotation[0, 1]])  # fmt: skip
    angle = np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(rotation) - 1))
    return (axis if angle > 1e-9 else np.array([0.0, 0, 1])), float(angle)


def _pose(rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return np.concatenate([rotation, -(rotation @ centre)[:, None]], axis=1)


def _step(name: str, amount: float, s: float, pose: np.ndarray, pivot, up) -> np.ndarray:
    """The pose [3 4] of a named path at s."""
    rotation, centre = pose[:, :3], cameras.camera_centre(pose)
    x, y, forward = rotation
    depth = float(forward @ (pivot - centre))
    if name in ("dolly", "forward_backward"):
        s = s if name == "dolly" else 1 - abs(2 * s - 1)
        return _pose(rotation, centre + s * amount * depth * forward)
    if name == "orbit":
        turn = _about(up, s * amount)
        return _pose(rotation @ turn.T, pivot + turn @ (centre - pivot))
    if name == "circle":
        angle, radius = 2 * np.pi * s, amount * depth
        moved = centre + radius * ((np.cos(angle) - 1) * x + np.sin(angle) * y)
        aim = between(rotation @ (pivot - moved), rotation @ (pivot - centre))
        return _pose(aim @ rotation, moved)
    if name == "pan":
        return _pose(_about(np.array([0.0, -1, 0]), s * amount) @ rotation, centre)
    if name == "roll":
        return _pose(_about(np.array([0.0, 0, 1]), s * amount) @ rotation, centre)
    return pose  # static


def _towards(s: float, pose: np.ndarray, goal: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """The pose at s between two: rotations by slerp, the centre on an arc round the pivot."""
    axis, angle = _axis_angle(goal[:, :3] @ pose[:, :3].T)
    rotation = _about(axis, s * angle) @ pose[:, :3]
    ends = [cameras.camera_centre(end) - pivot for end in (pose, goal)]
    near, far = (np.linalg.norm(end) for end in ends)
    turn, whole = _axis_angle(between(*ends))
    arm = _about(turn, s * whole) @ (ends[0] / near) * ((1 - s) * near + s * far)
    return _pose(rotation, pivot + arm)


def bound(name: str) -> tuple[float, str]:
    """The most that an amount of a named path may be, and what it is measured in."""
    if name in LIMITS:
        return LIMITS[name], "of the pivot's depth"
    return (np.inf if name == "to_view" else FARTHEST), "degrees"


def parse_name(text: str) -> tuple[str, float]:
    """The path and its amount of a text such as "orbit" or "orbit:-20".

    Raises:
      ValueError: an unknown path, no number, or more than is allowed.
    """
    name, _, given = text.partition(":")
    if name not in AMOUNTS:
        raise ValueError(
            f"camera path: wanted a file or one of {tuple(AMOUNTS)}, as in 'orbit' or 'orbit:20', "
            f"got {text!r}"
        )
    try:
        amount = float(given) if given else AMOUNTS[name]
    except ValueError:
        raise ValueError(f"camera path {text!r}: wanted a number behind the colon") from None
    limit, unit = bound(name)
    if not abs(amount) <= limit:
        raise ValueError(
            f"camera path {text!r}: wanted at most {limit:g} {unit}, got {amount:g}: nothing is "
            "known of what lies so far round the scene"
        )
    return name, amount


def named(
    text: str,
    frames: int,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    pivot: np.ndarray,
    *,
    source: int = 0,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Path:
    """Makes a named path that starts at a source camera.

    Args:
      text: of `parse_name`.
      intrinsics: [v 3 3] px, extrinsics: [v 3 4] world to camera: of the sources.
      pivot: [3] metres, world.
      source: the view that it starts from.

    Raises:
      ValueError: as `parse_name`; or `to_view` of a view that is not there.
    """
    name, amount = parse_name(text)
    lens = np.asarray(intrinsics[source], np.float64)
    pose, pivot = np.asarray(extrinsics[source], np.float64), np.asarray(pivot, np.float64)
    s = np.arange(frames) / max(frames - 1, 1)
    s = s * s * (3 - 2 * s)
    lenses = np.repeat(lens[None], frames, 0)
    if name == "to_view":
        if amount not in range(len(extrinsics)):
            raise ValueError(
                f"camera path {text!r}: wanted a view of 0..{len(extrinsics) - 1}, got {amount:g}"
            )
        goal = np.asarray(extrinsics[int(amount)], np.float64)
        poses = [_towards(float(x), pose, goal, pivot) for x in s]
        lenses = lenses + s[:, None, None] * (np.asarray(intrinsics[int(amount)]) - lens)
    else:
        axis = np.asarray(up, np.float64)
        poses = [_step(name, amount, float(x), pose, pivot, axis) for x in s]
    return Path(lenses.astype(np.float32), np.stack(poses).astype(np.float32))


def of_file(content: Any, *, frames: int, size: tuple[int, int], where: str) -> Path:
    """Checks what a camera_path.json holds: {"size": [h, w], "fps": 8, "frames": [{"K": [9],
    "R": [9], "T": [3]}, ...]}, R and T world to camera.

    Args:
      frames: that are wanted; one camera serves them all.
      size: (height, width) that is drawn; K is brought from the file's own size to it.

    Raises:
      ValueError: other keys or numbers, another count of frames, another shape of image, an R that
        is no rotation or mirrors.
    """
    if not isinstance(content, Mapping) or not {"size", "frames"} <= set(content):
        raise ValueError(f'{where}: wanted {{"size": [h, w], "frames": [{{K, R, T}}, ...]}}')
    entries = content["frames"]
    if not isinstance(entries, list) or len(entries) not in (1, frames):
        count = len(entries) if isinstance(entries, list) else entries
        raise ValueError(f"{where}: wanted {frames} frames, as the video has, or 1, got {count}")
    read = [_entry(value, f"{where}, frame {n}") for n, value in enumerate(entries)]
    lenses, poses = (np.stack(part) for part in zip(*read, strict=True))
    try:
        height, width = (float(x) for x in content["size"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: size: wanted [height, width], got {content['size']}") from error
    sized = min(height, width) >= 1 and max(height, width) < MOST
    if not sized or not abs(width / height / (size[1] / size[0]) - 1) <= 0.02:  # NaN is refused
        raise ValueError(
            f"{where}: size is {height:g} x {width:g}, wanted the shape of {size[0]} x {size[1]}"
        )
    lenses = cameras.crop_resize_intrinsics(lenses, (0, 0, width, height), size)
    wide = (np.broadcast_to(x, (frames, *x.shape[1:])) for x in (lenses, poses))
    return Path(*(x.astype(np.float32) for x in wide))


def _entry(value: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """K [3 3] and [R|T] [3 4] of one frame."""
    try:
        shapes = {"K": (3, 3), "R": (3, 3), "T": (3, 1)}
        found = [np.asarray(value[k], np.float64).reshape(s) for k, s in shapes.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: wanted K [9], R [9], T [3], got {error!r}") from error
    lens, rotation, shift = found
    if not all((np.abs(x) < MOST).all() for x in found):
        raise ValueError(f"{where}: numbers that are not finite, or not below {MOST:g}")
    if lens[0, 0] <= 0 or lens[1, 1] <= 0 or np.abs(lens[2] - np.array([0, 0, 1.0])).max() > 1e-6:
        raise ValueError(f"{where}: K wants rows (fx s cx), (0 fy cy), (0 0 1) in pixels")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > TURN:
        raise ValueError(f"{where}: R is not a rotation: its rows are not orthonormal")
    if np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}: R is not a rotation: it mirrors (determinant -1, left-handed)")
    return lens, np.concatenate([rotation, shift], axis=1)


def check(path: Path, sources: np.ndarray, pivot: np.ndarray, *, where: str) -> None:
    """Refuses a path that goes where no source has seen the scene.

    Args:
      sources: [v 3 4] world to camera of the views that the points are from.
      pivot: [3] metres, world.

    Raises:
      ValueError: names the first frame that is too far, behind the scene or looks away.
    """
    from_pivot = cameras.camera_centre(np.asarray(sources, np.float64)) - pivot
    from_pivot /= np.linalg.norm(from_pivot, axis=-1, keepdims=True)
    for n, pose in enumerate(np.asarray(path.extrinsics, np.float64)):
        arm = cameras.camera_centre(pose) - pivot
        turned = float(np.degrees(np.arccos(np.clip(from_pivot @ arm / np.linalg.norm(arm), -1, 1)))
                       .min())  # fmt: skip
        if turned > FARTHEST:
            raise ValueError(
                f"{where}: frame {n} is {turned:.0f} degrees round the scene from the nearest "
                f"source, wanted at most {FARTHEST:g}: nothing is known of that side"
            )
        if (pose[:, :3] @ pivot + pose[:, 3])[2] <= 0:
            raise ValueError(
                f"{where}: frame {n} looks away: the middle of the scene is behind its camera"
            )
