"""Where the time of a step goes: XLA's own profile, added up by what the program calls it.

    python benchmarks/breakdown.py [--what network open closed refine] [--depth 3] [--rows 15]

`network` is the gradient of the demo's transformer alone, `open` and `closed` are the demo's
training step without and with the closed loop, `refine` is a refining step of sampling. Runs the
compiled program under jax.profiler, sums the time of every instruction and prints shares by source
(scopes of the program) and by kind of instruction. Times of instructions that run side by side add
up to more than the clock says.
"""

import argparse
import collections
import functools
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `from configs import ...`

import demo_step  # noqa: E402
import inputs  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax import profiler  # noqa: E402

from configs import demo  # noqa: E402
from syncmv4d_jax.machines.planning import hlo  # noqa: E402
from syncmv4d_jax.run import assembly  # noqa: E402
from syncmv4d_jax.tasks.syncmv4d import sampling  # noqa: E402

WHAT = ("network", "open", "closed", "refine")


def program(what: str) -> tuple[Any, tuple[Any, ...]]:
    """Returns (a jitted function, its arguments)."""
    if what in ("open", "closed"):
        return demo_step.program(1.0 if what == "closed" else 0.0)
    config = demo.get_config()
    task = assembly.task(config)
    batch = inputs.batch_of(task)
    if what == "network":
        return network(task, batch)
    batch["first"] = batch["video_latents"][:, :, :1]
    return refining(task, batch)


def refining(task: Any, batch: Any) -> tuple[Any, tuple[Any, ...]]:
    """The first refining step of sampling."""
    loop, params = task.loop, inputs.weights_of(task)
    plan = sampling.plan(loop)
    state, context, _ = sampling.begin(loop, plan, params, batch, jax.random.key(0))
    run = next(run for run in plan.runs if run.refine)
    numbers = jnp.float32(plan.following(run)), jnp.asarray(run.fresh)
    step = functools.partial(sampling.refine_step, loop, loop.options.guidance)
    row = plan.schedule.row(run.first)
    return jax.jit(step), (params, state, row, *numbers, batch["first"], context)


def network(task: Any, batch: Any) -> tuple[Any, tuple[Any, ...]]:
    """Gradient of the squared output by the transformer's parameters."""
    x, t = batch["video_latents"], jnp.full((1,), 0.5)
    params, context = inputs.weights_of(task), task.loop.context(batch)

    def loss(dit):
        denoise = task.loop.functions({**params, "dit": dit}, x[:, :, :1]).mjd
        out = denoise(x, x, x, t, context)
        return jnp.sum(jnp.square(out.velocity)) + jnp.sum(jnp.square(out.motion_velocity))

    return jax.jit(jax.grad(loss)), (params["dit"],)


def events(folder: Path) -> collections.Counter:
    """Returns nanoseconds by instruction of everything that was traced."""
    spent: collections.Counter = collections.Counter()
    (file,) = folder.rglob("*.xplane.pb")
    for plane in profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    spent[str(stats["hlo_op"])] += event.duration_ns
    return spent


def sources(text: str) -> dict[str, tuple[str, str]]:
    """Returns {instruction: (kind, source)}; a fusion's source is that of its root."""
    computations, _ = hlo.parse(text)
    return {one.name: (one.op, one.source) for lines in computations.values() for one in lines}


def scope(source: str, depth: int) -> str:
    """The innermost scopes that say something, without transformations and loops."""
    forward = "backward " if "transpose(" in source else ""
    names = re.sub(r"(jit|jvp|transpose|vmap|checkpoint|rematted_computation)\(?", "", source)
    parts = [p for p in names.replace(")", "").replace("(", "").split("/") if p]
    dull = {"while", "body", "closed_call", "cond", "branch_1_fun", "branch_0_fun", "checkpoint"}
    return forward + "/".join([p for p in parts if p not in dull][-depth:])


def show(title: str, spent: collections.Counter, rows: int) -> None:
    total = sum(spent.values())
    print(f"# {title}: {total / 1e6:.0f} ms of instructions a run")
    for name, time in spent.most_common(rows):
        print(f"#   {time / total:6.1%} {time / 1e6:9.1f} ms  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rows", type=int, default=15)
    args = parser.parse_args()
    for what in args.what:
        function, arguments = program(what)
        compiled = function.lower(*arguments).compile()
        jax.block_until_ready(compiled(*arguments))
        with tempfile.TemporaryDirectory(prefix="profile-") as folder:
            with profiler.trace(folder):
                jax.block_until_ready(compiled(*arguments))
            spent = events(Path(folder))
        known = sources(compiled.as_text())
        by_source, by_kind = collections.Counter(), collections.Counter()
        outer = {"while", "conditional", "call"}
        for name, time in spent.items():
            kind, source = known.get(name, ("?", name))
            if kind in outer:
                continue
            by_kind[kind] += time
            by_source[f"{kind:8.8} {scope(source, args.depth)}"] += time
        show(f"{what} by kind", by_kind, 8)
        show(f"{what} by source", by_source, args.rows)


if __name__ == "__main__":
    main()
