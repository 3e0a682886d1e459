"""Single views with motion, without aligner: against joint_motion.py, inter-view attention alone.

Run as `--config=configs/ablations/single_view_motion.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    off = {"dpa": False, "cycle": False}
    return bases.override(base, task={**bases.apart(base), "cycle": off})
