"""The fuzzer: the same cases by the same seed, and each kind of fault is found where one is."""

import argparse
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz  # noqa: E402
import fuzz_mutations as mutations  # noqa: E402

SAMPLES = {
    "json": b'{"a": {"b": [1, 2.5], "c": "x"}, "d": 3}',
    "cameras": b'{"a": {"K": [1, 2]}, "b": {"K": [3, 4]}}',
    "obj": b"v 0 0 1\nv 0 1 0\nv 1 0 0\nf 1 2 3\n",
    "prompts": "ein Glas\n杯\n".encode(),
    "pkl": b"\x80\x02K\x01." * 30,
    "npy": b"\x93NUMPY" + bytes(200),
    "jpg": b"\xff\xd8\xff\xe0" + bytes(200),
    "mp4": b"\0\0\0\x10tkhd" + bytes(300),
    "colmap": b"1 OPENCV 64 48 50.0 50.0 32 24 0 0 0 0\n",
    "yaml": b"%YAML:1.0\n---\na: 1\n",
    "xml": b"<a b='1'><c>2</c></a>",
    "bin": bytes(range(200)),
    "cache": b"POINTCACHE2" + bytes(200),
    "parquet": b"PAR1" + bytes(range(200)) + b"PAR1",
}


def archive(names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, bytes(range(100)))
    return out.getvalue()


@pytest.mark.parametrize("form", [*SAMPLES, "npz", "pth"])
def test_a_seed_gives_the_same_mutants_again(form):
    data = SAMPLES.get(form) or archive(["a.npy", "x/data.pkl"])
    drawn = [
        [mutations.mutate(form, data, np.random.default_rng([seed, n])) for n in range(40)]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sum(m.data != data for m in drawn[0]) > 35
    assert {m.wanted for m in drawn[0]} <= {mutations.ANY, mutations.EQUAL, mutations.REFUSED}


def test_what_must_be_read_equal_has_the_same_content():
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = mutations.marked(SAMPLES["json"], rng)
        assert json.loads(found.data) == json.loads(SAMPLES["json"]), found.words
        found = mutations.packed(archive(["a.npy"]), rng)
        with zipfile.ZipFile(io.BytesIO(found.data)) as file:
            assert file.read("a.npy") == bytes(range(100))


PLANTED = """
import json, resource, sys, time
print("ready", flush=True)
for line in sys.stdin:
    kind = json.loads(line)["kind"]
    if kind == "hang":
        now = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (now + 1, now + 60))
        while True:
            pass
    if kind == "dies":
        sys.exit("what it said")
    if kind == "waits":
        time.sleep(600)
    print(json.dumps({"outcome": "equal"}), flush=True)
"""


def test_a_worker_that_dies_is_a_fault_and_another_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "WALL", 20.0)
    command = (sys.executable, "-c", PLANTED)
    with fuzz.Runner(tmp_path, command) as runner:
        said = {kind: runner.case(kind=kind) for kind in ("hang", "fine", "dies", "fine")}
    assert said["fine"] == {"outcome": "equal"}
    assert "hangs" in said["hang"]["why"] and "what it said" in said["dies"]["why"]
    monkeypatch.setattr(fuzz, "WALL", 0.5)
    with fuzz.Runner(tmp_path, command) as runner:
        assert "no answer" in runner.case(kind="waits")["why"]


JUDGED = """
import fuzz_doors, fuzz_mutations, fuzz_worker, json, pathlib, sys
template, scratch = map(pathlib.Path, sys.argv[1:])
template.mkdir()
(template / "a.json").write_text('{"a": 1}')

def read(root, file, out):
    data = file.read_bytes()
    if b"trace" in data:
        return {"a": {}["b"]}
    if b"bare" in data:
        raise ValueError("something is wrong")
    if b"named" in data:
        raise ValueError(f"{file}: wanted another")
    if b"half" in data:
        out.parent.mkdir()
        out.write_text("x")
        raise ValueError(f"{file}: wanted another")
    if b"memory" in data:
        return {"a": len(bytes(6 * 2**30))}
    return {"a": 1 + data.count(b"x")}

said = {}
for text, wanted in json.loads(sys.stdin.read()):
    fuzz_worker.TABLE[:] = [fuzz_doors.Door("json", "planted", "a.json", read)]
    mutant = fuzz_mutations.Mutant(text.encode(), "planted", wanted)
    fuzz_mutations.mutate = lambda form, data, rng: mutant
    answer = fuzz_worker.Worker(template, scratch).case(1, 0)
    said[text] = answer.get("why", answer["outcome"])
print(json.dumps(said))
"""


def test_outcomes_are_told_apart(tmp_path):
    cases = [(text, "any") for text in ("trace", "bare", "named", "half", "memory", "x", "same")]
    cases += [("read x", "refused"), ("other x", "equal"), ("named now", "equal")]
    done = subprocess.run(
        [sys.executable, "-c", JUDGED, str(tmp_path / "template"), str(tmp_path / "work")],
        env=fuzz.environment(),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["named"], said["same"], said["x"]) == ("refused", "equal", "different")
    assert "no refusal by name" in said["trace"] and "KeyError" in said["trace"]
    assert "no refusal by name" in said["bare"]
    assert "refused, but written: ['result']" in said["half"]
    assert "MemoryError" in said["memory"]
    assert "wanted a refusal, it was read" in said["read x"]
    assert "wanted an equal reading, got another" in said["other x"]
    assert "wanted an equal reading, it was refused" in said["named now"]


@pytest.mark.slow
def test_a_seed_of_every_kind_of_file(tmp_path):
    args = argparse.Namespace(seed=5, count=28, seconds=float("inf"), number=None, only="")
    assert fuzz.run(args, tmp_path) == 0
