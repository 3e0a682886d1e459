"""benchmarks/visibility.py: our ray casting against what a simulator draws at the same points."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from syncmv4d_jax.data import raycast
from syncmv4d_jax.geometry import cameras

SIZE, FINER, FRAMES = (48, 64), 4, 3
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
# Of a picture FINER times the size: (u + 1/2) FINER - 1/2.
FINE = np.array([[240.0, 0, 127.5], [0, 240.0, 95.5], [0, 0, 1]])
POSE = np.eye(3, 4)  # looks along z of the world
CUBE, PLATE, SHIFT = (0.0, 0.0, 1.0), (0.1, 0.0, 0.7), 0.03


@pytest.fixture(scope="module")
def visibility():
    path = Path(__file__).parent.parent / "benchmarks" / "visibility.py"
    spec = importlib.util.spec_from_file_location("visibility", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def poses(place, shift):
    found = np.tile(np.eye(4), (FRAMES, 1, 1))
    found[:, :3, 3] = place
    found[:, 1, 3] += shift * np.arange(FRAMES)
    return found


def drawn(scene, points):
    """What a renderer of the same meshes has at the four pixels around points [k 3]."""
    pixels, _ = cameras.project(points, FINE, POSE)
    low = np.floor(pixels)
    four = low[:, None] + [[0, 0], [1, 0], [0, 1], [1, 1]]
    hits = scene.cast_pixels(four, FINE, POSE)
    inside = ((low >= 0) & (low <= np.array(SIZE[::-1]) * FINER - 2)).all(-1)[:, None]
    return np.where(inside, hits.depth, 0), np.where(inside, hits.mesh, -2)


def write(folder, *, late=0):
    """A cube that sinks behind a plate; late: frames by which the simulator is ahead of it."""
    (folder / "surfaces").mkdir(parents=True)
    solids = {"cube_0": trimesh.creation.box((0.3, 0.3, 0.3)),
              "plate_1": trimesh.creation.box((0.2, 0.5, 0.02))}  # fmt: skip
    ways = {"cube_0": poses(CUBE, SHIFT), "plate_1": poses(PLATE, 0)}
    for name, mesh in solids.items():
        np.savez(folder / f"surfaces/{name}.npz", vertices=mesh.vertices, faces=mesh.faces,
                 poses=ways[name])  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({"front": {
        "K": K.ravel().tolist(), "R": np.eye(3).ravel().tolist(), "T": [0, 0, 0],
        "imgSize": list(SIZE[::-1])}}))  # fmt: skip
    (folder / "recording.json").write_text(
        json.dumps({"fps": 8, "action": "a", "tool": "b", "target": "c", "occluders": ["plate_1"]})
    )
    local = trimesh.sample.sample_surface(solids["cube_0"], 400, seed=1)[0]
    tracks = local[None] + ways["cube_0"][:, None, :3, 3]
    depth, part = [], []
    for n in range(FRAMES):
        ahead = min(n + late, FRAMES - 1)
        scene = raycast.Scene([
            (solids[name].vertices + ways[name][ahead, :3, 3], solids[name].faces)
            for name in solids
        ])  # fmt: skip
        both = drawn(scene, tracks[n])
        depth.append(both[0])
        part.append(both[1])
    np.savez(folder / "tracks.npz", tracks=tracks, owner=np.zeros(400, int), cameras=["front"],
             parts=list(solids), depth=np.array([depth], np.float32), part=np.array([part]),
             checked=np.arange(FRAMES))  # fmt: skip


def numbers(text, start):
    """The columns of the row of a table that begins so."""
    line = next(x for x in text.splitlines() if x.startswith(f"| {start}"))
    return [float(x) for x in line.strip("| ").split(" | ")[2:]]


def test_the_same_surfaces_are_seen_alike_and_occluders_count(visibility, tmp_path, capsys):
    write(tmp_path / "one")
    assert visibility.main([str(tmp_path)]) == 0
    called, edge, agree, between, strict, own, found, left_out = numbers(
        capsys.readouterr().out, "all"
    )
    assert called > 100 and agree == 100 and between == 100 and own == 100 and found == 100
    assert 0 < edge < 25 and strict == pytest.approx(100 - edge, abs=2)
    assert left_out < 90  # the plate is drawn in front of many


def test_surfaces_a_frame_late_are_found_out(visibility, tmp_path, capsys):
    write(tmp_path / "one", late=1)
    assert visibility.main([str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert max(numbers(text, "all")[2:4]) < 98
    assert "points of cube_0: no part is drawn behind" in text


def test_a_recording_that_was_not_checked_is_refused(visibility, tmp_path):
    write(tmp_path / "one")
    np.savez(tmp_path / "one/tracks.npz", tracks=np.zeros((FRAMES, 4, 3)))
    with pytest.raises(SystemExit, match=r"no \['cameras'.*--check"):
        visibility.main([str(tmp_path)])
