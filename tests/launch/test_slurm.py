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
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    sizes = ("--config.mesh.data=2", "--config.mesh.fsdp=1", "--config.train.steps=40")
    job = call(
        environment,
        *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--output={output}"),
        *(
            "launch/slurm.sbatch",
            f"--config={ROOT / 'tests/support/fakes.py'}",
            f"--workdir={work}",
        ),
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


MAIN = """#!/bin/bash
# Stands for python -m syncmv4d_jax.main: writes down each start, ends as the first word of `ends`.
for word; do case $word in --workdir=*) work=${word#*=} ;; esac; done
mkdir -p "$work"
echo "${SLURM_RESTART_COUNT:-0} $SLURMD_NODENAME" >>"$work/starts"
read -r status rest <"$work/ends" || exit 0
echo "$rest" >"$work/ends"
[ "$status" = wait ] && { sleep 600 & wait; }
exit "${status:-0}"
"""


@pytest.fixture
def job(slurm, tmp_path):
    """Submits slurm.sbatch with a stand-in for the run: (workdir with %a, options) -> job id."""
    main = tmp_path / "main"
    main.write_text(MAIN)
    main.chmod(0o755)

    def submit(work, *options):
        output = f"--output={tmp_path}/%x-%j.out"
        command = ("sbatch", "--parsable", "--cpus-per-task=1", output, *options)
        environment = slurm | {"PYTHON": str(main)}
        return call(environment, *command, "launch/slurm.sbatch", f"--workdir={tmp_path / work}")

    return submit


def starts(work):
    file = work / "starts"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def ends(work, *statuses):
    work.mkdir(parents=True)
    (work / "ends").write_text(" ".join(statuses) + "\n")


def ended(slurm, job):
    shown = call(slurm, "scontrol", "show", "job", job)
    return "JobState=COMPLETED" in shown or "JobState=FAILED" in shown


def test_a_task_of_an_array_alone_goes_back(slurm, job, tmp_path):
    ends(tmp_path / "run/0", "0")
    ends(tmp_path / "run/1", "143", "0")
    ends(tmp_path / "run/2", "1")
    number = job("run/%a", "--array=0-2")
    tasks = [f"{number}_{i}" for i in range(3)]
    said = lambda: str({i: starts(tmp_path / f"run/{i}") for i in range(3)})  # noqa: E731
    wait_until(lambda: all(ended(slurm, task) for task in tasks), said)
    counts = [[count for count, _ in starts(tmp_path / f"run/{i}")] for i in range(3)]
    assert counts == [["0"], ["0", "1"], ["0"]]
    states = [call(slurm, "scontrol", "show", "job", task) for task in tasks]
    assert ["JobState=FAILED" in state for state in states] == [False, False, True]


def test_a_chain_waits_for_a_job_that_goes_back(slurm, job, tmp_path):
    ends(tmp_path / "first", "143", "143", "0")
    first = job("first")
    second = job("second", f"--dependency=afterok:{first}")
    last = job("last", f"--dependency=afternotok:{first}", "--kill-on-invalid-dep=yes")
    said = lambda: str([starts(tmp_path / w) for w in ("first", "second")])  # noqa: E731
    wait_until(lambda: ended(slurm, second), said)
    assert [count for count, _ in starts(tmp_path / "first")] == ["0", "1", "2"]
    assert (tmp_path / "first/starts").stat().st_mtime < (
        tmp_path / "second/starts"
    ).stat().st_mtime
    assert not starts(tmp_path / "last"), last


def test_a_job_of_a_lost_node_goes_to_another(slurm, job, tmp_path):
    ends(tmp_path / "run", "wait", "0")
    number = job("run", "--nodelist=n1")
    said = lambda: str(starts(tmp_path / "run"))  # noqa: E731
    wait_until(lambda: starts(tmp_path / "run"), said)
    call(slurm, "scontrol", "update", "nodename=n1", "state=down", "reason=lost")
    wait_until(lambda: "JobState=PENDING" in call(slurm, "scontrol", "show", "job", number), said)
    call(slurm, "scontrol", "update", f"jobid={number}", "reqnodelist=")
    wait_until(lambda: ended(slurm, number), said)
    assert starts(tmp_path / "run") == [["0", "n1"], ["1", "n0"]]
