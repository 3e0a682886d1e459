"""The training loop: resume, stages, skipped batches, preemption, two processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fakes
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.results import curves
from syncmv4d_jax.run import assembly, checkpoint, optim, train
from syncmv4d_jax.weights import exports

HERE = Path(__file__).parents[1]
TIMES = ("seconds_per_step", "tokens_per_second", "tflops_per_second", "mfu")


def rows(workdir):
    """metrics.jsonl without the clock."""
    found = curves.read(Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def weights(workdir, step=6, name=""):
    directory = assembly.stage_directory(workdir, name)
    return tree.flatten(checkpoint.restore_params(directory, step=step))


def assert_close(a, b, share):
    """Every leaf of a is within `share` of its largest value in b."""
    assert a.keys() == b.keys()
    gaps = {n: np.max(np.abs(x - b[n])) / np.max(np.abs(b[n])) for n, x in a.items()}
    assert max(gaps.values()) <= share, gaps


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Six steps without a stop."""
    workdir = tmp_path_factory.mktemp("unbroken")
    train.run(fakes.config(), workdir)
    return workdir


def test_learns_and_logs(unbroken):
    found = curves.read(unbroken / "metrics.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["tokens_per_second"] > 0 and found[-1]["tflops_per_second"] > 0
    assert found[0].keys() >= {"loss", "error", "learning_rate", "gradient_norm", "skipped"}
    assert list((unbroken / "tensorboard").glob("events.*"))


def test_what_the_data_counts_is_logged(tmp_path):
    config = fakes.config(steps=2)
    with config.unlocked():
        config.data.options.counts = True
    train.run(config, tmp_path)
    assert [row["batches"] for row in rows(tmp_path)] == [1, 2]


def test_resume_equals_unbroken_bit_for_bit(unbroken, tmp_path):
    train.run(fakes.config(steps=4), tmp_path)
    train.run(fakes.config(), tmp_path)
    assert same(weights(tmp_path), weights(unbroken))
    assert rows(tmp_path) == rows(unbroken)


def test_a_step_logged_but_not_saved_is_not_logged_twice(unbroken, tmp_path):
    """As after a crash at step 5: metrics know 5, the checkpoints end at 3."""
    train.run(fakes.config(steps=3), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, "loss": 0.0}) + "\n" + '{"step": 5, "lo')
    train.run(fakes.config(), tmp_path)
    assert rows(tmp_path) == rows(unbroken)


@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2, "sequence": 2}])
def test_resume_on_another_mesh(unbroken, tmp_path, mesh):
    train.run(fakes.config(steps=3), tmp_path)
    config = fakes.config()
    config.mesh = mesh
    train.run(config, tmp_path)
    assert_close(weights(tmp_path), weights(unbroken), 1e-6)


