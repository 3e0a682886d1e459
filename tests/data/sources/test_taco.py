"""TACO's layout: what is written is read back, and what is wrong is named."""

import json
import pickle
import shutil

import numpy as np
import pytest

from syncmv4d_jax.data import rigs
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, taco, taco_writer
from syncmv4d_jax.weights import torch_pickle

FRAMES = 5
# What a real calibration.json says of one camera, TACO data set, CC BY 4.0.
REAL = {
    "K": [10281.2, 0.0, 2027.1, 0.0, 10281.2, 1523.9, 0.0, 0.0, 1.0],
    "R": [-0.5681, 0.8169, -0.0998, 0.4142, 0.179, -0.8924, -0.7111, -0.5483, -0.4401],
    "T": [0.0925, 0.545, 2.3952],
    "distCoeff": [0.1, -2.0, 0.0, 0.0, 9.0],
    "imgSize": [4096, 3000],
    "rectifyAlpha": 0.0,
}


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    hand.write(folder)
    return mano.load_hands(folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory, hands):
    """A root with one small scene, made once."""
    root = tmp_path_factory.mktemp("taco")
    spec = scene.specify(3, seed=0, held_out=False)
    scene.write_scene(
        root, spec, hands, frames=FRAMES, size=(36, 48), names=("22139946", "22139909")
    )
    return root, spec


