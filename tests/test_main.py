"""Flags, dispatch, the environment's contract, and errors in one paragraph."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import fakes
import pytest

from syncmv4d_jax import main, recipe
from syncmv4d_jax.machines import processes

HERE = Path(__file__).parent


def call(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "syncmv4d_jax.main", *arguments],
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}/support", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_single_process():
    assert processes.distributed_arguments({}) is None
    assert processes.distributed_arguments({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    assert processes.distributed_arguments({"TPU_WORKER_HOSTNAMES": "localhost"}) is None


def test_contract():
    got = processes.distributed_arguments({"COORD": "h:1234", "NPROC": "4", "PID": "3"})
    assert got == {
        "coordinator_address": "h:1234",
        "num_processes": 4,
        "process_id": 3,
        "heartbeat_timeout_seconds": processes.HEARTBEAT_SECONDS,
    }


@pytest.mark.parametrize(
    "environment",
    [
        {"COORD": "h:1"},
        {"NPROC": "2", "PID": "0"},
        {"COORD": "h", "NPROC": "2", "PID": "0"},
        {"COORD": "h:1", "NPROC": "2", "PID": "2"},
    ],
)
def test_contract_in_part(environment):
    with pytest.raises(ValueError, match="wanted COORD=host:port, NPROC=n and PID=0..n-1"):
        processes.distributed_arguments(environment)


def test_a_coordinator_that_is_not_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, but nobody listens
        with pytest.raises(ConnectionError, match=rf"COORD={address}: no coordinator.*process 0"):
            processes.wait_for(address, seconds=0.5)
        probe.listen()
        processes.wait_for(address, seconds=0.5)


def test_slurm_and_pods():
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    heartbeat = {"heartbeat_timeout_seconds": processes.HEARTBEAT_SECONDS}
    assert processes.distributed_arguments(step) == heartbeat
    got = processes.distributed_arguments(step | {"SLURM_GPUS_ON_NODE": "4"})
    assert got == heartbeat | {"local_device_ids": [0, 1, 2, 3]}
    with pytest.raises(ValueError, match="start it by srun"):
        processes.distributed_arguments({"SLURM_NTASKS": "2"})
    assert processes.distributed_arguments({"TPU_WORKER_HOSTNAMES": "a,b"}) == heartbeat
    assert processes.distributed_arguments({"MEGASCALE_COORDINATOR_ADDRESS": "a"}) == heartbeat


def test_unknown_mode(tmp_path):
    config = fakes.config()
    config.mode = "dream"
    with pytest.raises(ValueError, match="config.mode: wanted one of .*got 'dream'"):
        main.run(config, tmp_path)


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_an_address_is_no_workdir(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"--workdir={address}: wanted a folder.*mount it"):
        main.run(fakes.config(), address)
    assert not list(tmp_path.iterdir())


def test_one_run_of_a_mode_in_a_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "MODES", {mode: "fakes:nothing" for mode in main.MODES})
    monkeypatch.setattr(
        fakes, "nothing", lambda config, workdir: done.append(workdir), raising=False
    )
    done, config = [], fakes.config()
    with recipe.Lock(tmp_path, "train"):
        with pytest.raises(recipe.Held, match="train is running there already"):
            main.run(config, tmp_path)
        config.mode = "sample"  # of the checkpoints that are there
        main.run(config, tmp_path)
    config.mode = "train"
    main.run(config, tmp_path)
    assert len(done) == 2 and not list(tmp_path.iterdir())


def test_the_others_of_a_gang_take_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(main, "MODES", {"train": "fakes:nothing"})
    monkeypatch.setattr(fakes, "nothing", lambda *_: done.append(1), raising=False)
    monkeypatch.setattr(processes, "first", lambda: False)
    done = []
    with recipe.Lock(tmp_path, "train"):
        main.run(fakes.config(), tmp_path)
    assert done


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="give a writable folder"):
        main.run(fakes.config(), tmp_path / "file" / "x")


def test_unknown_key_names_the_known_ones(tmp_path):
    got = call(
        f"--config={HERE}/support/fakes.py", f"--workdir={tmp_path}", "--config.optim.bogus=4"
    )
    assert got.returncode != 0
    assert got.stderr.strip() == (
        "--config.optim.bogus=4: config.optim has no key 'bogus'; "
        "it has ['ema', 'learning_rate', 'weight_decay']"
    )


def test_bad_mesh_is_one_paragraph_and_the_trace_is_in_a_file(tmp_path):
    got = call(f"--config={HERE}/support/fakes.py", f"--workdir={tmp_path}", "--config.mesh.data=3")
    assert got.returncode == 1
    last = got.stderr.strip().splitlines()[-2:]
    assert last[0].startswith(
        "ValueError: mesh {'data': 3, 'fsdp': 2} wants 6 devices, there are 8"
    )
    assert "Traceback" not in got.stderr and "Traceback" in (tmp_path / "error.txt").read_text()


@pytest.mark.parametrize(
    ("topologies", "given", "wanted"),
    [
        (("v5p-16",), None, "cpu"),
        (("v5p-16", "local"), None, None),
        ((), None, None),
        (("v5p-16",), "tpu", "tpu"),
    ],
)
def test_planning_leaves_the_accelerators_to_the_compiler(monkeypatch, topologies, given, wanted):
    """libtpu may be loaded once: jax must not take it to look for a TPU here."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if given:
        monkeypatch.setenv("JAX_PLATFORMS", given)
    processes.stay_on_host(topologies)
    assert os.environ.get("JAX_PLATFORMS") == wanted


def test_planning_is_told_before_jax_is_imported(tmp_path):
    """A plan of a named TPU, with a config whose task does not exist: what is set by then."""
    code = (
        "import os, sys; from configs import taco; from syncmv4d_jax import main; "
        "from syncmv4d_jax.machines import processes; stay = processes.stay_on_host; "
        "processes.stay_on_host = lambda t: (stay(t), print('jax' in sys.modules, t)); "
        "config = taco.get_config('debug'); config.mode = 'plan'; "
        "config.plan.topologies = ('v5p-16',); config.plan.entries = ('none',); "
        f"main.run(config, {str(tmp_path)!r})"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    command = [sys.executable, "-c", code]
    got = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, env=environment)
    assert got.stdout.strip() == "False ('v5p-16',)", got.stderr


def test_every_key_can_be_set_on_the_command_line(tmp_path):
    """Rules of sharding among them; jax is not imported for it."""
    code = (
        "import sys; from absl import flags; from syncmv4d_jax import main; "
        "flags.FLAGS(sys.argv); c = main._CONFIG.value; "
        "print(c.sharding, c.train.keep_every, c.optim.b2, c.task.video_weight, "
        "'jax' in sys.modules)"
    )
    rules = (("ffn/.*kernel$", (None, "fsdp")), ("patch_embedding", ()))
    options = ("train.keep_every=100", "optim.b2=0.98", "task.video_weight=0.5")
    command = [sys.executable, "-c", code, "--config=configs/taco.py:debug"]
    command += [f"--workdir={tmp_path}", f"--config.sharding={rules}"]
    command += [f"--config.{option}" for option in options]
    got = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    assert got.stdout.strip() == f"{rules} 100 0.98 0.5 False", got.stderr


def test_flags_are_required(tmp_path):
    got = call(f"--workdir={tmp_path}")
    assert got.returncode != 0 and "config" in got.stderr


def test_import_is_light():
    """main imports neither jax nor orbax before it must, and takes under two seconds."""
    code = (
        "import sys, time; t = time.time(); import syncmv4d_jax.main; "
        "assert time.time() - t < 2; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)
