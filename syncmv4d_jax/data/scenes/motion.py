"""How the embedded scenes move: a function of the triplet, of the first frame and of the speed.

With D the horizontal way from the tool's head to the target in the first frame, seen in its layout
(its direction, and its length, which is a fixed multiple of L, 4 to 14 cm, by action), both move
straight, tool by A and target by B, so that they meet; e(tau) is a smooth ramp over a clip of 1.5 s
(then back, and so on), a slow scene takes 1.67 times as long:

    action         |A|     |B|     A to B   besides
    brush          L       0.95 L    75 deg  the tool ends a quarter of the way beyond the target
    stir           L       0.90 L   -75 deg  the tool goes half round a circle of 1.6 cm
    pour in some   0.9 L   0.95 L    95 deg  the tool rises by 4.2 cm and tips by 32 degrees
    cut            0.95 L  L        -95 deg  the tool ends a quarter beyond, and sinks by 2 cm

The right hand holds the tool by a fixed grasp, the left hand moves with the target. A `Layout` is
all that the first frame is drawn from; a `Course` is what happens then, unseen in it.
"""

import dataclasses
from typing import Any

import numpy as np

from syncmv4d_jax.data.sources import mano

CLIP = 1.5  # seconds of one ramp
LENGTH = (0.04, 0.14)  # L, metres
UP = np.array([0.0, 0.0, 1.0])
# Curl of the three joints of a finger, radians, about the hand's y axis.
GRASP, OPEN = (1.15, 1.25, 0.60), (0.30, 0.35, 0.20)
GRIP = np.array([0.082, 0.004, -0.027])  # the handle's axis in the right hand, from the wrist
FASTEST = 0.028  # metres between frames at 8 fps
SPEEDS = {"slowly": 0.6, "quickly": 1.0}


@dataclasses.dataclass(frozen=True)
class Action:
    """How far tool and target go in units of L, the angle from A to B in radians, and the rest.

    beyond: how far past the target the tool ends, in units of D. rise: of the tool, metres. tip: of
    its head, radians. circle: radius, metres. head: height of the tool's axis over what it is at.
    tilt: of the handle, radians.
    """

    tool: float
    target: float
    angle: float
    beyond: float = 0.0
    rise: float = 0.0
    tip: float = 0.0
    circle: float = 0.0
    head: float = 0.036
    tilt: float = 0.42

    @property
    def way(self) -> complex:
        """D of A = 1: what A minus B is, as a complex number."""
        return self.tool - self.target * np.exp(1j * self.angle)


