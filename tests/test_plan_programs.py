"""The closed-loop step and the refining step, small, as the partitioner leaves them.

Fast to make: XLA partitions, then does as little as it can.
"""

import math

import pytest

from configs import taco
from syncmv4d_jax import hlo, parallel, plan, train

# mesh sizes, form of sequence sharding -> the collective that it needs
FORMS = {
    "ulysses": ({"fsdp": 2, "sequence": 4}, "all-to-all"),
    "ring": ({"fsdp": 2, "sequence": 4}, "collective-permute"),
}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def small(sequence):
    config = taco.get_config("debug")
    config.task.dit = {**config.task.dit, "heads": 4}
    config.task.dpa = {**config.task.dpa, "depth": 1}
    config.task.guidance, config.train.sequence = 5.0, sequence
    return config


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["closed_loop_step", "sample_step"])
def test_no_collective_moves_whole_tokens(entry):
    """Blocks exchange tokens against heads; embedding and heads see one sample's tokens at most."""
    axes, needed = FORMS["ulysses"]
    config = plan.of_entry(small("ulysses"), entry)
    mesh, batch = parallel.make_mesh(axes), 2
    function, arguments = plan.program(config, mesh, entry, batch)
    text = function.lower(*arguments).compile(compiler_options=QUICK).as_text()
    found = hlo.collectives(text)
    assert any(one.kind == needed for one in found)
    task = train.load_task(config)
    v, f, h, w, _ = task.latent_shape
    tokens = v * (task.mjd_config.extra_tokens + 2 * f * h * w) * task.mjd_config.dim
    gathers = [one for one in found if one.kind in ("all-gather", "all-reduce")]
    wrong = []
    for one in gathers:
        if one.times == 1 and one.group <= axes["sequence"]:
            continue  # of one sample, outside the loop over blocks
        if any(math.prod(dims) >= tokens for _, dims in one.shapes):
            wrong.append((one.kind, one.shapes, one.times, one.source))
    assert not wrong, "\n".join(map(str, wrong))
