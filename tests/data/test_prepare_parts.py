"""Preparation by parts and by another engine: the same files whoever makes them."""

import argparse
import json
import threading
import time
from pathlib import Path

import pytest

from syncmv4d_jax.data import clips, engine, prepare, records

SETTINGS = clips.Settings(size=(16, 24), frames=5, points=8)


class Source:
    """Something whose records are its name; it is broken where that ends in 3."""

    hands, flip_left = "", False

    def __init__(self, number):
        self.id = f"s{number}"

    def mark(self):
        return self.id


def work(source, root, settings):
    """Writes what `prepare_sequence` would, of nothing but the name."""
    if source.id.endswith("3"):
        return {"error": "BadSequence: number three"}
    file = f"sequences/{source.id}.array_record"
    size = records.write_file(root / file, [{"text": source.id}])
    window = {
        "id": f"{source.id}-0", "sequence": source.id, "triplet": ["a", "b", "c"], "file": file,
        "split": "train", "text": source.id, "record": 0, "views": [], "skipped_views": {},
        "valid_frames": settings.frames,
    }  # fmt: skip
    part = {"windows": [window], "bytes": size, "source": source.mark()}
    records.write_json(root / "sequences" / f"{source.id}.json", part)
    return part | {"seconds": 0.0}


def sources(count=7):
    return [Source(i) for i in range(count)]


def files(folder):
    found = {p.name: p.read_bytes() for p in (folder / "16x24/sequences").iterdir()}
    return found | {"index.json": (folder / "16x24/index.json").read_bytes()}


@pytest.fixture
def whole(tmp_path):
    """What one process makes of all."""
    prepare.run(sources(), tmp_path / "whole", SETTINGS, work=work)
    return files(tmp_path / "whole")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_make_together_what_one_process_makes(tmp_path, whole, order):
    out = tmp_path / "out"
    for index in order:
        summary = prepare.run(sources(), out, SETTINGS, work=work, shard=(index, 3))
    made = files(out)
    assert made == whole
    assert [x["sequence"] for x in json.loads(made["index.json"])["skipped"]] == ["s3"]
    assert summary["sequences"] == 6 and len(summary["skipped"]) == 1
    again = prepare.run(sources(), out, SETTINGS, work=work, shard=(1, 3))
    assert again["prepared_now"] == 0 and files(out) == whole


def test_shards_run_side_by_side(tmp_path, whole):
    """The locks of two parts are two; whichever ends last, the index has all."""
    gate = threading.Barrier(2)

    def slow(source, root, settings):
        if source.id in ("s0", "s1"):
            gate.wait(30)  # both are in the middle of their work at once
        return work(source, root, settings)

    run = lambda i: prepare.run(  # noqa: E731
        sources(), tmp_path / "out", SETTINGS, work=slow, shard=(i, 2)
    )
    threads = [threading.Thread(target=run, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert files(tmp_path / "out") == whole


def test_parts_are_read_from_their_text():
    assert engine.part("0/1") == (0, 1) and engine.part("3/16") == (3, 16)
    for text in ("1", "2/2", "-1/2", "a/b", "1/"):
        with pytest.raises(argparse.ArgumentTypeError, match="0 <= i < n"):
            engine.part(text)


def test_without_beam_its_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ImportError, match=r"syncmv4d_jax\[beam\]"):
        prepare.run(sources(), tmp_path, SETTINGS, work=work, beam=[])


@pytest.fixture
def pipelines(monkeypatch):
    """In the place of pipelines: what each does before its process ends, and with what status."""
    ran, plan = [], []

    def watched(todo, step, options):
        ran.append([source.id for source in todo])
        done, status = plan.pop(0)
        for source in todo:
            if source.id in done:
                step(source)
        return status

    monkeypatch.setattr(engine, "_watched", watched)
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: True)
    return plan, ran


