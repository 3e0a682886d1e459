"""The other processes of a run: who they are, by the environment, and joining them."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

HEARTBEAT_SECONDS = 30  # jax's own; the watchdog, which names the process, is faster
START_SECONDS = 300  # for process 0 to listen


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


def stay_on_host(topologies: Sequence[str]) -> None:
    """Keeps jax off this machine's accelerators while it compiles for machines that are not here.

    libtpu, where it is installed, may be loaded once: the compiler for the named TPUs needs it, and
    jax would take it first, to look for a TPU here. Before jax is imported.

    Args:
      topologies: of `config.plan`; with "local", which is this machine, nothing is changed.
    """
    if topologies and "local" not in topologies:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def first() -> bool:
    """Whether this is process 0 of those that `join` has joined, or the only one."""
    if distributed_arguments(os.environ) is None:
        return True
    import jax

    return jax.process_index() == 0


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