@pytest.fixture
def root(written, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(written[0], tmp_path / "taco")


def load(root, hands):
    (entry,) = taco.index(root)
    return taco.load(root, entry, hands)


def test_round_trip(written, hands):
    root, spec = written
    sequence, world = load(root, hands), scene.World(spec, FRAMES, hands)
    assert (sequence.id, sequence.triplet, sequence.frames) == (
        spec.sequence_id,
        spec.triplet,
        FRAMES,
    )
    for frame in range(FRAMES):
        drawn = world.surfaces(frame)  # the forearms last, which are read as occluders
        for read, (vertices, faces, _) in zip(sequence.surfaces, drawn, strict=False):
            np.testing.assert_allclose(read.at(frame), vertices, atol=2e-6)
            np.testing.assert_array_equal(read.faces, faces)
    names = [(surface.name, surface.kind) for surface in sequence.surfaces]
    assert names == [
        *((name, "tracked") for name in taco.NAMES),
        *((name, "occluder") for name in ("left_forearm", "right_forearm", "table")),
    ]
    assert sequence.text == spec.text and ("slowly" in spec.text or "quickly" in spec.text)
    assert list(sequence.cameras) == ["22139946", "22139909"]
    for name, camera in scene.rig((36, 48), tuple(sequence.cameras)).items():
        np.testing.assert_allclose(sequence.cameras[name].extrinsics, camera.extrinsics)
        np.testing.assert_allclose(sequence.cameras[name].intrinsics, camera.intrinsics)
        assert sequence.cameras[name].size == (36, 48)
        assert sequence.video_path(name).is_file()
    with pytest.raises(taco.BadSequence, match="no video of camera 7"):
        sequence.video_path("7")


def test_no_partial_file_is_left_and_none_is_read(written, root, hands):
    assert not [path for path in written[0].rglob("*") if path.name.startswith(".")]
    (root / taco.HANDS / taco.triplet_name(written[1].triplet) / ".20990101_0004.77").mkdir()
    assert len(taco.index(root)) == 1


def test_triplet_names():
    for triplet in (("stir", "spoon", "bowl"), ("pour in some", "glue gun", "pan")):
        assert taco.parse_triplet(taco.triplet_name(triplet)) == triplet
    assert taco.parse_triplet("(stir-fry, spatula, pan)")[0] == "stir-fry"
    for bad in ("stir, spoon, bowl", "(stir, spoon)", "(a, b, c, d)"):
        with pytest.raises(ValueError, match="triplet: wanted"):
            taco.parse_triplet(bad)


def test_a_real_camera():
    camera = rigs.parse("22139905", REAL, where="x", undistorted=True)
    assert camera.size == (3000, 4096)
    centre = -camera.extrinsics[:, :3].T @ camera.extrinsics[:, 3]
    np.testing.assert_allclose(centre, [1.53, 1.14, 1.55], atol=0.01)
    with pytest.raises(ValueError, match="R is not a rotation"):
        rigs.parse("x", REAL | {"R": [2.0] * 9}, where="x", undistorted=True)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_tensor_pickles_are_read_from_any_device(device):
    rng = np.random.default_rng(0)
    tree = {"00001": {"hand_pose": rng.normal(size=48), "hand_trans": rng.normal(size=3)}}
    read = torch_pickle.load(taco_writer.pickle_tensors(tree, device=device))
    for key, value in tree["00001"].items():
        assert read["00001"][key].dtype == np.float32
        np.testing.assert_array_equal(read["00001"][key], value.astype(np.float32))


@pytest.mark.parity
def test_torch_reads_the_tensor_pickles():
    torch = pytest.importorskip("torch")
    tree = {"00001": {"hand_pose": np.arange(48.0)}, "shape": np.arange(6.0).reshape(2, 3)}
    read = pickle.loads(taco_writer.pickle_tensors(tree))
    assert torch.equal(read["00001"]["hand_pose"], torch.arange(48, dtype=torch.float32))
    assert read["shape"].tolist() == [[0, 1, 2], [3, 4, 5]]
    data = pickle.dumps({"00001": {"hand_pose": torch.arange(48.0)}})
    ours = torch_pickle.load(data)["00001"]["hand_pose"]
    np.testing.assert_array_equal(ours, np.arange(48, dtype=np.float32))


def one(root, pattern):
    (path,) = root.glob(pattern)
    return path


def test_missing_files_are_named(root, hands):
    for pattern, message in (
        ("Object_Models/*_cm.obj", "object model 5"),
        ("Object_Poses/*/*/target_*.npy", "wanted one target_<id>.npy"),
        ("Hand_Poses/*/*/right_hand.pkl", "right_hand.pkl: not found"),
        ("Allocentric_Camera_Parameters/*/*/calibration.json", "calibration.json: not found"),
    ):
        sorted(root.glob(pattern))[-1].unlink()
        with pytest.raises(taco.BadSequence, match=message):
            load(root, hands)
    with pytest.raises(FileNotFoundError, match="no folder Hand_Poses"):
        taco.index(root / "elsewhere")


def test_frame_counts_must_agree(root, hands):
    path = one(root, "Object_Poses/*/*/tool_*.npy")
    np.save(path, np.load(path)[:-1])
    with pytest.raises(taco.BadSequence, match="frame counts differ: .*'tool': 4"):
        load(root, hands)


def test_numbers_must_be_finite(root, hands):
    path = one(root, "Object_Poses/*/*/tool_*.npy")
    poses = np.load(path)
    poses[2, 0, 3] = np.nan
    np.save(path, poses)
    with pytest.raises(taco.BadSequence, match="tool_.*frame 2 has no finite pose"):
        load(root, hands)


def test_poses_must_be_rigid(root, hands):
    path = one(root, "Object_Poses/*/*/tool_*.npy")
    poses = np.load(path)
    poses[2, :3, :3] *= 100  # centimetres by mistake
    np.save(path, poses)
    with pytest.raises(taco.BadSequence, match="frame 2 is not a rotation and a translation"):
        load(root, hands)


def test_hand_frames_must_run_from_one(root, hands):
    path = one(root, "Hand_Poses/*/*/left_hand.pkl")
    pose = {"hand_pose": np.zeros(48), "hand_trans": np.zeros(3)}
    path.write_bytes(taco_writer.pickle_tensors({f"{i:05d}": pose for i in (1, 2, 4, 5, 6)}))
    with pytest.raises(taco.BadSequence, match="frames 00001..00005.*missing 00003"):
        load(root, hands)


def test_malicious_pickles_are_refused(root, hands, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    path = one(root, "Hand_Poses/*/*/left_hand.pkl")
    path.write_bytes(pickle.dumps({"00001": Evil()}))
    with pytest.raises(taco.BadSequence, match="left_hand.pkl: unreadable .*refused"):
        load(root, hands)
    assert not (tmp_path / "mark").exists()


def test_broken_files_are_named(root, hands):
    calibration = one(root, "Allocentric_Camera_Parameters/*/*/calibration.json")
    good = calibration.read_text()
    for text in ("{", "[]", "{}", json.dumps({"a": {"K": [1.0]}})):
        calibration.write_text(text)
        with pytest.raises(taco.BadSequence, match="broken calibration"):
            load(root, hands)
    calibration.write_text(good)
    for pattern in ("Hand_Poses/*/*/right_hand.pkl", "Object_Poses/*/*/tool_*.npy"):
        path = one(root, pattern)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(taco.BadSequence, match=f"{path.name}: unreadable"):
            load(root, hands)
        path.write_bytes(whole)
    for path in root.glob("Object_Models/*.obj"):
        path.write_bytes(b"\xff\x00 no mesh")
    with pytest.raises(taco.BadSequence, match="unreadable mesh: .*_cm.obj: wanted a text"):
        load(root, hands)


def test_known_bad_sequences_are_refused(root, hands):
    old = one(root, "Hand_Poses/*/*")
    old.rename(old.with_name("20230919_036"))
    with pytest.raises(taco.BadSequence, match="20230919_036: wrong extrinsics"):
        load(root, hands)
