"""A22: t ~ U(0, 1) in joint training, as in the paper (the demo shifts it by 3).

Run as `--config=configs/readings/uniform_time.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"time_shift": 1.0})
