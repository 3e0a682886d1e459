"""Without the motion-sensitive module.

Run as `--config=configs/ablations/no_mpm.py:demo`; variants: configs/strag.py.
"""

import ml_collections

from configs import bases, strag


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of strag.VARIANTS."""
    return bases.row(strag.get_config, variant, task={"perception": {"source": "none"}})
