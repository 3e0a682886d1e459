"""Table 3, row 3 (Table 4, row 2): views and motion; tracks are read off the generated motion.

Run as `--config=configs/ablations/joint_motion.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"cycle": {"dpa": False, "cycle": False}})
