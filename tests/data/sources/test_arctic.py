"""ARCTIC's raw sequences: MANO's mean pose, the part that turns, images and their frames."""

import json
import pickle

import arctic_files
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_prep import import_arctic
from syncmv4d_jax.data.sources import arctic, mano, recordings
from syncmv4d_jax.geometry import cameras


@pytest.fixture
def path(tmp_path):
    return arctic_files.write(tmp_path)


def read(path, fps=30.0, **how):
    return arctic.read(path, fps, hands=path.parents[2] / "mano", **how)


@pytest.mark.parametrize("top", [0, 1])
def test_the_lid_turns_about_its_hinge_and_both_parts_move(top, tmp_path):
    """Whichever number parts.json has for the top."""
    found = read(arctic_files.write(tmp_path, top=top))
    _, placed = arctic_files.motion()
    vertices, _, lid = arctic_files.box()
    for n, (angle, *turn_and_shift) in enumerate(placed):
        turn, shift = Rotation.from_rotvec(turn_and_shift[:3]), np.array(turn_and_shift[3:])
        hinge = Rotation.from_rotvec([0, 0, -angle])
        for name, part in (
            ("box top", turn.apply(hinge.apply(vertices[lid])) + shift),
            ("box bottom", turn.apply(vertices[~lid]) + shift),
        ):
            np.testing.assert_allclose(found[name].vertices[n], part / 1000, atol=1e-9)
    assert len(found["box top"].faces) == len(found["box bottom"].faces) == 12  # none between them


def test_hands_have_the_mean_pose_and_stay_where_trans_has_them(path):
    """A pose that undoes the mean gives the template, moved."""
    hands, _ = arctic_files.motion()
    models = mano.load_hands(path.parents[2] / "mano")
    for side, model in zip(("left", "right"), models, strict=True):
        own = hands[side]
        own["rot"][:], own["shape"][:], own["pose"][:] = 0, 0, -model.mean_pose
        assert np.abs(model.mean_pose).max() > 0.05
    np.save(path, hands, allow_pickle=True)
    found = read(path)
    for side, model in zip(("left", "right"), models, strict=True):
        wanted = model.template + hands[side]["trans"][:, None]
        np.testing.assert_allclose(found[side].vertices, wanted, atol=1e-9)
        np.testing.assert_array_equal(found[side].faces, model.faces)


def test_frames_between_and_from_a_later_one(path):
    whole = read(path)
    half, double, later = read(path, 15.0), read(path, 60.0), read(path, first=2)
    for name, moving in whole.items():
        v = moving.vertices
        np.testing.assert_allclose(half[name].vertices, v[::2], atol=1e-9)
        np.testing.assert_allclose(double[name].vertices[1::2], (v[1:] + v[:-1]) / 2, atol=1e-9)
        np.testing.assert_allclose(later[name].vertices, v[2:], atol=1e-9)


def test_an_image_and_what_moves_after_it(path, tmp_path):
    root = path.parents[2]
    image = next(root.glob("images/s01/*/2/*.jpg"))
    flags = {"arctic": root, "mano": root / "mano", "image": image, "out": tmp_path / "out",
             "text": "A person opens a box."}  # fmt: skip
    assert import_arctic.main([x for k, v in flags.items() for x in (f"--{k}", str(v))]) == 0
    (source,) = recordings.folder_sources(tmp_path / "out")
    made = source.open()
    assert source.id == "s01_box_grab_01_2_00005" and source.provenance == "sim"
    assert not made.filmed and made.frames == arctic_files.N - 2 and made.text == flags["text"]
    found = read(path, first=2)
    for surface in made.surfaces:
        np.testing.assert_allclose(surface.vertices, found[surface.name].vertices, atol=1e-6)
    camera, told = made.cameras["view_2"], arctic_files.rig()
    np.testing.assert_allclose(camera.extrinsics, np.array(told["world2cam"][1])[:3], atol=1e-9)
    middle = found["box bottom"].vertices[0].mean(0)
    pixel, _ = cameras.project(middle, camera.intrinsics, camera.extrinsics)
    assert np.abs(pixel - [79.5, 59.5]).max() < 20


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def changed(path, key, value):
    hands, _ = arctic_files.motion()
    hands["left"][key] = value
    np.save(path, hands, allow_pickle=True)


def broken(path, what):
    """Breaks one file of the sequence."""
    folder = path.parents[2] / "meta/object_vtemplates/box"
    thing = path.with_name(f"{arctic_files.NAME}.object.npy")
    placed = np.load(thing)
    if what == "code":
        np.save(path, Evil(), allow_pickle=True)
    elif what == "no hand":
        np.save(path, {"right": arctic_files.motion()[0]["right"]}, allow_pickle=True)
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif what == "pickle":
        path.write_bytes(pickle.dumps({}))
    elif what == "length":
        np.save(thing, placed[:-1])
    elif what == "parts":
        (folder / "parts.json").write_text("[0, 1]")
    elif what == "ragged":
        (folder / "parts.json").write_text(json.dumps([[1], *[0] * 15]))
    elif what == "one part":
        (folder / "parts.json").write_text(json.dumps([0] * 16))
    elif what == "both":
        points = {"keypoints": arctic_files.box()[0].tolist()}
        (folder / "top_keypoints_300.json").write_text(json.dumps(points))
    elif what == "nan":
        placed[3, 2] = np.nan
        np.save(thing, placed)
    elif what == "far":
        placed[2, 5] = -1e300  # finite, until it is turned
        np.save(thing, placed)
    else:
        changed(path, *{"pose": ("pose", np.zeros((arctic_files.N, 24))),
                        "betas": ("shape", np.zeros(16))}[what])  # fmt: skip


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("code", "refused the global builtins.print"),
        ("no hand", "wanted left with rot, pose, trans and shape"),
        ("cut", "box_grab_01.mano.npy: no array of ARCTIC"),
        ("pickle", "box_grab_01.mano.npy: no array of ARCTIC"),
        ("length", r"object.npy: wanted numbers \[7 7\], got float64 \(6, 7\)"),
        ("parts", r"parts.json: wanted numbers \[16\]"),
        ("ragged", "parts.json: no array of numbers"),
        ("one part", "leaves no triangle of the bottom"),
        ("both", "which part is the top"),
        ("nan", "not finite, the first in row 3"),
        ("far", r"object.npy: -1e\+300 in row 2; wanted at most 1000000"),
        ("pose", r"mano.npy: wanted numbers \[7 45\]"),
        ("betas", r"wanted numbers \[10\]"),
    ],
)
def test_refused_sequences(what, message, path, capsys):
    broken(path, what)
    with pytest.raises(ValueError, match=message):
        read(path)
    assert "executed" not in capsys.readouterr().out


def test_refused_images(path):
    root = path.parents[2]
    for image, message in (
        ("images/s01/box_grab_01/0/00005.jpg", "view 0: wanted one of 1 to 8"),
        ("images/s01/box_grab_01/2/00001.jpg", "2 frames before the sequence begins"),
        ("images/s02/box_grab_01/2/00005.jpg", "no cameras of s02"),
        ("photo.jpg", "wanted images/<subject>"),
    ):
        with pytest.raises(ValueError, match=message):
            arctic.picture(image, root)
    with pytest.raises(ValueError, match="wanted a frame of 0..6, got 7"):
        read(path, first=7)
    with pytest.raises(ValueError, match="wanted raw_seqs"):
        read(path.with_name("box_grab_01.object.npy"))
    path.with_name("box_grab_01.object.npy").unlink()
    with pytest.raises(FileNotFoundError, match="wanted ARCTIC's raw_seqs"):
        read(path)
