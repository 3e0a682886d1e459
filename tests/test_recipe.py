"""Recipes: canonical, compared key by key; locks: one writer, stale ones taken over and told."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from syncmv4d_jax import disk, recipe


@dataclasses.dataclass(frozen=True)
class Settings:
    size: tuple[int, int] = (48, 64)
    fps: float = 8.0
    root: Path = Path("a/b")


def test_what_is_the_same_has_one_form():
    config = ml_collections.ConfigDict({"size": (48, 64), "fps": 8, "root": "a/b"})
    wanted = {"size": [48, 64], "fps": 8, "root": "a/b"}
    assert recipe.plain(Settings()) == recipe.plain(config) == wanted
    assert recipe.mark({"a": 1, "b": np.float32(0.5)}) == recipe.mark({"b": 0.5, "a": 1.0})
    assert recipe.plain(float("nan")) == "nan"
    assert json.loads(json.dumps(recipe.of(a=Settings()))) == recipe.of(a=Settings())
    with pytest.raises(TypeError, match="wanted JSON values.*function"):
        recipe.plain({"a": [print]})


def test_arrays_count_by_shape_dtype_and_every_value():
    x = np.arange(12, dtype=np.float32)
    marks = {recipe.plain(a) for a in (x, x.reshape(3, 4), x.astype(np.int32), x + (x == 11))}
    assert len(marks) == 4
    assert recipe.plain(np.asfortranarray(x.reshape(3, 4))) == recipe.plain(x.reshape(3, 4))


def test_every_difference_is_named():
    was = {"prompt": "a cat", "task": {"points": 64, "size": [2, 3]}, "seed": 0, "old": None}
    now = {"prompt": "a cat", "task": {"points": 32, "size": [2, 3]}, "seed": 7, "new": ""}
    assert recipe.differences(was, now) == [
        "task.points: was 64, is 32",
        "seed: was 0, is 7",
        "old: was null, is not there",
        'new: was not there, is ""',
    ]
    assert not recipe.differences({"a": (1, 2.0)}, {"a": [1, 2]})
    (long,) = recipe.differences({"a": "x" * 500}, {"a": "y"})
    assert len(long) < 150


def test_content_is_of_bytes_and_names(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"1" * 40)
    first = recipe.content(tmp_path / "a")
    (tmp_path / "a/.hidden").write_bytes(b"1")
    assert recipe.content(tmp_path / "a") == first
    assert recipe.content(tmp_path / "none") == ""
    monkeypatch.chdir(tmp_path / "a")
    assert recipe.content("") == "" != recipe.content(".")
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    assert recipe.content(tmp_path / "a") != first
    monkeypatch.setattr(recipe, "WHOLE", 30)
    monkeypatch.setattr(recipe, "PIECE", 4)
    marks = set()
    for text in (b"1" * 40, b"1" * 41, b"2" + b"1" * 39, b"1" * 39 + b"2", b"1" * 19 + b"2" * 21):
        (tmp_path / "a/y").write_bytes(text)
        marks.add(recipe.content(tmp_path / "a/y"))
    assert len(marks) == 5


def test_a_folder_is_claimed_once(tmp_path):
    path = tmp_path / "new/recipe.json"
    recipe.claim(path, recipe.of(a=1), way="use another")
    recipe.claim(path, recipe.of(a=1.0), way="use another")
    with pytest.raises(recipe.Other, match=r"new was made .*\(a: was 1, is 2\); use another"):
        recipe.claim(path, recipe.of(a=2), way="use another")
    assert recipe.read(path) == recipe.of(a=1)
    path.write_text("{")
    with pytest.raises(recipe.Other, match="a: was not there, is 1"):
        recipe.claim(path, recipe.of(a=1), way="use another")


@pytest.mark.parametrize("address", ["gs://b/run", "s3://b", "gs:/b", "hdfs://h/x", "file:///a"])
def test_addresses_are_no_paths(address):
    with pytest.raises(disk.Remote, match=rf"--out={address}: wanted a folder.*this machine"):
        disk.local(address, where="--out")


@pytest.mark.parametrize("path", ["a/b", "/a:b/c", "C:/x", "a b:c"])
def test_paths_are_paths(path):
    assert disk.local(path) == Path(path)


def hold(folder, began, how):
    with recipe.Lock(folder, "train", beat=0.05):
        began.set()
        time.sleep(60 if how == "live" else 0.2)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)


def holder(folder, how):
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=hold, args=(folder, began, how))
    process.start()
    assert began.wait(60)
    return process


def test_a_second_writer_is_refused_by_name_until_the_first_is_done(tmp_path):
    process = holder(tmp_path, "live")
    try:
        with pytest.raises(
            recipe.Held, match=rf"train is running there .*process {process.pid} on"
        ):
            recipe.Lock(tmp_path, "train").__enter__()
        with recipe.Lock(tmp_path, "sample"):
            pass
    finally:
        process.kill()
        process.join()


def test_a_killed_writer_is_replaced_at_once_and_told(tmp_path, caplog):
    process = holder(tmp_path, "die")
    process.join(60)
    begun = time.monotonic()
    with recipe.Lock(tmp_path, "train", silent=30.0):
        assert time.monotonic() - begun < 10
    assert f"taken over from process {process.pid} on" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_now_is_not_the_writer(tmp_path, caplog):
    lock = recipe.Lock(tmp_path, "train")
    lock.path.write_text(json.dumps(lock._mine | {"started": "1", "lock": "old"}))
    with lock:
        assert f"taken over from process {os.getpid()}" in caplog.text


@pytest.mark.parametrize("beats", [True, False])
def test_another_machine_is_watched_for_a_beat(tmp_path, caplog, beats):
    lock = recipe.Lock(tmp_path, "train", silent=0.6)
    lock.path.write_text(json.dumps(lock._mine | {"machine": "x", "host": "far", "process": 7}))
    done = threading.Event()

    def beat():
        while not done.wait(0.05):
            os.utime(lock.path)

    if not beats:
        with lock:
            assert "taken over from process 7 on far" in caplog.text
        return
    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(recipe.Held, match="process 7 on far"):
            lock.__enter__()
    finally:
        done.set()
        other.join()


def test_a_torn_lock_is_given_up(tmp_path, caplog):
    lock = recipe.Lock(tmp_path, "train", silent=0.3)
    lock.path.write_text('{"host": "a')
    with lock:
        assert "taken over from process ?" in caplog.text


def test_a_lock_that_another_took_is_left_to_it(tmp_path, caplog):
    lock = recipe.Lock(tmp_path, "train", beat=0.05)
    with lock:
        other = lock._mine | {"lock": "other"}
        lock.path.write_text(json.dumps(other))
        end = time.monotonic() + 20
        while "has taken over" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert recipe.read(lock.path) == other


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with recipe.Lock(tmp_path, "train"), pytest.raises(recipe.Held):
        recipe.Lock(tmp_path, "train").__enter__()
    assert not list(tmp_path.iterdir())


def test_every_flag_that_takes_a_path_refuses_addresses():
    """The command lines of data_prep: a flag that is a Path would make a folder called "gs:"."""
    files = sorted((Path(__file__).parents[1] / "data_prep").glob("*.py"))
    assert len(files) > 10
    found = [file.name for file in files if re.search(r"type=(pathlib\.)?Path\b", file.read_text())]
    assert not found, f"type=disk.local in {found}"
