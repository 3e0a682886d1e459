"""Import paths that docs once named: an error that says the new one."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

import syncmv4d_jax


@pytest.mark.parametrize("name", syncmv4d_jax.MOVED)
def test_an_old_path_says_the_new_one(name):
    new = syncmv4d_jax.MOVED[name]
    with pytest.raises(ImportError, match=rf"{name} is now (syncmv4d_jax\.)?{new}"):
        importlib.import_module(f"syncmv4d_jax.{name}")
    assert "/" in new or importlib.util.find_spec(f"syncmv4d_jax.{new}")


def test_below_a_folder_that_moved():
    with pytest.raises(ImportError, match=r"viz is now syncmv4d_jax\.results"):
        importlib.import_module("syncmv4d_jax.viz.gltf")
    assert importlib.util.find_spec("syncmv4d_jax.results.gltf")
    with pytest.raises(ImportError, match=r"points is now syncmv4d_jax\.models\.points"):
        from syncmv4d_jax.points import serialization  # noqa: F401


def test_other_names_are_not_found_as_ever():
    with pytest.raises(ModuleNotFoundError, match="No module named 'syncmv4d_jax.nothing'"):
        importlib.import_module("syncmv4d_jax.nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from syncmv4d_jax import nothing  # noqa: F401
    assert importlib.util.find_spec("cameras") is None


def test_as_a_command():
    command = [sys.executable, "-m", "syncmv4d_jax.demo"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "syncmv4d_jax.demo is now demo/make.py" in said
