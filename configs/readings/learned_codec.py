"""The loop with the learned motion codec in place of the autoencoder (docs/paper.md).

Needs `--config.weights.codec=FILE` of configs/motion_codec.py; tracks are matched and painted at a
reduced size. Run as `--config=configs/readings/learned_codec.py:demo-train`; bases:
configs/bases.py.
"""

import ml_collections

from configs import bases, motion_codec

CODECS = {
    "taco": motion_codec.FULL,
    "debug": motion_codec.TINY,
    "demo": motion_codec.DEMO,
    "demo-train": motion_codec.DEMO,
}


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    codec = {"codec": dict(CODECS.get(base, {}))}
    return bases.override(base, task=codec, weights={"codec": ""})
