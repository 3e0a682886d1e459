"""Real processes for tests: `python -m syncmv4d_jax.main`, joined by COORD, NPROC, PID."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
FAKES = HERE / "support/fakes.py"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(devices):
    """What the processes find: the package, one compiler, so many fake devices."""
    return {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent}:{HERE}/support",
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
    }


def start(workdir, *options, pid=0, count=1, port=0, devices=4, config=FAKES):
    """Starts one process; its output goes to `log(workdir, pid)`."""
    variables = environment(devices)
    if count > 1:
        variables |= {"COORD": f"127.0.0.1:{port}", "NPROC": str(count), "PID": str(pid)}
    command = [sys.executable, "-m", "syncmv4d_jax.main", f"--config={config}"]
    path = log(workdir, pid)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *options],
            env=variables,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def log(workdir, pid=0):
    return Path(workdir).parent / f"{Path(workdir).name}.{pid}.log"


def gang(workdir, *options, count=2, devices=4):
    """Starts `count` processes."""
    port = free_port()
    return [
        start(workdir, *options, pid=i, count=count, port=port, devices=devices)
        for i in range(count)
    ]


def finish(workdir, processes, wanted=0, seconds=300):
    """Waits for all; asserts their status."""
    codes = [process.wait(timeout=seconds) for process in processes]
    said = "\n\n".join(log(workdir, i).read_text()[-4000:] for i in range(len(codes)))
    assert codes == [wanted] * len(codes), f"{codes}\n{said}"


def wait_for(path, processes, seconds=180):
    end = time.time() + seconds
    while not path.exists():
        assert time.time() < end and processes[0].poll() is None, f"no {path}"
        time.sleep(0.05)
