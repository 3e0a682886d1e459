"""NVIDIA GPUs that are not there, for XLA's compiler: no device, no driver, no cuDNN needed.

What the compiler asks of a GPU is a text of about thirty numbers (XLA's GpuTargetConfigProto); its
CUDA plugin turns it into devices that programs are lowered and compiled for. The plugin's two
wheels are enough as far as the memory (`compiler.run`); to compile to the end ptxas and libdevice
are wanted too, of a CUDA toolkit or nvidia-cuda-nvcc-cu12. The plugin must not look for a GPU: run
with JAX_PLATFORMS=cpu.
"""

import dataclasses
import importlib.util
import json
import os
from typing import Any

import jax
from jax.experimental import topologies

from syncmv4d_jax.machines.planning import pods

PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
# What no program's memory says.
NOT_COUNTED = (
    "workspaces of cuDNN: attention's backward pass about 0.3 GiB a sample, convolutions unknown",
    "CUDA context, kernels and NCCL buffers, 1 to 2 GB outside of what XLA reserves",
)
CUDNN = 91002  # 9.10.2


@dataclasses.dataclass(frozen=True)
class Spec:
    """A GPU as XLA describes it.

    Attributes:
      name: as its driver gives it.
      capability: (major, minor).
      cores: multiprocessors; units: of float32 in one.
      shared: bytes of shared memory of a multiprocessor; block: most of it that a block may use.
      threads: of a multiprocessor.
      cache: bytes of the second level.
      clock: GHz.
      memory: bytes.
      bandwidth: of memory, bytes/s.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    units: int
    shared: int
    block: int
    threads: int
    cache: int
    clock: float
    memory: int
    bandwidth: float


# The numbers of XLA's own descriptions; those of L4, 4090 and 4080, which it has none of, are
# NVIDIA's data sheets', their memory what users see (4080: of another card of 16 GB).
SPECS = {
    "a100": Spec("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 2048, 41943040, 1.41,
                 85100068864, 2.03904e12),
    "h100": Spec("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 2048, 52428800, 1.98,
                 84942979072, 3.35232e12),
    "h200": Spec("NVIDIA H200", (9, 0), 132, 128, 233472, 232448, 2048, 52428800, 1.98,
                 151397597184, 4.8e12),
    "b200": Spec("NVIDIA B200", (10, 0), 148, 128, 233472, 232448, 2048, 132644864, 1.965,
                 191514411008, 7.67232e12),
    "l4": Spec("NVIDIA L4", (8, 9), 58, 128, 102400, 101376, 1536, 50331648, 2.04,
               23580639232, 3.0e11),
    "4090": Spec("NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 102400, 101376, 1536, 75497472, 2.52,
                 25393692672, 1.008e12),
    "4080": Spec("NVIDIA GeForce RTX 4080", (8, 9), 76, 128, 102400, 101376, 1536, 67108864, 2.505,
                 16761110528, 7.168e11),
}  # fmt: skip


def devices(topology: pods.Topology) -> list[Any]:
    """Returns descriptions of a topology's devices, a process for each host.

    Raises:
      ModuleNotFoundError: no CUDA plugin of jax.
    """
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        raise ModuleNotFoundError(
            f"planning for {topology.name} needs jax's CUDA plugin: `pip install --no-deps "
            f"jax-cuda12-plugin=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}` (180 MB, no "
            "CUDA), best in an environment of its own; `make plan-gpu` makes one in .cache/gpu"
        )
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    _spare_cudnn()
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=target_config(SPECS[topology.chip]),
        topology=topology.shape,
    )
    return list(described.devices)


def target_config(spec: Spec) -> str:
    """Returns the text that describes a GPU to XLA."""
    major, minor = spec.capability
    own = " feature_extension: ACCELERATED_FEATURES" * (major >= 9)  # sm_90a, sm_100a
    numbers = {
        "name": spec.name, "core_count": spec.cores, "fpus_per_core": spec.units,
        "shared_memory_per_core": spec.shared, "shared_memory_per_block": 49152,
        "shared_memory_per_block_optin": spec.block, "threads_per_core_limit": spec.threads,
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "l2_cache_size": spec.cache,
        "clock_rate_ghz": spec.clock, "device_memory_size": spec.memory,
        "memory_bandwidth": int(spec.bandwidth), "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536, "device_address_bits": 64, "ecc_enabled": True,
        "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535, "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024, "thread_dim_limit_y": 1024, "thread_dim_limit_z": 64,
        "device_vendor": "NVIDIA Corporation", "driver_version": "12.9.0",
        "runtime_version": "12.9.0", "compile_time_toolkit_version": "12.9.0",
        "dnn_version": "9.10.2",
    }  # fmt: skip
    lines = [f"  {key}: {json.dumps(value)}" for key, value in numbers.items()]
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            f"  cuda_compute_capability {{ major: {major} minor: {minor}{own} }}",
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 patch: 2 }",
            f"device_description_str: {json.dumps(spec.name)}",
        ]
    )


def need(memory: Any) -> int:
    """Returns the bytes that a compiled program's `memory_analysis()` asks of a device."""
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return held - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def _spare_cudnn() -> None:
    """Lets jax lower calls of cuDNN where it is not installed: XLA does not ask for it."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    try:
        fused.check_cudnn_version()
    except RuntimeError:
        fused.check_cudnn_version = lambda: CUDNN
