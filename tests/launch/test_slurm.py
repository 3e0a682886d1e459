"""launch/slurm.sbatch under a real Slurm: two nodes on this host, TERM, requeue, resume, finish."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncmv4d_jax.results import curves

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel")
SEARCH = os.environ["PATH"] + ":/usr/sbin:/sbin"
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(p, path=SEARCH) is None for p in PROGRAMS),
        reason="wants root and apt-get install slurm-wlm munge",
    ),
]


@pytest.fixture
def slurm(tmp_path):
    """Environment of a running Slurm."""
    environment = {**os.environ, "PATH": SEARCH}
    script, folder = str(ROOT / "launch" / "slurm_local.sh"), str(tmp_path / "slurm")
    try:
        subprocess.run([script, "start", folder], env=environment, check=True, timeout=120)
        yield environment | {"SLURM_CONF": f"{folder}/slurm.conf"}
    finally:
        subprocess.run([script, "stop", folder], env=environment, check=True, timeout=60)


def call(environment, *command):
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_until(condition, what, seconds=400):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, what()
        time.sleep(0.5)


def test_term_requeue_resume_finish(slurm, tmp_path):
    work, output = tmp_path / "work", tmp_path / "job.out"
    environment = slurm | {
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    sizes = ("--config.mesh.data=2", "--config.mesh.fsdp=1", "--config.train.steps=40")
    job = call(
        environment,
        *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--output={output}"),
        *("launch/slurm.sbatch", f"--config={ROOT / 'tests' / 'fakes.py'}", f"--workdir={work}"),
        *(*sizes, "--config.data.options.sleep=0.2"),
    )
    said = lambda: output.read_text() if output.exists() else "no output yet"  # noqa: E731
    wait_until((work / "checkpoints" / "6").exists, said)
    call(environment, "scancel", "--signal=TERM", job)
    wait_until(lambda: "status 143" in said(), said)
    rows = curves.read(work / "metrics.jsonl")
    assert 6 <= rows[-1]["step"] < 40
    show = lambda: call(environment, "scontrol", "show", "job", job)  # noqa: E731
    wait_until(lambda: "JobState=COMPLETED" in show(), said)
    assert "attempt 0 on n[0-1]" in said() and "attempt 1 on n[0-1]" in said()
    assert f"resumed from step {rows[-1]['step']}" in said()
    found = [row["step"] for row in curves.read(work / "metrics.jsonl")]
    assert found == list(range(1, 41))
