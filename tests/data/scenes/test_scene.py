"""Embedded scenes: what they promise of motion, grasps and contacts; pictures fit geometry."""

import dataclasses
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.spatial
import trimesh

from syncmv4d_jax.data import raycast
from syncmv4d_jax.data.scenes import hand, motion, objects
from syncmv4d_jax.data.scenes import scene as scenes
from syncmv4d_jax.data.sources import mano, taco
from syncmv4d_jax.geometry import cameras

ROOT = Path(__file__).parents[3]
FRAMES = 46
EIGHT = np.floor(3.75 * np.arange(13) + 0.5).astype(int)  # 8 fps of 30
SPECS = [scenes.specify(i, seed=0, held_out=False) for i in range(len(scenes.TRAIN))]
SPECS += [scenes.specify(i, seed=0, held_out=True) for i in range(len(scenes.HELD_OUT))]


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    hand.write(folder)
    return mano.load_hands(folder)


@pytest.fixture(scope="module")
def worlds(hands):
    return [scenes.World(spec, FRAMES, hands) for spec in SPECS]


def tracks(world, frames=EIGHT):
    """[n p 3] of the four tracked surfaces, one array each."""
    per_frame = [[v for v, _, _ in world.surfaces(n)[:4]] for n in frames]
    return [np.stack(surface) for surface in zip(*per_frame, strict=True)]


def test_triplets_and_meshes_of_the_two_splits_differ():
    assert len(set(scenes.TRAIN)) >= 8 and len({t[0] for t in scenes.TRAIN}) >= 4
    assert not set(scenes.TRAIN) & set(scenes.HELD_OUT)
    for position in range(3):  # every word of a held-out triplet is known
        known = {t[position] for t in scenes.TRAIN}
        assert {t[position] for t in scenes.HELD_OUT} <= known
    meshes = {True: set(), False: set()}
    for held_out, index in itertools.product((True, False), range(60)):
        spec = scenes.specify(index, seed=3, held_out=held_out)
        meshes[held_out] |= {
            objects.identifier("tool", spec.triplet[1], spec.tool_variant),
            objects.identifier("target", spec.triplet[2], spec.target_variant),
        }
    assert not meshes[True] & meshes[False] and len(meshes[False]) > 25


def test_motion_is_large_slow_and_far_from_the_origin(worlds):
    moved = []
    for world in worlds:
        surfaces = tracks(world)
        moved.append([np.median(np.linalg.norm(s[-1] - s[0], axis=-1)) for s in surfaces])
        steps = [np.linalg.norm(np.diff(s, axis=0), axis=-1).max() for s in surfaces]
        assert max(steps) <= 0.028, (world.spec.triplet, steps)
        assert min(np.linalg.norm(s, axis=-1).min() for s in surfaces) >= 0.3
        low, high = motion.LENGTH
        assert low * 0.6 < min(moved[-1]) and max(moved[-1]) < high + 0.05, world.spec.triplet
    assert np.mean(moved) > 0.06 and np.std(moved) > 0.02  # far, and not all alike


def test_motion_follows_from_triplet_first_frame_and_speed(hands):
    """Two scenes of one action, layout and course move alike, whatever the meshes (5 mm)."""
    for action in {spec.triplet[0] for spec in SPECS}:
        same = [spec for spec in SPECS if spec.triplet[0] == action][:2]
        paths = []
        for spec in same:
            spec = dataclasses.replace(spec, layout=SPECS[0].layout, course=SPECS[0].course)
            made = scenes.World(spec, FRAMES, hands).motion
            paths.append([getattr(made, role)[:, :3, 3] for role in ("tool", "target")])
        for one, other in zip(*paths, strict=True):
            difference = (one - one[0]) - (other - other[0])
            assert np.linalg.norm(difference, axis=-1).max() < 0.005, action


