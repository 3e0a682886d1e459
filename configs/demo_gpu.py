"""The demo's training on one GPU, in as many minutes as the name says (demo/train_gpu.py).

    --config=configs/demo_gpu.py              4 minutes, batches of 32
    --config=configs/demo_gpu.py:2.5,16       two and a half, batches of 16

configs/readings/learned_codec.py:demo-train with networks that compute in bfloat16, and a share of
the time for every stage: how many steps that holds is measured (run/limit.py).
"""

import ml_collections

from configs.readings import learned_codec

SHARES = {"aligner": 0.15, "mjd": 0.6, "joint": 0.25}  # of the time, compilation included
MOST = 100_000  # steps of a stage


def get_config(variant: str = "4,32") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is "MINUTES,BATCH"."""
    try:
        minutes, batch = float(variant.split(",")[0]), int(variant.split(",")[1])
    except (ValueError, IndexError):
        raise ValueError(
            f"configs/demo_gpu.py: wanted MINUTES,BATCH after the colon, got {variant!r}"
        ) from None
    config = learned_codec.get_config("demo-train")
    stages = []
    names = [stage["name"] for stage in config.stages]
    if names != list(SHARES):
        raise ValueError(f"configs/demo_gpu.py: wanted stages {list(SHARES)}, the demo has {names}")
    for stage in (ml_collections.ConfigDict(stage).to_dict() for stage in config.stages):
        own = {"steps": MOST, "minutes": SHARES[stage["name"]] * minutes, "batch_size": batch}
        stages.append(stage | {"train": stage["train"] | own})
    with config.unlocked():
        config.stages = tuple(stages)
        config.task.dit.dtype = config.task.codec.dtype = "bfloat16"
        config.train.checkpoint_every = 500
    return config.lock()
