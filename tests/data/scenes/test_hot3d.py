"""HOT3D recordings: repeated rows are dropped, the world is moved rigidly, the layout is read."""

import numpy as np
import pytest
import tiny

from syncmv4d_jax.data import surfaces
from syncmv4d_jax.data.scenes import hot3d, scene
from syncmv4d_jax.data.sources import recordings

FRAMES = 3


@pytest.fixture
def root(tmp_path):
    return tiny.write_hot3d(tmp_path, frames=FRAMES)


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
    with pytest.raises(FileNotFoundError, match="no Aria or Quest3/P2 with umetrack"):
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
        ("left_landmarks", 0.3, r"left_landmarks: wanted a wrist .* got 0.0000 in frame 1"),
        ("left_landmarks", 1e200 * np.eye(20, 3), "left_landmarks: wanted a wrist .* in frame 1"),
    ],
)
def test_a_hand_that_is_not_there_is_named(root, key, value, message):
    change(root, key, 2, value)
    with pytest.raises(ValueError, match=message):
        hot3d.load(root, "P1", tool="box", target="mug_white")


@pytest.mark.parametrize("kind", ["cut", "text", "numbers", "deep"])
def test_a_scan_that_cannot_be_read_is_named(root, kind):
    path = root / "object_library/1.glb"
    data = path.read_bytes()
    changed = {
        "cut": data[: len(data) // 2],
        "text": b"solid a\nendsolid a\n",
        "numbers": data.replace(b'"count":8', b'"count":7', 1),
        "deep": data[:20] + b"[" * (len(data) - 20),
    }[kind]
    assert changed != data
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"1\.glb"):
        hot3d.load(root, "P1", tool="box", target="mug_white")


def test_a_library_without_names_is_named(root):
    (root / "object_library/instance.json").write_text('{"1": {"name": "box"}}')
    with pytest.raises(ValueError, match="instance.json: wanted .*instance_name"):
        hot3d.load(root, "P1", tool="box", target="mug_white")
