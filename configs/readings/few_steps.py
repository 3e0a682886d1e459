"""The loop at few steps (docs/paper.md): what it costs on top of MJD is below 25 %.

The autoencoder runs in every tenth training step (in the others the aligner sees the corruption
model) and in six of 50 sampling steps. Run as `--config=configs/readings/few_steps.py:demo-train`;
bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    few = {"probability": 0.1, "decoded": 0.1, "refine_every": 12, "refine_last": 1}
    return bases.override(base, task={"cycle": few})
