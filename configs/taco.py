"""SyncMV4D on TACO at the paper's size.

    python -m syncmv4d_jax.main --config=configs/taco.py --workdir=out/taco \
        --config.data.records=/data/taco_records --config.weights.dit=/data/wan/dit \
        --config.weights.vae=/data/wan/vae

30 blocks of width 3072, three views of 49 frames at 480 x 704, K = 1600. Four stages hand over by
checkpoint (paper 4.1): the aligner alone and Wan on single views, 5 K steps each on 10 % of the
data, then the whole for 20 K steps at 256 x 384 and 10 K at 480 x 704. RECORDS (and a cache of
them) hold both sizes, in folders 256x384 and 480x704 as data_prep/ writes them. `:debug` runs the
last stage's code on embedded scenes, tiny, in about a minute on a CPU, `:stages` all four stages:

    python -m syncmv4d_jax.main --config=configs/taco.py:debug --workdir=out/debug
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import sections

VARIANTS = ("full", "debug", "stages")


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "full", "debug" or "stages"."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/taco.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "syncmv4d",
        "size": (480, 704),
        "frames": 49,
        "views": 3,
        "points": 1600,
        "dit": {"remat": "full", "residual_dtype": "float32"},
        "dpa": {"dtype": "bfloat16"},
        "vae": {"dtype": "float32"},
        "vae_chunk": 0,
        "cycle": {},
        # Of the loss's terms: all alike in the paper.
        "video_weight": 1.0, "motion_weight": 1.0, "scale_weight": 1.0,
        "dpa_weight": 1.0, "chamfer_weight": 1.0,
    }  # fmt: skip
    config.optim = sections.optim(
        learning_rate=1e-4,
        multipliers=((sections.WAN_PATHS, 0.1),),  # Wan's own weights at 1e-5
        warmup=500,
        weight_decay=1e-2,
        clip=1.0,
        ema=0.999,
    )
    config.train.batch_size = 8
    config.train.steps = 30_000
    config.train.new = sections.NEW_PATHS
    config.mesh = {"data": 1, "fsdp": -1, "view": 1, "sequence": 1}
    config.stages = _stages(size=(256, 384), steps=(5000, 5000, 20_000, 10_000))
    if variant != "full":
        sections.shrink(config)
    if variant == "stages":
        config.stages = _stages(
            size=config.task.size, steps=(2, 2, 2, 2), dit=config.task.dit, dpa=config.task.dpa,
            vae=config.task.vae, frames=config.task.frames, share=1.0,
        )  # fmt: skip
    return config


def _stages(
    *,
    size: tuple[int, int],
    steps: tuple[int, int, int, int],
    dit: Mapping[str, Any] | None = None,
    dpa: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    frames: int = 49,
    share: float = 0.1,
) -> tuple[dict[str, Any], ...]:
    """The schedule of the paper (4.1): two warm-ups on a share of the data, then two sizes."""
    aligner = {"name": "dpa", "size": size, "dpa": dict(dpa or {"dtype": "bfloat16"})}
    single = {
        "name": "wan_ti2v", "size": size, "frames": frames, "views": 3, "time_shift": 5.0,
        "dit": dict(dit or {"remat": "full"}), "vae": dict(vae or {}),
    }  # fmt: skip
    part = {"data": {"share": share}}
    return (
        {"name": "aligner", "task": aligner, "train": {"steps": steps[0], "new": ""},
         "optim": {"multipliers": ()}, **part},
        {"name": "single_view", "task": single, "train": {"steps": steps[1], "new": ""},
         "optim": {"multipliers": (), "learning_rate": 1e-5}, **part},
        {"name": "low", "task": {"size": size}, "train": {"steps": steps[2]}},
        {"name": "high", "train": {"steps": steps[3]}},
    )  # fmt: skip
