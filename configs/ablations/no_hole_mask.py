"""The network is not told which pixels points cover.

Run as `--config=configs/ablations/no_hole_mask.py:demo`; variants: configs/vism.py.
"""

import ml_collections

from configs import bases, vism


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of vism.VARIANTS."""
    return bases.row(vism.get_config, variant, task={"mask": False})
