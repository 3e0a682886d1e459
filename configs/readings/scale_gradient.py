"""A9: the aligner's loss reaches MJD through the scale.

Run as `--config=configs/readings/scale_gradient.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"cycle": {"grad": "scale"}})
