"""Sampling with fewer FLOPs (docs/speed.md): guidance in its first part only, steps reused.

Guidance acts where sigma >= 0.75; a plain step stands on the last one's blocks while the input of
the network has changed by less than 20 %. Off elsewhere, since both change the samples. Run as
`--config=configs/readings/fast_sampling.py:demo --config.mode=sample`; bases:
configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"guidance_interval": (0.75, 1.0), "reuse_threshold": 0.2})