def test_the_text_tells_the_speed(hands):
    spec = SPECS[0]
    far = {}
    for manner, speed in motion.SPEEDS.items():
        told = dataclasses.replace(spec, course=motion.Course(speed=speed))
        made = scenes.World(told, FRAMES, hands).motion
        far[manner] = np.linalg.norm(made.target[-1, :3, 3] - made.target[0, :3, 3])
        assert f" {manner} " in scenes.prompt(spec.triplet, manner)
    assert far["slowly"] < 0.75 * far["quickly"]
    for one in SPECS:
        (manner,) = (m for m in motion.SPEEDS if m in one.text)
        assert one.course.speed == motion.SPEEDS[manner]


def test_the_way_is_the_layouts(hands):
    """Where the tool's head is seen from the target tells where both will go, and how far."""
    layout = SPECS[0].layout
    for action, rule in motion.ACTIONS.items():
        ends, seen = [], []
        for change in ({}, {"bearing": layout.bearing + 1.0}, {"length": 2 * layout.length}):
            other = dataclasses.replace(layout, **change)
            made = motion.move(
                action, other, motion.Course(), np.array([0.0, motion.CLIP]),
                centre=np.zeros(3), reach=0.13, height=0.05,
            )  # fmt: skip
            head = made.tool[0, :3] @ [0, 0.13, 0, 1.0]
            seen.append(complex(*(made.target[0, :2, 3] - head[:2])))
            ends.append(complex(*(made.target[1, :2, 3] - made.target[0, :2, 3])))
            assert abs(ends[-1]) == pytest.approx(rule.target * other.length)
        for what in (seen, ends):  # turned by 1 radian, and twice as long
            assert what[1] / what[0] == pytest.approx(np.exp(1j))
            assert what[2] / what[0] == pytest.approx(2)


@pytest.mark.slow
def test_right_hand_holds_the_tool_and_the_left_the_target(worlds):
    for world in worlds:
        for side, role in (("right", "tool"), ("left", "target")):
            poses, vertices = getattr(world.motion, role), world.hands[side]
            local = np.einsum("nba,npb->npa", poses[:, :3, :3], vertices - poses[:, None, :3, 3])
            assert np.abs(local - local[0]).max() < 1e-6, (world.spec.triplet, role)
        tool = scipy.spatial.cKDTree(densely(*world.surfaces(0)[2][:2]))
        joint = hand.make("right")["weights"].argmax(1)
        for finger in range(5):  # its last two phalanges
            part = np.isin(joint, [3 * finger + 2, 3 * finger + 3])
            distance = tool.query(world.hands["right"][0][part])[0].min()
            assert distance < 0.010, (world.spec.triplet, finger, distance)
        target = scipy.spatial.cKDTree(densely(*world.surfaces(0)[3][:2]))
        assert target.query(world.hands["left"][0])[0].min() < 0.004, world.spec.triplet


