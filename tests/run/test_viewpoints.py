"""Scenes from elsewhere: points of flow, of tracks, of one image; paths; references; refusals."""

import json
from types import SimpleNamespace

import fake_records
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import views

from syncmv4d_jax.data import depth, records
from syncmv4d_jax.geometry import cameras, flow_map, paths
from syncmv4d_jax.run import drawn, sections, viewpoints
from syncmv4d_jax.tasks import base

SIZE, FRAMES = (24, 36), 5


class Echo:
    """A synthesis task whose video is what was drawn for it, and which notes what it was given."""

    clip = base.Clip(FRAMES, SIZE, 1)
    sampling = base.Sampling("euler", 1, 1.0, 1.0)

    def __init__(self):
        self.given = []

    def fold(self, covered):
        return covered

    def encode(self, params, pixels):
        return pixels

    def sample(self, params, inputs, rng, *, progress=None):
        self.given.append(inputs)
        return base.Sample(jnp.asarray(inputs["render"], jnp.float32) / 127.5 - 1)

    def decode(self, params, sample):
        return SimpleNamespace(pixels=sample.latents)


@pytest.fixture
def seen(monkeypatch):
    monkeypatch.setattr(viewpoints.Viewer, "text", lambda self, prompt: {})


def of_flow(frames=FRAMES):
    """A finished sample that says where every pixel goes."""
    camera, tracks, colours = views.scene(frames, SIZE)
    flow = flow_map.forward(tracks, camera)
    grid = tracks[:, ::6, ::6].reshape(frames, -1, 3)
    return {
        "meta": {"prompt": "A block slides.", "fps": 8.0, "id": "a"},
        "flow": flow[None].astype(np.float16), "depth0": camera.depth[None],
        "images": colours[None], "intrinsics": camera.intrinsics[None],
        "extrinsics": camera.extrinsics[None], "tracks": grid,
        "anchor_valid": np.ones((1, grid.shape[1]), bool),
    }  # fmt: skip


def test_a_sample_with_flow_seen_from_its_own_camera_is_its_image(seen):
    task, sample = Echo(), of_flow()
    made = viewpoints.Viewer(task, {}, SimpleNamespace(sample=sections.SampleConfig(
        camera_path="static")))  # fmt: skip
    result, meta = made.along(sample, "a_path", jax.random.key(0))
    assert result["video"].shape == (1, FRAMES, *SIZE, 3)
    first = np.round((result["video"][0, 0] + 1) * 127.5)
    assert (first == sample["images"][0]).all(-1).mean() > 0.99
    np.testing.assert_array_equal(task.given[0]["first"][0, 0, 0], sample["images"][0])
    np.testing.assert_array_equal(task.given[0]["covered"], task.given[0]["hole_mask"])  # of Echo
    assert meta["camera_path"] == "static" and meta["prompt"] == "A block slides."
    assert 0.5 < meta["covered"] < 1.0 and result["path_extrinsics"].shape == (1, FRAMES, 3, 4)
    assert set(np.unique(result["holes"])) == {-1.0, 1.0}


def test_a_path_that_starts_elsewhere_holds_no_frame(seen, tmp_path):
    sample, task = of_flow(), Echo()
    pose = sample["extrinsics"][0].copy()
    pose[0, 3] += 0.1
    entry = {"K": sample["intrinsics"][0].ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
             "T": pose[:, 3].tolist()}  # fmt: skip
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"size": list(SIZE), "fps": 8, "frames": [entry]}))
    made = viewpoints.Viewer(task, {}, SimpleNamespace(sample=sections.SampleConfig(
        camera_path=str(file))))  # fmt: skip
    result, _ = made.along(sample, "a_path", jax.random.key(0))
    assert "first" not in task.given[0]
    np.testing.assert_allclose(result["path_extrinsics"][0, 3], pose, atol=1e-6)


