"""Table 3, row 2: synchronized views, video only.

Run as `--config=configs/ablations/multi_view.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    off = {"joint_motion": False, "dpa": False, "cycle": False}
    return bases.override(base, task={"dit": {"joint_motion": False}, "cycle": off})
