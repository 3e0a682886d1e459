"""Samples on disk: what is written is read, of every kind; what is lost is named."""

import json

import fake_samples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import transform

from syncmv4d_jax import view
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import evaluate

KINDS = {"points": st.booleans(), "cameras": st.booleans(), "motion": st.booleans(),
         "scale": st.booleans(), "views": st.integers(1, 3), "frames": st.integers(1, 4),
         "seed": st.integers(0, 99)}  # fmt: skip
META = {"fps": 8.0, "prompt": "a „cup“", "seed": 3, "steps": [1, 2]}


def sample(*, points, cameras, motion, scale, views, frames, seed):
    """(result, inputs) of a sample with or without its parts."""
    rng = np.random.default_rng(seed)
    smooth = lambda: np.tile(rng.uniform(-1, 1, (views, frames, 1, 1, 3)), (1, 1, 16, 24, 1))  # noqa: E731
    result, inputs = {"video": smooth()}, {"prompt": "x", "images": np.zeros((views, 4, 4, 3))}
    if motion:
        result["motion"] = smooth()
    if scale:
        result["scale"] = rng.uniform(1, 2, (views, 2)).astype(np.float32)
    if cameras:
        lens = np.array([[20.0, 0, 11.5], [0, 20, 7.5], [0, 0, 1]], np.float32)
        lens[:2, 2] += rng.uniform(-90, 90, 2)  # crops need not have the centre in them
        zoom = rng.uniform(1, 1.2, (views, 1, 1)) ** [[1], [1], [0]]
        inputs["intrinsics"] = np.float32(lens * zoom)
        turns = transform.Rotation.random(views, rng).as_matrix()
        poses = np.concatenate([turns, rng.normal(size=(views, 3, 1))], -1)
        inputs["extrinsics"] = np.float32(poses)[:, None]  # standing still
    if points:
        result["tracks_per_view"] = rng.normal(size=(views, frames, 5, 3)).astype(np.float32)
        result["confidence"] = rng.uniform(0, 1, (views, frames, 5)).astype(np.float32)
        result["anchors"] = rng.normal(size=(views, 5, 2)).astype(np.float32)
        result["anchor_valid"] = rng.random((views, 5)) < 0.5
    return result, inputs


@given(st.fixed_dictionaries(KINDS))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, kind):
    path = tmp_path_factory.mktemp("run") / "samples/one"
    result, inputs = sample(**kind)
    samples.write(path, result, inputs, META)
    found = samples.read(path)
    for key in samples.CLIPS:
        assert (key in found) == (key in result)
        if key in found:
            wanted = samples.to_uint8(result[key])
            assert found[key].shape == wanted.shape and found[key].dtype == np.uint8
            assert np.abs(found[key].astype(int) - wanted).max() < 12  # H.264, 4:2:0
    rig = {k: inputs[k] for k in samples.CAMERAS if k in inputs}  # of the inputs nothing else
    exact = {k: x for k, x in (result | rig).items() if k in samples.ARRAYS}
    for key, x in exact.items():
        np.testing.assert_array_equal(found[key], x[:, 0] if key == "extrinsics" else x)
    made = {"tracks", "visibility"} if kind["points"] else set()
    assert found.keys() == {"meta", *exact, *made, *(k for k in samples.CLIPS if k in result)}
    if made:
        seen = result["confidence"] > 0.5
        np.testing.assert_array_equal(found["visibility"], seen)
        weight = result["confidence"][..., None] + 1e-3
        mean = (weight * result["tracks_per_view"]).sum(0) / weight.sum(0)
        np.testing.assert_allclose(found["tracks"], mean, rtol=1e-4, atol=1e-5)
    assert found["meta"] == META
    assert samples.find(path.parent) == {"one": path}


@pytest.mark.parametrize("key", ["video", "motion", "scale", "tracks_per_view", "extrinsics"])
def test_what_is_not_finite_is_no_sample(tmp_path, key):
    kind = dict(points=True, cameras=True, motion=True, scale=True, views=2, frames=2, seed=0)
    result, inputs = sample(**kind)
    (inputs if key in inputs else result)[key].flat[3] = np.nan
    with pytest.raises(ValueError, match=f"{key} .* has values that are not finite"):
        samples.write(tmp_path / "a", result, inputs, META)
    assert not list(tmp_path.iterdir())


