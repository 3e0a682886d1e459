"""The full-size training step compiled for TPU pods that are not there: memory, collectives.

Needs libtpu (`pip install 'syncmv4d_jax[tpu]'`), which one process of a machine may load at a time:
here processes that compile, one after the other.
"""

import importlib.util

import pytest

from configs import taco
from syncmv4d_jax.machines.planning import compiler, pods
from syncmv4d_jax.run import plan, sections

GIB = 2**30
# topology -> mesh, most GiB of a device, most GB it sends by all-reduce: a tenth or more above what
# docs/pods.md lists. A full-size weight summed whole in every block would add 10 GB and more; so
# would the tokens of all 64 samples on v5p-128, where the compiler gathers by sums.
CASES = {
    "v5e-64": ((1, 8, 1, 8), 6.5, 29.0),
    "v5p-16": ((1, 8, 1, 1), 38.0, 3.5),
    "v5p-128": ((1, 64, 1, 1), 23.0, 78.0),
}
pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="wants libtpu: pip install -e '.[tpu]'"
    ),
]


def planned(topology, entry, mesh):
    settings = sections.PlanConfig(topologies=(topology,), mesh=mesh, until="memory")
    [row] = plan.plan(taco.get_config("full"), settings, pods.find(topology), [], entry, [])
    return row


@pytest.mark.parametrize("topology", CASES)
def test_full_size_step(topology):
    mesh, ceiling, summed = CASES[topology]
    row = planned(topology, "mjd_step", mesh)
    assert row["fits"] and row["kind"] == "memory" and row["peak_bytes"] < ceiling * GIB
    assert row["kernels"] > 0  # splash
    sent = {kind: found["gigabytes"] for kind, found in row["collectives"].items()}
    assert sum(sent.values()) > 24  # weights, 12 GB, forward and backward
    assert (sent.get("all-to-all", 0.0) > 1) == (mesh[3] > 1)  # Ulysses
    assert sent["all-reduce"] < summed


def kernel(topology, tokens):
    """Compiles attention and its gradient to the end; returns the bytes it needs beside inputs."""
    import jax
    import jax.numpy as jnp

    from syncmv4d_jax.models.nn import attention

    _, devices = plan.load_devices(topology)
    cut = jax.NamedSharding(jax.make_mesh((1,), ("a",), devices=devices[:1]), jax.P())
    q = jax.ShapeDtypeStruct((1, tokens, 24, 128), jnp.bfloat16, sharding=cut)

    def loss(q, k, v):
        return jnp.sum(attention.attend(q, k, v, kernel="splash").astype(jnp.float32))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("topology", ["v5e-4", "v5p-8"])
@pytest.mark.parametrize("tokens", [8588, 1980])  # of a view, of a latent frame
def test_tiles_of_attention_fit_the_vector_memory(topology, tokens):
    """The kernels are refused where their tiles do not fit."""
    used = compiler.run(kernel, topology, tokens, names=("none",))
    assert used < 0.75 * GIB  # 17 blocks of keys: over 1.2 GiB at 8588 tokens
