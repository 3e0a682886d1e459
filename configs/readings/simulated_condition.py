"""A11: the feedback comes from true tracks through the corruption model.

Run as `--config=configs/readings/simulated_condition.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"cycle": {"cond": "sim"}})
