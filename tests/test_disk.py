"""Whole or not at all: what a failed, killed or rivalling writer leaves."""

import multiprocessing
import os
import platform
import signal
import threading
from concurrent import futures

import pytest

from syncmv4d_jax import disk


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new/deep/a.json"
    with disk.whole(path) as partial:
        partial.write_text("1")
        assert not path.exists() and partial.parent == path.parent
        assert partial.name.startswith(".") and partial.suffix == ".partial"
    assert path.read_text() == "1" and names(path.parent) == ["a.json"]
    with disk.whole(str(path)) as partial:
        partial.write_text("2")
        assert path.read_text() == "1"
    assert path.read_text() == "2" and names(path.parent) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_after_an_error_all_is_as_it_was(tmp_path, error, folder):
    path = tmp_path / "a"
    with disk.whole(path) as partial:
        partial.write_text("old")
    with pytest.raises(error), disk.whole(path) as partial:
        if folder:
            partial.mkdir()
            (partial / "b").write_text("half")
        else:
            partial.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a"]


def test_a_folder_takes_the_former_one_s_place(tmp_path):
    path = tmp_path / "a"
    for content in ("b", "c"):
        with disk.whole(path) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert names(path) == ["c"] and names(tmp_path) == ["a"]


def die(path):
    with disk.whole(path) as partial:
        partial.mkdir()
        (partial / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=die, args=(tmp_path / "a",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(f".a.{platform.node()}-{process.pid}-") and left.endswith(".partial")
    others = [
        f".a.{platform.node()}-{os.getppid()}-1.partial",  # that process runs
        f".a.elsewhere-{process.pid}-1.partial",
        f".ab.{platform.node()}-{process.pid}-1.partial",
        f".a.{platform.node()}-{process.pid}",
    ]
    for name in others:
        (tmp_path / name).write_text("")
    with disk.whole(tmp_path / "a") as partial:
        partial.write_text("1")
    assert names(tmp_path) == sorted(["a", *others])


def test_a_name_beside_is_for_the_block_only(tmp_path):
    with disk.beside(tmp_path / "out") as place:
        place.mkdir()
        (place / "one").write_text("1")
        (place / "one").rename(tmp_path / "one")
        (place / "rest").write_text("")
    assert names(tmp_path) == ["one"]


def test_threads_that_write_one_path_do_not_take_each_other_s_half(tmp_path):
    both = threading.Barrier(2)

    def write(text):
        with disk.whole(tmp_path / "a") as partial:
            both.wait(30)
            partial.write_text(text)
            both.wait(30)

    with futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("one", "two")))  # raises what a thread raised
    assert (tmp_path / "a").read_text() in ("one", "two") and names(tmp_path) == ["a"]
