"""Converts a full-size DiT of random bfloat16 weights (10 GB, three shards) and watches memory.

    python benchmarks/wan_conversion.py --folder /tmp/wan_full

Prints sizes, seconds and the peak of anonymous memory over the largest shard's size, then compares
every tensor after the way to ours and back. Needs 20 GB of disk; the folder is removed at the end.
"""

import argparse
import json
import shutil
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.weights import engine, files, release


def write_source(folder: Path) -> int:
    """Writes an official folder of random weights; returns the size of its largest shard."""
    folder.mkdir(parents=True)
    config = wan_config.TI2V_5B
    shapes = release.shapes_of("dit", config)
    planned = engine.reference_slices(release.TABLES["dit"](config, "official"), shapes)
    rng = np.random.default_rng(0)

    def entry(shape):
        def read():
            bits = rng.integers(0, 2**16, shape, np.uint16) & 0xBFFF  # finite, below two
            return bits.view(ml_dtypes.bfloat16)

        return files.Entry(shape, np.dtype(ml_dtypes.bfloat16), read)

    entries = {key: entry(shape) for key, shape in planned.shapes.items()}
    files.write_sharded(
        folder, "diffusion_pytorch_model", entries, shard_bytes=4 * 10**9, progress=lambda n: None
    )
    sizes = {
        "dim": config.dim, "eps": config.eps, "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim, "in_dim": config.in_channels, "model_type": "ti2v",
        "num_heads": config.heads, "num_layers": config.layers, "out_dim": config.out_channels,
        "text_len": config.text_len,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


class Memory(threading.Thread):
    """Watches the anonymous resident memory of this process, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.start_bytes = self.peak = self.now()
        self.done = threading.Event()

    @staticmethod
    def now() -> int:
        """Returns RssAnon."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(x for x in lines if x.startswith("RssAnon")).split()[1])

    def run(self) -> None:
        """Samples until `done` is set."""
        while not self.done.wait(0.02):
            self.peak = max(self.peak, self.now())


def main() -> None:
    """Writes, converts to ours and back, compares all bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    base = Path(parser.parse_args().folder)
    try:
        largest = write_source(base / "src")
        for to, src, out in (("jax", "src", "weights"), ("diffusers", "weights", "back")):
            memory = Memory()
            memory.start()
            begin = time.perf_counter()
            release.convert(base / src, base / out, to=to, parts=["dit"])
            seconds = time.perf_counter() - begin
            memory.done.set()
            memory.join()
            print(
                f"to {to}: {seconds:.0f} s, anonymous memory {memory.peak / 1e9:.2f} GB at its "
                f"peak ({memory.start_bytes / 1e9:.2f} GB before), largest shard "
                f"{largest / 1e9:.2f} GB, ratio {memory.peak / largest:.2f}",
                flush=True,
            )
            if to == "jax":
                shutil.rmtree(base / "src")  # the comparison below regenerates it
        check(base / "back/transformer")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def check(folder: Path) -> None:
    """Compares the exported tensors with the random source, in the order it was written."""
    rng = np.random.default_rng(0)
    config = wan_config.TI2V_5B
    shapes = release.shapes_of("dit", config)
    tables = [release.TABLES["dit"](config, layout) for layout in ("official", "diffusers")]
    official, diffusers = (engine.reference_slices(rules, shapes) for rules in tables)
    names = {
        a.key: b.key
        for path in shapes
        for a, b in zip(official.slices[path], diffusers.slices[path], strict=True)
    }
    exported = files.open_sharded(folder, "diffusion_pytorch_model").entries
    for key, shape in official.shapes.items():
        bits = rng.integers(0, 2**16, shape, np.uint16) & 0xBFFF
        if not np.array_equal(exported[names[key]].read().view(np.uint16), bits):
            raise SystemExit(f"{key} differs from {names[key]} after the round trip")
    print(f"round trip: {len(official.shapes)} tensors equal, bit by bit")


if __name__ == "__main__":
    main()
