"""The entry point: flags, joining the other processes, dispatch on `config.mode`.

    python -m syncmv4d_jax.main --config=configs/X.py[:variant] --workdir=DIR [--config.key=value
    ...]

Who the other processes are is found in the environment, in this order (launch/README.md):

    COORD, NPROC, PID           host:port of process 0, how many processes, which one this is
    SLURM_*                     a step of several tasks
    TPU_*, MEGASCALE_*, GKE     a slice of several hosts

and otherwise this is a single process.
"""

import importlib
import os
import runpy
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

MODES = ("train", "sample", "evaluate", "plan")
HEARTBEAT_SECONDS = 30  # jax's own; the watchdog, which names the process, is faster
START_SECONDS = 300  # for process 0 to listen

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/X.py[:variant]", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that the run writes")


def distributed_arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the arguments of jax.distributed.initialize, None for a single process.

    Raises:
      ValueError: COORD, NPROC, PID are given in part, or make no sense.
    """
    contract = {key: environment.get(key, "") for key in ("COORD", "NPROC", "PID")}
    common = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    if contract["COORD"] or contract["NPROC"]:
        return _from_contract(contract) | common
    if int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1"))) > 1:
        if "SLURM_PROCID" not in environment:
            raise ValueError(
                "Slurm gave this job several tasks, but this process is none of them (SLURM_PROCID "
                "is not set): start it by srun, as launch/slurm.sbatch does"
            )
        gpus = environment.get("SLURM_GPUS_ON_NODE", "")
        alone = environment.get("SLURM_STEP_TASKS_PER_NODE", "").split("(")[0] == "1"
        local = {"local_device_ids": list(range(int(gpus)))} if gpus.isdigit() and alone else {}
        return local | common
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return common
    return None


def _from_contract(contract: Mapping[str, str]) -> dict[str, Any]:
    host, _, port = contract["COORD"].rpartition(":")
    numbers = contract["NPROC"].isdigit() and contract["PID"].isdigit() and port.isdigit()
    if not (host and numbers and int(contract["PID"]) < int(contract["NPROC"])):
        raise ValueError(
            "wanted COORD=host:port, NPROC=n and PID=0..n-1 in the environment, got "
            + " ".join(f"{key}={value!r}" for key, value in contract.items())
        )
    return {
        "coordinator_address": contract["COORD"],
        "num_processes": int(contract["NPROC"]),
        "process_id": int(contract["PID"]),
    }


def wait_for(address: str, *, seconds: float = START_SECONDS) -> None:
    """Returns once something listens at host:port.

    Raises:
      ConnectionError: nothing did for so long; jax would end the process without a word on where.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise ConnectionError(
                    f"COORD={address}: no coordinator answers there ({error}), tried for "
                    f"{seconds:.0f} s; process 0 must run on that host and the port be open"
                ) from error
            time.sleep(min(1.0, seconds / 4))


def join() -> None:
    """Joins the other processes, if there are any; before any device is touched.

    Raises:
      ValueError: see `distributed_arguments`.  ConnectionError: see `wait_for`.
    """
    arguments = distributed_arguments(os.environ)
    if arguments is not None:
        import jax

        if arguments.get("process_id", 0) > 0:
            wait_for(arguments["coordinator_address"])
        jax.distributed.initialize(**arguments)
        logging.info("process %d of %d", jax.process_index(), jax.process_count())


def run(config: Any, workdir: str | Path) -> None:
    """Runs `syncmv4d_jax.<config.mode>.run(config, workdir)`.

    Raises:
      ValueError: an unknown mode.
      PermissionError: the workdir cannot be written.
    """
    mode = config.get("mode", "train")
    if mode not in MODES:
        raise ValueError(f"config.mode: wanted one of {MODES}, got {mode!r}")
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"--workdir={workdir}: cannot write there ({error.strerror}); give a writable folder"
        ) from error
    if config.get("data", {}).get("name", "") == "embedded":
        importlib.import_module("syncmv4d_jax.embedded").ensure(config, workdir)
    importlib.import_module(f"syncmv4d_jax.{mode}").run(config, workdir)


def main(argv: list[str]) -> None:
    """Joins, runs, and turns errors about the input into one paragraph (trace in a file)."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_stderrthreshold("info")
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno > 20 or "orbax" not in record.pathname
    )
    try:
        join()
        run(_CONFIG.value, _WORKDIR.value)
    except (ValueError, KeyError, OSError) as error:
        where = Path(_WORKDIR.value) / "error.txt"
        try:
            where.write_text(traceback.format_exc())
            hint = f"\n(where in the code: {where})"
        except OSError:
            hint = ""
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        _stop(f"{type(error).__name__}: {message}{hint}")
    except Exception as error:
        if _gang():
            _stop(traceback.format_exc())
        raise error


def _gang() -> bool:
    import jax

    return jax.distributed.is_initialized()


def _stop(message: str) -> None:
    """Leaves with status 1; at once in a gang, where a clean exit would wait for the others."""
    if not _gang():
        sys.exit(message)
    print(message, file=sys.stderr, flush=True)
    logging.flush()
    os._exit(1)


def command() -> None:
    """The console entry: parses flags and runs `main`."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError, TypeError, flags.Error, OSError) as error:
        unknown = _unknown_keys(argv)
        sys.exit("\n".join(unknown) or f"{type(error).__name__}: {error}")


def _unknown_keys(argv: list[str]) -> list[str]:
    """Returns one message for each --config.a.b=c whose key the configuration does not have."""
    named = [arg.removeprefix("--config=") for arg in argv if arg.startswith("--config=")]
    path, _, variant = (named or [""])[-1].partition(":")
    if not Path(path).is_file():
        return []
    config, messages = runpy.run_path(path)["get_config"](*[variant] * bool(variant)), []
    for arg in argv:
        if not arg.startswith("--config."):
            continue
        section, path = config, arg.removeprefix("--config.").split("=")[0].split(".")
        for i, key in enumerate(path):
            keys = list(section.keys()) if hasattr(section, "keys") else []
            if key not in keys:
                where = ".".join(["config", *path[:i]])
                messages.append(f"{arg}: {where} has no key {key!r}; it has {keys}")
                break
            section = section[key]
    return messages


if __name__ == "__main__":
    command()
