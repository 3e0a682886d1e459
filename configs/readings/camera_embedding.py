"""A13, beyond the paper: extrinsics through a zero-initialised map before inter-view attention.

The demo has such a map anyway, of its tokens' rays; this is of the views' poses in its place. Run
as `--config=configs/readings/camera_embedding.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    return bases.override(base, task={"dit": {"camera_embedding": True, "camera_form": "pose"}})
