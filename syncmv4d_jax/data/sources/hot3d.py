"""A HOT3D recording from its own files, of Aria or Quest3: hands, objects and headset over time.

    umetrack_hand_user_profile.json       the person's hand (umetrack.py)
    umetrack_hand_pose_trajectory.jsonl   a line a time: {"timestamp_ns", "hand_poses": {"0" left,
                                          "1" right: {"wrist_xform": {"t_xyz", "q_wxyz"},
                                          "joint_angles"}}}
    dynamic_objects.csv, headset_trajectory.csv
                                          object_uid, timestamp[ns], t_wo_{x,y,z}[m],
                                          q_wo_{w,x,y,z}

Aria's world has z up, Quest3's y. Which axis is up is read off the poses themselves: of the
world's axes it is the one along which the objects differ least, against how far the head is from
them; the head is above them. The world that is given has z up.
"""

import csv
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.data import reading, rigs
from syncmv4d_jax.data.sources import umetrack

log = logging.getLogger(__name__)
HANDS, PROFILE = "umetrack_hand_pose_trajectory.jsonl", "umetrack_hand_user_profile.json"
OBJECTS, HEADSET = "dynamic_objects.csv", "headset_trajectory.csv"
FILES = (HANDS, PROFILE, OBJECTS, HEADSET)
TIME = "timestamp[ns]"
SHIFT = tuple(f"t_wo_{k}[m]" for k in "xyz")
TURN = tuple(f"q_wo_{k}" for k in "wxyz")
CLEAR = 1.5  # the next axis is worse by this factor at least
AXES = ("x", "y", "z")


class Tracks(NamedTuple):
    """What a recording holds, in a world with z up; n times.

    times: [n] nanoseconds. faces: {side: [q 3]}; hands: {side: [n p 3]}, landmarks: {side:
    [n k 3]}, metres. objects: {uid: [n 4 4]} to the world. head: [n 3] metres.
    """

    times: np.ndarray
    faces: dict[str, np.ndarray]
    hands: dict[str, np.ndarray]
    landmarks: dict[str, np.ndarray]
    objects: dict[str, np.ndarray]
    head: np.ndarray


def there(folder: Path) -> bool:
    """Whether a folder has such a recording's hands."""
    return (folder / HANDS).is_file()


