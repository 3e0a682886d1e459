"""The second training in a workdir: what may change, what is refused, and what was promised."""

import logging

import fakes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from syncmv4d_jax import recipe, tree
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.run import assembly, checkpoint, resume, train


def stage(config=None, **data):
    config = config or fakes.config()
    config.data.update(data)
    return assembly.read(config)


def records_of(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(text)
    return str(folder)


def changed(key, value):
    config = fakes.config().unlock()
    section, _, name = key.rpartition(".")
    (config[section] if section else config)[name] = value
    return resume.recipe_of(assembly.read(config))


BEFORE = {"seed": 3, "batch_size": 8}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seed", 99, "seed: was 3, is 99"),
        ("data.split", "test", 'split: was "train", is "test"'),
        ("data.share", 0.5, "share: was 1, is 0.5"),
        ("data.name", "fakes:others", 'name: was "fakes:numbers", is "fakes:others"'),
    ],
)
def test_another_order_of_examples_is_refused(tmp_path, key, value, said):
    meta = BEFORE | {"recipe": resume.recipe_of(stage())}
    resume.check(tmp_path / "6", meta, resume.recipe_of(stage()))
    with pytest.raises(recipe.Other, match=rf"6: the order of examples .*\({said}\); give the"):
        resume.check(tmp_path / "6", meta, changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.learning_rate", 0.5, "optim.learning_rate: was 0.01, is 0.5"),
        ("task.noise", 0.2, "task.noise: was 0.1, is 0.2"),
        ("train.batch_size", 4, "batch_size: was 8, is 4"),
        ("data.augment", True, "data.augment: was false, is true"),
        ("data.options.sleep", 0.5, "data.options.sleep: was 0, is 0.5"),
        ("data.pairs", True, "data.pairs: was not there, is true"),
    ],
)
def test_other_settings_are_told_and_refused_where_nothing_is_left(
    tmp_path, caplog, monkeypatch, key, value, said
):
    meta = BEFORE | {"recipe": resume.recipe_of(stage())}
    resume.check(tmp_path / "6", meta, changed(key, value))
    assert f"goes on with other settings: {said}" in caplog.text
    monkeypatch.setattr(checkpoint, "meta", lambda _: meta)
    with pytest.raises(recipe.Other, match=rf"last checkpoint, nothing is left .*\({said}"):
        resume.finished(tmp_path / "6", changed(key, value))


def test_what_came_later_and_is_off_is_not_told(tmp_path, monkeypatch):
    """A run from before there was the key goes on, and is finished where it was."""
    meta = BEFORE | {"recipe": resume.recipe_of(stage())}
    assert "pairs" not in meta["recipe"]["data"] and "augment" in meta["recipe"]["data"]
    monkeypatch.setattr(checkpoint, "meta", lambda _: meta)
    resume.finished(tmp_path / "6", changed("data.pairs", False))


@pytest.mark.parametrize("key", ["log_every", "checkpoint_every", "keep", "silence"])
def test_how_a_run_is_watched_and_saved_is_free(tmp_path, caplog, key):
    meta = BEFORE | {"recipe": resume.recipe_of(stage())}
    resume.check(tmp_path / "6", meta, changed(f"train.{key}", 7))
    assert not caplog.records


def test_records_count_by_content_not_by_place(tmp_path):
    one, two = (records_of(tmp_path / name, "clips") for name in ("one", "two"))
    meta = BEFORE | {"recipe": resume.recipe_of(stage(records=one))}
    resume.check(tmp_path, meta, resume.recipe_of(stage(records=two)))
    records_of(tmp_path / "two", "a clip fewer")
    with pytest.raises(recipe.Other, match=r"records: was \"\w{16}\", is \"\w{16}\""):
        resume.check(tmp_path, meta, resume.recipe_of(stage(records=two)))
    (tmp_path / "two/index.json").unlink()  # gone since: not another one
    resume.check(tmp_path, meta, resume.recipe_of(stage(records=two)))