def test_what_a_dead_worker_left_is_given_to_another_pipeline(tmp_path, whole, pipelines):
    plan, ran = pipelines
    plan += [({"s0", "s1", "s3"}, engine.LOST), ({"s2", "s4", "s5", "s6"}, 0)]
    summary = prepare.run(sources(), tmp_path / "out", SETTINGS, work=work, beam=[])
    assert files(tmp_path / "out") == whole and summary["prepared_now"] == 6
    assert ran == [[f"s{i}" for i in range(7)], ["s2", "s4", "s5", "s6"]]
    assert not (tmp_path / "out/16x24/answers").exists()


def test_what_kills_every_worker_is_named_and_done_by_the_next_run(tmp_path, whole, pipelines):
    plan, ran = pipelines
    plan += [({"s0", "s1", "s3", "s4", "s5", "s6"}, engine.LOST), *[((), engine.LOST)] * 2]
    summary = prepare.run(sources(), tmp_path / "out", SETTINGS, work=work, beam=[])
    reasons = {x["sequence"]: x["reason"] for x in summary["skipped"]}
    assert reasons["s2"] == engine.DIED["error"] and len(ran) == 3
    plan += [({"s2", "s3"}, 0)]
    prepare.run(sources(), tmp_path / "out", SETTINGS, work=work, beam=[])
    assert files(tmp_path / "out") == whole and ran[3] == ["s2", "s3"]


def test_a_worker_may_die_before_anything_is_answered(tmp_path, whole, pipelines):
    plan, ran = pipelines
    plan += [((), engine.LOST), ({f"s{i}" for i in range(7)}, 0)]
    summary = prepare.run(sources(), tmp_path / "out", SETTINGS, work=work, beam=[])
    assert files(tmp_path / "out") == whole and summary["prepared_now"] == 6 and len(ran) == 2


def test_what_a_pipeline_that_failed_left_is_given_to_another(tmp_path, whole, pipelines):
    plan, ran = pipelines
    plan += [({"s0", "s1"}, 1), ({"s2", "s3", "s4", "s5", "s6"}, 1)]
    summary = prepare.run(sources(), tmp_path / "out", SETTINGS, work=work, beam=[])
    assert files(tmp_path / "out") == whole and summary["prepared_now"] == 6 and len(ran) == 2


FAKE = """
import os, subprocess, sys
Create = Reshuffle = Map = lambda *args: None
own = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)"], **own)
open(os.environ["WORKER"], "w").write(str(child.pid))
os._exit(86)
"""


def test_workers_end_with_their_pipeline(tmp_path, monkeypatch):
    """A stand-in for Beam, whose process ends as where a worker was killed, beside one at work."""
    (tmp_path / "apache_beam/options").mkdir(parents=True)
    (tmp_path / "apache_beam/__init__.py").write_text(FAKE)
    (tmp_path / "apache_beam/options/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WORKER", str(tmp_path / "worker"))
    step = engine._Step(work, tmp_path, SETTINGS, tmp_path / "answers")
    assert engine._watched([], step, []) == engine.LOST
    state = Path(f"/proc/{(tmp_path / 'worker').read_text()}/stat")
    until = time.time() + 30
    while state.is_file() and state.read_text().split()[2] != "Z" and time.time() < until:
        time.sleep(0.05)
    assert not state.is_file() or state.read_text().split()[2] == "Z"


def test_a_pipeline_that_fails_is_an_error(tmp_path, pipelines):
    pipelines[0].extend([({"s0"}, 1), ((), 1)])
    with pytest.raises(ChildProcessError, match=r"\['--runner=None'\] ended with status 1"):
        prepare.run(sources(), tmp_path, SETTINGS, work=work, beam=["--runner=None"])


def test_beam_makes_the_same_bytes(tmp_path, whole):
    pytest.importorskip("apache_beam")
    out = tmp_path / "out"
    summary = prepare.run(sources(), out, SETTINGS, work=work, beam=["--runner=DirectRunner"])
    assert files(out) == whole and summary["prepared_now"] == 6
    assert not (out / "16x24/answers").exists()
    (out / "16x24/sequences/s5.json").unlink()  # as if a worker had been killed there
    again = prepare.run(sources(), out, SETTINGS, work=work, beam=["--runner=DirectRunner"])
    assert (again["prepared_now"], again["there_before"]) == (1, 5) and files(out) == whole
