"""The entry point: flags, joining the other processes, dispatch on `config.mode`.

    python -m syncmv4d_jax.main --config=configs/X.py[:variant] --workdir=DIR [--config.key=value
    ...]

Who the other processes are is found in the environment, in this order (launch/README.md):

    COORD, NPROC, PID           host:port of process 0, how many processes, which one this is
    SLURM_*                     a step of several tasks
    TPU_*, MEGASCALE_*, GKE     a slice of several hosts

and otherwise this is a single process.
"""

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from syncmv4d_jax import configuration, disk, recipe
from syncmv4d_jax.machines import processes

# config.mode -> what runs it, imported when it does: --help waits for none of them.
MODES = {
    "train": "syncmv4d_jax.run.train:run",
    "sample": "syncmv4d_jax.run.sample:run",
    "evaluate": "syncmv4d_jax.run.evaluate:run",
    "plan": "syncmv4d_jax.run.plan:run",
    "serve": "syncmv4d_jax.serve.run:run",
}
EMBEDDED = "syncmv4d_jax.run.embedded:ensure"  # before any of them, where the data is embedded

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/X.py[:variant]", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that the run writes")


def run(config: Any, workdir: str | Path) -> None:
    """Runs what `config.mode` names.

    One process of a mode works in a workdir at a time; process 0 of a gang holds the lock.

    Raises:
      ValueError: an unknown mode, an address for a workdir, or a workdir where this mode runs.
      PermissionError: the workdir cannot be written.
    """
    mode = config.get("mode", "train")
    if mode not in MODES:
        raise ValueError(f"config.mode: wanted one of {tuple(MODES)}, got {mode!r}")
    workdir = disk.local(workdir, where="--workdir")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"--workdir={workdir}: cannot write there ({error.strerror}); give a writable folder"
        ) from error
    with recipe.Lock(workdir, mode) if processes.first() else contextlib.nullcontext():
        if mode == "plan":  # of shapes alone: no data is made
            processes.stay_on_host(config.get("plan", {}).get("topologies", ()))
        elif config.get("data", {}).get("name", "") == "embedded":
            configuration.load(EMBEDDED, {}, "config.data.name")(config, workdir)
        configuration.load(mode, MODES, "config.mode")(config, workdir)


def main(argv: list[str]) -> None:
    """Joins, runs, and turns errors about the input into one paragraph (trace in a file)."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    logging.set_stderrthreshold("info")
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno > 20 or "orbax" not in record.pathname
    )
    try:
        processes.join()
        run(_CONFIG.value, _WORKDIR.value or "")
    except (ValueError, KeyError, OSError) as error:
        where = Path(_WORKDIR.value or "") / "error.txt"
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
        unknown = configuration.unknown_keys(argv)
        sys.exit("\n".join(unknown) or f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    command()
