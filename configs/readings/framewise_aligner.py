"""A18 to the letter: the aligner has no attention over time.

Run as `--config=configs/readings/framewise_aligner.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"dpa": {"temporal": "none"}})
