"""Camera paths: named ones keep what they promise, files are checked, far ones are refused."""

import copy

import numpy as np
import pytest
import views

from syncmv4d_jax.geometry import cameras, paths

PIVOT = np.array([0.05, 0.02, 0.12])
FRAMES = 9


def rig():
    eyes = ((0.1, -1.0, 0.8), (0.6, -0.8, 0.7))
    found = [views.camera(eye=eye) for eye in eyes]
    return np.stack([k for k, _ in found]), np.stack([pose for _, pose in found])


def at_pivot(path):
    """Pixels [n 2] of the pivot, and its depth [n]."""
    found = [cameras.project(PIVOT, k.astype(float), e.astype(float))
             for k, e in zip(*path, strict=True)]  # fmt: skip
    return np.stack([p for p, _ in found]), np.array([z for _, z in found])


@pytest.mark.parametrize("name", paths.AMOUNTS)
def test_a_named_path_starts_at_its_source_and_goes_smoothly(name):
    lenses, poses = rig()
    path = paths.named("to_view:1" if name == "to_view" else name, FRAMES, lenses, poses, PIVOT)
    np.testing.assert_allclose(path.extrinsics[0], poses[0], atol=1e-5)
    assert path.intrinsics.shape == (FRAMES, 3, 3) and path.extrinsics.shape == (FRAMES, 3, 4)
    turns = path.extrinsics[:, :, :3]
    np.testing.assert_allclose(turns @ turns.swapaxes(1, 2), np.tile(np.eye(3), (FRAMES, 1, 1)),
                               atol=1e-5)  # fmt: skip
    moved = np.abs(path.extrinsics - path.extrinsics[:1]).max((1, 2))
    assert (moved[FRAMES // 2] > 1e-3) == (name != "static")
    paths.check(path, poses, PIVOT, where=name)


@pytest.mark.parametrize("name", ["orbit", "orbit:-50", "circle"])
def test_orbit_and_circle_keep_the_pivot_on_its_pixel(name):
    path = paths.named(name, FRAMES, *rig(), PIVOT)
    pixels, depth = at_pivot(path)
    np.testing.assert_allclose(pixels, pixels[:1].repeat(FRAMES, 0), atol=1e-3)
    if name != "circle":
        np.testing.assert_allclose(depth, depth[0], atol=1e-4)
    centres = cameras.camera_centre(path.extrinsics.astype(float))
    assert np.linalg.norm(np.diff(centres, axis=0), axis=-1).max() > 0.02


def test_amounts_are_what_they_say():
    lenses, poses = rig()
    orbit = paths.named("orbit:40", FRAMES, lenses, poses, PIVOT)
    arms = cameras.camera_centre(orbit.extrinsics.astype(float)) - PIVOT
    flat = [np.degrees(np.arctan2(*(arm[1::-1]))) for arm in (arms[0], arms[-1])]
    assert (flat[1] - flat[0]) % 360 == pytest.approx(40, abs=1e-3)
    np.testing.assert_allclose(arms[:, 2], arms[0, 2], atol=1e-5)  # about the world's up
    _, depth = at_pivot(paths.named("dolly", FRAMES, lenses, poses, PIVOT))
    assert depth[-1] == pytest.approx(0.75 * depth[0], rel=1e-4)
    _, depth = at_pivot(paths.named("forward_backward:0.4", FRAMES, lenses, poses, PIVOT))
    assert depth[FRAMES // 2] == pytest.approx(0.6 * depth[0], rel=1e-4)
    assert depth[-1] == pytest.approx(depth[0], rel=1e-4)
    there = paths.named("to_view:1", FRAMES, lenses, poses, PIVOT)
    np.testing.assert_allclose(there.extrinsics[-1], poses[1], atol=1e-4)
    np.testing.assert_allclose(there.intrinsics[-1], lenses[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spiral", "wanted a file or one of"),
        ("orbit:61", "at most 60 degrees, got 61"),
        ("orbit:far", "wanted a number behind the colon"),
        ("orbit:nan", "got nan"),
        ("dolly:0.9", "at most 0.6 of the pivot's depth"),
        ("to_view:2", r"wanted a view of 0\.\.1, got 2"),
    ],
)
def test_names_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        paths.named(text, FRAMES, *rig(), PIVOT)


def content(frames=FRAMES):
    lens, pose = views.camera()
    entry = {"K": lens.ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
             "T": pose[:, 3].tolist()}  # fmt: skip
    return {"size": list(views.SIZE), "fps": 8, "frames": [copy.deepcopy(entry)] * frames}


def read(values, frames=FRAMES, size=views.SIZE):
    return paths.of_file(values, frames=frames, size=size, where="path.json")


def test_a_file_is_brought_to_the_size_that_is_drawn():
    path = read(content(), size=tuple(2 * n for n in views.SIZE))
    lens, pose = views.camera()
    np.testing.assert_allclose(path.extrinsics, np.tile(pose, (FRAMES, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(path.intrinsics[3, 0, 0], 2 * lens[0, 0], rtol=1e-6)
    np.testing.assert_allclose(read(content(1)).extrinsics, path.extrinsics, atol=1e-6)


def broken(change):
    values = content()
    entry = copy.deepcopy(values["frames"][0])
    change(values, entry)
    values["frames"] = [*values["frames"][:2], entry, *values["frames"][3:]]
    return values


BROKEN = {
    "mirrors": (lambda v, e: e.update(R=(-np.array(e["R"])).tolist()), "frame 2: R .* mirrors"),
    "stretched": (lambda v, e: e.update(R=(1.1 * np.array(e["R"])).tolist()), "not orthonormal"),
    "nan": (lambda v, e: e.update(T=[0, 0, float("nan")]), "not finite"),
    "far": (lambda v, e: e.update(T=[0, 0, 1e300]), "not below 1e.09"),
    "no size": (lambda v, e: v.update(size=[24, float("nan")]), "size is 24 x nan"),
    "key": (lambda v, e: e.pop("K"), r"frame 2: wanted K \[9\]"),
    "focal": (lambda v, e: e["K"].__setitem__(0, -3.0), "K wants rows"),
    "shape": (lambda v, e: v.update(size=[24, 24]), "size is 24 x 24, wanted the shape of 24 x 36"),
    "size": (lambda v, e: v.update(size=[24]), r"wanted \[height, width\]"),
    "none": (lambda v, e: v.pop("size"), 'wanted {"size"'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be(name):
    change, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        read(broken(change))


def test_another_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="wanted 13 frames, as the video has, or 1, got 9"):
        read(content(), frames=13)


def test_a_path_beyond_what_was_seen_is_refused():
    lenses, poses = rig()
    behind = cameras.look_at(np.array([0, 1.0, 0.8]), PIVOT, np.array([0.0, 0, 1]))
    far = paths.Path(lenses[:1], behind[None].astype(np.float32))
    with pytest.raises(ValueError, match="frame 0 is 109 degrees round the scene"):
        paths.check(far, poses, PIVOT, where="path")
    away = cameras.look_at(np.array([0.1, -1.0, 0.8]), np.array([0.1, -9.0, 0.8]),
                           np.array([0.0, 0, 1]))  # fmt: skip
    with pytest.raises(ValueError, match="looks away"):
        paths.check(paths.Path(lenses[:1], away[None]), poses, PIVOT, where="path")
