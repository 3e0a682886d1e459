"""The second sampling in a workdir: the same is found, anything else is made, nothing is lost."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from configs import sections
from syncmv4d_jax import recipe
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, sample
from syncmv4d_jax.run import inputs as run_inputs
from syncmv4d_jax.tasks import base

V, N, SIZE = 2, 3, (16, 32)
GIVEN = {
    "text": np.ones((4, 8), np.float32),
    "images": np.zeros((V, *SIZE, 3), np.uint8),
    "intrinsics": np.tile(np.eye(3, dtype=np.float32), (V, 1, 1)),
    "prompt": "a cat runs",
}


class Plain:
    """Gives grey videos and counts them."""

    name, cameras = "plain", True
    clip = base.Clip(frames=N, size=SIZE, views=V)

    def __init__(self, sampling):
        self.sampling, self.made = sampling, 0

    def init(self, rng):
        return {"dit": {"a": jnp.zeros((2,))}}

    def encode(self, params, pixels):
        return pixels.astype(jnp.float32)

    def decode(self, params, sample):
        return dataclasses.replace(sample, pixels=sample.latents)

    def sample(self, params, inputs, rng, *, progress):
        self.made += 1
        progress(self.sampling.steps, self.sampling.steps)
        return base.Sample(jnp.zeros((1, V, N, *SIZE, 3)))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(change) -> (samples made, meta of the sample "cat"); change: see CHANGES."""

    def call(change=None, *, weights=0.0, sampling=None, task=None, given=None, **chosen):
        config = sections.base().unlock()
        config.sample.update(chosen)
        config.task = {"points": 4} | (task or {})
        plain = base.Sampling("euler", steps=2, shift=1.0, guidance=1.0)
        made = Plain(plain._replace(**(sampling or {})))
        monkeypatch.setattr(assembly, "task", lambda *_: made)
        inputs = [("cat", {k: x for k, x in (GIVEN | (given or {})).items() if x is not None})]
        monkeypatch.setattr(run_inputs, "of_config", lambda *_: inputs)
        params = {"dit": {"a": jnp.full((2,), weights)}}
        monkeypatch.setattr(assembly, "load_params", lambda *_: params)
        sample.run(config, tmp_path)
        meta = json.loads((tmp_path / "samples/cat/meta.json").read_text())
        return made.made, meta

    return call


CHANGES = {
    "prompt": (
        {"given": {"prompt": "a cat sleeps"}},
        'prompt: was "a cat runs", is "a cat sleeps"',
    ),
    "text": ({"given": {"text": np.zeros((4, 8), np.float32)}}, "inputs.text: was"),
    "image": ({"given": {"images": np.ones((V, *SIZE, 3), np.uint8)}}, "inputs.images: was"),
    "camera": ({"given": {"intrinsics": 2 * GIVEN["intrinsics"]}}, "inputs.intrinsics: was"),
    "no camera": ({"given": {"intrinsics": None}}, "inputs.intrinsics: was .*is not there"),
    "seed": ({"seed": 7}, "seed: was 0, is 7"),
    "draws": ({"best_of": 1, "task": {"points": 8}}, "task.points: was 4, is 8"),
    "switch": ({"task": {"anchored": True}}, "task.anchored: was not there, is true"),
    "guidance": ({"sampling": {"guidance": 7.5}}, "sampling.guidance: was 1, is 7.5"),
    "steps": ({"sampling": {"steps": 50}}, "sampling.steps: was 2, is 50"),
    "exact": ({"exact": True}, "exact: was not there, is true"),
    "weights": ({"weights": 1.0}, r"weights.dit: was \"\w+\", is \"\w+\""),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changed_a_new_sample_is_made_and_the_old_one_kept(run, tmp_path, caplog, what):
    change, said = CHANGES[what]
    assert run()[0] == 1 and run()[0] == 0
    first = (tmp_path / "samples/cat/meta.json").read_bytes()
    made, meta = run(**change)
    assert made == 1 and recipe.differences(json.loads(first)["recipe"], meta["recipe"])
    assert re.search(said, caplog.text), caplog.text
    (aside,) = set(samples.find(tmp_path / "samples")) - {"cat"}
    assert aside == f"cat_{recipe.mark(json.loads(first)['recipe'])[:8]}" and aside in caplog.text
    assert (tmp_path / "samples" / aside / "meta.json").read_bytes() == first
    assert run(**change)[0] == 0  # both are there now: neither is made again
    assert run()[0] == 0
    assert (tmp_path / "samples/cat/meta.json").read_bytes() == first
    assert len(samples.find(tmp_path / "samples")) == 2


def test_a_sample_that_lost_a_file_is_made_again(run, tmp_path):
    run()
    (tmp_path / "samples/cat/view_1.mp4").unlink()
    assert run()[0] == 1 and (tmp_path / "samples/cat/view_1.mp4").is_file()
    assert len(samples.find(tmp_path / "samples")) == 1


def test_a_sample_that_does_not_say_what_it_was_made_from_is_kept_aside(run, tmp_path, caplog):
    _, meta = run()
    del meta["recipe"]
    (tmp_path / "samples/cat/meta.json").write_text(json.dumps(meta))
    assert run()[0] == 1 and "it does not say from what" in caplog.text
    assert len(samples.find(tmp_path / "samples")) == 2


def test_a_failed_second_sampling_loses_nothing(run, tmp_path, monkeypatch):
    _, before = run()
    monkeypatch.setattr(samples.video, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(seed=7)
    monkeypatch.undo()
    assert json.loads((tmp_path / "samples/cat/meta.json").read_text()) == before
    assert len(list((tmp_path / "samples").iterdir())) == 1


def test_features_that_a_machine_makes_of_a_prompt_do_not_count(run):
    """A user's texts are encoded at each start: what they are made from is compared."""
    own = {"prompt": "a cat runs"}
    assert run(**own)[0] == 1
    near = {"text": np.full((4, 8), 1 + 1e-7, np.float32)}
    assert run(**own, given=near)[0] == 0
    assert run(**own, given=near, negative_prompt="blurred")[0] == 1


def test_the_whole_recipe_is_told(run):
    _, meta = run(seed=3)
    assert meta["command"].startswith("python -m syncmv4d_jax.main") and meta["seed"] == 3
    assert meta["recipe"].keys() >= {"code", "task", "sampling", "weights", "seed", "inputs"}
    assert meta["recipe"]["inputs"].keys() == {"images", "text", "intrinsics"}
    assert meta["weights"] == {}  # the fixture's are from nowhere
