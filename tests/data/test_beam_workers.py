"""Worker processes of a runner that PyPI alone brings: Beam's DirectRunner with several of them."""

import os
from pathlib import Path

import beam_work
import fake_records
import pytest

from syncmv4d_jax.data import cache, clips, prepare

SUPPORT = Path(beam_work.__file__).parent
SETTINGS = clips.Settings(size=(16, 24), frames=5, points=8)
TWO = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(autouse=True)
def workers_import_what_is_here(monkeypatch):
    pytest.importorskip("apache_beam")
    monkeypatch.setenv("PYTHONPATH", f"{SUPPORT}:{SUPPORT.parents[1]}")


@pytest.mark.slow
def test_two_worker_processes_make_the_same_bytes(tmp_path):
    prepare.run(beam_work.sources(), tmp_path / "one", SETTINGS, work=beam_work.work)
    summary = prepare.run(
        beam_work.sources(), tmp_path / "two", SETTINGS, work=beam_work.work, beam=TWO
    )
    assert beam_work.files(tmp_path / "two") == beam_work.files(tmp_path / "one")
    assert [x["sequence"] for x in summary["skipped"]] == ["s3"]
    who = {path.read_text() for path in (tmp_path / "two/16x24/who").iterdir()}
    assert len(who) == 2 and str(os.getpid()) not in who


@pytest.mark.slow
def test_two_worker_processes_encode_the_same_bytes(tmp_path):
    fake_records.write(tmp_path / "records")

    def encode_text(texts):
        return beam_work.np.ones((len(texts), 4, 6)), beam_work.np.full(len(texts), 4)

    own = {"encode_video": beam_work.encode_video, "encode_text": encode_text}
    own["weights_hash"] = "vae:1,umt5:2"
    one = cache.run(tmp_path / "records", tmp_path / "one", **own)
    two = cache.run(tmp_path / "records", tmp_path / "two", beam=TWO, **own)
    made = {p.relative_to(two): p.read_bytes() for p in two.rglob("*") if p.is_file()}
    assert made == {p.relative_to(one): p.read_bytes() for p in one.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(tmp_path):
    prepare.run(beam_work.sources(), tmp_path / "one", SETTINGS, work=beam_work.work)
    killed = tmp_path / "killed"
    summary = prepare.run(
        beam_work.sources(kills=killed), tmp_path / "two", SETTINGS, work=beam_work.work, beam=TWO
    )
    assert int(killed.read_text()) != os.getpid() and summary["prepared_now"] == 6
    assert beam_work.files(tmp_path / "two") == beam_work.files(tmp_path / "one")
    assert not (tmp_path / "two/16x24/answers").exists()
