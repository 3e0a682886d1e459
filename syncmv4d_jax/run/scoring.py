"""One sample's scores against its record, by what the sample holds.

    flow             where all pixels go (metrics/flow3d.py), and its points as any tracks
    drawn points     what they were completed to (metrics/novel_views.py), of the record's cameras
    else             videos and tracks (metrics/scene.py)

What a sample is seen as along a path (<id>_path) adds its metrics to those of <id>. Rows of what a
task's own latents lose come from the task (`tasks.base.Rebuilt`), whose weights are read then.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import schema
from syncmv4d_jax.data import surfaces
from syncmv4d_jax.metrics import flow3d, hoi, novel_views, priors, scene, summary
from syncmv4d_jax.results import samples
from syncmv4d_jax.run import assembly, sections
from syncmv4d_jax.run import truth as truths
from syncmv4d_jax.tasks import base

log = logging.getLogger(__name__)
CLIPS = ("video", "motion")


class Rebuilder:
    """The truth after the latents of the run's own task; None where that task has no such bound."""

    def __init__(self, settings: sections.Sections, workdir: Path):
        """Args: workdir: where the task was trained."""
        self._settings, self._workdir = settings, workdir

    @functools.cached_property
    def _loaded(self) -> tuple[base.Rebuilt, base.Params] | None:
        task = assembly.task(self._settings.source)
        if not isinstance(task, base.Rebuilt):
            return None
        try:
            params = assembly.load_params(
                task, self._settings, self._workdir, parts=task.rebuilt_by
            )
        except FileNotFoundError as error:
            log.warning("no row of what the latents lose: %s", error)
            return None
        return task, params

    def __call__(self, truth: Mapping[str, Any]) -> base.Sample | None:
        """Args: truth: an example of schema.BATCH, unbatched."""
        if self._loaded is None:
            return None
        task, params = self._loaded
        batch = {k: jnp.asarray(truth[k])[None] for k in schema.BATCH if k in truth}
        return task.rebuild(params, batch)


def score(
    sample: Mapping[str, Any],
    truth: Mapping[str, Any],
    name: str,
    *,
    learned: priors.Priors | None,
    rebuilder: Rebuilder,
) -> tuple[scene.Scores, dict[float, dict[str, float | None]]]:
    """Scores one sample; returns rows, and the blurred baseline's scores where it has any.

    Raises:
      ValueError: sizes that do not fit, or points that do not say how they were chosen; names the
        sample.
    """
    if "drawn" in sample:
        return views(sample, truth, rebuilder=rebuilder), {}
    points, others = truths.points(sample, truth, name), truths.others(sample, truth, learned)
    if "flow" in sample:
        return _flow(sample, truth, name, points, others, learned, rebuilder), {}
    courses = truth["courses"]() if "courses" in truth else []
    rows, blurred = scene.score(sample, truth, name, points=points, others=others, courses=courses)
    if "triplet" in truth and learned is not None:
        rows = joined(rows, scene.named(sample, truth, learned.namer))
    if (view := sample["meta"].get("hidden_view")) is not None:
        rows |= scene.apart(sample, truth, points, view)
    return rows, blurred


def _flow(sample, truth, name, points, others, learned, rebuilder: Rebuilder) -> scene.Scores:
    """Rows of flow, and of the sample's points."""
    if "flow" not in truth:
        raise ValueError(
            f"sample {name}: says where pixels go, but its record does not: prepare it with --with "
            "flow and read it by --config.data.fields=\"('flow',)\""
        )
    paths, found = None, scene.Scores()
    if points is not None:
        n = int(np.sum(truth["frame_valid"]))
        found = scene.track_rows(sample, truth, points, others, n)
    if learned is not None and "triplet" in truth:
        first = truth["video"][:, 0], truth["motion"][:, 0]
        paths = learned.paths(priors.layout(truth["prompt"], truth["triplet"], *first))
    rebuilt = rebuilder(truth)
    rows = flow3d.score(
        sample, truth, name, paths=paths, groups=_groups(truth),
        rebuilt=None if rebuilt is None else np.asarray(rebuilt.flow)[0],
    )  # fmt: skip
    return {row: rows.get(row, {}) | found.get(row, {}) for row in dict.fromkeys((*rows, *found))}


def _groups(truth: Mapping[str, Any]) -> np.ndarray | None:
    """[v h w] which tracked surface each pixel of frame 0 shows, -1 none; None where unknown."""
    if "surfaces" not in truth:
        return None
    found, (height, width) = truth["surfaces"](), np.shape(truth["video"])[2:4]
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    tracked = sum(surface.kind == surfaces.TRACKED for surface in found)
    shown = [
        surfaces.cast(found, pixels, lens, pose[0]).surface.reshape(height, width)
        for lens, pose in zip(truth["intrinsics"], truth["extrinsics"], strict=True)
    ]
    return np.stack([np.where((x >= 0) & (x < tracked), x, -1) for x in shown])


def views(
    sample: Mapping[str, Any], truth: Mapping[str, Any], *, rebuilder: Rebuilder
) -> scene.Scores:
    """Rows of what was made of drawn points; {} where none of its cameras is the record's."""
    shown = novel_views.targets(sample, truth)
    if max(shown) < 0:
        return {}
    rebuilt = rebuilder(truth)
    pixels = None if rebuilt is None or rebuilt.pixels is None else rebuilt.pixels
    return novel_views.score(
        sample, truth, shown,
        rebuilt=None if pixels is None else samples.to_uint8(np.asarray(pixels)[0]),
    )  # fmt: skip


def joined(rows: scene.Scores, more: scene.Scores) -> scene.Scores:
    """Rows with the metrics of both."""
    return {row: rows.get(row, {}) | more.get(row, {}) for row in dict.fromkeys((*rows, *more))}


def shown_truth(sample: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    """The truth of what a sample's videos show: none of a picture of flow, of drawn points that
    of its cameras."""
    if "flow" in sample:
        return {key: x for key, x in truth.items() if key not in CLIPS}
    if "drawn" not in sample:
        return dict(truth)
    shown = novel_views.targets(sample, truth)
    if min(shown) < 0:
        return {key: x for key, x in truth.items() if key not in schema.PER_VIEW}
    return {key: x[shown] if key in schema.PER_VIEW else x for key, x in truth.items()
            if key != "motion"}  # fmt: skip


def settle(scores: Mapping[str, scene.Scores]) -> dict[str, str | None]:
    """Fills rows of several settings with the one best over all scenes; returns which that is."""
    blur = novel_views.best_by({m for one in scores.values() for m in one.get("model", {})})
    return {
        "best_robust_window": scene.best_setting(scores, "robust"),
        "best_fill_sigma": scene.best_setting(scores, "fill_blur", blur),
    }


def checks(
    table: Mapping[str, Any], clusters: summary.Clusters | None = None
) -> list[dict[str, Any]]:
    """The criteria of the kinds of metrics that the model has."""
    cells = table.get("model", {})
    flows, views = "flow_epe_mm" in cells, novel_views.has_views(cells)
    found = flow3d.checks(table, clusters) if flows else []
    if "follow" in cells and "error_mm" not in cells:  # a video that follows, without tracks
        found = hoi.checks(table, clusters)
    elif not flows and ("psnr" in cells or not views):  # videos, and tracks that views share
        found = summary.checks(table, clusters)
    return found + (novel_views.checks(table, clusters) if views else [])
