"""Training pairs of one view alone, as in the released code.

Run as `--config=configs/ablations/same_view_pairs.py:demo`; variants: configs/vism.py.
"""

import ml_collections

from configs import bases, vism


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of vism.VARIANTS."""
    return bases.row(vism.get_config, variant, task={"same_view": 1.0})