def test_the_pivot_is_the_middle_of_what_moves():
    sample = of_flow()
    scene = drawn.of_sample(sample, "a")
    moves = np.linalg.norm(sample["tracks"][-1] - sample["tracks"][0], axis=-1) > 0.02
    np.testing.assert_allclose(scene.pivot, np.median(sample["tracks"][0][moves], axis=0))
    sample["tracks"] = np.repeat(sample["tracks"][:1], FRAMES, 0)
    still = drawn.of_sample(sample, "a")
    np.testing.assert_allclose(still.pivot, np.median(sample["tracks"][0], axis=0))


def of_tracks():
    """A finished sample of tracks: a pseudo video of one block, anchors on it, a table below."""
    size = (32, 48)
    lens, pose = views.camera(size, focal=55.0)
    height, width = size
    y, x = np.mgrid[:height, :width]
    block = (abs(x - 24) < 9) & (abs(y - 16) < 6)
    scale = np.array([0.8, 1.6], np.float32)
    code = np.full(size, 0.5)  # 1.2 m
    motion = np.stack([x / width, y / height, code], -1) * block[..., None]
    motion = np.repeat(np.round(motion * 255).astype(np.uint8)[None], FRAMES, 0)
    at = np.argwhere(block)[::7][:, ::-1]
    start = cameras.unproject(at.astype(float), np.full(len(at), 1.2), lens.astype(float),
                              pose.astype(float))  # fmt: skip
    tracks = start[None] + np.arange(FRAMES)[:, None, None] * np.array([0.03, 0, 0])
    video = np.random.default_rng(0).integers(1, 255, (1, FRAMES, *size, 3), np.uint8)
    return {
        "meta": {"prompt": "x"}, "video": video, "motion": motion[None], "scale": scale[None],
        "tracks": tracks.astype(np.float32), "anchors": at[None].astype(np.float32),
        "anchor_valid": np.ones((1, len(at)), bool), "intrinsics": lens[None],
        "extrinsics": pose[None],
    }, block  # fmt: skip


def test_a_sample_with_tracks_moves_its_pixels_in_front_of_a_table():
    sample, block = of_tracks()
    scene = drawn.of_sample(sample, "a")
    (cloud,) = scene.clouds
    points = np.asarray(cloud.points).reshape(FRAMES, 32, 48, 3)
    y, x = np.mgrid[:32, :48]
    inner = (abs(x - 24) < 6) & (abs(y - 16) < 4)
    ways = points[4] - points[0]
    np.testing.assert_allclose(ways[inner], np.broadcast_to([0.12, 0, 0], ways[inner].shape),
                               atol=5e-3)  # fmt: skip
    outside = np.asarray(cloud.valid).reshape(32, 48) & ~block
    outside &= ~np.roll(block, 2, 0) & ~np.roll(block, -2, 0) & ~np.roll(block, 2, 1)
    outside &= ~np.roll(block, -2, 1)
    assert not ways[outside].any() and outside.sum() > 300
    heights = points[0][outside][:, 2]
    assert np.ptp(heights) < 1e-3  # a level table
    np.testing.assert_array_equal(cloud.colours.reshape(32, 48, 3), sample["video"][0, 0])


def test_samples_that_cannot_be_drawn():
    sample = of_flow()
    with pytest.raises(ValueError, match="wanted tracks or flow, and cameras"):
        drawn.of_sample({"meta": {}, "video": 0}, "b")
    made = viewpoints.Viewer(Echo(), {}, SimpleNamespace(sample=sections.SampleConfig()))
    with pytest.raises(ValueError, match="config.sample.camera_path: wanted a path"):
        made.along(sample, "a", jax.random.key(0))
    far = drawn.of_sample(sample, "a")
    with pytest.raises(ValueError, match="at most 60 degrees"):
        viewpoints.path_of("orbit:80", far, SIZE)
    with pytest.raises(FileNotFoundError):
        viewpoints.path_of("nowhere.json", far, SIZE)


