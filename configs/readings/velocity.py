"""Networks predict velocities, as in the paper (the demo predicts clean data).

Run as `--config=configs/readings/velocity.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"prediction": "velocity"})
