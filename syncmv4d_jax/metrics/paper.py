"""The paper's Tables 1 to 4 as published, and which of their columns a number may stand beside.

A number is comparable with the paper's when its formula is known, and the data, the size and the
frame rate are the paper's. The paper publishes no formulas: two columns are VBench's own code, two
of the names are GeometryCrafter's, the rest is a reading (docs/metrics.md).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

RESOLUTION, FRAMES, VIEWS, FPS = [480, 704], 49, 3, 8.0
Row = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
      title: its number and what it is of.
      columns: our metrics, in the paper's order.
      rows: name -> published values, None where it has none.
      ours: the row of an evaluation to put beside them; "" for all.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, Row]
    ours: str = ""


TABLES = (
    Table(
        "Table 1: video quality",
        ("subject_consistency", "dynamic_degree", "matching_pixels", "clip_v"),
        {
            "SyncMV4D (paper)": (0.9351, 0.9877, 529.4, 83.67),
            "Wan2.2 (paper)": (0.9562, 0.4521, 33.8, 76.78),
            "SViMo (paper)": (0.9285, 0.9601, 137.5, 82.88),
            "DaS (paper)": (0.8828, 0.9962, 182.3, 83.34),
            "SV4D 2.0 (paper)": (0.7988, 0.8628, 108.7, 79.31),
        },
    ),
    Table(
        "Table 2: motion",
        ("rpe", "pi", "chamfer", "smoothness", "mv_rpe", "mv_pi"),
        {
            "SyncMV4D (paper)": (15.2, 98.2, 0.0103, 0.0152, 32.7, 39.1),
            "GeometryCrafter (paper)": (17.0, 87.3, 0.0115, 0.0222, 67.3, 4.16),
            "Geo4D (paper)": (21.7, 71.5, 0.0134, 0.0228, 81.1, 1.56),
        },
    ),
    Table(
        "Table 3: components",
        ("matching_pixels", "mv_rpe"),
        {
            "without multi-view (paper)": (122.7, 75.3),
            "multi-view only (paper)": (462.6, None),
            "multi-view, MJD (paper)": (501.3, 46.3),
            "multi-view, MJD, DPA (paper)": (498.2, 33.5),
            "all, with the cycle (paper)": (529.4, 32.7),
        },
        ours="model",
    ),
    Table(
        "Table 4: motion representation",
        ("matching_pixels", "mv_rpe"),
        {
            "MJD, tracking video (paper)": (483.8, None),
            "MJD, point tracks (paper)": (503.1, 46.3),
            "all (paper)": (529.4, 32.7),
        },
        ours="model",
    ),
)
TITLES = {  # headings of columns that a network computes
    "subject_consistency": "Subj. Cons. ↑",
    "dynamic_degree": "Dyn. Deg. ↑",
    "matching_pixels": "Mat. Pix. ↑",
    "clip_v": "CLIP-V ↑",
    "lpips_alex": "LPIPS ↓",
    "lpips_alex_hoi": "LPIPS HOI ↓",
    "fid": "FID ↓",
    "fid_hoi": "FID HOI ↓",
    "clip_fid": "CLIP-FID ↓",
    "clip_fid_hoi": "CLIP-FID HOI ↓",
    "fvd": "FVD ↓",
    "fvd_hoi": "FVD HOI ↓",
}
# What is not known of each column's formula; "" where the peers' own code settles it.
UNKNOWN = {
    "subject_consistency": "",
    "dynamic_degree": "",
    "matching_pixels": "the matcher's model, threshold and unit are not published",
    "clip_v": "the CLIP model and its preprocessing are not published",
    "rpe": "GeometryCrafter's formula, but which points and frames count is not published",
    "pi": "GeometryCrafter's formula, but which points and frames count is not published",
    "chamfer": "squared or not, and its sum or mean, are not published",
    "smoothness": "no formula is published",
    "mv_rpe": "the frame that points are reprojected into is not published",
    "mv_pi": "the frame that points are reprojected into is not published",
}
UNSAID = "its formula, and the list of clips, are not published"  # of columns of other papers


def conditions(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns how an evaluation's sizes differ from the paper's, in words."""
    wanted = {"resolution": RESOLUTION, "frames": FRAMES, "views": VIEWS, "fps": FPS}
    found = []
    for key, value in wanted.items():
        have = evaluation.get(key)
        if have is None or list(map(float, _flat(have))) != list(map(float, _flat(value))):
            found.append(f"{key} {_say(have)} instead of {_say(value)}")
    return found


def data(evaluation: Mapping[str, Any]) -> str:
    """Returns one sentence on what holds for every column: the data and their size."""
    sizes = conditions(evaluation)
    return (
        "The paper's list of TACO test clips is not published"
        + (f"; here: {', '.join(sizes)}" if sizes else "; sizes and frame rate are the paper's")
        + "."
    )


def comparable(evaluation: Mapping[str, Any], metric: str) -> str:
    """Returns "no" or "nearly" for a column of the paper.

    "nearly": the formula, the sizes and the frame rate are the paper's; only its list of clips is
    unknown, so that it holds on TACO's held-out tools and actions only.
    """
    return "no" if UNKNOWN.get(metric, UNSAID) or conditions(evaluation) else "nearly"


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _say(value: Any) -> str:
    return "unknown" if value is None else " x ".join(f"{x:g}" for x in _flat(value))
