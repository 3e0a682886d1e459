"""All readings to the letter of Algorithm 1 together: A8, A11, A18, every step, uniform t.

Run as `--config=configs/readings/literal.py:demo-train`; bases: configs/bases.py.
"""

import ml_collections

from configs import bases


def get_config(base: str = "taco") -> ml_collections.ConfigDict:
    """Returns the configuration; `base` is one of bases.BASES."""
    task = {
        "dit": {"inject": "literal_sum"},
        "dpa": {"temporal": "none"},
        "cycle": {"cond": "noisy", "probability": 1.0, "refine_every": 1},
        "prediction": "velocity",
        "time_shift": 1.0,
    }
    return bases.override(base, task=task)
