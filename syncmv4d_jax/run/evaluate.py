"""Samples on disk against ground truth -> eval.json, eval.md, eval.tex and report.html.

Rows: the model, its rivals and the oracles of metrics/baselines.py, and the truth's own smoothness.
Each number carries its definition's id, its standard error over triplets and every scene's value;
`paired` holds the model's differences against each row, `paired_network` those of the aligner's
network, `checks` the goal's criteria. `priors.npz` keeps what training scenes taught.
Samples of a user's own images have no ground truth: with `config.evaluate.split=""` only the page
is written.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from syncmv4d_jax import disk, recipe
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.metrics import baselines, hoi, priors, scene, summary, tables
from syncmv4d_jax.metrics import definitions as metric_definitions
from syncmv4d_jax.metrics.networks import definitions as network_definitions
from syncmv4d_jax.metrics.networks import evaluators
from syncmv4d_jax.results import curves, samples
from syncmv4d_jax.results.web import report
from syncmv4d_jax.run import assembly, inputs, resume, sections
from syncmv4d_jax.run import truth as truths

log = logging.getLogger(__name__)
VERSION = 2
ONE = ("id", "prompt", "seed", "inputs", "anchors")  # of a sample's recipe: its own
Examples = Callable[[sections.Sections, str], Iterable[tuple[str, dict[str, Any]]]]


def run(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    examples: Examples = inputs.examples,
) -> None:
    """Evaluates DIR/samples (or `config.evaluate.samples`) and writes the results to DIR.

    Several processes share the samples; the first one writes (and runs the networks).

    Args:
      config: reads `config.evaluate` and what `examples` reads.
      examples: (sections, split) -> iterator of (id, unbatched example of schema.BATCH with
        video).

    Raises:
      FileNotFoundError: no samples, or a damaged one.
      ValueError: no sample has a ground truth, one does not fit its own, or some were made with
        other weights or settings than others.
    """
    workdir, settings = Path(workdir), assembly.read(config)
    folder = Path(settings.evaluate.samples or workdir / "samples")
    found = _found(folder)
    if not settings.evaluate.split:
        if jax.process_index() == 0:
            _show(settings, workdir, found)
        return
    learned = truths.training(settings)
    if learned is not None and jax.process_index() == 0:
        learned.save(workdir / "priors.npz")
    scores, sharpness, facts = _scores(settings, examples, found, learned)
    if not scores:
        raise ValueError(
            f"{folder} has {len(found)} samples ({', '.join(sorted(found)[:3])}, ...), none "
            f"of the split {settings.evaluate.split!r} of the records: set config.evaluate.split, "
            "sample from these records (config.mode=sample), or set it to '' for a page only"
        )
    if jax.process_index() == 0:
        _results(settings, workdir, examples, found, (scores, sharpness, facts))
    if jax.process_count() > 1:  # the others stay until all is written
        multihost_utils.sync_global_devices("evaluated")


def _scores(
    settings: sections.Sections,
    examples: Examples,
    found: Mapping[str, Path],
    learned: priors.Priors | None,
) -> tuple[dict[str, scene.Scores], dict[str, dict], dict[str, Any]]:
    """Scores this process's share of the samples; returns all processes' scores, blurs, facts.

    facts: those of the first sample, and {scene: triplet} under "triplets".
    """
    scores: dict[str, scene.Scores] = {}
    blurs: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    triplets: dict[str, str] = {}
    way: tuple[str, dict[str, Any]] | None = None  # how the first one was made
    mine = {name: found[name] for name in summary.share(sorted(found))}
    for name, truth in _matched(settings, examples, mine, quiet=jax.process_index() > 0):
        sample = samples.read(mine[name])
        way = way or (name, sample["meta"].get("recipe", {}))
        _same_way(way, (name, sample["meta"].get("recipe", {})))
        points = truths.points(sample, truth, name)
        others = truths.others(sample, truth, learned)
        courses = truth["courses"]() if "courses" in truth else []
        scores[name], blurred = scene.score(
            sample, truth, name, points=points, others=others, courses=courses
        )
        blurs[name] = list(blurred.items())
        if "triplet" in truth and learned is not None:
            for row, values in scene.named(sample, truth, learned.namer).items():
                scores[name][row] |= values
        if "triplet" in truth:
            triplets[name] = ", ".join(truth["triplet"])
        facts = facts or {"facts": _facts(sample, truth)}
    blurs = {name: {s: x for s, x in pairs} for name, pairs in summary.gather(blurs).items()}
    shared = summary.gather(facts).get("facts", {}) | {"triplets": summary.gather(triplets)}
    return summary.gather(scores), blurs, shared


def _same_way(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    """Refuses numbers over samples of different weights or settings."""
    first, second = ({k: x for k, x in r.items() if k not in ONE} for _, r in (one, other))
    if differ := recipe.differences(first, second):
        raise recipe.Other(
            f"samples {one[0]} and {other[0]} were made in two ways ({'; '.join(differ)}): one "
            "mean of both says nothing; sample again, which makes those that are not of the last"
        )


def _results(
    settings: sections.Sections,
    workdir: Path,
    examples: Examples,
    found: Mapping[str, Path],
    scored: tuple[dict[str, scene.Scores], dict[str, dict], dict[str, Any]],
) -> None:
    """Writes everything; one process."""
    scores, sharpness, facts = scored
    wanted = settings.evaluate
    folder = Path(wanted.samples or workdir / "samples")
    sigma, window = scene.best_blur(scores, sharpness), scene.best_setting(scores, "robust")
    evaluation = assemble(scores, facts["triplets"]) | facts | {
        "samples": os.path.relpath(folder, workdir),
        "split": wanted.split,
        "best_blur_sigma": sigma,
        "best_robust_window": window,
        "not_evaluated": sorted(found.keys() - scores.keys()),
        "command": assembly.command(),
        "recipe": _recipe(settings, {name: found[name] for name in scores}),
    }  # fmt: skip
    pairs = (_pair(found[n], t, n) for n, t in _matched(settings, examples, found, quiet=True))
    networks = evaluators.run(
        pairs, count=len(scores), features=wanted.features, matcher=wanted.matcher
    )
    add_networks(evaluation, networks)
    if "psnr_hoi" in evaluation["rows"].get("model", {}) and networks["networks"]["computed"]:
        add_hoi(evaluation, settings, examples, found)
    text = f"{tables.markdown(evaluation)}\n{network_definitions.markdown(evaluation)}"
    files = {
        "eval.json": json.dumps(evaluation, indent=1, allow_nan=False),
        "eval.md": text,
        "eval.tex": tables.latex(evaluation),
    }
    for name, content in files.items():
        with disk.whole(workdir / name) as partial:
            partial.write_text(content, encoding="utf-8")
    report.write(
        workdir / "report.html",
        (page_sample(found[n], t, n) for n, t in _matched(settings, examples, found, quiet=True)),
        evaluation,
        curves.read(workdir / "metrics.jsonl"),
        config_text(settings.source),
        commands(found),
        count=len(scores),
    )
    log.info("%s\n%s", workdir / "eval.json", text)


def _recipe(settings: sections.Sections, found: Mapping[str, Path]) -> dict[str, Any]:
    """What the numbers were made from; weights of networks by content."""
    wanted = settings.evaluate
    metas = {name: recipe.read(path / "meta.json") or {} for name, path in found.items()}
    return recipe.of(
        version=VERSION,
        split=wanted.split,
        records=resume.records_mark(settings),
        matcher=wanted.matcher,
        features=recipe.content(wanted.features) if wanted.features else "",
        samples={name: recipe.mark(meta.get("recipe", {})) for name, meta in metas.items()},
    )


def _show(settings: sections.Sections, workdir: Path, found: Mapping[str, Path]) -> None:
    """Writes the page of samples without a ground truth."""
    pages = (page_sample(path, {}, name) for name, path in sorted(found.items()))
    rows = curves.read(workdir / "metrics.jsonl")
    target = workdir / "report.html"
    report.write(
        target, pages, None, rows, config_text(settings.source), commands(found), count=len(found)
    )
    log.info("%s: %d samples, nothing to compare them with", target, len(found))


def commands(found: Mapping[str, Path]) -> str:
    """The command lines that made the samples, one a line; this one's where they don't say."""
    metas = (recipe.read(path / "meta.json") or {} for path in found.values())
    lines = dict.fromkeys(meta["command"] for meta in metas if meta.get("command"))
    return "\n".join(lines) or assembly.command()


def config_text(config: Any) -> str:
    """The configuration as indented JSON."""
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return json.dumps(plain, indent=1, default=str)


def _found(folder: Path) -> dict[str, Path]:
    found = samples.find(folder)
    if not found:
        raise FileNotFoundError(
            f"{folder}: no finished samples (<id>/meta.json); --config.mode=sample makes them"
        )
    return found


def _matched(
    settings: sections.Sections, examples: Examples, found: Mapping[str, Path], *, quiet: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ground truths that have a sample; of what nobody filmed there is none."""
    with tqdm(total=len(found), unit="sample", desc="evaluate", disable=quiet) as bar:
        for name, truth in examples(settings, settings.evaluate.split):
            if name in found and truth.get("filmed", True):
                yield name, truth
                bar.update(1)


