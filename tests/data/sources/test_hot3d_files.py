"""HOT3D's own files: hands are skinned, any axis of the world may be up, what lacks is told."""

import json

import hot3d_files
import numpy as np
import pytest

from syncmv4d_jax.data.scenes import hot3d as scenes
from syncmv4d_jax.data.sources import hot3d, umetrack

UP = "z", "y", "-x"


def by_hand(model, angles, wrist, side):
    """Vertices [p 3] of one time, metres: bone by bone and vertex by vertex."""
    turns, moved = [], [np.eye(4) for _ in model["dense_bone_weights"][0]]
    for j, (at, axis) in enumerate(
        zip(model["joint_rest_positions"], model["joint_rotation_axes"], strict=True)
    ):
        pose = np.eye(4)
        pose[:3, :3] = hot3d_files.Rotation.from_rotvec(angles[j] * np.array(axis)).as_matrix()
        pose[:3, 3] = at
        parent = model["joint_parent"][j]
        if parent != 255:
            pose[:3, 3] -= model["joint_rest_positions"][parent]
            pose = turns[parent] @ pose
        turns.append(pose)
        if (bone := model["joint_frame_index"][j]) != 255:
            moved[bone] = pose @ np.linalg.inv(translation(at))
    found = []
    for vertex, weights in zip(model["mesh_vertices"], model["dense_bone_weights"], strict=True):
        point = sum(w * (m @ [*vertex, 1])[:3] for w, m in zip(weights, moved, strict=True))
        point = point * ([-1, 1, 1] if side == "right" else [1, 1, 1]) / 1000
        found.append((wrist @ [*point, 1])[:3])
    return np.array(found)


def translation(at):
    pose = np.eye(4)
    pose[:3, 3] = at
    return pose


def test_hands_are_those_of_a_loop_over_bones():
    rng = np.random.default_rng(2)
    model = hot3d_files.profile()
    hand = umetrack.Profile(**{
        "vertices": np.array(model["mesh_vertices"]), "faces": np.zeros((1, 3), int),
        "weights": np.array(model["dense_bone_weights"]), "landmarks": np.zeros((1, 3)),
        "landmark_weights": np.array([[1.0, 0, 0]]),
        "positions": np.array(model["joint_rest_positions"]),
        "axes": np.array(model["joint_rotation_axes"]), "parents": np.array(model["joint_parent"]),
        "bones": np.array(model["joint_frame_index"]),
    })  # fmt: skip
    angles = rng.normal(size=(2, 3))
    wrists = np.stack([np.eye(4), translation([0.1, 0.2, 0.3])])
    wrists[:, :3, :3] = hot3d_files.Rotation.random(2, random_state=0).as_matrix()
    for side in umetrack.SIDES:
        made, _ = umetrack.skin(hand, angles, wrists, side)
        for n in range(2):
            wanted = by_hand(model, angles[n], wrists[n], side)
            np.testing.assert_allclose(made[n], wanted, atol=1e-9)


@pytest.mark.parametrize("up", UP)
def test_the_scene_stands_upright_whatever_axis_of_its_world_is_up(tmp_path, up):
    hot3d_files.write(tmp_path / "a")
    hot3d_files.write(tmp_path / "b", up=up, headset="Quest3")
    plain = hot3d.read(tmp_path / "a/Aria/P1")
    turned = hot3d.read(tmp_path / "b/Quest3/P1")
    for found in (plain, turned):
        places = np.stack([x[:, :3, 3] for x in found.objects.values()])
        assert np.ptp(places[..., 2]) < 1e-9 and (found.head[:, 2] > 0.5 + places[0, 0, 2]).all()
    one, two = (scenes.load(tmp_path / x, "P1", tool="box", target="mug_white") for x in "ab")
    assert one.frames == two.frames == 3
    for name, (vertices, faces, _) in one.meshes.items():
        np.testing.assert_allclose(two.meshes[name][0], vertices, atol=1e-9)
        np.testing.assert_array_equal(two.meshes[name][1], faces)
    # The head is at x > 0 of the table: what it looks along, -x, is +y of ours.
    box, mug = (one.meshes[x][0][0].mean(0) for x in ("box", "mug_white"))
    assert box[1] < mug[1] - 0.3


def replaced(path, change):
    lines = path.read_text().split("\n")
    path.write_text("\n".join(change(lines)))


def hands(change):
    def run(folder):
        def lines(rows):
            row = json.loads(rows[3])
            change(row)
            return [*rows[:3], json.dumps(row), *rows[4:]]

        replaced(folder / hot3d.HANDS, lines)

    return run


def model(**changes):
    def run(folder):
        own = {k: x for k, x in (hot3d_files.profile() | changes).items() if x is not None}
        (folder / hot3d.PROFILE).write_text(json.dumps({"hand_model": own}))

    return run


@pytest.mark.parametrize(
    "change, words",
    [
        (hands(lambda row: row["hand_poses"].pop("1")), "line 4 has no right hand"),
        (hands(lambda row: row["hand_poses"]["0"].update(joint_angles=[1.0])), "wanted 3 joint_"),
        (hands(lambda row: row["hand_poses"]["0"]["wrist_xform"].update(q_wxyz=[0, 0, 0, 0])),
         "quaternion of length 0"),
        (lambda f: replaced(f / hot3d.HANDS, lambda rows: [*rows[:2], "{"]), "hands, or a damaged"),
        (lambda f: replaced(f / hot3d.OBJECTS, lambda rows: rows[:-2]),
         "object 3: no pose at 1 of 6 times, e.g. 56000066690000 ns"),
        (lambda f: replaced(f / hot3d.OBJECTS, lambda rows: [*rows[:-1], "1,2,x,0,0,1,0,0,0"]),
         "line 20 is no pose"),
        (lambda f: (f / hot3d.HEADSET).unlink(), "wanted headset_trajectory.csv"),
        (model(joint_parent=[1, 255, 255]), "parents before their children"),
        (model(joint_frame_index=[0, 1, 7]), "wanted bones of 3"),
        (model(dense_bone_weights=None), "no hand model of UmeTrack's form"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(tmp_path, change, words):
    folder = hot3d_files.write(tmp_path)
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        hot3d.read(folder)


def test_a_world_without_a_clear_up_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="a: which axis is up"):
        hot3d.upright(rng.normal(size=(4, 9, 3)), np.full((4, 3), 0.5), where="a")
