"""What the configurations of ablations/ and readings/ change, named after the colon.

--config=configs/ablations/aligner.py               configs/taco.py
--config=configs/ablations/aligner.py:debug         configs/taco.py:debug
--config=configs/ablations/aligner.py:demo          configs/demo.py
--config=configs/ablations/aligner.py:demo-train    configs/demo.py:train
--config=configs/ablations/aligner.py:ablation      configs/demo.py:ablation (docs/ablations.md)
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from configs import demo, taco

BASES = {
    "taco": taco.get_config,
    "debug": lambda: taco.get_config("debug"),
    "demo": demo.get_config,
    "demo-train": lambda: demo.get_config("train"),
    "ablation": lambda: demo.get_config("ablation"),
}


DEMOS = ("demo", "demo-train", "ablation")  # of configs/demo.py
FROM_CAMERA = {
    "scale_origin": "camera", "scale_mean": (1.75, 2.0), "scale_std": (0.25, 0.25),
}  # fmt: skip


def apart(base: str) -> dict[str, Any]:
    """What views by themselves want of `task`: depths from the camera, as the rays of one view meet
    those of no other."""
    return {"dit": {"multi_view": False}, **(FROM_CAMERA if base in DEMOS else {})}


def row(
    make: Callable[[str], ml_collections.ConfigDict], variant: str, **sections: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns a variant of another configuration (its get_config) with entries replaced."""
    config = make(variant)
    with config.unlocked():
        config.update(ml_collections.ConfigDict(dict(sections)).to_dict())
    return config.lock()


def override(base: str, **sections: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the configuration named `base` with entries of sections replaced.

    Stages of other tasks follow where they train the same part: one that trains the aligner alone
    takes `task.dpa`, and is left out where the aligner is switched off.

    Raises:
      ValueError: an unknown base or section.
    """
    if base not in BASES:
        raise ValueError(f"wanted a base of {sorted(BASES)} after the colon, got {base!r}")
    config = BASES[base]()
    if unknown := sorted(sections.keys() - set(config.keys())):
        raise ValueError(f"unknown sections {unknown}; {base} has {sorted(config.keys())}")
    task = sections.get("task", {})
    aligned = task.get("cycle", {}).get("dpa", True)
    stages = []
    for stage in config.stages:
        stage = ml_collections.ConfigDict(stage).to_dict()
        if stage.get("task", {}).get("name", "syncmv4d") == "dpa":
            if not aligned:
                continue
            stage["task"]["dpa"] = {**stage["task"]["dpa"], **task.get("dpa", {})}
        stages.append(stage)
    if not task.get("dit", {}).get("joint_motion", True) and "multipliers" in config.optim:
        # A rate of its own for a part that is switched off would name no parameter.
        rates = (rate for rate in config.optim.multipliers if "scale_head" not in rate[0])
        sections = {**sections, "optim": {"multipliers": tuple(rates)}}
    with config.unlocked():
        config.update(ml_collections.ConfigDict(dict(sections)).to_dict())
        config.stages = tuple(stages)
    return config.lock()
