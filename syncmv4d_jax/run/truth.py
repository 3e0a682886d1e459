"""What evaluation asks of records: how training scenes move, and the truth of a sample's points.

A sample says how its query pixels were chosen (`meta.json: anchors`). `given` ones are the record's
own points, one by one, and so is their truth. Others are pixels of one view each: what they show is
found by casting their rays into the surfaces that test records keep.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.data import clips, raycast, records, surfaces
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import actions, baselines_alignment, priors
from syncmv4d_jax.run import assembly, sections

log = logging.getLogger(__name__)
ANCHORS = ("own", "given", "matched")
VISIBLE = 0.01  # metres that a point may lie behind the surface seen on its ray
TRAINING = 2000  # training scenes that are looked at at most, evenly taken


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


def _learned(reader: records.Reader, window: records.Window, count: int) -> priors.Scene:
    """What a training window teaches, by the first cameras of the first clusters."""
    first = {view.cluster: view for view in reversed(window.views)}
    views = [reader.view(window, first[cluster]) for cluster in sorted(first)[:count]]
    clips = np.stack([records.decode(view["video"]) for view in views])
    pseudo = np.stack([records.decode_first(view["motion"]) for view in views])
    seen = np.any([view["anchor_valid"] for view in views], axis=0)
    made = priors.layout(window.text, window.triplet, clips[:, 0], pseudo)
    way = priors.path(reader.tracks(window)["tracks"], seen)
    return priors.Scene(made, way, window.triplet[0], actions.signature(clips))


def points(sample: Mapping[str, Any], truth: Mapping[str, Any], name: str) -> Mapping | None:
    """The truth of a sample's points (`scene.score`), None where nothing is known of them.

    truth: an example of records; with `surfaces`, any pixel's truth can be had.

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
    if mode == "given":
        return truth
    if "surfaces" not in truth:
        log.warning(
            "sample %s: the records keep no surfaces, so the truth of its %s query pixels is not "
            "known: prepare them with python data_prep/prepare_taco.py --surfaces test", name, mode
        )  # fmt: skip
        return None
    return follow(sample, truth, truth["surfaces"]())


def follow(
    sample: Mapping[str, Any], truth: Mapping[str, Any], found: Sequence[surfaces.Surface]
) -> dict[str, np.ndarray]:
    """The truth of query pixels that each are one view's.

    Returns:
      tracks [n k 3], NaN where the pixel shows nothing that is tracked; visibility [v n k];
      anchor_valid [v k].
    """
    poses = cameras.poses(np.asarray(truth["extrinsics"], np.float64))
    rig = np.asarray(truth["intrinsics"], np.float64), poses
    asked, pixels = _asked(sample), sample["anchors"]
    tracks = np.full((found[0].frames, len(asked), 3), np.nan, np.float32)
    for view, camera in enumerate(zip(rig[0], cameras.at_first(poses, 1), strict=True)):
        here = np.flatnonzero(asked == view)
        if here.size:
            met, tracked = surfaces.tracks(found, pixels[view, here], *camera)
            tracks[:, here[tracked]] = met[:, tracked]
    seen = _seen(found, tracks, rig, np.shape(truth["video"])[2:4])
    known = np.isfinite(tracks).all((0, 2))
    first = seen[:, 0] | ((asked == np.arange(len(rig[0]))[:, None]) & known)
    return {"tracks": tracks, "visibility": seen, "anchor_valid": first}


def _asked(sample: Mapping[str, Any]) -> np.ndarray:
    """[k] the view whose pixel each point is; matched ones are the middle view's, -1 if none."""
    view = np.asarray(sample["anchor_view"])
    if sample["meta"]["anchors"] == "matched":
        valid = np.asarray(sample["anchor_valid"])
        view = np.where(valid[len(valid) // 2], len(valid) // 2, -1)
    return view


def _seen(found, tracks, rig, size) -> np.ndarray:
    """[v n k] whether a view shows the point: nothing lies more than VISIBLE in front of it."""
    seen = np.zeros((len(rig[0]), *tracks.shape[:2]), bool)
    known = np.flatnonzero(np.isfinite(tracks).all((0, 2)))
    for n in range(len(tracks) if known.size else 0):
        scene = raycast.Scene([(surface.at(n), surface.faces) for surface in found])
        points = tracks[n, known].astype(np.float64)
        now = rig[1] if rig[1].ndim == 3 else rig[1][:, n]
        for view, (intrinsics, extrinsics) in enumerate(zip(rig[0], now, strict=True)):
            pixels, depth = cameras.project(points, intrinsics, extrinsics)
            seen[view, n, known] = clips.seen(
                scene, pixels, depth, intrinsics, extrinsics, size=size, behind=VISIBLE
            )
    return seen


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
        paths = learned.paths(made)
        if len(paths["mean_path"]) != len(sample["tracks"]):
            raise ValueError(
                f"config.evaluate.priors: wanted paths of {len(sample['tracks'])} frames, got "
                f"{len(paths['mean_path'])}: of training scenes of another length"
            )
        rows |= priors.moved(start, paths)
    measured = sample.get("coarse_confidence")
    if measured is not None and measured.any():
        rows |= baselines_alignment.fusions(sample["coarse"], measured, *rig)
    return rows | {row: sample[row] for row in ("closed_form", "network") if row in sample}
