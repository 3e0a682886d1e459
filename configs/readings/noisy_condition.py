"""A11 to the letter (line 7): the feedback decodes the noisy latents, with the true scale.

Run as `--config=configs/readings/noisy_condition.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"cycle": {"cond": "noisy"}})
