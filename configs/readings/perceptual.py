"""LPIPS of the decoded clean estimate in the loss, at late times and in a quarter of the steps.

Wants `--config.weights.lpips=FOLDER` of the published weights (docs/metrics.md). Run as
`--config=configs/readings/perceptual.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"perceptual_weight": 0.1}, weights={"lpips": ""})
