"""From TACO's layout to records by the command; damaged data sets; a process that is killed."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import prepare_taco
import pytest

from syncmv4d_jax.data import (
    clips,
    prepare,
    records,
)
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, recordings, taco
from syncmv4d_jax.geometry import cameras

ROOT = Path(__file__).parent.parent.parent

CAMERAS = ("22139946", "22139916", "22139909", "22139911")
FLAGS = ["--size", "48x64", "--frames", "5", "--fps", "15", "--points", "64", "--val-share", "0"]
SETTINGS = clips.Settings(size=(48, 64), frames=5, fps=15.0, points=64, val=0.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder with taco/ (two sequences) and mano/."""
    folder = tmp_path_factory.mktemp("scenes")
    hand.write(folder / "mano")
    hands = mano.load_hands(folder / "mano")
    for i in range(2):
        spec = scene.specify(i, seed=0, held_out=False)
        scene.write_scene(folder / "taco", spec, hands, frames=10, size=(72, 96), names=CAMERAS)
    return folder


def start(scenes, out, *more):
    command = [sys.executable, ROOT / "data_prep/prepare_taco.py", "--taco", scenes / "taco"]
    command += ["--mano", scenes / "mano", "--out", out, *FLAGS, *more]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stdout=-1, stderr=-2, text=True)


def content(out):
    paths = sorted((out / "48x64").glob("sequences/[!.]*"))
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    process = start(scenes, out, "--jobs", "2")
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return out, text


def test_the_command_prepares_taco(made, scenes):
    out, text = made
    assert "2 clips of 2 sequences, {'train': 2}; 0 sequences and 0 views skipped" in text
    reader = records.Reader(out, size=(48, 64))
    window, source = reader.windows[0], recordings.taco_sources(scenes / "taco", scenes / "mano")[0]
    assert window.triplet == source.triplet and len(window.views) == 4
    recording, own = source.open(), reader.tracks(window)
    # The tracks lie on the surfaces they are said to be on.
    for n in (0, 4):
        surfaces = [s.at(int(own["source_frames"][n])) for s in recording.surfaces[:4]]
        for part, vertices in enumerate(surfaces):
            points = own["tracks"][n][own["surface"] == part]
            away = np.linalg.norm(points[:, None] - vertices[None], axis=-1).min(1)
            assert len(points) and away.max() < 1e-5
    # Everything lies in the crops, and is seen by some view.
    seen = []
    for view in window.views:
        values = reader.view(window, view)
        pixels, _ = cameras.project(own["tracks"], values["intrinsics"], values["extrinsics"])
        assert ((pixels > -8) & (pixels < [72, 56])).all()
        seen.append(values["visibility"])
    assert np.any(seen, axis=0).mean() > 0.6


def test_a_killed_process_is_continued_to_the_same_bytes(made, scenes, tmp_path):
    process = start(scenes, tmp_path, "--jobs", "1")
    deadline = time.time() + 60
    while not list((tmp_path / "48x64").glob("sequences/*")) and process.poll() is None:
        assert time.time() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start(scenes, tmp_path, "--jobs", "1")
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert content(tmp_path) == content(made[0])


def test_wrong_flags_end_with_one_sentence(scenes, made, tmp_path):
    process = start(scenes, made[0], "--points", "32")
    assert "points: was 64, is 32" in process.communicate()[0] and process.returncode == 1
    process = start(tmp_path, tmp_path / "out")
    assert "FileNotFoundError" in process.communicate()[0] and process.returncode == 1


def test_sequences_can_be_left_out(scenes, tmp_path):
    root = shutil.copytree(scenes / "taco", tmp_path / "taco")
    first, second = recordings.taco_sources(root, scenes / "mano")
    videos = taco.Entry(root, first.triplet, first.id).folder(taco.VIDEOS[0])
    raw = taco.Entry(root, first.triplet, first.id).folder(taco.VIDEOS[1])
    raw.parent.mkdir(parents=True)
    videos.rename(raw)  # only the second has videos without markers
    listed = tmp_path / "bad.txt"
    listed.write_text(f"{second.id}\n")
    for more, left in ((["--marker-removed"], second), (["--exclude", str(listed)], first)):
        argv = ["--taco", str(root), "--mano", "m", "--out", "o", *more]
        assert prepare_taco.choose([first, second], prepare_taco.parse(argv)) == [left]
    listed.write_text("20230000_000")
    with pytest.raises(ValueError, match="no such sequences: ..20230000_000"):
        prepare_taco.choose([first, second], prepare_taco.parse(argv))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("EXPLODED",)


def mutate(root, rng):
    """Damages one file below `root`; returns what was done."""
    paths = sorted(p for p in root.rglob("*") if p.is_file() and "Egocentric" not in str(p))
    path = paths[rng.integers(len(paths))]
    how = rng.choice(["cut", "flip", "empty", "delete", "swap", "bomb", "nan", "noise"])
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: rng.integers(len(data))])
    elif how == "flip":
        for i in rng.integers(len(data), size=20):
            data[i] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "delete":
        path.unlink()
    elif how == "swap":
        shutil.copyfile(paths[rng.integers(len(paths))], path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    elif how == "bomb":
        path.write_bytes(pickle.dumps(Bomb()))
    elif how == "nan" and path.suffix == ".npy":
        poses = np.load(path)
        poses[int(rng.integers(len(poses))), 1, 3] = rng.choice([np.nan, np.inf, 1e6])
        np.save(path, poses)
    else:
        path.write_bytes(rng.bytes(200))
    return f"{how} {path.relative_to(root)}"


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow, id="many")])
def test_damaged_data_is_skipped_by_name_and_never_run(scenes, tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    rng, outcomes = np.random.default_rng(count), []
    for i in range(count):
        root = shutil.copytree(scenes / "taco", tmp_path / f"taco{i}")
        done = mutate(root, rng)
        sources = recordings.taco_sources(root, scenes / "mano")
        out = tmp_path / f"out{i}"
        summary = prepare.run(sources, out, SETTINGS) if sources else {"skipped": []}
        for entry in summary["skipped"]:
            assert len(entry["reason"]) > 20, done
            outcomes.append(entry["reason"])
        assert len(summary["skipped"]) <= 2, done
        if summary.get("windows"):
            reader = records.Reader(out)
            for window in reader.windows:
                values = [reader.tracks(window)["tracks"]]
                values += [reader.view(window, view)["scale"] for view in window.views]
                assert all(np.isfinite(x).all() for x in values), done
        shutil.rmtree(root)
        shutil.rmtree(out, ignore_errors=True)
    assert not (tmp_path / "EXPLODED").exists()
    assert len(outcomes) > 0.2 * count