def test_a_sample_replaces_the_former_one(tmp_path):
    first = dict(points=True, cameras=True, motion=True, scale=True, views=3, frames=2, seed=0)
    samples.write(tmp_path / "a", *sample(**first), META)
    second = dict(points=False, cameras=False, motion=False, scale=False, views=1, frames=3, seed=1)
    samples.write(tmp_path / "a", *sample(**second), META)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["meta.json", "view_0.mp4"]
    assert samples.read(tmp_path / "a")["video"].shape[:2] == (1, 3)
    result, inputs = sample(**first)
    result["video"] = result["video"][..., :15, :, :]  # an odd height can't be encoded
    with pytest.raises(ValueError, match="even height"):
        samples.write(tmp_path / "a", result, inputs, META)
    assert samples.read(tmp_path / "a")["video"].shape[:2] == (1, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="wanted a video"):
        samples.write(tmp_path / "b", {"scale": result["scale"]}, inputs, META)


@pytest.mark.parametrize("name", ["view_1.mp4", "motion_0.mp4", "tracks.npz"])
def test_a_lost_file_is_named(tmp_path, name):
    kind = dict(points=True, cameras=True, motion=True, scale=True, views=2, frames=2, seed=0)
    samples.write(tmp_path / "a", *sample(**kind), META)
    (tmp_path / "a" / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        samples.read(tmp_path / "a")


def test_exact_videos_are_read_to_the_last_bit(tmp_path):
    """Noise, which no mp4 keeps; the mp4 is there to look at, and a lost video is named."""
    kind = dict(points=True, cameras=True, motion=True, scale=True, views=2, frames=3, seed=0)
    result, inputs = sample(**kind)
    result["video"] = np.random.default_rng(0).uniform(-1, 1, result["video"].shape)
    samples.write(tmp_path / "a", result, inputs, META)
    samples.write(tmp_path / "b", result, inputs, META, exact=True)
    wanted, (lossy, exact) = (
        samples.to_uint8(result["video"]),
        (samples.read(tmp_path / name) for name in "ab"),
    )
    np.testing.assert_array_equal(exact["video"], wanted)
    assert np.abs(lossy["video"].astype(int) - wanted).max() > 20
    np.testing.assert_array_equal(exact["motion"], lossy["motion"])
    names = {f"view_{v}.{ending}" for v in (0, 1) for ending in ("mp4", "mkv")}
    assert {file.name for file in (tmp_path / "b").glob("view_*")} == names
    (tmp_path / "b/view_1.mkv").unlink()
    with pytest.raises(FileNotFoundError, match=r"view_1\.mkv"):
        samples.read(tmp_path / "b")


def test_samples_of_the_first_version_are_read(tmp_path):
    kind = dict(points=True, cameras=True, motion=False, scale=True, views=2, frames=2, seed=0)
    samples.write(tmp_path / "a", *sample(**kind), META)
    (tmp_path / "a/meta.json").write_text(json.dumps(META))
    later = {*samples.PARTS, *samples.DENSE, *samples.PATH, *samples.DRAWN}
    known = {"video", *samples.ARRAYS} - later
    assert samples.read(tmp_path / "a").keys() >= known
    other, _ = sample(**kind | {"frames": 3})
    samples.video.write(tmp_path / "a/view_1.mp4", samples.to_uint8(other["video"][1]), fps=8.0)
    with pytest.raises(ValueError, match=r"one size.*view_0.mp4 \(2, .*view_1.mp4 \(3, "):
        samples.read(tmp_path / "a")
    (tmp_path / "a/view_0.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="view_0.mp4"):
        samples.read(tmp_path / "a")


def test_an_unfinished_sample_is_not_found(tmp_path):
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial/meta.json").write_text("{}")
    (tmp_path / "b").mkdir()
    assert samples.find(tmp_path) == {}


SCENES = {f"scene-{i}": fake_samples.truth(i) for i in range(2)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run of videos without cameras and tracks."""
    workdir = tmp_path_factory.mktemp("plain")
    for name, truth in SCENES.items():
        fake_samples.write(workdir / "samples", name, truth, leave_out=fake_samples.VIDEO_ONLY)
    return workdir


def test_videos_alone_are_evaluated(plain):
    evaluate.run(fake_samples.config(), plain, examples=lambda *_: iter(SCENES.items()))
    found = json.loads((plain / "eval.json").read_text())
    rows = found["rows"]
    assert found["scenes"] == 2 and rows["model"]["psnr_moving"]["n"] == 2
    assert "mv_rpe" not in rows["model"] and "error_mm" not in rows["model"]
    assert rows["model"]["ssim"]["value"] > 0.3 and rows["truth"] == {}
    page = (plain / "report.html").read_text()
    assert "scene-1" in page and "not finite" not in page
    bare = {n: {k: x for k, x in t.items() if k != "tracks"} for n, t in SCENES.items()}
    evaluate.run(fake_samples.config(), plain, examples=lambda *_: iter(bare.items()))
    again = json.loads((plain / "eval.json").read_text())
    assert again["points"] == 0 and again["rows"]["model"] == rows["model"]


def test_a_run_may_have_both_kinds(plain, tmp_path):
    for i, (name, truth) in enumerate(SCENES.items()):
        left = fake_samples.VIDEO_ONLY if i else ()
        fake_samples.write(tmp_path / "samples", name, truth, leave_out=left)
    evaluate.run(fake_samples.config(), tmp_path, examples=lambda *_: iter(SCENES.items()))
    rows = json.loads((tmp_path / "eval.json").read_text())["rows"]["model"]
    assert list(rows["mv_rpe"]["per_sample"]) == ["scene-0"] and rows["ssim"]["n"] == 2
    assert "not finite" not in (tmp_path / "report.html").read_text()


def test_videos_alone_are_shown(plain, tmp_path):
    evaluate.run(fake_samples.config(split=""), plain)
    assert '"scene":null' in (plain / "report.html").read_text()
    with pytest.raises(SystemExit, match="this sample has no tracks"):
        view.main([str(plain / "samples/scene-0"), "--export", "glb"])


def test_files_of_a_sample_that_cannot_be_read_are_named(tmp_path):
    fake_samples.write(tmp_path, "a", fake_samples.truth(0))
    arrays, meta = tmp_path / "a/tracks.npz", tmp_path / "a/meta.json"
    data = arrays.read_bytes()
    arrays.write_bytes(data[:500])
    with pytest.raises(ValueError, match="tracks.npz: unreadable"):
        samples.read(tmp_path / "a")
    arrays.write_bytes(data)
    for text in (b"[1]", b'{"a": \xff}', b"{"):
        meta.write_bytes(text)
        with pytest.raises(ValueError, match="meta.json: (not JSON|wanted)"):
            samples.read(tmp_path / "a")


@pytest.mark.parametrize("change, said", [
    (lambda a: a["intrinsics"].__setitem__((1, 0, 0), 0), r"tracks.npz: the camera of view 1: K "),
    (lambda a: a["extrinsics"].__setitem__((0, 0, 0), 3), "the camera of view 0: R is not a rot"),
    (lambda a: a.update(intrinsics=a["intrinsics"][:1]), r"2 views, got \(1, 3, 3\)"),
])  # fmt: skip
def test_a_camera_that_no_view_has_is_refused(tmp_path, change, said):
    kind = dict(points=True, cameras=True, motion=False, scale=False, views=2, frames=2, seed=0)
    samples.write(tmp_path / "a", *sample(**kind), META)
    arrays = dict(np.load(tmp_path / "a/tracks.npz"))
    change(arrays)
    np.savez(tmp_path / "a/tracks.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        samples.read(tmp_path / "a")


def test_arrays_that_are_not_finite_are_not_read(tmp_path):
    kind = dict(points=True, cameras=True, motion=False, scale=False, views=2, frames=2, seed=0)
    samples.write(tmp_path / "a", *sample(**kind), META)
    arrays = dict(np.load(tmp_path / "a/tracks.npz"))
    arrays["confidence"][0, 1, 2] = np.inf
    np.savez(tmp_path / "a/tracks.npz", **arrays)
    with pytest.raises(ValueError, match="tracks.npz: confidence has values that are not finite"):
        samples.read(tmp_path / "a")