def test_accumulation_runs_and_sees_every_example(tmp_path):
    """Two micro-batches without noise have the gradient of the whole batch."""
    results = []
    for count in (1, 2):
        config = fakes.config(steps=2)
        config.optim.accumulate, config.task.noise, config.mesh = count, 0.0, {"data": 4, "fsdp": 2}
        config.train.batch_size = 16
        train.run(config, tmp_path / str(count))
        results.append(weights(tmp_path / str(count), step=2))
    for name, leaf in results[0].items():
        np.testing.assert_allclose(leaf, results[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_nan_batch_is_skipped(tmp_path):
    config = fakes.config()
    config.data.options.nan_at = (4,)
    train.run(config, tmp_path)
    found = rows(tmp_path)
    assert [row["skipped"] for row in found] == [0, 0, 0, 1, 0, 0]
    assert found[3]["loss"] == "nan" and np.isfinite(found[4]["loss"])


def test_spike_is_skipped(tmp_path):
    config = fakes.config()
    config.data.options.spike_at, config.optim.spike_factor, config.optim.guard_warmup = (
        (5,),
        10.0,
        2,
    )
    train.run(config, tmp_path)
    assert [row["skipped_spikes"] for row in rows(tmp_path)] == [0, 0, 0, 0, 1, 1]


def test_abort_when_nothing_is_finite(tmp_path):
    config = fakes.config()
    config.data.options.nan_at, config.optim.abort_after = (2, 3, 4, 5, 6), 3
    with pytest.raises(optim.Diverged, match="step 4: 3 steps in a row"):
        train.run(config, tmp_path)


def test_sigterm_saves_and_exits_143_then_resumes(unbroken, tmp_path):
    config = fakes.config()
    config.data.options.terminate_at = 4
    with pytest.raises(SystemExit) as stop:
        train.run(config, tmp_path)
    assert stop.value.code == 143
    assert (tmp_path / "checkpoints" / "4").is_dir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train.run(config, tmp_path)
    assert same(weights(tmp_path), weights(unbroken)) and rows(tmp_path) == rows(unbroken)


def staged():
    config = fakes.config()
    config.stages = (
        {"name": "eye", "task": {"trainable": "^eye/"}, "train": {"steps": 3}},
        {"name": "net", "task": {"trainable": "^net/"}, "train": {"export": "bfloat16"}},
    )
    return config


def test_stages_hand_over_and_are_skipped_when_finished(tmp_path):
    train.run(staged(), tmp_path)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == list(range(1, 10))
    assert [row["stage"] for row in found] == ["eye"] * 3 + ["net"] * 6
    assert {name.split("/")[0] for name in weights(tmp_path, name="net")} == {"net"}
    params = assembly.trained_params(staged(), tmp_path)
    assert params.keys() == {"eye", "net"}
    exported = exports.read(tmp_path / "net.safetensors")
    assert exported.keys() == {"net"}
    before = (tmp_path / "metrics.jsonl").read_text()
    train.run(staged(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_frozen_half_must_be_the_same_on_resume(tmp_path):
    config = staged()
    train.run(config, tmp_path)
    other = staged()
    other.stages[1]["train"]["steps"] = 8
    eye = assembly.stage_directory(tmp_path, "eye")
    other.stages[0]["train"]["steps"] = 4  # trains the frozen part further
    with pytest.raises(ValueError, match="was trained beside other frozen weights"):
        train.run(other, tmp_path)
    assert (eye / "4").is_dir()


def test_random_frozen_parts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fakes.Fake, "frozen_parts", ("eye",), raising=False)
    config = fakes.config()
    config.task.trainable = "^net/"
    with pytest.raises(ValueError, match="keeps 'eye' frozen, but 1 of its parameters"):
        train.run(config, tmp_path)
    config.train.random_frozen = True
    train.run(config, tmp_path)


def test_weights_from_a_file(tmp_path):
    kernel = np.full((16, 32), 0.5, np.float32)
    path = tmp_path / "eye.safetensors"
    exports.write({"eye": {"in": {"kernel": kernel}}}, path)
    config = fakes.config(steps=1)
    config.task.trainable, config.weights = "^net/", {"eye": str(path)}
    train.run(config, tmp_path)
    exports.write({"eye": {"other": {"kernel": kernel}}}, path)
    with pytest.raises(ValueError, match="only in the model .1.: eye/in/kernel"):
        train.run(config, tmp_path / "other")


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("train", "stepz", r"config.train: unknown keys \['stepz'\] \('stepz' is near 'steps'\)"),
        ("optim", "lr", r"config.optim: unknown keys \['lr'\]; the keys are \['name'"),
        ("train", "minimum_sharded", "'minimum_sharded' is gone: leaves below"),
    ],
)
def test_unknown_keys(tmp_path, section, key, message):
    config = fakes.config()
    config[section][key] = 1
    with pytest.raises(ValueError, match=message):
        train.run(config, tmp_path)


def test_unknown_task_and_data(tmp_path):
    config = fakes.config()
    config.task.name = "nothing"
    with pytest.raises(ValueError, match="config.task.name='syncmv4d_jax.tasks.nothing:make'"):
        train.run(config, tmp_path)
    config = fakes.config()
    config.data.name = "nothing"
    with pytest.raises(ValueError, match=r"wanted one of \['taco'\]"):
        train.run(config, tmp_path)


# Real processes.


def start(workdir, *options, pid=0, count=1, port=0, devices=4):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}:{HERE}/support",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    if count > 1:
        environment |= {"COORD": f"127.0.0.1:{port}", "NPROC": str(count), "PID": str(pid)}
    command = [sys.executable, "-m", "syncmv4d_jax.main", f"--config={HERE / 'support/fakes.py'}"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def gang(workdir, *options):
    """Starts two processes of four devices each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(workdir, *options, pid=i, count=2, port=port) for i in range(2)]


def finish(processes, wanted=0):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [wanted] * len(codes), "\n\n".join(outputs)
    return outputs


def wait_for(path, processes, seconds=120):
    end = time.time() + seconds
    while not path.exists():
        assert time.time() < end and processes[0].poll() is None, f"no {path}"
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_train_save_and_resume(unbroken, tmp_path):
    """Two processes, a checkpoint, then the rest in this one: the same weights to 1e-6."""
    finish(gang(tmp_path, "--config.train.steps=3"))
    assert weights(tmp_path, step=3)  # readable where the devices that wrote it do not exist
    train.run(fakes.config(), tmp_path)
    assert_close(weights(tmp_path), weights(unbroken), 1e-6)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_processes_resume_bit_exact(tmp_path):
    finish(gang(tmp_path / "whole"))
    finish(gang(tmp_path / "parts", "--config.train.steps=3"))
    finish(gang(tmp_path / "parts"))
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes(tmp_path):
    options = ("--config.data.options.sleep=0.2", "--config.train.steps=40")
    processes = gang(tmp_path / "parts", *options)
    wait_for(tmp_path / "parts" / "checkpoints" / "3", processes)
    processes[1].send_signal(signal.SIGTERM)
    finish(processes, 143)
    stopped = max(int(p.name) for p in (tmp_path / "parts" / "checkpoints").iterdir())
    assert 3 <= stopped < 40
    options = ("--config.data.options.sleep=0.0", "--config.train.steps=40")
    finish(gang(tmp_path / "parts", *options))
    finish(gang(tmp_path / "whole", *options))
    assert same(weights(tmp_path / "parts", 40), weights(tmp_path / "whole", 40))
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_sigkill_of_one_of_two_processes(tmp_path):
    """The survivor stops by itself; the restart loses at most the interval and ends the same."""
    options = ("--config.data.options.sleep=0.3", "--config.train.steps=30")
    processes = gang(tmp_path / "parts", *options)
    wait_for(tmp_path / "parts" / "checkpoints" / "6", processes)
    processes[1].kill()
    processes[0].communicate(timeout=120)
    assert processes[0].returncode != 0
    options = ("--config.data.options.sleep=0.0", "--config.train.steps=30")
    finish(gang(tmp_path / "parts", *options))
    finish(gang(tmp_path / "whole", *options))
    assert same(weights(tmp_path / "parts", 30), weights(tmp_path / "whole", 30))
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