def assemble(
    scores: Mapping[str, scene.Scores], triplets: summary.Clusters | None = None
) -> dict[str, Any]:
    """Joins all scenes' scores into rows, paired differences, checks and definitions.

    Args:
      triplets: {scene: triplet}; scenes of one are not independent.
    """
    table = summary.rows(scores, triplets)
    listed = {m: vars(d) | {"preprocessing": metric_definitions.PREPROCESSING[d.kind]}
              for m, d in metric_definitions.DEFINITIONS.items()}  # fmt: skip
    return {
        "version": VERSION,
        "scenes": len(scores),
        "clusters": len({(triplets or {}).get(name, name) for name in scores}),
        "rows": table,
        "paired": summary.paired(table, triplets),
        "paired_network": summary.paired(table, triplets, row=baselines.NETWORK),
        "checks": summary.checks(table, triplets),
        "definitions": listed,
    }


def add_networks(evaluation: dict[str, Any], result: Mapping[str, Any]) -> None:
    """Adds the network metrics of `evaluators.run` to the rows, and what is not computed."""
    for row, cells in result["rows"].items():
        evaluation["rows"].setdefault(row, {}).update(cells)
    evaluation["definitions"] |= result["definitions"]
    evaluation["networks"] = result["networks"]
    missing = result["networks"]["missing"]
    evaluation["not_computed"] = {
        metric: missing[network]
        for metric, (network, _) in network_definitions.NEEDS.items()
        if network in missing
    }


