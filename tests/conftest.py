"""Test settings: eight fake CPU devices, strict rank promotion, quick compilation."""

import gc
import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile more than they compute: half of the suite's time was LLVM's optimiser.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
# So were the emitters of fused loops. Their sums differ in the last bit between programs: a test
# that wants equality to the bit compiles by support/exactly.py, as programs are compiled.
FLAGS += " --xla_cpu_use_fusion_emitters=false"
# A fake device that waits for its turn on a busy core is not dead: XLA aborts after 40 s.
FLAGS += " --xla_cpu_collective_call_terminate_timeout_seconds=900"
# Programs of several fake devices that XLA:CPU reads back from a cache may run their collectives in
# another order on each device, and wait for each other for ever.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()

# Threads of XLA's pool. With one a device, two collectives that do not wait for each other may each
# hold some of them, and both wait for the rest for ever.
os.environ["NPROC"] = "64"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import pytest  # noqa: E402

jax.devices()  # makes the pool
del os.environ["NPROC"]  # to a launched process it is the number of processes

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drops a file's compiled programs: all of them together take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def double(monkeypatch):
    """Every cast to float32 goes to float64: the same program at twice the precision."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        yield