def test_checkpoints_from_before_recipes_have_their_seed(tmp_path):
    resume.check(tmp_path, BEFORE, resume.recipe_of(stage()))
    with pytest.raises(recipe.Other, match="seed: was 3, is 99"):
        resume.check(tmp_path, BEFORE, changed("seed", 99))
    assert resume.seen(BEFORE, 5) == 40


# The loop.


def watched(monkeypatch):
    """Returns the list of the ids that are trained on, in order."""
    ids, put = [], meshes.put_batch

    def wrap(batch, *arguments):
        ids.extend(np.asarray(batch["id"]).tolist())
        return put(batch, *arguments)

    monkeypatch.setattr(train.meshes, "put_batch", wrap)
    return ids


def config(steps, size=8, **more):
    made = fakes.config(steps=steps, batch_size=size, **more)
    made.mesh = {"data": 2, "sequence": 4}
    return made


def test_batches_of_any_size_see_every_example_once(tmp_path, monkeypatch):
    ids = watched(monkeypatch)
    for steps, size in ((2, 8), (4, 4), (6, 2), (7, 14)):  # 16, 24, 28, 42 examples
        train.run(config(steps, size), tmp_path / "run")
    found = list(ids)
    ids.clear()
    train.run(config(3, 14), tmp_path / "whole")
    assert found == ids and len(set(ids)) == 42
    assert checkpoint.meta(tmp_path / "run/checkpoints/7")["examples"] == 42
    with pytest.raises(recipe.Other, match="was 14, is 4: 42 examples are seen.*divisor of 42"):
        train.run(config(9, 4), tmp_path / "run")


def test_a_finished_run_is_left_alone_or_refuses(tmp_path, monkeypatch):
    ids = watched(monkeypatch)
    train.run(config(2), tmp_path)
    train.run(config(2, log_every=7), tmp_path)
    assert len(ids) == 16
    other = config(2)
    other.seed = 99
    with pytest.raises(recipe.Other, match="seed: was 3, is 99"):
        train.run(other, tmp_path)
    with pytest.raises(recipe.Other, match="checkpoint of step 2, config.train.steps is 1"):
        train.run(config(1), tmp_path)
    assert len(ids) == 16


def test_the_last_checkpoint_is_promised(tmp_path, monkeypatch, caplog):
    save, full = ocp.CheckpointManager.save, [True]

    def refuse(manager, step, *arguments, **options):
        if full[0] and step == 4:
            raise OSError("No space left on device")
        return save(manager, step, *arguments, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    said = r"the last checkpoint, .*/4, could not be written \(OSError: No space left on device\)"
    with pytest.raises(OSError, match=rf"{said}; the last good step is 2"):
        train.run(config(4, checkpoint_every=2), tmp_path)
    full[0] = False
    with caplog.at_level(logging.INFO):
        train.run(config(4, checkpoint_every=2), tmp_path)
    assert "resumed from step 2" in caplog.text
    train.run(config(4, checkpoint_every=2), tmp_path / "whole")
    flat = [tree.flatten(checkpoint.restore_params(p / "checkpoints")) for p in
            (tmp_path, tmp_path / "whole")]  # fmt: skip
    assert all(np.array_equal(flat[0][k], flat[1][k]) for k in flat[1])


def test_a_save_that_fails_behind_is_a_failure_with_one_sentence(tmp_path):
    store = checkpoint.Store(tmp_path)
    state = {"params": {"a": np.zeros(3, np.float32)}, "ema": {}}
    store.save(1, state, {})
    store.promise(1)
    store = checkpoint.Store(tmp_path)
    store._give_up(2, OSError("No space left on device"))
    with pytest.raises(OSError, match=r"/2, could not be written \(OSError: No space .* step is 1"):
        store.promise(2)
    (tmp_path / "1/meta/metadata").write_text("{")
    with pytest.raises(OSError, match="/1, could not be written .*meta cannot be read"):
        checkpoint.Store(tmp_path).promise(1)