def posed():
    camera, _, colours = views.scene(1, SIZE)
    eyes = ((-0.2, -1.0, 0.8), (0.1, -1.0, 0.8), (0.4, -0.9, 0.8))
    lenses, poses = zip(*(views.camera(SIZE, eye=eye) for eye in eyes), strict=True)
    return depth.Posed(colours, camera.depth, np.stack(lenses), np.stack(poses), 1)


def test_other_reference_views_are_drawn_for_each_camera():
    task, one = Echo(), posed()
    made = viewpoints.Viewer(task, {}, SimpleNamespace(sample=sections.SampleConfig()))
    images = made.references(one, {}, jax.random.key(0))
    np.testing.assert_array_equal(images[1], one.image)  # the image itself
    assert len(task.given) == 2 and task.given[0]["render"].shape == (1, 1, 1, *SIZE, 3)
    for view in (0, 2):  # a pixel is where its camera sees the point
        point = cameras.unproject(np.array([18.0, 12.0]), one.depth[12, 18], one.intrinsics[1],
                                  one.extrinsics[1])  # fmt: skip
        at, _ = cameras.project(point, one.intrinsics[view], one.extrinsics[view])
        x, y = np.round(at).astype(int)
        near = images[view][y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).astype(int)
        assert np.abs(near - one.image[12, 18].astype(int)).max(-1).min() <= 1


def test_weights_of_a_synthesis_are_asked_for(tmp_path):
    settings = SimpleNamespace(sample=sections.SampleConfig(), weights={})
    with pytest.raises(ValueError, match="config.sample.synthesis: wanted weights"):
        viewpoints.load(settings)
    missing = sections.SampleConfig(synthesis=str(tmp_path / "x.safetensors"))
    with pytest.raises(FileNotFoundError):
        viewpoints.load(SimpleNamespace(sample=missing, weights={}))


def test_a_path_can_be_a_camera_of_the_record(seen, tmp_path, monkeypatch):
    fake_records.write(tmp_path)
    settings = SimpleNamespace(
        sample=sections.SampleConfig(camera_path="record:c3"),
        data=SimpleNamespace(records=str(tmp_path)), task={"size": fake_records.SIZE}, weights={},
    )  # fmt: skip
    found = viewpoints.recorded_cameras(settings, "s1-0")
    reader = records.Reader(tmp_path)
    window = next(w for w in reader.windows if w.id == "s1-0")
    values = reader.view(window, window.views[3])
    assert set(found) == {f"c{i}" for i in range(6)}
    assert found["c3"].extrinsics.shape == (fake_records.FRAMES, 3, 4)
    np.testing.assert_allclose(found["c3"].extrinsics[4], values["extrinsics"], atol=1e-6)
    with pytest.raises(ValueError, match="has no record 'x'"):
        viewpoints.recorded_cameras(settings, "x")
    sample = of_flow()
    scene = drawn.of_sample(sample, "a")
    own = paths.Path(
        np.repeat(sample["intrinsics"], FRAMES, 0), np.repeat(sample["extrinsics"], FRAMES, 0)
    )
    path = viewpoints.path_of("record:me", scene, SIZE, recorded={"me": own})
    np.testing.assert_array_equal(path.extrinsics, own.extrinsics)
    with pytest.raises(ValueError, match=r"wanted a camera of the record, it has \['me'\]"):
        viewpoints.path_of("record:you", scene, SIZE, recorded={"me": own})


def test_own_views_are_told(seen):
    sample, told = of_flow(), {}
    for name in ("static", "pan:5"):
        made = viewpoints.Viewer(Echo(), {}, SimpleNamespace(
            sample=sections.SampleConfig(camera_path=name)))  # fmt: skip
        result, meta = made.along(sample, "a_path", jax.random.key(0))
        told[name] = meta["own_views"]
        assert result["covered"].dtype == bool and result["drawn"].dtype == np.uint8
    assert told == {"static": [True], "pan:5": [False]}
