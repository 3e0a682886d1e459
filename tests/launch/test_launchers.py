"""The launchers: what they render and what they would call."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"


def gke(name="gke_jobset"):
    spec = importlib.util.spec_from_file_location(name, LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("accelerator", "topology", "wanted"),
    [
        ("v5p", "2x2x2", (2, 4)),
        ("v5p", "4x4x12", (48, 4)),
        ("v5e", "2x4", (1, 8)),
        ("v5e", "8x8", (16, 4)),
        ("v6e", "16x16", (64, 4)),
        ("tpu7x", "2x2x2", (2, 4)),
    ],
)
def test_hosts_of_a_slice(accelerator, topology, wanted):
    assert gke().hosts(accelerator, topology) == wanted


def test_job_set():
    module = gke()
    options = ["--image=r/x:1", "--accelerator=v5p", "--topology=2x2x2", "--slices=2"]
    options = module.parse([*options, "--", "--config=configs/taco.py", "--workdir=/mnt/run"])
    manifest = module.job_set(options)
    [replicated] = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 2 and job["parallelism"] == job["completions"] == 2
    [container] = job["template"]["spec"]["containers"]
    assert container["command"][1:] == ["--config=configs/taco.py", "--workdir=/mnt/run"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    text = module.to_yaml(manifest)
    assert '\n    - name: "slice"\n      replicas: 2\n' in text
    assert '\n                  command:\n                    - "launch/entry.sh"\n' in text


@pytest.mark.parametrize(
    ("accelerator", "topology", "message"),
    [("v4", "2x2x2", "wanted one of"), ("v5p", "2x2", "wanted 2x2x2"), ("v5e", "3x3", "9 chips")],
)
def test_unknown_topologies(accelerator, topology, message):
    with pytest.raises(ValueError, match=message):
        gke().hosts(accelerator, topology)


def call(script, *arguments, **environment):
    return subprocess.run(
        [str(LAUNCH / script), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_tpu_commands(tmp_path):
    """A fake gcloud prints what it was called with, one argument a line."""
    fake = tmp_path / "gcloud"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TPU_PROJECT": "p",
        "TPU_ZONE": "z",
        "TPU_NAME": "n",
        "TPU_REPOSITORY": "https://host/repository",
    }
    got = call("tpu.sh", "create", "v5p-32", "--spot", **environment)
    assert got.stdout.split()[3:6] == ["create", "n", "--project=p"]
    assert {"--accelerator-type=v5p-32", "--runtime-version=v2-alpha-tpuv5", "--spot"} <= set(
        got.stdout.split()
    )
    got = call("tpu.sh", "run", "--config=a.py", "--workdir=/mnt/my run", **environment)
    assert "--worker=all" in got.stdout
    assert r"launch/entry.sh --config=a.py --workdir=/mnt/my\ run; do" in got.stdout
    bad = call("tpu.sh", "create", "v3-8", **environment)
    assert bad.returncode == 2 and "wanted a type v5p-N" in bad.stderr


def test_local_needs_a_count():
    got = call("local.sh", "--config=x")
    assert got.returncode == 2 and "usage: launch/local.sh N" in got.stderr


def test_local_stops_the_others_when_one_fails(tmp_path):
    """Process 1 of 2 fails at once; the other would sleep for a minute."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\ntest $PID = 1 && exit 3\nexec sleep 60\n")
    python.chmod(0o755)
    got = call("local.sh", "2", PYTHON=str(python), GRACE="1", DEVICES="1")
    assert got.returncode == 3 and "stopping the others" in got.stderr


def test_local_passes_the_contract(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PID of $NPROC at $COORD: $*"\n')
    python.chmod(0o755)
    got = call("local.sh", "2", "--workdir=w", PYTHON=str(python), DEVICES="1", PORT="4321")
    assert got.returncode == 0
    assert sorted(got.stdout.splitlines()) == [
        f"{i} of 2 at 127.0.0.1:4321: -m syncmv4d_jax.main --workdir=w" for i in range(2)
    ]


def test_an_error_ends_a_job_set_and_a_pod_that_is_taken_away_does_not():
    """By the rules of JobSet v1alpha2 and of Jobs (podFailurePolicy)."""
    module = gke()
    options = ["--image=r/x:1", "--accelerator=v5p", "--topology=2x2x2", "--", "--config=x"]
    spec = module.job_set(module.parse(options))["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy wants it
    assert rule["action"] == "FailJob" and codes["operator"] == "In"
    assert codes["containerName"] in [c["name"] for c in pod["containers"]]
    assert codes["values"] == sorted(set(codes["values"])) and 0 not in codes["values"]
    assert 1 in codes["values"] and 143 not in codes["values"]
    (rule,) = spec["failurePolicy"]["rules"]
    # The reason of a job that ended by its pod failure policy; a lost pod gives another.
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert spec["failurePolicy"]["maxRestarts"] == 100 and job["backoffLimit"] == 0


def slurm_script(tmp_path, *arguments, status=143, **environment):
    """slurm.sbatch with programs of Slurm that say what they were called with."""
    programs = {"srun": f'echo "srun: $*"; exit {status}', "sleep": "exit 0"}
    programs["scontrol"] = 'echo "scontrol: $*"'
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "12"}
    given |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", **environment}
    return call("slurm.sbatch", *arguments, **given)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [({}, "12"), ({"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "2"}, "10_2")],
)
def test_who_goes_back_to_slurms_queue(tmp_path, environment, wanted):
    done = slurm_script(tmp_path, "--config=x", **environment)
    assert f"scontrol: requeue {wanted}\n" in done.stdout and done.returncode == 143
    for status, restarts in ((1, "0"), (143, "100"), (0, "0")):
        done = slurm_script(tmp_path, "-x", status=status, SLURM_RESTART_COUNT=restarts)
        assert "requeue" not in done.stdout and done.returncode == status


def test_a_task_of_an_array_has_its_number_in_its_arguments(tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "2"}
    words = ("--workdir=/a b/%a", "--config.seed=%a")
    done = slurm_script(tmp_path, *words, **array)
    assert "launch/entry.sh --workdir=/a b/2 --config.seed=2\n" in done.stdout
    assert "--config.seed=%a" in slurm_script(tmp_path, *words).stdout


def test_points_and_names_of_a_sweep():
    sweeps = gke("sweeps")
    assert sweeps.named(sweeps.points([])) == {"": {}}
    found = sweeps.named(sweeps.points(["optim.learning_rate=1e-4,3e-4", "data.size=(64,96)"]))
    assert list(found) == ["learning_rate=1e-4_size=64-96", "learning_rate=3e-4_size=64-96"]
    found = sweeps.named(sweeps.points(["task.dpa.dim=1,2", "task.dit.dim=3"]))
    assert list(found) == ["task.dpa.dim=1_task.dit.dim=3", "task.dpa.dim=2_task.dit.dim=3"]
    (name,) = sweeps.named(sweeps.points(["weights.dit=/data/a b/*"]))
    assert name == "dit=data-a-b"
    assert sweeps.points(["a='x,y',z"]) == [{"a": "'x,y'"}, {"a": "z"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["rate"], "wanted key=a,b"),
        (["rate=1,"], "wanted key=a,b"),
        (["rate=1", "rate=2"], "rate is swept twice"),
        (["data.path=/a/b,a/b"], "would share the folder"),
        (["data.path=" + "x" * 300], "at most 200 letters"),
    ],
)
def test_sweeps_that_cannot_be(settings, message):
    sweeps = gke("sweeps")
    with pytest.raises(ValueError, match=message):
        sweeps.named(sweeps.points(settings))
