"""Measures the lowered programs and writes what tests/run/test_programs.py holds them to.

    python tests/golden/programs/make.py              # all of them, minutes
    python tests/golden/programs/make.py small/mjd_step full/mjd_step

Run it when a program is meant to change, look at the difference, and say in the commit why it is
worth it. The steps are those that the task names (`tasks.base.Planned`); of each are held

    flops         products and convolutions of the traced program (flop_count), a sharded kernel's
                  as one device computes them
    transposes    in the lowered program (a loop's body once), before XLA
    temporaries   bytes of a device that XLA:CPU allots beside arguments and results
    collectives   instructions by kind, as often as they run

`small` is configs/taco.py:debug compiled for a mesh of 8 fake devices, `full` the paper's size,
lowered by shapes, and for `full/mjd_step` compiled too.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
NAMES = (
    "small/mjd_step", "small/sample_step", "small/closed_loop_step",
    "full/mjd_step", "full/sample_step", "full/closed_loop_step",
)  # fmt: skip
COMPILED = (*NAMES[:3], "full/mjd_step")
# XLA partitions, then does as little as it can.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def configuration(size: str) -> Any:
    """The configuration of a size, guidance on."""
    from configs import taco

    config = taco.get_config("debug" if size == "small" else "full")
    with config.unlocked():
        if size == "small":
            config.task.dit = {**config.task.dit, "heads": 4}
            config.task.dpa = {**config.task.dpa, "depth": 1}
        config.task.guidance, config.train.sequence = 5.0, "ulysses"
    return config


def trace(name: str) -> Any:
    """Returns a program of NAMES, traced by shapes."""
    from syncmv4d_jax.machines import mesh as meshes
    from syncmv4d_jax.run import programs

    size, entry = name.split("/")
    mesh = meshes.make_mesh({"fsdp": 2, "sequence": 4})
    function, arguments = programs.program(configuration(size), mesh, entry, 2)
    return function.trace(*arguments)


def of_lowered(traced: Any) -> dict[str, Any]:
    """Returns FLOPs and transposes of a traced program."""
    from syncmv4d_jax.models import flops as flop_counts

    text = traced.lower().as_text()
    flops = flop_counts.of_jaxpr(traced.jaxpr)
    return {"flops": flops, "transposes": text.count("stablehlo.transpose")}


def of_compiled(traced: Any) -> dict[str, Any]:
    """Returns temporaries and collectives of a traced program."""
    from syncmv4d_jax.machines.planning import hlo

    compiled = traced.lower().compile(compiler_options=QUICK)
    found = hlo.summary(hlo.collectives(compiled.as_text()))
    return {
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "collectives": {kind: row["runs"] for kind, row in sorted(found.items())},
    }


def main(names: list[str]) -> int:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
    import conftest  # noqa: F401 - the tests' devices and flags

    if unknown := sorted(set(names) - set(NAMES)):
        print(f"unknown {unknown}; the programs are {NAMES}", file=sys.stderr)
        return 2
    for name in names or NAMES:
        path = HERE / f"{name.replace('/', '_')}.json"
        traced = trace(name)
        result = of_lowered(traced) | (of_compiled(traced) if name in COMPILED else {})
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(path.relative_to(ROOT), path.read_text(), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main(sys.argv[1:]))
