"""The scale told from the point that the views' middle rays meet in (A5, docs/paper.md).

Crops lie about what moves, so that the cameras alone tell most of a depth: on the embedded scenes
(nearest, farthest) deviate by 0.22 m counted from the camera, by 0.05 m from that point, and
configs/demo.py counts so. Bases: configs/bases.py.
"""

import ml_collections

from configs import bases

STATISTICS = {
    "taco": {"scale_mean": (-0.25, 0.25), "scale_std": (0.15, 0.15)},
    "debug": {"scale_mean": (-0.15, 0.15), "scale_std": (0.05, 0.05)},
}


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"scale_origin": "centre", **STATISTICS.get(base, {})})
