"""The embedded demo: the paper's architecture at small numbers, minutes on a CPU.

    make demo            scenes, records, a short fine-tuning of shipped weights, samples, report
    make demo-train      the shipped weights from scratch (hours on a CPU, resumable)

`:ablation` is the base of the rows of docs/ablations.md: single views and video alone first, as the
paper starts from Wan, then what a row switches on. `:loop` goes on from its end with the loop
closed in every step. `:guidance` goes on from shipped weights with text dropped now and then: what
guidance needs and the other variants leave out (docs/speed.md).

64 x 96 pixels, 13 frames at 8 fps, three views, 256 points; four MJD blocks of width 192, an
aligner of two super-blocks, an autoencoder of Wan2.2's form (48 channels, 4 x 8 x 8). What differs
from the full size is configuration: the networks predict the clean data, views know the rays of
their tokens (A13), the optimiser is Muon.
"""

from typing import Any

import ml_collections

from configs import sections, wan_vae

VARIANTS = ("tune", "train", "ablation", "loop", "guidance")
RATES = ((r"^dit/scale_head/", 0.1), (r"kernel$", 1.0), (r".*", 0.2))
SLOWER = (r"^(dit|prior)/", 0.2), (r".*", 1.0)  # what was there before the aligner
# What its transformer has besides Wan's: a single view starts without it (`train.unused`).
OF_MJD = r"^dit/(blocks/)?(camera|extra|feedback|inter_view|motion|scale)_"
WITHOUT_LOOP = {"dpa": False, "cycle": False}
VIDEO_ONLY = {"joint_motion": False, **WITHOUT_LOOP}


def get_config(variant: str = "tune") -> ml_collections.ConfigDict:
    """Returns the configuration; "tune" starts from the shipped weights, which "train" makes."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/demo.py: wanted one of {VARIANTS}, got {variant!r}")
    config = sections.base()
    config.task = {
        "name": "syncmv4d",
        "size": (64, 96),
        "frames": 13,
        "views": 3,
        "points": 256,
        "dit": transformer()
        | {
            "camera_embedding": True,
            "camera_form": "rays",
            "unroll": 1 if variant == "tune" else 4,  # pays after minutes: it compiles longer
        },
        "dpa": {"width": 64, "depth": 2, "coarse_blocks": 1, "cpe_channels": 32, "patch": 256},
        "vae": dict(wan_vae.get_config("demo").task.vae),
        "cycle": {
            "cycle": True,
            "probability": 0.25,
            "earlier": 0.5,
            "refine_every": 4,
            "refine_last": 2,
            "sweep": True,
        },
        "prediction": "data",
        "scale_origin": "centre",
        "scale_mean": (-0.15, 0.15),
        "scale_std": (0.05, 0.05),
        "text_drop": 0.0,
        "time_shift": 3.0,
        "foreground_gain": 4.0,
        "frame0_gain": 3.0,
        "scale_weight": 0.1,
        "guidance": 1.0,
        "sampler": "euler",
        "sample_steps": 8,
        "sample_shift": 3.0,
        "vae_batch": 3,
    }
    config.text.max_length = 48
    config.optim = sections.optim(
        name="muon",
        learning_rate=1e-2,
        multipliers=RATES,
        schedule="cosine",
        warmup=50,
        final_fraction=0.05,
        clip=1.0,
        ema=0.99,
    )
    config.train.batch_size = 1
    config.train.log_every = 10
    config.train.new = r".*"
    config.train.export = "bfloat16"
    if variant == "train":
        config.train.checkpoint_every = 200
        config.stages = (_warm_up(config.task, steps=900), *_stages(mjd=3000, joint=60))
    elif variant in ("ablation", "loop"):
        alone = {"dit": {"multi_view": False, "joint_motion": False}, "cycle": VIDEO_ONLY}
        config.train.checkpoint_every = 200
        config.stages = (
            {"name": "video", "train": {"steps": 2000}, "task": alone,
             "optim": {"multipliers": RATES[1:]}},
            *_stages(mjd=1000, joint=60),
        )  # fmt: skip
        if variant == "loop":
            config.stages += (_closed(steps=100),)
    elif variant == "guidance":
        config.train.checkpoint_every = 100
        task = {"text_drop": 0.25, "cycle": WITHOUT_LOOP}
        config.stages = (
            {"name": "guidance", "train": {"steps": 500}, "task": task,
             "optim": {"learning_rate": 3e-3}},
        )  # fmt: skip
    else:
        config.train.steps = 40
        config.train.checkpoint_every = 20
        config.optim.learning_rate = 3e-4
    config.lock()
    return config


def transformer() -> dict[str, Any]:
    """Sizes of the transformer, of Wan's keys alone; what starts from its weights has the same."""
    small = sections.small_dit(dim=192, layers=4, heads=3)
    return small | {"in_channels": 48, "out_channels": 48, "patch": (1, 2, 2)}


def _stages(*, mjd: int, joint: int) -> tuple[dict, ...]:
    """MJD alone, then the closed loop at a lower rate for what was there before."""
    return (
        {
            "name": "mjd",
            "train": {"steps": mjd, "batch_size": 4},
            "task": {"cycle": WITHOUT_LOOP},
        },
        {
            "name": "joint",
            "train": {"steps": joint},
            "optim": {"learning_rate": 3e-3, "multipliers": SLOWER},
        },
    )


def _warm_up(task: ml_collections.ConfigDict, *, steps: int) -> dict:
    """The aligner alone on simulated corruption, before it joins (paper 4.1; configs/dpa.py)."""
    alone = {"name": "dpa", "size": task.size, "points": 48, "dpa": task.dpa.to_dict(),
             "time_shift": 4.0, "corruption": {"views": (0.0, 1.0)}}  # fmt: skip
    return {
        "name": "aligner",
        "task": alone,
        "train": {"steps": steps, "batch_size": 6},
        "optim": {"learning_rate": 3e-3, "multipliers": (), "warmup": 30, "final_fraction": 0.02},
    }


def _closed(*, steps: int) -> dict:
    """Every step closes the loop; the embedding of the feedback, zero until `joint`, is fast."""
    return {
        "name": "loop",
        "train": {"steps": steps},
        "task": {"cycle": {"probability": 1.0}},
        "optim": {"learning_rate": 3e-3, "multipliers": ((r"^dit/feedback_", 10.0), *SLOWER)},
    }
