"""Pipelines of controlled videos and of points of one image: the command line's samples."""

import json

import drawn_weights
import fake_samples
import moving_solids
import numpy as np
import pytest

from data_prep import import_meshes
from syncmv4d_jax import pipeline
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import sample


@pytest.fixture
def meshes(tmp_path):
    """A folder with a picture, its camera and OBJ files of the tiny recording's solids."""
    moving_solids.write(tmp_path, 18, camera="cam0")
    return tmp_path


@pytest.mark.slow
def test_meshes_are_followed_as_those_of_the_command_lines_recording(meshes, tmp_path):
    config = drawn_weights.followed(tmp_path)
    flags = {"meshes": tmp_path / "objs", "image": tmp_path / "front.png",
             "camera": tmp_path / "cameras.json", "out": tmp_path / "recordings",
             "text": "Stir.", "name": "mine"}  # fmt: skip
    assert import_meshes.main([x for k, v in flags.items() for x in (f"--{k}", str(v))]) == 0
    own = config.copy_and_resolve_references()
    own.sample.recording, own.sample.seed = str(tmp_path / "recordings/mine"), 3
    sample.run(own, tmp_path)  # the prompt is the recording's
    pipe = pipeline.HVG3DPipeline.load(config=config)
    given = {"cameras": tmp_path / "cameras.json", "meshes": tmp_path / "objs"}
    result = pipe(tmp_path / "front.png", "Stir.", **given, seed=3, name="mine")
    fake_samples.same_files(result.save(tmp_path / "ours"), tmp_path / "samples/mine")
    assert result.videos.shape == (1, 5, 32, 48, 3) and result.tracks is None
    assert result.pseudo_videos.std() > 1  # the tracking video that was followed
    slow = pipe(tmp_path / "front.png", "Stir.", **given, fps=15.0, seed=3, name="mine")
    assert np.abs(slow.videos.astype(int) - result.videos).max() > 0  # half as fast
    rig = json.loads((tmp_path / "cameras.json").read_text())
    with pytest.raises(ValueError, match="imgSize is 160 x 120, the picture 48 x 32"):
        pipe(np.zeros((32, 48, 3), np.uint8), "a", cameras=rig, meshes=tmp_path / "objs")
    with pytest.raises(FileNotFoundError, match="nothing.glb: no such file"):
        pipe(tmp_path / "front.png", "a", cameras=rig, meshes=tmp_path / "nothing.glb")
    own.sample.images = "x.png"
    with pytest.raises(ValueError, match="a recording has its pictures"):
        sample.run(own, tmp_path)


@pytest.mark.slow
def test_points_of_one_image_and_its_path_are_the_command_lines(tmp_path):
    config, synthesis = drawn_weights.seen(tmp_path)
    size = tuple(config.task.size)
    camera, colours = moving_solids.write_deep(tmp_path, size)
    own = config.copy_and_resolve_references()
    own.sample.update(
        images=str(tmp_path / "one.png"), depth=str(tmp_path / "one.npz"), prompt="It slides.",
        camera_path="orbit:5", synthesis=str(synthesis),
    )  # fmt: skip
    sample.run(own, tmp_path)
    pipe = pipeline.MoRe4DPipeline.load(config=config, synthesis=synthesis)
    call = {"depth": camera.depth, "intrinsics": camera.intrinsics, "name": "one"}
    result = pipe(colours, "It slides.", **call, camera_path="orbit:5")
    saved = result.save(tmp_path / "ours")
    fake_samples.same_files(saved, tmp_path / "samples/one")
    along = saved.with_name("one_path")
    # The recipe has a mark of the source's meta.json, which says what command made it.
    fake_samples.same_files(along, tmp_path / "samples/one_path", differ=("recipe",))
    assert result.flow.shape == (1, 5, *size, 3) and result.tracks.shape[0] == 5
    seen = samples.read(along)
    np.testing.assert_array_equal(seen["path_extrinsics"], result.along.cameras["extrinsics"])
    eyes = [cameras.camera_centre(pose) for pose in result.along.cameras["extrinsics"][0]]
    assert np.linalg.norm(eyes[-1] - eyes[0]) > 0.05  # it goes
    assert (along / "tracks.glb").read_bytes()[:4] == b"glTF"
    alone = pipe(colours, "It slides.", **call)
    assert alone.along is None
    np.testing.assert_array_equal(alone.flow, result.flow)
    with pytest.raises(ValueError, match="best_of=2 compares views' tracks"):
        pipe(colours, "It slides.", **call, best_of=2)
    with pytest.raises(ValueError, match="camera path: wanted a file or one of"):
        pipe(colours, "It slides.", **call, camera_path="nowhere")
    bare = pipeline.MoRe4DPipeline.load(config=config)
    with pytest.raises(ValueError, match="config.sample.synthesis: wanted weights"):
        bare(colours, "It slides.", **call, camera_path="orbit")
