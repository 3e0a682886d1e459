"""Algorithm 1 to the letter: the loop is closed in every training and every sampling step.

Run as `--config=configs/readings/every_step.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    always = {"probability": 1.0, "refine_every": 1}
    return bases.override(base, task={"cycle": always})
