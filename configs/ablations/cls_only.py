"""The motion module reads one feature for the whole frame, not one a place.

Run as `--config=configs/ablations/cls_only.py:demo`; variants: configs/strag.py.
"""

import ml_collections

from configs import bases, strag


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of strag.VARIANTS."""
    seen = strag.get_config(variant).task.perception.to_dict()
    return bases.row(strag.get_config, variant, task={"perception": {**seen, "pooled": True}})
