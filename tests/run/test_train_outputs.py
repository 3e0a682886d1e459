"""What a run writes beside checkpoints: pictures, wandb, and all of it on a full disk."""

import logging
import os
import subprocess
import sys
import time
import types

import fakes
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from syncmv4d_jax.results import curves
from syncmv4d_jax.run import assembly, checkpoint, log, train


@pytest.fixture
def disk(tmp_path):
    """A real disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("wants root and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_and_training_goes_on(disk, monkeypatch, caplog):
    """Full from step 5 to 8: the save of step 6 fails, that of step 3 stays, step 9 is saved."""
    ballast, following, seen = disk / "ballast", fakes.Trouble.__next__, []

    def fill_and_free(self):
        batch = following(self)
        if self.count == 5:
            while not (disk / "run/checkpoints/3").is_dir():
                time.sleep(0.01)
            with pytest.raises(OSError, match="No space left"), ballast.open("wb") as file:
                while True:
                    file.write(b"x" * 4096)
                    file.flush()
        if self.count == 8:
            seen.append(assembly.trained_params(config, disk / "run").keys())
            seen.append([p.name for p in (disk / "run/checkpoints").iterdir() if p.name.isdigit()])
            ballast.unlink()
        return batch

    monkeypatch.setattr(fakes.Trouble, "__next__", fill_and_free)
    config = fakes.config(steps=9, keep=1)
    with caplog.at_level(logging.WARNING):
        train.run(config, disk / "run")
    assert seen == [{"eye", "net"}, ["3"]]
    assert "training goes on, the last good step is 3" in caplog.text
    assert "No space left on device" in caplog.text
    assert [row["step"] for row in curves.read(disk / "run/metrics.jsonl")] == list(range(1, 10))
    assert checkpoint.restore_params(disk / "run/checkpoints", step=9)


def test_pictures_go_to_tensorboard(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    with log.Metrics(tmp_path, stage="", offset=10, start=0, steps=4) as metrics:
        metrics.picture(2, pixels)
    assert (tmp_path / "pictures" / "00000012.png").is_file()
    board = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    [event] = board.Images("sample")
    assert (event.step, event.height, event.width) == (12, 20, 30)


def test_wandb_sees_the_rows_and_goes_on_as_one_run(tmp_path, monkeypatch):
    """A stand-in with wandb's names; the real one runs below where it is installed."""
    rows, runs = [], []
    fake = types.ModuleType("wandb")

    def init(**options):
        runs.append(options)
        log = lambda row, step: rows.append((step, row["loss"]))  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda: None)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train.run(fakes.config(steps=2, wandb="views"), tmp_path)
    train.run(fakes.config(steps=4, wandb="views"), tmp_path)
    assert [step for step, _ in rows] == [1, 2, 3, 4]
    assert runs[0] == runs[1] and runs[0]["project"] == "views" and runs[0]["resume"] == "allow"
    assert runs[0]["id"] == (tmp_path / "wandb_id").read_text()


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train.run(fakes.config(steps=2, wandb="views"), tmp_path)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_wandb_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="config.train.wandb='views' wants the package wandb"):
        train.run(fakes.config(steps=1, wandb="views"), tmp_path)


def test_pictures_want_a_task_that_makes_videos(tmp_path):
    with pytest.raises(ValueError, match=r"sample_every > 0: task 'fakes:make' does not"):
        train.run(fakes.config(steps=1, sample_every=1), tmp_path)
