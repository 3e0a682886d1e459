"""ViSM from Wan2.2-Fun-5B-InP, whose patch embedding reads mask and picture already.

    python data_prep/convert_weights.py --src Wan2.2-Fun-5B-InP --out /data/fun --parts dit

Run as `--config=configs/readings/fun_inp_start.py --config.weights.dit=/data/fun`; nothing of the
transformer is new then. Variants: configs/vism.py.
"""

import ml_collections

from configs import bases, vism


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is of vism.VARIANTS."""
    return bases.row(vism.get_config, variant, train={"new": ""})
