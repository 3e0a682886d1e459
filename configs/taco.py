"""SyncMV4D on TACO at the paper's size.

    python -m syncmv4d_jax.main --config=configs/taco.py --workdir=out/taco \
        --config.data.records=/data/taco_records --config.weights.dit=/data/wan/dit \
        --config.weights.vae=/data/wan/vae

30 blocks of width 3072, three views of 49 frames at 480 x 704, K = 1600. Stages: the aligner's and
Wan's warm-up (5 K steps each), 20 K joint steps at 256 x 384, 10 K at 480 x 704 (paper 4.1; facts
in docs/paper.md). `:debug` runs the same code on embedded scenes, tiny, in about a minute on a CPU:

    python -m syncmv4d_jax.main --config=configs/taco.py:debug --workdir=out/debug
"""

import ml_collections

from configs import sections


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "full" or "debug"."""
    if variant not in ("full", "debug"):
        raise ValueError(f"configs/taco.py: wanted full or debug, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "syncmv4d",
        "size": (480, 704),
        "frames": 49,
        "views": 3,
        "points": 1600,
        "dit": {"remat": "full"},
        "dpa": {"dtype": "bfloat16"},
        "vae": {},
        "cycle": {},
    }
    config.optim = {
        "learning_rate": 1e-4,
        "multipliers": ((sections.WAN_PATHS, 0.1),),  # Wan's own weights at 1e-5
        "warmup": 500,
        "weight_decay": 1e-2,
        "clip": 1.0,
        "ema": 0.999,
    }
    config.train.batch_size = 8
    config.train.steps = 30_000
    config.train.new = sections.NEW_PATHS
    config.mesh = {"data": 1, "fsdp": -1, "view": 1, "sequence": 1}
    config.stages = (
        {"name": "low", "train": {"steps": 20_000}, "task": {"size": (256, 384)}},
        {"name": "high", "train": {"steps": 10_000}},
    )
    if variant == "debug":
        sections.shrink(config)
    return config