def add_hoi(
    evaluation: dict[str, Any],
    settings: sections.Sections,
    examples: Examples,
    found: Mapping[str, Path],
) -> None:
    """Adds the networks' metrics of hands and objects (metrics/hoi.py) to the rows."""
    matched = _matched(settings, examples, found, quiet=True)
    pairs = (_pair(found[n], t, n, hands=True) for n, t in matched if "mask" in t)
    networks = evaluators.run(pairs, count=len(found), features=settings.evaluate.features)
    extra = hoi.renamed(networks)
    for row, cells in extra["rows"].items():
        evaluation["rows"].setdefault(row, {}).update(cells)
    evaluation["definitions"] |= extra["definitions"]


def _pair(
    path: Path, truth: Mapping[str, Any], name: str, *, hands: bool = False
) -> evaluators.Pair:
    """A sample's and the record's video without padded frames; hands: black but for the mask."""
    sample, true = samples.read(path), np.asarray(truth["video"])
    n = int(np.sum(truth.get("frame_valid", np.ones(true.shape[1], bool))))
    made, true = sample["video"][:, :n], true[:, :n]
    if hands:
        made, true = (hoi.black(x, np.asarray(truth["mask"])[:, :n]) for x in (made, true))
    return evaluators.Pair(name, made, true, samples.fps(sample))


def _facts(sample: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    views, frames, height, width = np.shape(truth["video"])[:4]
    chosen = "object_points of the record" if "object_points" in truth else "points that move"
    points = np.shape(truth["tracks"])[1] if "tracks" in truth else 0
    return {
        "fps": samples.fps(sample),
        "resolution": [height, width],
        "frames": frames,
        "views": views,
        "points": int(points),
        "object": chosen if "object_points" in truth else f"{chosen} more than {scene.MOVED} m",
        "sampling": {k: x for k, x in sample["meta"].items() if k not in report.APART},
    }


def page_sample(path: Path, truth: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the report shows of one sample: of its points those whose truth is known."""
    sample = samples.read(path)
    shown = {"id": name, "meta": sample["meta"], "video": sample["video"]}
    own = [*samples.CAMERAS, "motion", "tracks", "tracks_per_view", "scale", "confidence"]
    shown |= {key: sample[key] for key in (*own, "anchor_valid") if key in sample}
    for key in ("video", "motion", "scale", "intrinsics", "extrinsics"):
        if key in truth:
            shown[f"true_{key}"] = np.asarray(truth[key])
    if "true_extrinsics" in shown:
        shown["true_extrinsics"] = cameras.poses(shown["true_extrinsics"])
    points = truths.points(sample, truth, name) if "tracks" in truth else None
    if points is not None:
        known = np.isfinite(points["tracks"]).all((0, 2))
        shown["true_tracks"] = np.asarray(points["tracks"])[:, known]
        shown |= {k: shown[k][..., known, :] for k in ("tracks", "tracks_per_view")}
    return shown
