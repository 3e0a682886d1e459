"""The Python door gives what the command line gives, to the last byte, in every form of input."""

import dataclasses
import json

import fake_samples
import folders
import jax
import numpy as np
import pytest
import syncmv4d_tiny as tiny
from PIL import Image

from configs import taco
from configs import wan_ti2v as wan_ti2v_config
from syncmv4d_jax import pipeline
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.pipeline import given
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, embedded, sample
from syncmv4d_jax.weights import exports, release

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (40, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The base model with tiny random weights, and their folder."""
    root = tmp_path_factory.mktemp("release")
    folders.write_official(root / "official")
    release.convert(root / "official", root / "converted")
    config = wan_ti2v_config.get_config("debug").copy_and_resolve_references().unlock()
    config.task.dit = dataclasses.asdict(wan_config.TINY)
    config.task.vae = dataclasses.asdict(vae.TINY)
    config.task.size, config.task.views, config.task.sample_steps = (32, 48), 1, 2
    config.task.guidance = 3.0
    config.text.max_length = wan_config.TINY.text_len
    config.sample.negative_prompt = "a bowl"
    return pipeline.WanTI2VPipeline.load(root / "converted", config), config, root / "converted"


def test_a_call_is_the_command_lines_sample(one, tmp_path):
    pipe, config, converted = one
    Image.fromarray(PIXELS).save(tmp_path / "cup.png")
    own = config.copy_and_resolve_references()
    own.sample.update(images=str(tmp_path / "cup.png"), prompt="a hand", seed=3)
    own.weights.dit = own.weights.vae = own.text.weights = str(converted)
    sample.run(own, tmp_path)
    steps = []
    result = pipe(
        tmp_path / "cup.png", "a hand", seed=3, name="cup",
        callback_on_step_end=lambda p, i, t, _: steps.append((p is pipe, i, t)),
    )  # fmt: skip
    fake_samples.same_files(result.save(tmp_path / "ours"), tmp_path / "samples/cup")
    assert steps[-1][:2] == (True, 1) and 0 < steps[-1][2] < 1000
    assert result.videos.shape == (1, 5, 32, 48, 3) and result.videos.dtype == np.uint8
    assert result.tracks is result.pseudo_videos is result.cameras is None
    frames = result.to_diffusers_video()
    assert len(frames) == 5 and np.array_equal(frames[2], result.videos[0, 2])
    for other in (Image.fromarray(PIXELS), PIXELS, [PIXELS], tmp_path / "cup.png"):
        again = pipe(other, "a hand", seed=3, name="cup")
        np.testing.assert_array_equal(again.videos, result.videos)
    page = result._repr_html_()
    assert page.startswith("<iframe srcdoc=") and "a hand" in page
    with pytest.raises(ValueError, match="view: wanted 0..0, got 1"):
        result.to_diffusers_video(1)
    with pytest.raises(ValueError, match=r"wanted a suffix of .glb, .usda, .ply, .rrd, got '.obj'"):
        result.export(tmp_path / "x.obj")


def test_settings_of_a_call_are_its_own(one):
    pipe, _, _ = one
    plain = pipe(None, "a hand")
    longer = pipe(None, "a hand", num_inference_steps=3, guidance_scale=1.0)
    assert (longer.meta["steps"], longer.meta["guidance"]) == (3, 1.0)
    assert (plain.meta["steps"], plain.meta["guidance"]) == (2, 3.0)
    several = pipe(None, "a hand", num_videos=2, seed=0, name="pair")
    assert [r.meta["id"] for r in several] == ["pair_seed0", "pair_seed1"]
    assert np.abs(several[0].videos.astype(int) - several[1].videos).max() > 8
    other = pipe(None, "a hand", negative_prompt="a cup")
    assert np.abs(other.videos.astype(int) - plain.videos).max() > 0
    np.testing.assert_array_equal(pipe(None, "a hand").videos, plain.videos)


def test_what_cannot_be_is_a_sentence(one, tmp_path):
    pipe, config, converted = one
    for words, call in {
        r"num_videos: wanted at least 1, got 0": dict(prompt="a", num_videos=0),
        r"prompt: wanted": dict(prompt=" "),
        r"images, 000: wanted \[h w 3\] uint8, .* float64": dict(
            images=np.ones((4, 4, 3)), prompt="a"
        ),
        r"a name that is no file's: '../x'": dict(images={"../x": PIXELS}, prompt="a"),
        r"cameras: .* has its own": dict(images=tmp_path, cameras={}, prompt="a"),
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=words):
            pipe(**call)
    with pytest.raises(ValueError, match=r"no part 'dpa', there are \['dit', 'vae', 'umt5'\]"):
        pipeline.WanTI2VPipeline.load({"dpa": converted}, config)
    with pytest.raises(FileNotFoundError, match="no weights for"):
        pipeline.WanTI2VPipeline.load({"umt5": converted}, config)
    with pytest.raises(FileNotFoundError, match="no such configuration"):
        pipeline.read_config(tmp_path / "mine.py")
    (tmp_path / "mine.py").write_text("x = 1")
    with pytest.raises(ValueError, match="a function get_config"):
        pipeline.read_config(tmp_path / "mine.py")


def test_switches_are_set_by_their_names():
    config = taco.get_config("debug").copy_and_resolve_references().unlock()
    given.switch(config, {"refine_every": 2, "network": True})
    assert config.task.cycle.refine_every == 2 and config.task.cycle.network is True
    for values, words in (
        ({"x": 1}, r"switches: no 'x', this task has \['cycle', 'network', 'refine_every'"),
        ({"refine_every": 0}, r"switches, refine_every: wanted a whole number 1..100, got 0"),
        ({"refine_every": True}, "wanted a whole number"),
        ({"cycle": 1}, "switches, cycle: wanted true or false, got 1"),
    ):
        with pytest.raises(ValueError, match=words):
            given.switch(config, values)


def test_a_configuration_is_read_by_its_name():
    found = pipeline.read_config("configs/taco.py:debug")
    assert found.task.to_dict() == taco.get_config("debug").task.to_dict()
    assert pipeline.SyncMV4DPipeline.config == "configs/taco.py"


def test_a_result_says_points_and_cameras_and_exports_them(tmp_path):
    rng, shape = np.random.default_rng(1), (2, 3, 4)  # views, frames, points
    made = {
        "video": rng.uniform(-1, 1, (2, 3, 16, 16, 3)).astype(np.float32),
        "motion": np.zeros((2, 3, 16, 16, 3), np.float32),
        "tracks_per_view": rng.normal(size=(*shape, 3)).astype(np.float32),
        "confidence": np.stack([np.ones(shape[1:]), np.zeros(shape[1:])]).astype(np.float32),
        "anchors": np.zeros((2, 4, 2), np.float32),
        "anchor_valid": np.ones((2, 4), bool),
        "scale": np.ones((2, 2), np.float32),
    }
    poses = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1, 1))
    lens = np.diag([20, 20, 1]).astype(np.float32)
    shot = {"intrinsics": np.tile(lens, (2, 1, 1))}
    result = pipeline.Result(made, shot | {"extrinsics": poses}, {"id": "x", "fps": 8.0})
    fused = world_tracks.fuse(made["tracks_per_view"], made["confidence"])
    np.testing.assert_allclose(result.tracks, fused, rtol=1e-6)
    near = np.abs(result.tracks - made["tracks_per_view"]).mean((1, 2, 3))
    assert near[0] < 0.01 * near[1]  # the sure view's
    np.testing.assert_array_equal(result.confidence, made["confidence"])
    assert result.cameras["extrinsics"].shape == (2, 3, 4) and (result.pseudo_videos == 128).all()
    assert result.export(tmp_path / "x.glb").read_bytes()[:4] == b"glTF"
    saved = samples.read(result.save(tmp_path))
    np.testing.assert_array_equal(saved["tracks"], result.tracks)
    bare = pipeline.Result({"video": made["video"]}, {}, {"id": "y", "fps": 8.0})
    assert bare.tracks is bare.confidence is bare.cameras is None


@pytest.mark.slow
def test_views_with_cameras_are_the_command_lines_sample(tmp_path):
    """Images in the order of the cameras, or by their names; tracks in metres."""
    config = taco.get_config("debug").copy_and_resolve_references().unlock()
    config.task.sample_steps, config.task.guidance = 2, 1.0
    config.task.cycle.refine_last = 1
    embedded.ensure(config, tmp_path)
    task = assembly.task(config)
    params = {k: x for k, x in task.init(jax.random.key(0)).items() if k in ("dit", "dpa")}
    exports.write(params, tmp_path / "model.safetensors", dtype="float32", metadata={})
    config.weights.dit = config.weights.dpa = str(tmp_path / "model.safetensors")
    batch = jax.tree.map(np.asarray, tiny.make_batch())
    rig = {
        name: {"K": K.ravel(), "R": E[0, :, :3].ravel(), "T": E[0, :, 3], "imgSize": [48, 32]}
        for name, K, E in zip("abc", batch["intrinsics"][0], batch["extrinsics"][0], strict=True)
    }
    images = batch["video"][0, :, 0]
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, image in zip("abc", images, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    plain = {name: {k: np.asarray(x).tolist() for k, x in c.items()} for name, c in rig.items()}
    (folder / "cameras.json").write_text(json.dumps(plain))
    own = config.copy_and_resolve_references()
    own.sample.update(images=str(folder), prompt="a cup")
    sample.run(own, tmp_path)
    pipe = pipeline.SyncMV4DPipeline.load(config=config)
    said, sheet = [], tmp_path / "sheets/rig.png"
    result = pipe(list(images), "a cup", cameras=rig, name="mine", sheet=sheet,
                  on_views=lambda lines: said.append((lines, sheet.is_file())))  # fmt: skip
    assert [(lines[:3], there) for lines, there in said] == [
        (["view 0: a", "view 1: b", "view 2: c"], True)
    ]
    assert result.views == ("a", "b", "c")
    fake_samples.same_files(result.save(tmp_path / "ours"), tmp_path / "samples/mine")
    assert result.tracks.shape == (5, 32, 3) and result.confidence.shape == (3, 5, 32)
    assert result.pseudo_videos.shape == result.videos.shape == (3, 5, 32, 48, 3)
    np.testing.assert_allclose(result.cameras["extrinsics"], batch["extrinsics"][0, :, 0])
    assert result.export(tmp_path / "x.glb").read_bytes()[:4] == b"glTF"
    by_name = {name: images[i] for i, name in ((2, "c"), (0, "a"), (1, "b"))}
    again = pipe(by_name, "a cup", cameras=folder / "cameras.json", name="mine")
    np.testing.assert_array_equal(again.videos, result.videos)
    with pytest.raises(ValueError, match="images: wanted 3, one a camera"):
        pipe(list(images[:2]), "a cup", cameras=rig)
    with pytest.raises(ValueError, match="cameras: wanted a file or a dict"):
        pipe(list(images), "a cup")
