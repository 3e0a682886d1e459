"""Evaluation by several processes gives what one process gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_samples
import gang
import pytest

from syncmv4d_jax.metrics import summary
from syncmv4d_jax.run import evaluate

HERE = Path(__file__).parents[1]
PROGRAM = """
import sys
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
import fake_samples
from syncmv4d_jax import evaluate
from syncmv4d_jax.metrics import scene
scored, score = [], scene.score
scene.score = lambda sample, truth, name, **more: (
    scored.append(name) or score(sample, truth, name, **more)
)
truths = {f"scene-{i}": fake_samples.truth(i) for i in range(3)}
evaluate.run(fake_samples.config(), sys.argv[3], examples=lambda *_: truths.items())
print("scored", *scored)
"""


def test_one_process_keeps_its_values():
    assert summary.share(["a", "b"]) == ["a", "b"] and summary.gather({"a": [1]}) == {"a": [1]}


@pytest.mark.slow
def test_two_processes_share_the_samples(tmp_path):
    truths = {f"scene-{i}": fake_samples.truth(i) for i in range(3)}
    for i, (name, truth) in enumerate(truths.items()):
        fake_samples.write(tmp_path / "samples", name, truth, seed=i)
    evaluate.run(fake_samples.config(), tmp_path, examples=lambda *_: truths.items())
    wanted = json.loads((tmp_path / "eval.json").read_text())
    (tmp_path / "eval.json").unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}:{HERE}/support",
        "JAX_PLATFORMS": "cpu",
    }
    port = gang.free_port()
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(i), str(port), str(tmp_path)],
                         env=environment, stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "scored scene-0 scene-2" in outputs[0] and "scored scene-1" in outputs[1]
    found = json.loads((tmp_path / "eval.json").read_text())
    found.pop("command"), wanted.pop("command")
    assert found == wanted
