"""Peak host memory of loading a converted transformer into shards, before the optimiser's state.

    python benchmarks/loading.py --folder /tmp/loading --blocks 10 20 --dtype bfloat16

Writes Wan2.2's transformer at full width, cut to so many of its 30 blocks, as data_prep/ would
(values that tell their place), then starts a process of its own with eight fake devices that loads
it as training does (`run.initial.Parameters`, cut over fsdp), compares values, and reports its peak
resident memory. Aim: the bytes of the process's own shards and 1.5 GB, whatever the blocks.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

AIM = 1.5e9
DEVICES = 8


def write(folder: Path, blocks: int, dtype: str) -> None:
    """Writes a converted part `dit`, layer by layer; every layer has its number as its value."""
    from syncmv4d_jax import tree
    from syncmv4d_jax.models.nn import module
    from syncmv4d_jax.models.wan import config as wan_config
    from syncmv4d_jax.models.wan import dit
    from syncmv4d_jax.weights import store

    config = dataclasses.replace(wan_config.TI2V_5B, layers=blocks)
    shapes = {n: s.shape for n, s in tree.flatten(module.shapes(dit.DiT, config)).items()}
    stacked = {name: name.startswith("blocks/") for name in shapes}

    def read(name: str, layer: int | None) -> np.ndarray:
        shape = shapes[name][1:] if stacked[name] else shapes[name]
        return np.full(shape, 0 if layer is None else layer, np.float32)

    leaves = store.Leaves(
        config=config,
        shapes=shapes,
        dtypes=dict.fromkeys(shapes, np.dtype(np.float32)),
        slices={n: range(blocks) if stacked[n] else (None,) for n in shapes},
        read=read,
        provenance=lambda: {"by": "benchmarks/loading.py"},
        tokenizer=[],
    )
    (folder / "dit").mkdir(parents=True)
    store.write(leaves, "dit", folder / "dit", dtype, lambda _: None)


def load(folder: Path, blocks: int, dtype: str) -> None:
    """Loads it as training with frozen weights does and prints the figures as JSON."""
    import jax

    from configs import wan_ti2v
    from syncmv4d_jax.machines import mesh as meshes
    from syncmv4d_jax.run import assembly, initial

    config = wan_ti2v.get_config("lora")
    with config.unlocked():
        config.task.dit.layers = blocks
        config.train.frozen_dtype, config.train.random_frozen = dtype, True
        config.weights.dit = str(folder)
    stage, mesh = assembly.read(config), meshes.make_mesh({"fsdp": DEVICES})
    task = assembly.task(config, mesh)
    before, begun = peak(), time.perf_counter()
    parameters = initial.Parameters(task, stage, mesh)
    names = [name for name in parameters.leaves if name.startswith("dit/")]
    made = jax.block_until_ready(parameters.make(names))["dit"]
    seconds, after = time.perf_counter() - begun, peak()
    leaves = jax.tree.leaves(made)
    held = sum(shard.data.nbytes for x in leaves for shard in x.addressable_shards)
    kernel = made["blocks"]["ffn"]["linear_0"]["kernel"]
    assert kernel.shape == (blocks, 3072, 14336) and not kernel.sharding.is_fully_replicated
    for layer in (0, blocks - 1):
        assert float(kernel[layer, 17, 5]) == layer == float(kernel[layer, -1, -1])
    print(json.dumps({"before": before, "peak": after, "shards": held, "seconds": seconds}))


def peak() -> int:
    """Returns the largest resident memory that this process has had, bytes."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def measure(folder: Path, blocks: int, dtype: str) -> dict[str, float]:
    """Writes the weights and loads them in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    call = [sys.executable, __file__, "--folder", str(folder), "--dtype", dtype]
    try:
        for do in ("write", "load"):
            command = [*call, "--blocks", str(blocks), "--do", do]
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="for weights; removed again")
    parser.add_argument("--blocks", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--do", default="all", choices=("all", "write", "load"))
    args = parser.parse_args()
    if args.do != "all":
        {"write": write, "load": load}[args.do](args.folder, args.blocks[0], args.dtype)
        return
    print("| blocks | dtype | shards GB | before GB | peak GB | peak - shards GB | aim | s |")
    print("|---|---|---|---|---|---|---|---|")
    for blocks in args.blocks:
        row = measure(args.folder, blocks, args.dtype)
        over = row["peak"] - row["shards"]
        cells = [row["shards"], row["before"], row["peak"], over, AIM]
        shown = " | ".join(f"{x / 1e9:.2f}" for x in cells)
        print(f"| {blocks} | {args.dtype} | {shown} | {row['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
