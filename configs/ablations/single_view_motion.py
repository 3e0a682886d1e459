"""Single views with motion, without aligner: against joint_motion.py, inter-view attention alone.

Run as `--config=configs/ablations/single_view_motion.py:demo-train`; bases: configs/bases.py,
docs/ablations.md has the table.
"""

import ml_collections

from configs import bases

EMBEDDED = {"scale_mean": (1.75, 2.0), "scale_std": (0.25, 0.25)}  # of depths from the camera


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    task = {"dit": {"multi_view": False}, "cycle": {"dpa": False, "cycle": False}}
    if base in ("demo", "demo-train", "ablation"):  # one view's rays meet no other's
        task |= {"scale_origin": "camera", **EMBEDDED}
    return bases.override(base, task=task)
