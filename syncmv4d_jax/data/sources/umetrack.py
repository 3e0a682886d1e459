"""UmeTrack's hand model: a person's hand, skinned by its joint angles (umetrack.github.io).

    G_j = G_parent(j)  T(r_j - r_parent(j))  R(a_j, angle_j)     parents first
    v   = sum_b w_b  G_j(b)  T(-r_j(b))  v_rest

in millimetres of the hand, then metres, then by the wrist's pose into the world. Rest positions r
and axes a are of the profile; bone b moves with the joint whose `joint_frame_index` it is, a bone
of none stays. The model is of a left hand: a right one is its mirror image in x, with its triangles
turned. Tested against an own loop over bones and, by hand, against the vertices that HOT3D's
authors' code gives for their sample: 7e-8 m.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.data import reading

NONE = 255  # a joint without parent, or without bone
LANDMARKS = 20  # without the palm's middle, which is the last one
SIDES = ("left", "right")
MILLIMETRES = 1e-3


class Profile(NamedTuple):
    """A hand at rest, millimetres.

    vertices [p 3]; faces [q 3]; weights [p b]; landmarks [k 3], landmark_weights [k b];
    positions, axes [j 3], parents [j], bones [j] of the joints.
    """

    vertices: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    landmarks: np.ndarray
    landmark_weights: np.ndarray
    positions: np.ndarray
    axes: np.ndarray
    parents: np.ndarray
    bones: np.ndarray


def read(path: str | Path) -> Profile:
    """Reads umetrack_hand_user_profile.json.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no hand model, or one whose parts do not fit each other.
    """
    try:
        own: Mapping[str, Any] = reading.values(path)["hand_model"]
        take = lambda name: np.asarray(own[name], np.float64)  # noqa: E731
        whole = lambda name: take(name).astype(np.int64)  # noqa: E731
        weights = take("dense_bone_weights")
        seats, shares = whole("landmark_rest_bone_indices"), take("landmark_rest_bone_weights")
        spread = np.zeros((len(seats), weights.shape[1]))
        np.add.at(spread, (np.arange(len(seats))[:, None], seats), shares)
        found = Profile(
            vertices=take("mesh_vertices"),
            faces=whole("mesh_triangles"),
            weights=weights,
            landmarks=take("landmark_rest_positions")[:LANDMARKS],
            landmark_weights=spread[:LANDMARKS],
            positions=take("joint_rest_positions"),
            axes=take("joint_rotation_axes"),
            parents=whole("joint_parent"),
            bones=whole("joint_frame_index"),
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path}: no hand model of UmeTrack's form ({error!r})") from error
    _check(found, str(path))
    return found


def _check(hand: Profile, where: str) -> None:
    points, joints = len(hand.vertices), len(hand.positions)
    wanted = {
        "mesh_vertices": (hand.vertices.shape, (points, 3)),
        "mesh_triangles": (hand.faces.shape, (len(hand.faces), 3)),
        "dense_bone_weights": (hand.weights.shape[:1], (points,)),
        "joint_rotation_axes": (hand.axes.shape, (joints, 3)),
        "joint_parent": (hand.parents.shape, (joints,)),
        "joint_frame_index": (hand.bones.shape, (joints,)),
    }
    wrong = [f"{k}: wanted {list(b)}, got {list(a)}" for k, (a, b) in wanted.items() if a != b]
    bones, order = hand.weights.shape[-1], np.arange(joints)
    if not wrong and not ((hand.parents < order) | (hand.parents == NONE)).all():
        wrong.append("joint_parent: wanted parents before their children")
    if not wrong and not ((hand.bones < bones) | (hand.bones == NONE)).all():
        wrong.append(f"joint_frame_index: wanted bones of {bones}")
    if not wrong and not (np.abs(hand.weights.sum(1) - 1) < 1e-3).all():
        wrong.append("dense_bone_weights: wanted a sum of 1 for each vertex")
    if not wrong and not (np.abs(np.linalg.norm(hand.axes, axis=1) - 1) < 1e-3).all():
        wrong.append("joint_rotation_axes: wanted unit vectors")
    if wrong:
        raise ValueError(f"{where}: {'; '.join(wrong)}")


def skin(
    hand: Profile, angles: np.ndarray, wrist: np.ndarray, side: str
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [n p 3] and landmarks [n k 3] of a hand, metres, world.

    Args:
      angles: [n j] radians. wrist: [n 4 4] to the world, metres. side: of SIDES.
    """
    moved = _bones(hand, angles)
    mirror = np.array([-1.0 if side == SIDES[1] else 1.0, 1, 1]) * MILLIMETRES
    found = []
    for rest, weights in (
        (hand.vertices, hand.weights),
        (hand.landmarks, hand.landmark_weights),
    ):
        blended = np.einsum("pb,nbij->npij", weights, moved)
        own = np.einsum("npij,pj->npi", blended[..., :3], rest) + blended[..., 3]
        turned = np.einsum("nij,npj->npi", wrist[:, :3, :3], own * mirror)
        found.append(turned + wrist[:, None, :3, 3])
    return found[0], found[1]


def faces(hand: Profile, side: str) -> np.ndarray:
    """[q 3]: a mirrored hand's triangles turn the other way."""
    return hand.faces[:, ::-1] if side == SIDES[1] else hand.faces


def _bones(hand: Profile, angles: np.ndarray) -> np.ndarray:
    """[n b 3 4]: what each bone does to a point of the hand at rest."""
    count, joints = angles.shape
    turns = np.tile(np.eye(4), (count, joints, 1, 1))
    moved = np.tile(np.eye(4), (count, hand.weights.shape[1], 1, 1))
    for j in range(joints):
        local = np.tile(np.eye(4), (count, 1, 1))
        local[:, :3, :3] = _about(hand.axes[j], angles[:, j])
        parent = hand.parents[j]
        local[:, :3, 3] = hand.positions[j]
        turns[:, j] = local
        if parent != NONE:
            local[:, :3, 3] -= hand.positions[parent]
            turns[:, j] = turns[:, parent] @ local
        if hand.bones[j] != NONE:
            back = np.eye(4)
            back[:3, 3] = -hand.positions[j]
            moved[:, hand.bones[j]] = turns[:, j] @ back
    return moved[:, :, :3]


def _about(axis: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """[n 3 3]: turns about an axis."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)
