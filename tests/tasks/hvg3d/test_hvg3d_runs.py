"""From records to a video: stages, frozen parts, exports that know their backbone, resuming."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import hvg3d
from syncmv4d_jax import main, tree
from syncmv4d_jax.run import assembly, checkpoint, inputs
from syncmv4d_jax.weights import exports


def config(mode="train", **changes):
    made = hvg3d.get_config("debug").copy_and_resolve_references().unlock()
    made.mode, made.train.checkpoint_every, made.train.log_every = mode, 1, 1
    made.train.batch_size = 1
    made.mesh = {"data": 1, "fsdp": 1, "view": 1, "sequence": 1}
    made.stages = tuple({**stage, "train": {"steps": 2}} for stage in made.stages)
    for key, value in changes.items():
        section, name = key.split("__")
        made[section][name] = value
    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of both stages, two steps each, and a sample with its evaluation."""
    folder = tmp_path_factory.mktemp("hvg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *a: jax.local_devices()[:1])
        for mode in ("train", "sample", "evaluate"):
            main.run(config(mode), folder)
    return folder


@pytest.mark.slow
def test_a_sample_is_scored_where_hands_and_objects_are(trained):
    rows = json.loads((trained / "eval.json").read_text())["rows"]
    for metric in ("psnr_hoi", "follow", "grid_index"):
        assert np.isfinite(rows["model"][metric]["value"]), metric
    (made,) = (trained / "samples").glob("*/meta.json")
    assert {p.name for p in made.parent.iterdir()} >= {"view_0.mp4", "motion_0.mp4"}
    assert "report.html" in {p.name for p in trained.iterdir()}


@pytest.mark.slow
def test_checkpoints_hold_control_and_points_and_the_backbones_hash(trained):
    last = checkpoint.Trained(trained / "checkpoints" / "control")
    assert {name.split("/")[0] for name in last.shapes} == {"control", "points"}
    before = checkpoint.Trained(trained / "checkpoints" / "video")
    marks = checkpoint.part_marks(before.numpy(), ("dit",))
    assert last.beside == marks == exports.told(trained / "control.safetensors")["beside"]
    found = tree.flatten(exports.read(trained / "control.safetensors"))
    assert {name.split("/")[0] for name in found} == {"control", "points"}


@pytest.mark.slow
def test_a_branch_of_another_backbone_is_refused(trained, tmp_path):
    own = config("sample")
    own.stages, own.data.name = (), "taco"
    own.weights.vae = str(trained / "embedded" / "weights")
    for part, file in (("dit", "video"), ("control", "control"), ("points", "control")):
        own.weights[part] = str(trained / f"{file}.safetensors")
    task = assembly.task(own)
    assert "control" in assembly.load_params(task, assembly.read(own), tmp_path)
    other = exports.read(trained / "video.safetensors")
    other["dit"]["head"]["head"]["bias"] += 1
    exports.write(other, tmp_path / "other.safetensors")
    own.weights.dit = str(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="trained beside another 'dit'"):
        assembly.load_params(task, assembly.read(own), tmp_path)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(trained, tmp_path):
    """The last checkpoint of control taken away: the same weights come again."""
    shutil.copytree(trained, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "control"
    wanted = checkpoint.Trained(folder).numpy()
    shutil.rmtree(folder / "2")
    own = config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *a: jax.local_devices()[:1])
        main.run(own, tmp_path / "run")
    got = checkpoint.Trained(folder).numpy()
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_another_scenes_control_is_the_next_one_that_begins_otherwise():
    image = lambda x: np.full((1, 2, 2, 3), x, np.uint8)  # noqa: E731
    pairs = [
        (name, {"images": image(x), "points": np.array([x, i]), "intrinsics": i, "text": name})
        for i, (name, x) in enumerate([("a_0", 1), ("a_1", 1), ("b_0", 2)])
    ]
    found = dict(inputs.swapped(pairs))
    assert [found[n]["points"].tolist() for n in ("a_0", "a_1", "b_0")] == [[2, 2], [2, 2], [1, 0]]
    assert found["a_0"]["intrinsics"] == 2 and found["a_0"]["text"] == "a_0"
    with pytest.raises(ValueError, match="2 that begin alike"):
        list(inputs.swapped(pairs[:2]))
