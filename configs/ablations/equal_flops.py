"""Table 3, an extra row: video only (row 2) trained for as many FLOPs as the full model.

The factors on the steps follow from `tasks.syncmv4d.cost.training` of both rows. Run as
`--config=configs/ablations/equal_flops.py:demo-train`; bases: configs/bases.py, docs/ablations.md
has the table.
"""

import ml_collections

from configs.ablations import multi_view

FACTORS = {"taco": 4.73, "debug": 12.8, "demo": 6.13, "demo-train": 2.64, "ablation": 2.77}


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    config = multi_view.get_config(base)
    longer = lambda steps: round(FACTORS[base] * steps)  # noqa: E731
    stages = []
    for stage in config.stages:
        joint = stage.get("task", {}).get("name", "syncmv4d") == "syncmv4d"
        joint &= stage["name"] != "video"  # what all rows start from
        train = {**stage["train"], "steps": longer(stage["train"]["steps"])}
        stages.append({**stage, "train": train} if joint else stage)
    with config.unlocked():
        config.train.steps = longer(config.train.steps)
        config.stages = tuple(stages)
    return config.lock()
