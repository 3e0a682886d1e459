"""launch/xm_launch.py by XManager's local executor: a sweep of single jobs, and a gang of two.

XManager may live in an environment of its own: XMANAGER_PYTHON names its interpreter.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncmv4d_jax.results import curves

ROOT = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("XMANAGER_PYTHON", sys.executable)


def has_xmanager():
    return not subprocess.run([PYTHON, "-c", "import xmanager"], capture_output=True).returncode


def launch(tmp_path, *options):
    if not has_xmanager():
        pytest.skip("wants xmanager: pip install -e '.[xmanager]' -c launch/xmanager.txt")
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT / 'tests/support'}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "HOME": str(tmp_path),  # XManager keeps its database there
    }
    command = [PYTHON, "launch/xm_launch.py", f"--config={ROOT / 'tests/support/fakes.py'}"]
    rest = ("--", "--config.mesh.fsdp=1", "--config.train.steps=4")
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'work'}", *options, *rest],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def steps(workdir):
    return [row["step"] for row in curves.read(workdir / "metrics.jsonl")]


@pytest.mark.slow
def test_a_sweep_of_single_jobs(tmp_path):
    launch(tmp_path, "--sweep=optim.learning_rate=0.01,0.02", "--sweep=mesh.data=1")
    for rate in ("0.01", "0.02"):
        assert steps(tmp_path / "work" / f"learning_rate={rate}_data=1") == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_gang_of_two(tmp_path):
    launch(tmp_path, "--processes=2", "--sweep=mesh.data=2")
    work = tmp_path / "work" / "data=2"
    assert steps(work) == [1, 2, 3, 4]
    assert sorted(p.name for p in (work / "heartbeats").iterdir()) == ["0.json", "1.json"]
