"""HOT3D recordings: repeated rows are dropped, the world is moved rigidly, the layout is read."""

import json

import numpy as np
import pytest
import trimesh

from syncmv4d_jax.data import surfaces
from syncmv4d_jax.data.scenes import hot3d, scene
from syncmv4d_jax.data.sources import recordings

FRAMES = 3


@pytest.fixture
def root(tmp_path):
    """A recording of blobs, each row written twice, with one scan (a painted box)."""
    rng = np.random.default_rng(0)
    folder, library = tmp_path / "Aria" / "P1", tmp_path / "object_library"
    folder.mkdir(parents=True)
    library.mkdir()
    start = 56_000_000_000_000 + np.arange(FRAMES) * 33_300_000
    blob = trimesh.creation.icosphere(subdivisions=2, radius=0.04)
    rows = {"timestamps_ns": np.stack([start, start + 90_000], 1).ravel()}
    for side, y in (("left", -0.15), ("right", 0.1)):
        path = np.array([-0.1, y, -0.3]) + 0.01 * np.arange(FRAMES)[:, None, None]
        rows[f"{side}_hand_verts"] = np.repeat(blob.vertices + path, 2, 0).astype(np.float32)
        rows[f"{side}_hand_faces"] = blob.faces
        landmarks = path + np.array([-0.06, 0, 0]) + 0.01 * rng.normal(size=(1, 20, 3))
        landmarks[:, hot3d.WRIST] = path[:, 0]
        rows[f"{side}_landmarks"] = np.repeat(landmarks, 2, 0)
    for name, y in (("mug_white", 0.0), ("box", 0.2), ("unseen", 0.3)):
        pose = np.eye(4)
        pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]  # y of the object is up
        pose[:3, 3] = [-0.13, y, -0.43]
        rows[f"obj_{name}_T_world_object"] = np.tile(pose, (2 * FRAMES, 1, 1))
    np.savez(folder / "derived_tracks.npz", **rows)
    box = trimesh.creation.box(extents=[0.05, 0.04, 0.05])
    box.visual.vertex_colors = np.array([200, 30, 30, 255], np.uint8)
    box.export(library / "1.glb")
    ids = {"1": "box", "2": "mug_white", "3": "unseen"}
    names = {key: {"instance_name": name} for key, name in ids.items()}
    (library / "instance.json").write_text(json.dumps(names))
    return tmp_path


def test_written_capture_is_read_as_recorded(root, tmp_path):
    capture = hot3d.load(root, "P1", tool="box", target="mug_white")
    assert capture.frames == FRAMES and "unseen" not in capture.meshes
    out = tmp_path / "out"
    hot3d.write(capture, out, action="move", size=(36, 48), names=("22139909",))
    (source,) = recordings.folder_sources(out)
    recording = source.open()
    assert (source.fps, source.triplet) == (30.0, ("move", "box", "mug white"))
    kinds = {surface.name: surface.kind for surface in recording.surfaces}
    tracked = {name for name, kind in kinds.items() if kind == surfaces.TRACKED}
    assert recording.frames == FRAMES and tracked == {"left", "right", "tool", "target"}
    assert kinds.keys() - tracked == {"left_forearm", "right_forearm", "table"}
    # Distances between surfaces are those of the recording: it was moved rigidly.
    raw = np.load(root / "Aria/P1/derived_tracks.npz")
    before = raw["left_hand_verts"][4] - raw["right_hand_verts"][4]
    read = {surface.name: surface.at(2) for surface in recording.surfaces[:4]}
    after = read["left"] - read["right"]
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), 1e-4)
    every = np.concatenate(list(read.values()))
    assert every[:, 2].min() > scene.WORK[2] and np.linalg.norm(every, axis=1).min() > 0.3
    # The actor's left hand is on the left of somebody who looks along +y.
    assert read["left"][:, 0].mean() < read["right"][:, 0].mean()
    assert capture.meshes["box"][2][0].argmax() == 0  # red


def test_rows_must_be_regular():
    times = np.array([0.0, 0.1, 33.3, 33.4, 66.6]) * 1e6
    assert hot3d.distinct_frames(times, where="x").tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="wanted rows 33.3 ms apart, got 3 rows, 33.3 to 66.7"):
        hot3d.distinct_frames(np.array([0.0, 33.3, 100.0]) * 1e6, where="x")


def test_errors(root):
    with pytest.raises(FileNotFoundError, match="derived_tracks.npz: not found"):
        hot3d.load(root, "P2", tool="box", target="mug_white")
    with pytest.raises(ValueError, match=r"no objects \['pan'\]; there are"):
        hot3d.load(root, "P1", tool="box", target="pan")
    with pytest.raises(ValueError, match=r"no mesh of \['unseen'\], and no stand-in"):
        hot3d.load(root, "P1", tool="box", target="unseen")


def change(root, key, row, value):
    path = root / "Aria/P1/derived_tracks.npz"
    with np.load(path) as file:
        rows = dict(file)
    rows[key][row] = value
    np.savez(path, **rows)


@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("name", ["box", "unseen"])
def test_an_object_without_a_pose_is_named_with_its_row(root, name, value):
    change(root, f"obj_{name}_T_world_object", 2, value)
    with pytest.raises(ValueError, match=f"object {name}: frame 2 "):
        hot3d.load(root, "P1", tool="box", target="mug_white")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("left_hand_verts", np.nan, "left hand: values that are not finite, the first in frame 1"),
        ("right_hand_verts", 0.0, "right hand: frame 1 has it in one point"),
        ("left_landmarks", np.inf, "left_landmarks has values that are not finite"),
    ],
)
def test_a_hand_that_is_not_there_is_named(root, key, value, message):
    change(root, key, 2, value)
    with pytest.raises(ValueError, match=message):
        hot3d.load(root, "P1", tool="box", target="mug_white")
