"""How the embedded scenes move: a function of the triplet and of the first frame's layout.

With u the horizontal direction from the grip to the target, w its left turn seen from above (away
from the actor), e(tau) a smooth ramp over a clip of 1.5 s (then back, and so on):

    brush          the tool sweeps 13 cm along w and drags the target 8.5 cm along w
    stir           the tool goes half round a circle of 1.6 cm while both move 8.5 cm along u
    pour in some   both come 8 cm towards the actor; the tool, beside the target at first, moves
                   8 cm along u over it, rises by 4 cm and tips by 32 degrees
    cut            both are pushed 8.5 cm against u, the tool is drawn 5 cm towards the actor and
                   sinks by 2 cm

The right hand holds the tool by a fixed grasp, the left hand moves with the target. Layout: where
the target stands (2 cm), from where the tool comes (15 degrees), sizes of the hands.
"""

import dataclasses

import numpy as np

from syncmv4d_jax.data.sources import mano

CLIP = 1.5  # seconds of one ramp
ACTIONS = ("brush", "stir", "pour in some", "cut")
UP = np.array([0.0, 0.0, 1.0])
# Curl of the three joints of a finger, radians, about the hand's y axis.
GRASP, OPEN = (1.15, 1.25, 0.60), (0.30, 0.35, 0.20)
GRIP = np.array([0.082, 0.004, -0.027])  # the handle's axis in the right hand, from the wrist


@dataclasses.dataclass(frozen=True)
class Layout:
    """The first frame: target position [2] metres about the work area's centre, yaw of u, betas."""

    position: tuple[float, float]
    yaw: float
    betas: tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Motion:
    """tool, target: [n 4 4]; left and right hand: pose [n 48], translation [n 3] (TACO's form)."""

    tool: np.ndarray
    target: np.ndarray
    left: tuple[np.ndarray, np.ndarray]
    right: tuple[np.ndarray, np.ndarray]


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draws a layout."""
    position = tuple(rng.uniform(-0.02, 0.02, 2))
    betas = tuple(tuple(np.append(rng.normal(0, 0.5, 4), np.zeros(6))) for _ in range(2))
    return Layout(position, float(rng.uniform(-0.26, 0.26)), betas)


def ramp(seconds: np.ndarray) -> np.ndarray:
    """e(tau): 0 -> 1 in CLIP seconds, then back, repeated; eased at the ends."""
    phase = np.abs((np.asarray(seconds) / CLIP + 1) % 2 - 1)
    return phase - 0.5 * np.sin(2 * np.pi * phase) / (2 * np.pi)


def _axes(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Rotation whose columns are x, the cross product, and z (made orthogonal to x)."""
    x = x / np.linalg.norm(x)
    z = z - (z @ x) * x
    z = z / np.linalg.norm(z)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    return mano.rotations(axis / np.linalg.norm(axis) * angle)


def _log(rotation: np.ndarray) -> np.ndarray:
    """Axis-angle of a rotation."""
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                     rotation[1, 0] - rotation[0, 1]])  # fmt: skip
    if angle > np.pi - 1e-3:
        symmetric = (rotation + np.eye(3)) / 2
        axis = symmetric[np.argmax(np.diag(symmetric))]
    return axis / max(np.linalg.norm(axis), 1e-12) * angle


def _fingers(curl: tuple[float, float, float], *, sign: float, thumb: np.ndarray) -> np.ndarray:
    pose = np.zeros((16, 3))
    for first in (1, 4, 7, 10):
        for step, angle in enumerate(curl):
            pose[first + step, 1] = sign * angle
    pose[13] = thumb
    pose[14], pose[15] = thumb * 0.5, thumb * 0.4
    return pose


def move(
    action: str,
    layout: Layout,
    seconds: np.ndarray,
    *,
    centre: np.ndarray,
    reach: float,
    height: float,
) -> Motion:
    """Poses at given times.

    Args:
      seconds: [n].
      centre: [3] metres, the table's point about which the scene is laid out.
      reach: grip to head of the tool, metres.
      height: of the target, metres.

    Raises:
      ValueError: unknown action.
    """
    if action not in ACTIONS:
        raise ValueError(f"action: wanted one of {ACTIONS}, got {action!r}")
    turn = _turn(UP, layout.yaw)
    u, w = turn @ np.array([-1.0, 0, 0]), turn @ np.array([0, 1.0, 0])
    stand = centre + np.array([-0.075 + layout.position[0], 0.02 + layout.position[1], 0.0])
    tilt = 0.12 if action == "pour in some" else 0.42
    head = {"brush": 0.036, "stir": 0.028, "pour in some": 0.115, "cut": 0.060}[action]
    over = 0.068 if action == "pour in some" else 0.0  # a pouring tool starts beside the target
    rest = stand - over * u + UP * (head + height * 0.55)
    poses = {"tool": [], "target": [], "left": [], "right": []}
    for e in ramp(seconds):
        shift, tip = _shifts(action, e, u, w)
        target_at = stand + shift["target"]
        direction = u * np.cos(tilt + tip) - UP * np.sin(tilt + tip)
        # Tool axes: x along the fingers, y along the handle, z up.
        y = direction
        x = np.cross(y, UP)
        rotation = np.stack([x / np.linalg.norm(x), y, np.cross(x / np.linalg.norm(x), y)], 1)
        pivot = u * np.cos(tilt) - UP * np.sin(tilt)
        grip = rest + shift["tool"] - pivot * reach
        poses["tool"].append(_matrix(rotation, grip))
        poses["target"].append(_matrix(turn, target_at))
        poses["right"].append((_log(rotation), grip - rotation @ GRIP))
        poses["left"].append(_left(target_at, turn, height))
    thumb_right, thumb_left = np.array([0.35, 0.55, -0.75]), np.array([0.15, -0.2, 0.25])
    right = _fingers(GRASP, sign=1.0, thumb=thumb_right)
    left = _fingers(OPEN, sign=-1.0, thumb=thumb_left)
    return Motion(
        np.stack(poses["tool"]),
        np.stack(poses["target"]),
        _hand(left, poses["left"]),
        _hand(right, poses["right"]),
    )


def _shifts(action, e, u, w):
    """Displacements of tool and target at ramp e, and the tool's tip angle (module docstring)."""
    if action == "brush":
        return {"tool": 0.13 * e * w, "target": 0.085 * e * w}, 0.0
    if action == "stir":
        circle = 0.016 * (np.sin(np.pi * e) * u - np.cos(np.pi * e) * w)
        return {"tool": 0.085 * e * u + circle, "target": 0.085 * e * u}, 0.0
    if action == "pour in some":
        return {"tool": e * (0.08 * u - 0.08 * w + 0.042 * UP), "target": -0.085 * e * w}, 0.55 * e
    return {"tool": -e * (0.085 * u + 0.05 * w + 0.02 * UP), "target": -0.085 * e * u}, 0.0


def _left(target_at, turn, height):
    """Wrist rotation and position of the left hand, palm at the target's left side."""
    fingers = turn @ np.array([0.45, 0.86, -0.22])
    palm = turn @ np.array([0.80, -0.42, -0.42])
    rotation = _axes(-fingers, -palm)
    up = max(0.082, 0.04 + 0.5 * height)  # the fingertips stay above the table
    wrist = target_at + turn @ np.array([-0.125, -0.075, up])
    return _log(rotation), wrist


def _matrix(rotation, translation):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation
    return pose


def _hand(fingers, wrists):
    pose = np.tile(fingers.reshape(48), (len(wrists), 1))
    pose[:, :3] = [turn for turn, _ in wrists]
    return pose, np.stack([at for _, at in wrists])
