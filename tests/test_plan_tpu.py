"""The full-size training step compiled for TPU pods that are not there: memory, collectives.

Needs libtpu (`pip install 'syncmv4d_jax[tpu]'`), which one process of a machine may load at a time.
"""

import importlib.util

import jax
import pytest

from configs import taco
from syncmv4d_jax import plan

GIB = 2**30
# topology -> mesh, most GiB of a device, most GB it sends by all-reduce: a tenth or more above what
# docs/pods.md lists. A full-size weight summed whole in every block would add 10 GB and more.
CASES = {
    "v5e-64": ((1, 8, 1, 8), 6.5, 29.0),
    "v5p-16": ((1, 8, 1, 1), 38.0, 3.5),
}


@pytest.mark.tpu_aot
@pytest.mark.parametrize("topology", CASES)
def test_full_size_step(topology, tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("wants libtpu: pip install -e '.[tpu]'")
    mesh, ceiling, summed = CASES[topology]
    settings = plan.PlanConfig(topologies=(topology,), mesh=mesh)
    config = taco.get_config("full")
    with jax.default_matmul_precision("default"):  # not the tests' "highest": bf16 kernels
        [row] = plan.plan(config, settings, *plan.load_devices(topology), "mjd_step", [])
    assert row["fits"] and row["peak_bytes"] < ceiling * GIB
    assert row["kernels"] > 0  # splash
    sent = row["collectives"]
    assert "all-gather" in sent
    assert ("all-to-all" in sent) == (mesh[3] > 1)  # Ulysses
    assert sent["all-reduce"]["gigabytes"] < summed