def densely(vertices, faces):
    """Points on a mesh, about 2 mm apart."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return trimesh.sample.sample_surface(mesh, 8_000, seed=0)[0]


def test_tools_come_to_their_targets(hands):
    """At the end of a whole way: within 25 mm, or 8 cm above where something is poured."""
    for spec in SPECS:
        whole = dataclasses.replace(spec, course=motion.Course())
        world = scenes.World(whole, FRAMES, hands)
        tool, target = (densely(*world.surfaces(FRAMES - 1)[i][:2]) for i in (2, 3))
        distance = scipy.spatial.cKDTree(tool).query(target)[0].min()
        limit = 0.08 if spec.triplet[0] == "pour in some" else 0.025
        assert distance < limit, (spec.triplet, distance)


def test_nothing_sinks_into_the_table(worlds):
    for world in worlds:
        low = [s[..., 2].min() - scenes.WORK[2] for s in tracks(world)]
        assert min(low) > -1e-6, (world.spec.triplet, low)


def test_a_hand_is_occluded_somewhere(worlds):
    """Some point in front of a camera is hidden by another surface, in every scene."""
    rig = scenes.rig((48, 64), scenes.THREE)
    for world in worlds[::3]:
        surfaces = world.surfaces(0)[:4]
        scene = raycast.Scene([(v, f) for v, f, _ in surfaces])
        hidden = 0
        for camera in rig.values():
            for index, (vertices, _, _) in enumerate(surfaces):
                pixels, depth = cameras.project(vertices, camera.intrinsics, camera.extrinsics)
                hits = scene.cast_pixels(pixels, camera.intrinsics, camera.extrinsics)
                hidden += ((hits.depth < depth - 0.01) & (hits.mesh != index)).sum()
        assert hidden > 50


def test_every_camera_sees_the_work_area(worlds):
    size = (120, 160)
    for camera in scenes.rig(size).values():
        assert abs(np.linalg.det(camera.extrinsics[:, :3]) - 1) < 1e-9
        for world in worlds[:4]:
            for frame in (0, FRAMES - 1):
                points = np.concatenate([v for v, _, _ in world.surfaces(frame)[:4]])
                pixels, depth = cameras.project(points, camera.intrinsics, camera.extrinsics)
                inside = (pixels > 0).all(-1) & (pixels < size[::-1]).all(-1) & (depth > 0)
                assert inside.all(), (camera.name, world.spec.triplet)


def test_projected_vertices_land_on_drawn_pixels(worlds):
    """Vertices that nothing hides lie, within 1 px, where the picture differs from the table."""
    world = worlds[0]
    size, name = (120, 160), "22070938"
    renderer = scenes.Renderer(world, size, (name,))
    image = renderer.frame(0)[name].astype(int)
    changed = np.abs(image - renderer.background[name].astype(int)).sum(-1) > 24
    camera = renderer.cameras[name]
    surfaces = world.surfaces(0)
    scene = raycast.Scene([(v, f) for v, f, _ in surfaces])
    hits = scene.cast(camera.intrinsics, camera.extrinsics, size)
    seen, bright = 0, changed | shift(changed)
    for index, (vertices, _, _) in enumerate(surfaces[:4]):
        pixels, depth = cameras.project(vertices, camera.intrinsics, camera.extrinsics)
        x, y = np.round(pixels).astype(int).T
        near = hits.depth[y, x] > depth - 0.005
        seen += near.sum()
        assert bright[y, x][near].mean() > 0.98, index
    assert seen > 500


def shift(mask):
    """The mask grown by one pixel."""
    grown = np.pad(mask, 1)
    return np.any(
        [grown[1 + a : 121 + a, 1 + b : 161 + b] for a in (-1, 0, 1) for b in (-1, 0, 1)], 0
    )


def test_courses_begin_alike_and_go_apart(hands):
    for index in range(4):
        specs = [scenes.specify(index, seed=1, held_out=True, course=k) for k in range(4)]
        assert len({spec.sequence_id for spec in specs}) == 4
        assert len({spec.text for spec in specs}) == 1 == len({spec.layout for spec in specs})
        assert not any(manner in specs[0].text for manner in motion.SPEEDS)
        assert len({scenes.draw_cameras(spec, 3, seed=1) for spec in specs}) == 1
        made = [tracks(scenes.World(spec, FRAMES, hands)) for spec in specs]
        for parts in zip(*made, strict=True):
            assert all(np.array_equal(parts[0][0], part[0]) for part in parts)
            steps = [np.linalg.norm(np.diff(part, axis=0), axis=-1).max() for part in parts]
            assert max(steps) <= 0.03
        ends = [np.concatenate([part[-1] for part in parts]) for parts in made]
        apart = [np.linalg.norm(a - b, axis=-1).mean() for a, b in itertools.combinations(ends, 2)]
        assert min(apart) > 0.004 and np.mean(apart) > 0.03, apart


def test_cameras_are_drawn_from_all_parts_of_the_rig():
    spec = SPECS[0]
    drawn = [scenes.draw_cameras(spec, 6, seed=seed) for seed in range(20)]
    assert set(itertools.chain(*drawn)) == set(scenes.RIG)
    rig = scenes.rig((48, 64))
    for names in drawn:
        assert len(set(names)) == 6
        where = cameras.camera_centre(np.stack([rig[name].extrinsics for name in names]))[:, 0]
        assert where[:2].min() > where[2:4].max() and where[2:4].min() > where[4:].max()
    alone = [scenes.draw_cameras(spec, 1, seed=seed) for seed in range(200)]
    assert {len(names) for names in alone} == {1}
    assert set(itertools.chain(*alone)) == set(scenes.RIG)
    with pytest.raises(ValueError, match="wanted 1, 3, 6, 9 or 12, got 4"):
        scenes.draw_cameras(spec, 4, seed=0)


def test_scenes_are_reproducible(hands):
    first, again = (scenes.specify(7, seed=5, held_out=True) for _ in range(2))
    assert first == again != scenes.specify(7, seed=6, held_out=True)
    worlds = [scenes.World(spec, 3, hands) for spec in (first, again)]
    images = [scenes.Renderer(w, (36, 48), ("22139909",)).frame(2)["22139909"] for w in worlds]
    np.testing.assert_array_equal(*images)


def command():
    path = ROOT / "data_prep/make_scenes.py"
    spec = importlib.util.spec_from_file_location("make_scenes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_courses_have_one_first_picture_and_held_frames_repeat(tmp_path):
    """Equal to the byte after coding; between the frames of an 8 fps clip pictures are repeated."""
    flags = [
        "--frames",
        "30",
        "--size",
        "48x64",
        "--cameras",
        "3",
        "--courses",
        "2",
        "--drawn",
        "8",
    ]
    script = [sys.executable, str(ROOT / "data_prep/make_scenes.py"), "--out", str(tmp_path)]
    subprocess.run([*script, "--scenes", "1", *flags], check=True, cwd=ROOT)
    videos = []
    for entry in taco.index(tmp_path / "taco"):
        (path, *_) = sorted(entry.folder(taco.VIDEOS[0]).glob("*.mp4"))
        with av.open(str(path)) as container:
            videos.append([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    one, other = videos
    assert len(one) == 30 and np.array_equal(one[0], other[0])
    assert not np.array_equal(one[29], other[29])
    change = np.array([np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(one)])
    drawn = np.isin(np.arange(1, 30), EIGHT)
    assert change[drawn].mean() > 5 * change[~drawn].mean()


def test_command_makes_resumes_and_refuses(tmp_path, capfd):
    arguments = ["--out", str(tmp_path), "--frames", "2", "--size", "36x48", "--scenes", "1"]
    script = [sys.executable, str(ROOT / "data_prep/make_scenes.py")]
    subprocess.run([*script, *arguments, "--test-scenes", "1"], check=True, cwd=ROOT)
    entries = taco.index(tmp_path / "taco")
    held_out = (tmp_path / "heldout_triplets.txt").read_text().splitlines()
    assert [taco.triplet_name(e.triplet) in held_out for e in entries] == [False, True]
    models = mano.load_hands(tmp_path / "mano")
    for entry in entries:
        sequence = taco.load(tmp_path / "taco", entry, models)
        assert len(sequence.cameras) == 12 and sequence.frames == 2
        for name in sequence.cameras:
            with av.open(str(sequence.video_path(name))) as container:
                stream = container.streams.video[0]
                assert (stream.height, stream.width, stream.average_rate) == (36, 48, 30)
                assert len(list(container.decode(stream))) == 2
        extrinsics = np.load(
            entry.folder("Egocentric_Camera_Parameters") / "egocentric_frame_extrinsic.npy"
        )
        assert extrinsics.shape == (2, 4, 4) and np.abs(extrinsics[0] - extrinsics[1]).max() > 0
    stamp = sequence.video_path("22139909").stat().st_mtime_ns
    assert command().main([*arguments, "--test-scenes", "1"]) == 0
    assert "2 scenes, 2 done before" in capfd.readouterr().out
    assert sequence.video_path("22139909").stat().st_mtime_ns == stamp
    with pytest.raises(SystemExit, match="made with other settings"):
        command().main([*arguments, "--seed", "1"])
    assert json.loads((tmp_path / "scenes.json").read_text())["seed"] == 0
    for wrong in (["--size", "35x48"], ["--frames", "0"], ["--scenes", "-1"], ["--drawn", "31"]):
        with pytest.raises(SystemExit):
            command().main([*arguments, *wrong])
