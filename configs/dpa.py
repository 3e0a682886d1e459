"""Warm-up of the aligner alone on tracks with simulated corruption (paper 4.1: 5 K steps).

    python -m syncmv4d_jax.main --config=configs/dpa.py --workdir=out/dpa \
        --config.data.records=/data/taco_records

Expect hours on one accelerator. The start is the closed form of models.dpa.fusion; `distance` is
the mean error of the clean estimate in units of 0.25 m. `:demo` is the size that a CPU trains in
half an hour (docs/dpa.md), `:debug` four tiny steps:

    python -m syncmv4d_jax.main --config=configs/dpa.py:debug --workdir=out/debug
"""

import ml_collections

from configs import sections


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "full", "demo" or "debug"."""
    if variant not in ("full", "demo", "debug"):
        raise ValueError(f"configs/dpa.py: wanted full, demo or debug, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "dpa",
        "size": (480, 704),
        # Cells of the convolution, deviation of the fused tracks, in units of 0.25 m (docs/dpa.md).
        "dpa": {"dtype": "bfloat16", "voxel": 0.032, "octaves": 8, "sigma_coarse": 0.15},
        "corruption": {},
    }
    config.weights = {}
    config.optim = sections.optim(
        learning_rate=1e-4,
        warmup=500,
        weight_decay=1e-2,
        clip=1.0,
        ema=0.999,
    )
    config.train.steps, config.train.batch_size = 5000, 8
    config.mesh = {"data": -1}
    if variant in ("demo", "debug"):
        config.task.dpa = {
            "width": 64, "heads": 2, "depth": 1, "coarse_blocks": 1, "cpe_channels": 32,
            "patch": 256, "remat": False,
        }  # fmt: skip
        config.task.size, config.task.points = (64, 96), 48
        config.task.time_shift = 4.0
        config.task.corruption = {"views": (0.0, 1.0)}
        config.optim = sections.optim(
            name="muon", learning_rate=3e-3, warmup=30, clip=1.0, ema=0.99,
            schedule="cosine", final_fraction=0.02,
        )  # fmt: skip
        config.train.steps, config.train.batch_size = 900, 6
        config.train.checkpoint_every = 100
        config.train.export = "float32"
    if variant == "debug":
        config.task.dpa.width, config.task.dpa.cpe_channels = 16, 8
        config.optim.warmup = 1
        config.train.steps, config.train.batch_size = 4, 1
        config.data.name, config.data.cameras, config.data.raw = "embedded", "fixed", True
        config.train.log_every = config.train.checkpoint_every = 2
    return config.lock()