ACTIONS = {
    "brush": Action(1.0, 0.95, np.radians(75), beyond=0.25),
    "stir": Action(1.0, 0.90, np.radians(-75), circle=0.016, head=0.028),
    "pour in some": Action(0.9, 0.95, np.radians(95), rise=0.042, tip=0.55, head=0.115, tilt=0.12),
    "cut": Action(0.95, 1.0, np.radians(-95), beyond=0.25, rise=-0.02, head=0.060),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The first frame.

    position: [2] metres, of the middle between tool and target about the work area's centre. yaw:
    of the handle, radians. bearing: of D from the handle's direction, radians. length: L, metres.
    betas: of the left and the right hand.
    """

    position: tuple[float, float]
    yaw: float
    bearing: float
    length: float
    betas: tuple[tuple[float, ...], tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Course:
    """What happens after the first frame (more4d and control need several of one first frame).

    speed: of the ramp. turn: radians, of the way seen from above. gain: of its length. approach:
    [2] metres, a horizontal way on top. delay: seconds until anything moves.
    """

    speed: float = 1.0
    turn: float = 0.0
    gain: float = 1.0
    approach: tuple[float, float] = (0.0, 0.0)
    delay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Motion:
    """tool, target: [n 4 4]; left and right hand: pose [n 48], translation [n 3] (TACO's form)."""

    tool: np.ndarray
    target: np.ndarray
    left: tuple[np.ndarray, np.ndarray]
    right: tuple[np.ndarray, np.ndarray]


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draws a layout. Long ways are drawn more often than short ones."""
    position = _pair(rng.uniform(-0.03, 0.03, 2))
    yaw, bearing = rng.uniform(-np.pi / 2, np.pi / 2, 2)
    low, high = LENGTH
    length = low + (high - low) * rng.uniform() ** 0.6
    left, right = (tuple(np.append(rng.normal(0, 0.5, 4), np.zeros(6))) for _ in range(2))
    return Layout(position, float(yaw), float(bearing), float(length), (left, right))


def _pair(vector: np.ndarray) -> tuple[float, float]:
    return float(vector[0]), float(vector[1])


def draw_course(
    rng: np.random.Generator, action: str, layout: Layout, towards: np.ndarray
) -> Course:
    """Draws one of the courses that a first frame may have: nothing goes faster than `FASTEST`.

    Args:
      towards: [2], unit: the horizontal way to a camera, along which a course may approach.
    """
    while True:
        course = Course(
            speed=float(rng.choice([0.6, 1.0, 1.4])),
            turn=float(np.radians(rng.uniform(-60, 60))),
            gain=float(rng.choice([0.5, 1.0, 1.3])),
            approach=_pair(rng.uniform(-0.06, 0.06) * towards),
            delay=float(rng.integers(0, 5)) / 8,
        )
        times = np.arange(0, 2 * CLIP, 1 / 8)
        made = move(action, layout, course, times, centre=np.zeros(3), reach=0.145, height=0.09)
        head = np.array([0.0, 0.145, 0.0, 1.0])
        paths = (made.tool[:, :3, 3], made.tool[:, :3] @ head, made.target[:, :3, 3])
        if max(np.linalg.norm(np.diff(path, axis=0), axis=1).max() for path in paths) < FASTEST:
            return course


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
    course: Course,
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
        raise ValueError(f"action: wanted one of {sorted(ACTIONS)}, got {action!r}")
    rule, turn = ACTIONS[action], _turn(UP, layout.yaw)
    u = turn @ np.array([-1.0, 0, 0])
    towards = _turn(UP, layout.bearing) @ u
    way = layout.length * abs(rule.way) * (1 - rule.beyond) * towards  # head to target, frame 0
    middle = centre + np.append(layout.position, 0.0) + 0.05 * u  # the hand is behind the head
    stand, rest = middle + way / 2, middle - way / 2 + UP * (rule.head + height * 0.55)
    poses: dict[str, list[Any]] = {"tool": [], "target": [], "left": [], "right": []}
    ways = _ways(rule, layout, towards)
    still = _shifts(ways, rule, 0.0)
    for e in ramp(np.maximum(seconds - course.delay, 0) * course.speed):
        moved, tip = _shifts(ways, rule, e), rule.tip * e
        tool, target = (_on_course(m - s, course, e) for m, s in zip(moved, still, strict=True))
        direction = u * np.cos(rule.tilt + tip) - UP * np.sin(rule.tilt + tip)
        # Tool axes: x along the fingers, y along the handle, z up.
        y = direction
        x = np.cross(y, UP)
        rotation = np.stack([x / np.linalg.norm(x), y, np.cross(x / np.linalg.norm(x), y)], 1)
        pivot = u * np.cos(rule.tilt) - UP * np.sin(rule.tilt)
        grip = rest + tool - pivot * reach
        poses["tool"].append(_matrix(rotation, grip))
        poses["target"].append(_matrix(turn, stand + target))
        poses["right"].append((_log(rotation), grip - rotation @ GRIP))
        poses["left"].append(_left(stand + target, turn, height))
    thumb_right, thumb_left = np.array([0.35, 0.55, -0.75]), np.array([0.15, -0.2, 0.25])
    right = _fingers(GRASP, sign=1.0, thumb=thumb_right)
    left = _fingers(OPEN, sign=-1.0, thumb=thumb_left)
    return Motion(
        np.stack(poses["tool"]),
        np.stack(poses["target"]),
        _hand(left, poses["left"]),
        _hand(right, poses["right"]),
    )


def _ways(rule: Action, layout: Layout, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and B [3], metres: A - B lies along `towards`."""
    first = _turn(UP, -float(np.angle(rule.way))) @ towards
    second = _turn(UP, rule.angle) @ first
    return layout.length * rule.tool * first, layout.length * rule.target * second


def _shifts(ways, rule: Action, e: float) -> tuple[np.ndarray, np.ndarray]:
    """Where tool and target are at ramp e, up to a constant (module docstring)."""
    tool, target = e * ways[0], e * ways[1]
    along = ways[0] / np.linalg.norm(ways[0])
    across = np.cross(UP, along)
    turning = rule.circle * (np.sin(np.pi * e) * across - np.cos(np.pi * e) * along)
    return tool + turning + rule.rise * e * UP, target


def _on_course(shift: np.ndarray, course: Course, e: float) -> np.ndarray:
    turned = course.gain * (_turn(UP, course.turn) @ shift)
    return turned + e * np.append(course.approach, 0.0)


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
