"""A8 to the letter: the fed back latents are added to the noisy motion latents.

Run as `--config=configs/readings/literal_sum.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"dit": {"inject": "literal_sum"}})
