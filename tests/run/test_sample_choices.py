"""Choosing among draws, prompts, seeds, and errors of sampling, with a task of a few lines."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tqdm
from PIL import Image

from configs import sections
from syncmv4d_jax.data import user
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, checkpoint, compiling, sample
from syncmv4d_jax.run import inputs as run_inputs
from syncmv4d_jax.tasks import base

V, N, K = 2, 3, 4


class Draws:
    """Tracks whose views disagree by the draw's own number of metres."""

    name, cameras = "draws", True
    clip = base.Clip(frames=N, size=(16, 32), views=V)
    sampling = base.Sampling("euler", steps=2, shift=1.0, guidance=1.0)

    def __init__(self, tracks=True):
        self.compares, self.gaps = tracks, []

    def init(self, rng):
        return {"dit": {"a": jnp.zeros((2,))}}

    def encode(self, params, pixels):
        return pixels.astype(jnp.float32)

    def decode(self, params, sample):
        pixels = jnp.broadcast_to(sample.latents, (1, V, N, 16, 32, 3))
        return dataclasses.replace(sample, pixels=pixels)

    def sample(self, params, inputs, rng, *, progress):
        gap = float(jax.random.uniform(rng))
        self.gaps.append(gap)
        progress(2, 2)
        out = base.Sample(jnp.full((1, V, N, 16, 32, 3), gap))
        if not self.compares:
            return out
        return dataclasses.replace(
            out,
            tracks_per_view=jnp.zeros((1, V, N, K, 3)).at[:, 1].set(gap),
            confidence=jnp.ones((1, V, N, K)),
            anchors=jnp.zeros((1, V, K, 2)),
            anchor_valid=jnp.ones((1, V, K), bool),
        )


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(task, **config.sample) -> folder of samples."""

    def call(task, inputs=None, **chosen):
        config = sections.base().unlock()
        config.sample.update(chosen)
        default = {
            "text": np.ones((4, 8), np.float32),
            "images": np.zeros((V, 16, 32, 3), np.uint8),
        }
        given = [("one", inputs or default)]
        monkeypatch.setattr(assembly, "task", lambda *_: task)
        monkeypatch.setattr(run_inputs, "of_config", lambda *_: given)
        monkeypatch.setattr(assembly, "load_params", lambda *_: {})
        sample.run(config, tmp_path)
        return tmp_path / "samples"

    return call


def meta(path):
    return json.loads((path / "meta.json").read_text())


def test_the_draw_whose_views_agree_best_is_kept(run):
    task = Draws()
    out = meta(run(task, best_of=3) / "one")
    assert len(task.gaps) == 3 and out["best_of"] == 3
    np.testing.assert_allclose(out["disagreement"], np.array(task.gaps) * 3**0.5 / 2, rtol=1e-4)
    with np.load(run(task, best_of=3) / "one/tracks.npz") as saved:
        gap = saved["tracks_per_view"][1].max()
    np.testing.assert_allclose(gap, min(task.gaps[:3]), rtol=1e-6)
    assert len(task.gaps) == 3  # the second run found the sample on disk
    bare = Draws(tracks=False)
    with pytest.raises(ValueError, match="makes none"):
        run(bare, best_of=2, seed=5, seeds=(7, 8))
    assert not bare.gaps  # said before anything is drawn


def test_one_sample_a_seed(run):
    task = Draws()
    samples = run(task, seeds=(3, 4))
    assert sorted(path.name for path in samples.iterdir()) == ["one_seed3", "one_seed4"]
    assert [meta(samples / f"one_seed{s}")["seed"] for s in (3, 4)] == [3, 4]
    assert task.gaps[0] != task.gaps[1]


def test_the_progress_bar_knows_how_far_it_is(run, monkeypatch):
    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            bars.append(self)
            super().__init__(**options)

    monkeypatch.setattr(compiling, "tqdm", Bar)
    run(Draws(), seeds=(3, 4), best_of=2)
    run(Draws(), seeds=(3, 4, 5), best_of=2)  # two are on disk
    assert [(bar.n, bar.total) for bar in bars] == [(8, 8), (12, 12)]


def test_compiling_is_told_with_its_seconds_of_the_last_time(run, capsys, tmp_path):
    """No bare 0 %: what it took is kept in the workdir, by all that decides the programs."""
    run(Draws(), name="a")
    first = capsys.readouterr().err
    assert "one: compiling (not timed before)" in first and " 0%" not in first
    (entry,) = json.loads((tmp_path / "compiled.json").read_text())
    (tmp_path / "compiled.json").write_text(json.dumps({entry: 41.4}))
    run(Draws(), seed=1)
    assert "one: compiling (about 41 s)" in capsys.readouterr().err
    run(Draws(), seed=2, precision="bfloat16")  # other programs
    assert "one: compiling (not timed before)" in capsys.readouterr().err
    (tmp_path / "compiled.json").write_text("{")  # damaged: nobody knows
    run(Draws(), seed=3)
    assert "compiling (not timed before)" in capsys.readouterr().err


def test_disagreement_counts_what_two_views_are_sure_of():
    tracks = np.zeros((2, N, K, 3))
    tracks[1, ..., 0] = 0.2
    sure = np.ones((2, N, K))
    assert world_tracks.disagreement(tracks, sure) == pytest.approx(0.1)
    tracks[1, :, 0] = 50.0
    sure[1, :, 0] = 0
    assert world_tracks.disagreement(tracks, sure) == pytest.approx(0.1)
    assert world_tracks.disagreement(tracks, sure * 0) == float("inf")


def test_no_foreground_is_a_warning(tmp_path):
    result = {
        "video": np.zeros((V, N, 16, 32, 3)), "tracks_per_view": np.zeros((V, N, K, 3)),
        "confidence": np.zeros((V, N, K)), "anchors": np.zeros((V, K, 2)),
        "anchor_valid": np.zeros((V, K), bool),
    }  # fmt: skip
    samples.write(tmp_path / "x", result, {}, {"fps": 8.0})
    assert "no foreground" in meta(tmp_path / "x")["warning"]


def test_cameras_that_do_not_see_the_anchors_are_named_before_sampling(run):
    inputs = {
        "text": np.ones((4, 8), np.float32),
        "anchors": np.full((V, K, 2), 900.0, np.float32),
        "anchor_valid": np.ones((V, K), bool),
    }
    task = Draws()
    with pytest.raises(ValueError, match="sample one: view .* sees none of its 4 anchors"):
        run(task, inputs)
    assert not task.gaps


def test_a_checkpoint_from_before_a_stage_is_named(tmp_path):
    config = ml_collections.ConfigDict(
        {"task": {"name": "x"}, "stages": ({"name": "first"}, {"name": "second"}), "weights": {}}
    )
    store = checkpoint.Store(assembly.stage_directory(tmp_path, "first"), keep=1, keep_every=0)
    state = {"params": {"dit": {"a": jnp.zeros((2,))}}, "ema": {}, "step": jnp.int32(1)}
    store.save(1, state, {})
    store.close()
    names = r"has stages \['first'\] of \['first', 'second'\]"
    two = types.SimpleNamespace(
        init=lambda _: {"dit": {"a": jnp.zeros((2,)), "b": jnp.zeros((3,))}}
    )
    with pytest.raises(ValueError, match=names):
        assembly.load_params(two, assembly.read(config), tmp_path)
    more = types.SimpleNamespace(init=lambda _: {"dit": {"a": jnp.zeros((2,))}, "dpa": {"c": 0.0}})
    with pytest.raises(FileNotFoundError, match=names):
        assembly.load_params(more, assembly.read(config), tmp_path)


def test_views_of_different_sizes_are_brought_to_one(tmp_path):
    entries = {}
    for name, (w, h) in {"a": (64, 32), "b": (40, 40)}.items():
        Image.new("RGB", (w, h)).save(tmp_path / f"{name}.png")
        entries[name] = {
            "K": [50.0, 0, w / 2, 0, 50.0, h / 2, 0, 0, 1],
            "R": np.eye(3).ravel().tolist(), "T": [0, 0, 1], "imgSize": [w, h],
        }  # fmt: skip
    (tmp_path / "cameras.json").write_text(json.dumps(entries))
    views = user.read(tmp_path, views=2, size=(16, 32))
    assert views.images.shape == (2, 16, 32, 3)
    # a: halved. b: rows 10 to 30 are kept, at 0.8 of their size.
    wanted = [[25, 0, 15.75], [0, 25, 7.75], [0, 0, 1]], [[40, 0, 15.9], [0, 40, 7.9], [0, 0, 1]]
    np.testing.assert_allclose(views.intrinsics, wanted, rtol=1e-6)


def test_prompts_come_from_a_file(tmp_path):
    config = sections.base().unlock()
    (tmp_path / "prompts.txt").write_text("pour water\n\n stir\n")
    config.sample.prompts = str(tmp_path / "prompts.txt")
    assert run_inputs._prompts(assembly.read(config).sample) == ["pour water", "stir"]
    config.sample.prompt = "cut"
    with pytest.raises(ValueError, match="got both"):
        run_inputs._prompts(assembly.read(config).sample)
    config.sample.prompt = ""
    (tmp_path / "prompts.txt").write_text("\n")
    with pytest.raises(ValueError, match="wanted a prompt a line"):
        run_inputs._prompts(assembly.read(config).sample)


def test_a_time_that_cannot_be_kept_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    times = compiling.Times(tmp_path / "file")
    times.note("program", 3.0)
    assert times.about("program") is None and times.ready == {"program"}
