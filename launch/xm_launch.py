"""XManager: one run, a gang of processes, or a sweep.

    python launch/xm_launch.py --config=configs/taco.py:debug --workdir=out/xm
    python launch/xm_launch.py --processes=2 ...                      a gang on this host
    python launch/xm_launch.py --sweep=optim.learning_rate=1e-4,3e-4  one work unit a value
    python launch/xm_launch.py --where=vertex --accelerator=TPU_V5P --image=...

`local` needs nothing but `pip install xmanager`; `vertex` and `kubernetes` need a project and an
image that holds this repository. Arguments after "--" go to syncmv4d_jax.main unchanged.
"""

import os
import pathlib
import socket

import sweeps  # beside this script
from absl import app, flags
from xmanager import xm, xm_local

HERE = pathlib.Path(__file__).resolve().parent
_CONFIG = flags.DEFINE_string("config", None, "configs/X.py[:variant]", required=True)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "output folder; a sweep adds its values", required=True
)
_WHERE = flags.DEFINE_enum("where", "local", ["local", "vertex", "kubernetes"], "executor")
_PROCESSES = flags.DEFINE_integer("processes", 1, "local processes of one run", lower_bound=1)
_SWEEP = flags.DEFINE_multi_string("sweep", [], "key=a,b,... ; several: every combination")
_IMAGE = flags.DEFINE_string("image", None, "container image, for vertex and kubernetes")
_ACCELERATOR = flags.DEFINE_string("accelerator", "TPU_V5P", "an xm.ResourceType, for those")
_COUNT = flags.DEFINE_integer("count", 4, "accelerators, for those")


def free_port() -> int:
    """Returns a port of this host that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def arguments(name: str, point: dict[str, str], rest: list[str]) -> xm.SequentialArgs:
    """Returns the command line of one run."""
    line = [f"--config={_CONFIG.value}", f"--workdir={os.path.join(_WORKDIR.value, name)}"]
    line += [f"--config.{key}={value}" for key, value in point.items()]
    return xm.SequentialArgs.from_collection([*line, *rest])


def package(experiment: xm.Experiment, executor: xm.Executor) -> xm.Executable:
    """Returns the executable: launch/entry.sh here, or in the image."""
    if _WHERE.value == "local":
        what = xm.Binary(path=str(HERE / "entry.sh"))
    elif _IMAGE.value:
        what = xm.Container(image_path=_IMAGE.value)
    else:
        raise app.UsageError(f"--where={_WHERE.value} needs --image")
    [executable] = experiment.package(
        [xm.Packageable(executable_spec=what, executor_spec=executor.Spec())]
    )
    return executable


def executor() -> xm.Executor:
    """Returns the executor that --where names."""
    if _WHERE.value == "local":
        return xm_local.Local()
    needs = xm.JobRequirements(**{_ACCELERATOR.value.lower(): _COUNT.value})
    make = {"vertex": xm_local.Vertex, "kubernetes": xm_local.Kubernetes}[_WHERE.value]
    return make(requirements=needs)


def main(argv: list[str]) -> None:
    """Adds one work unit for each point of the sweep."""
    if _PROCESSES.value > 1 and _WHERE.value != "local":
        raise app.UsageError(
            "--processes is for --where=local; pods find their processes themselves"
        )
    try:
        points = sweeps.named(sweeps.points(_SWEEP.value))
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    with xm_local.create_experiment(experiment_title="syncmv4d") as experiment:
        where = executor()
        executable = package(experiment, where)
        for name, point in points.items():
            line = arguments(name, point, argv[1:])
            if _PROCESSES.value == 1:
                experiment.add(xm.Job(executable=executable, executor=where, args=line))
                continue
            port, n = free_port(), _PROCESSES.value
            jobs = {
                f"process_{i}": xm.Job(
                    executable=executable,
                    executor=xm_local.Local(),
                    args=line,
                    env_vars={"COORD": f"127.0.0.1:{port}", "NPROC": str(n), "PID": str(i)},
                )
                for i in range(n)
            }
            experiment.add(xm.JobGroup(**jobs))


if __name__ == "__main__":
    app.run(main)
