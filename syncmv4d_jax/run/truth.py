"""What evaluation asks of records: how training scenes move, and the truth of a sample's points.

A sample says how its query pixels were chosen (`meta.json: anchors`). `given` ones are the record's
own points, one by one, and so is their truth. Others are pixels of one view each.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import records
from syncmv4d_jax.metrics import baselines_alignment, priors
from syncmv4d_jax.run import assembly, sections

log = logging.getLogger(__name__)
ANCHORS = ("own", "given", "matched")
TRAINING = 400  # training scenes that are looked at, evenly taken


def training(settings: sections.Sections) -> priors.Priors | None:
    """The rows that training scenes teach, by `config.evaluate.priors`.

    Returns:
      Of a file that an evaluation wrote; for "records" of the training split of `config.data`; None
      for "", or where there are no records of that split.
    """
    wanted, data = settings.evaluate.priors, settings.data
    if wanted != "records":
        return priors.Priors.load(Path(wanted)) if wanted else None
    if not data.records:
        return None
    asked = assembly.wanted(settings)
    reader = records.Reader(data.records, "", size=asked.size)
    windows = [window for window in reader.windows if window.split == data.split]
    count, views = len(windows), asked.views or reader.settings["clusters"]
    if not count:
        log.warning("%s: no training scenes, so no rows of them", data.records)
        return None
    chosen = np.unique(np.linspace(0, count - 1, min(count, TRAINING)).astype(int))
    return priors.Priors(_learned(reader, windows[i], views) for i in chosen)


def _learned(
    reader: records.Reader, window: records.Window, count: int
) -> tuple[priors.Layout, np.ndarray]:
    """Layout and path of a training window, by the first cameras of the first clusters."""
    first = {view.cluster: view for view in reversed(window.views)}
    views = [reader.view(window, first[cluster]) for cluster in sorted(first)[:count]]
    images, pseudo = (
        np.stack([records.decode_first(view[key]) for view in views]) for key in ("video", "motion")
    )
    seen = np.stack([view["anchor_valid"] for view in views]).any(0)
    made = priors.layout(window.text, window.triplet, images, pseudo)
    return made, priors.path(reader.tracks(window)["tracks"], seen)


def points(sample: Mapping[str, Any], truth: Mapping[str, Any], name: str) -> Mapping | None:
    """The truth of a sample's points (`scene.score`), None where nothing is known of them.

    Raises:
      ValueError: a sample that does not say how its query pixels were chosen or how sure it is of
        them: one of an earlier version.
    """
    if "tracks_per_view" not in sample or "tracks" not in truth:
        return None
    mode = sample["meta"].get("anchors")
    if mode not in ANCHORS or "anchor_confidence" not in sample:
        raise ValueError(
            f"sample {name}: wanted anchors of {ANCHORS} with their confidence, got "
            f"{mode!r} {'with' if 'anchor_confidence' in sample else 'without'} it: made by an "
            "earlier version; sample it again (--config.mode=sample)"
        )
    return truth if mode == "given" else None


def others(
    sample: Mapping[str, Any], truth: Mapping[str, Any], learned: priors.Priors | None
) -> dict[str, np.ndarray]:
    """Rows of the same points that know as much as the sample: {row: tracks [n k 3]}."""
    if "tracks_per_view" not in sample:
        return {}
    rig = [sample[k] for k in ("anchors", "anchor_confidence", "intrinsics", "extrinsics")]
    rows: dict[str, np.ndarray] = {}
    if learned is not None and "triplet" in truth:
        made = priors.layout(
            truth["prompt"], truth["triplet"], truth["video"][:, 0], truth["motion"][:, 0]
        )
        start = baselines_alignment.onto_rays(sample["tracks"][0], *rig)
        rows |= priors.moved(start, learned.paths(made))
    measured = sample.get("coarse_confidence")
    if measured is not None and measured.any():
        rows |= baselines_alignment.fusions(sample["coarse"], measured, *rig)
    return rows | {row: sample[row] for row in ("closed_form", "network") if row in sample}
