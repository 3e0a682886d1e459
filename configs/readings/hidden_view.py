"""The reference of one view is hidden in 30 % of the training samples (docs/paper.md).

Run as `--config=configs/readings/hidden_view.py:demo-train`; bases: configs/bases.py. Afterwards
`--config.sample.drop_view=V` samples without the first frame of view V.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"view_drop": 0.3})