def read(folder: Path) -> Tracks:
    """Reads a recording at the times of its hands.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: damaged, a hand or an object without a pose at some time, or no axis that is up.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: wanted {', '.join(missing)} of a HOT3D recording")
    profile = umetrack.read(folder / PROFILE)
    times, poses = _hands(folder / HANDS, len(profile.positions))
    objects = {
        name: _at(rows, times, where=f"{folder / OBJECTS}, object {name}")
        for name, rows in _bodies(folder / OBJECTS).items()
    }
    if not objects:
        raise ValueError(f"{folder / OBJECTS}: no objects in it")
    heads = list(_bodies(folder / HEADSET).values())
    if len(heads) != 1:
        raise ValueError(f"{folder / HEADSET}: wanted one headset, got {len(heads)}")
    head = _at(heads[0], times, where=str(folder / HEADSET))[:, :3, 3]
    turn = upright(np.stack([x[:, :3, 3] for x in objects.values()], 1), head, where=str(folder))
    whole = np.eye(4)
    whole[:3, :3] = turn
    skinned = {}
    for side, (angles, wrist) in poses.items():
        skinned[side] = umetrack.skin(profile, angles, whole @ wrist, side)
    return Tracks(
        times,
        {side: umetrack.faces(profile, side) for side in skinned},
        {side: vertices for side, (vertices, _) in skinned.items()},
        {side: landmarks for side, (_, landmarks) in skinned.items()},
        {name: whole @ x for name, x in objects.items()},
        head @ turn.T,
    )


def upright(places: np.ndarray, head: np.ndarray, *, where: str) -> np.ndarray:
    """[3 3]: the rotation of a world whose up is one of its axes to one with z up.

    Args:
      places: [n o 3] metres, of objects that lie about on something level. head: [n 3].

    Raises:
      ValueError: no axis is clearly up.
    """
    offset = (head - places.mean(1)).mean(0)
    spread = places.reshape(-1, 3).std(0)
    flatness = spread / np.maximum(np.abs(offset), 1e-9)
    best, second = np.argsort(flatness)[:2]
    if not flatness[second] > CLEAR * flatness[best] or not np.isfinite(flatness).all():
        said = ", ".join(f"{k} {a:.2f} of {b:.2f} m" for k, a, b in
                         zip(AXES, spread, offset, strict=True))  # fmt: skip
        raise ValueError(
            f"{where}: which axis is up? Wanted one along which objects differ little and the head "
            f"is far from them, got spreads of distances: {said}"
        )
    up = np.zeros(3)
    up[best] = np.sign(offset[best])
    if (best, up[best]) != (2, 1.0):
        sign = "-" if up[best] < 0 else ""
        log.info("%s: its world has %s%s up; it is turned to z", where, sign, AXES[best])
    # The axis after `up` in the cycle x, y, z becomes x: a rotation, nothing at all where z is up.
    ahead = np.roll(np.eye(3)[best], 1)
    return np.stack([ahead, np.cross(up, ahead), up])


def _hands(path: Path, joints: int) -> tuple[np.ndarray, dict[str, Any]]:
    """(times [n], {side: (angles [n j], wrist [n 4 4])})."""
    times: list[int] = []
    angles: dict[str, list[Any]] = {side: [] for side in umetrack.SIDES}
    wrists: dict[str, list[np.ndarray]] = {side: [] for side in umetrack.SIDES}
    with reading.parsing(path, "trajectory of hands"):
        for number, line in enumerate(reading.lines(path), 1):
            row = json.loads(line)
            for index, side in enumerate(umetrack.SIDES):
                own = row["hand_poses"].get(str(index))
                if own is None:
                    raise ValueError(f"{path}: line {number} has no {side} hand")
                place = own["wrist_xform"]
                wrists[side].append(_pose(place["t_xyz"], place["q_wxyz"]))
                angles[side].append(np.asarray(own["joint_angles"], np.float64))
                if angles[side][-1].shape != (joints,):
                    raise ValueError(
                        f"{path}: line {number}, {side} hand: wanted {joints} joint_angles, got "
                        f"{angles[side][-1].shape}"
                    )
            times.append(int(row["timestamp_ns"]))
    if not times:
        raise ValueError(f"{path}: no line in it")
    found = {}
    for side in umetrack.SIDES:
        turned = np.stack(angles[side])
        if not np.isfinite(turned).all():
            raise ValueError(f"{path}: {side} hand: joint_angles that are not finite")
        wrist = rigs.rigid(np.stack(wrists[side]), where=f"{path}, {side} wrist")
        found[side] = turned, wrist
    return np.array(times, np.int64), found


def _bodies(path: Path) -> dict[str, dict[int, np.ndarray]]:
    """{object_uid: {time: [4 4]}} of a file of poses."""
    found: dict[str, dict[int, np.ndarray]] = {}
    with reading.parsing(path, "table of poses"):
        for number, row in enumerate(csv.DictReader(io.StringIO(reading.text(path))), 2):
            try:
                pose = _pose([float(row[k]) for k in SHIFT], [float(row[k]) for k in TURN])
                found.setdefault(row["object_uid"], {})[int(row[TIME])] = pose
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: line {number} is no pose ({error!r})") from error
    return found


def _at(rows: Mapping[int, np.ndarray], times: np.ndarray, *, where: str) -> np.ndarray:
    """[n 4 4]: poses at the times."""
    if missing := [int(t) for t in times if int(t) not in rows]:
        raise ValueError(
            f"{where}: no pose at {len(missing)} of {len(times)} times, e.g. {missing[0]} ns"
        )
    return rigs.rigid(np.stack([rows[int(t)] for t in times]), where=where)


def _pose(shift: Any, turn: Any) -> np.ndarray:
    """[4 4] of a translation in metres and a quaternion w x y z."""
    w, x, y, z = np.asarray(turn, np.float64)
    length = np.linalg.norm([w, x, y, z])
    if not abs(length - 1) < 1e-2:
        raise ValueError(f"a quaternion of length {length:.4g}, wanted 1")
    w, x, y, z = np.array([w, x, y, z]) / length
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = np.asarray(shift, np.float64)
    return pose
