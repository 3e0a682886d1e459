"""Table 3, row 4: the aligner refines the generated motion, nothing is fed back.

Run as `--config=configs/ablations/aligner.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"cycle": {"cycle": False}})
