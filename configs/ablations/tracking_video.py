"""Table 4, row 1: the tracking video of DaS, depth of frame 0 in all frames; no aligner, no loop.

Needs records of prepare_taco.py --representation das_tracking.
Run as `--config=configs/ablations/tracking_video.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    off = {"dpa": False, "cycle": False}
    return bases.override(base, task={"motion_repr": "das_tracking", "cycle": off})
