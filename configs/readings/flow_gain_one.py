"""Companding of the paper: g = 1, which costs more of a decoder's error (docs/more4d.md).

Run as `--config=configs/readings/flow_gain_one.py:demo`; variants: configs/strag.py.
"""

import ml_collections

from configs import bases, strag


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of strag.VARIANTS."""
    return bases.row(strag.get_config, variant, task={"gain": 1.0})
