"""Stages that end in time."""

import json

import fakes
import numpy as np
import optax
import pytest

from syncmv4d_jax.results import curves
from syncmv4d_jax.run import limit, optim, sections, train


def test_what_is_left_holds_so_many_steps():
    left = limit.SAVING + 30
    assert limit.planned(10, seconds=0.5, left=left, most=1000) == 70
    assert limit.planned(10, seconds=0.5, left=left, most=40) == 40
    assert limit.planned(10, seconds=0.5, left=limit.SAVING - 1, most=40) == 10


def test_plans_follow_the_rate_and_leave_out_what_compiles():
    """60 s to compile, then two seconds a step; slower in the end: the plan is corrected."""
    now = [0.0]
    found = limit.Limit(10, steps=1000, clock=lambda: now[0])
    assert found.last == found.length == 1000
    now[0] = 60.0
    found.plan(1)
    assert found.last == 1000 and not found.reached(1)
    now[0] = 80.0
    found.plan(11)
    assert found.last == 11 + (600 - 80 - limit.SAVING) // 2 and found.length == found.last
    now[0] = 180.0
    found.plan(31)  # four a step since the start
    assert found.last == 31 + (600 - 180 - limit.SAVING) // 4
    assert found.reached(found.last) and not found.reached(found.last - 1)
    now[0] = 600 - limit.SAVING + 1
    assert found.reached(32)


def test_without_minutes_steps_are_those_of_the_stage():
    found = limit.Limit(0, steps=7)
    found.plan(1)
    found.plan(2)
    assert found.length is None and found.last == 7
    assert found.reached(7) and not found.reached(6)


def test_several_processes_have_no_common_clock(monkeypatch):
    monkeypatch.setattr(limit.jax, "process_count", lambda: 2)
    limit.Limit(0, steps=7)
    with pytest.raises(ValueError, match="train.minutes=3: wanted one process, got 2"):
        limit.Limit(3, steps=7)


@pytest.mark.parametrize("warmup", [0, 4])
def test_a_schedule_of_a_given_length_is_that_of_a_configured_one(warmup):
    made = {"learning_rate": 1.0, "warmup": warmup, "schedule": "cosine", "final_fraction": 0.1}
    known = optim.schedule(sections.OptimConfig(steps=12, **made))
    told = optim.schedule(sections.OptimConfig(steps=99, **made), np.float32(12))
    rates = [[float(one(np.int32(i))) for i in range(15)] for one in (known, told)]
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert rates[1][-1] == pytest.approx(0.1)


def timed(tmp_path, monkeypatch, *, last, steps=50):
    """Trains for a minute that is planned to hold `last` steps."""
    monkeypatch.setattr(limit, "planned", lambda *_, **__: last)
    config = fakes.config(steps=steps)
    with config.unlocked():
        config.train.minutes, config.train.export = 1.0, "float32"
        config.optim.schedule, config.optim.final_fraction = "cosine", 0.05
    train.run(config, tmp_path)
    return curves.read(tmp_path / "metrics.jsonl")


def test_a_stage_ends_at_the_planned_step_with_its_schedule(tmp_path, monkeypatch):
    found = timed(tmp_path, monkeypatch, last=9)
    assert found[-1]["step"] == 9 and (tmp_path / "checkpoints" / "9").is_dir()
    assert (tmp_path / "weights.safetensors").is_file()
    rates = [row["learning_rate"] for row in found]
    assert rates[-1] < 0.3 * rates[1]  # of the 50 steps it might have, 9 are few
    assert optax.cosine_decay_schedule(1.0, 50, 0.05)(8) > 0.9


def test_a_stage_that_ended_in_time_is_finished(tmp_path, monkeypatch):
    first = timed(tmp_path, monkeypatch, last=6)
    (tmp_path / "weights.safetensors").unlink()
    assert timed(tmp_path, monkeypatch, last=20) == first
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_stage_that_was_stopped_before_its_time_goes_on(tmp_path, monkeypatch):
    timed(tmp_path, monkeypatch, last=6)
    meta = tmp_path / "checkpoints" / "6" / "meta" / "metadata"
    told = json.loads(meta.read_text())
    meta.write_text(json.dumps({**told, "ended": False}))
    assert timed(tmp_path, monkeypatch, last=12)[-1]["step"] == 12
