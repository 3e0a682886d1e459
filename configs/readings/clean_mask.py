"""The closed loop's painting cut by the reference image's silhouette (A22, docs/paper.md).

Needs `--config.weights.silhouette=FILE` of configs/silhouette.py. Run as
`--config=configs/readings/clean_mask.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases, silhouette

NETWORKS = {
    "taco": silhouette.FULL,
    "debug": silhouette.DEBUG,
    "demo": silhouette.DEMO,
    "demo-train": silhouette.DEMO,
}


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    network = {"silhouette": dict(NETWORKS.get(base, {}))}
    return bases.override(base, task=network, weights={"silhouette": ""})
