"""From recordings to records: all sequences, in parallel, resumable, with a report.

A sequence is finished when its part of the index is in place; its records are renamed into place
just before. A run that was stopped, however hard, is continued by the same command and gives the
same bytes. A broken sequence is listed with its reason and stops nothing.

`recipe.json` says what the folder was made from; other settings are refused. A sequence whose files
have changed since is prepared again. The index lists the sequences of the last command alone: one
that was left out since stays on disk and out of training.
"""

import collections
import concurrent.futures
import dataclasses
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, cast

from tqdm import tqdm

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import clips, contact_sheet, records
from syncmv4d_jax.data.sources import mano, recordings

log = logging.getLogger(__name__)
# Settings that earlier versions did not write down.
BEFORE: dict[str, Any] = {
    "representation": "point_tracks", "controls": [], "cloud": 2048, "provenance": "real",
    "fields": [], "depth": "", "paths": [],
}  # fmt: skip


class Source(Protocol):
    """What is prepared as a whole; its file of records has its name.

    hands, flip_left: MANO's folder and whether the left is mirrored, "" where it has no hands.
    """

    @property
    def id(self) -> str: ...

    @property
    def hands(self) -> str: ...

    @property
    def flip_left(self) -> bool: ...

    def mark(self) -> Any:
        """What its files are now; another value when one has changed."""
        ...


class Settings(Protocol):
    """A frozen dataclass that says what makes the records."""

    @property
    def size(self) -> tuple[int, int]: ...


def run(
    sources: Sequence[Source],
    out: str | Path,
    settings: Settings,
    *,
    jobs: int = 1,
    work: Callable[..., dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Prepares `sources` into `out`/<h>x<w> and returns the summary, also written as summary.json.

    Args:
      jobs: processes; each holds one sequence in memory.
      work: (source, root, settings) -> part of the index; `prepare_sequence` but in tests.

    Raises:
      ValueError: no sources, two of one id, a folder that other settings have made, or one that
        another process fills.
      FileNotFoundError: records that were made are gone.
    """
    root = Path(out) / f"{settings.size[0]}x{settings.size[1]}"
    repeated = [i for i, n in collections.Counter(s.id for s in sources).items() if n > 1]
    if not sources or repeated:
        raise ValueError(f"wanted sequences with distinct ids, got {len(sources)}, {repeated[:5]}")
    with recipe.Lock(root, "prepare"):
        _claim(root, settings, sources)
        return _run(sources, root, settings, jobs, work or prepare_sequence)


def _run(
    sources: Sequence[Source],
    root: Path,
    settings: Settings,
    jobs: int,
    work: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
    begun = time.perf_counter()
    done = {source.id for source in sources if _finished(source, root)}
    todo = [source for source in sources if source.id not in done]
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(todo), unit="sequence", desc="prepare") as bar:
        for name, result in _each(todo, root, settings, jobs, work):
            results[name] = result
            if "error" in result:
                log.warning("skipped %s: %s", name, result["error"])
            bar.update()
    failed = {s.id: results[s.id] for s in todo if "error" in results[s.id]}
    skipped = [{"sequence": name, "reason": r["error"]} for name, r in failed.items()]
    listed = {source.id for source in sources} - failed.keys()
    content = records.gather_index(root, skipped, only=listed)
    if content["left_out"]:
        log.warning("prepared before, not in the index: %s", ", ".join(content["left_out"]))
    summary = _summary(content, results, done, time.perf_counter() - begun)
    records.write_json(root / "summary.json", summary)
    contact_sheet.write_report(root, content, summary)
    return summary


def _claim(root: Path, settings: Settings, sources: Sequence[Source]) -> None:
    """Writes settings.json and recipe.json, or checks that they say the same."""
    path, way = root / "settings.json", "use another --out"
    own = dataclasses.asdict(cast(Any, settings))
    mine = json.loads(json.dumps(own | {"version": schema.VERSION}))
    if path.is_file():
        there = BEFORE | json.loads(path.read_text())
        if differ := recipe.differences(there, mine):
            text = "; ".join(differ)
            raise recipe.Other(f"{root} was made with other settings ({text}); {way}")
    hands = {source.hands: source.flip_left for source in sources if source.hands}
    models = {name: recipe.content(Path(next(iter(hands))) / name) for name in mano.FILES if hands}
    made = recipe.of(settings=mine, mano=models, flip_left=any(hands.values()))
    recipe.claim(root / "recipe.json", made, way=way)
    if not path.is_file():
        records.write_json(path, mine)


def _finished(source: Source, root: Path) -> bool:
    """Whether the records of a sequence are there, whole, and of what its files are now."""
    part = recipe.read(root / "sequences" / f"{source.id}.json")
    file = root / "sequences" / f"{source.id}.array_record"
    if part is None:
        return False
    if not file.is_file() or part.get("bytes", file.stat().st_size) != file.stat().st_size:
        log.warning("%s: its records are gone or cut short; prepared again", source.id)
        return False
    if "source" in part and part["source"] != source.mark():
        log.warning("%s: its files have changed since; prepared again", source.id)
        return False
    return True


def prepare_sequence(
    source: recordings.Source, root: Path, settings: clips.Settings
) -> dict[str, Any]:
    """Prepares one sequence; returns its part of the index, or {"error": reason}."""
    begun = time.perf_counter()
    try:
        part = _prepare(source, Path(root), settings)
    except Exception as error:  # whatever a broken recording runs into must not stop the others
        return {"error": f"{type(error).__name__}: {error}"}
    return part | {"seconds": time.perf_counter() - begun}


def _prepare(source: recordings.Source, root: Path, settings: clips.Settings) -> dict[str, Any]:
    place = root / "sequences" / f"{source.id}.json"
    place.unlink(missing_ok=True)  # no part of former records beside new ones
    mark, recording = source.mark(), source.open()
    split = settings.split(source.id, source.triplet, filmed=recording.filmed)
    variants = settings.variants if split == "train" else 1
    file = f"sequences/{source.id}.array_record"
    values: list[dict[str, Any]] = []
    entries = []
    for variant in range(variants):
        window = clips.make(recording, source.fps, settings, variant)
        base = len(values)
        entries.append(
            {
                "id": f"{source.id}-{variant}",
                "sequence": source.id,
                "triplet": list(source.triplet),
                "window": variant,
                "start": int(window.tracks["source_frames"][0]),
                "valid_frames": int(window.tracks["frame_valid"].sum()),
                "file": file,
                "record": base,
                "split": split,
                "text": window.tracks["text"],
                "filmed": recording.filmed,
                "provenance": source.provenance or settings.provenance,
                "views": [
                    {"record": base + 1 + i, "serial": v.serial, "cluster": v.cluster}
                    for i, v in enumerate(window.views)
                ],
                "skipped_views": window.skipped,
            }
        )
        if moving := sorted({view.cluster for view in window.views if view.moves}):
            entries[-1]["moves"] = moving
        values += [window.tracks, *(view.values for view in window.views)]
        if window.surfaces:
            entries[-1]["surfaces"] = len(values)
            values.append(window.surfaces)
        contact_sheet.write_sheet(root / "report" / f"{source.id}-{variant}.jpg", window)
    size = records.write_file(root / file, values)
    part = {"windows": entries, "bytes": size, "source": mark}
    records.write_json(place, part)
    return part


def _each(
    todo: Sequence[Source], root: Path, settings: Settings, jobs: int, work: Callable
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (id, result) of every source; a worker that dies costs its own sequence only."""
    if jobs <= 1:
        for source in todo:
            yield source.id, work(source, root, settings)
        return
    left = {source.id: source for source in todo}
    while left:
        for name, result in _pool(list(left.values()), root, settings, jobs, work):
            del left[name]
            yield name, result
        # A worker died and took the pool with it: those it may have been at, one by one.
        for source in list(left.values())[: 2 * jobs + 1]:
            answer = dict(_pool([source], root, settings, 1, work))
            del left[source.id]
            yield source.id, answer.get(source.id, {"error": "the process that prepared it died"})


def _pool(todo, root, settings, jobs, work) -> Iterator[tuple[str, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        try:
            futures = {pool.submit(work, source, root, settings): source.id for source in todo}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            return


def _summary(content: dict, results: dict, done: set[str], seconds: float) -> dict[str, Any]:
    """Counts of a run: splits, views, seconds, bytes; skipped sequences and views with reasons."""
    listed = content["windows"]
    fresh = [r for r in results.values() if "error" not in r]
    views = [
        {"window": w["id"], "camera": camera, "reason": reason}
        for w in listed
        for camera, reason in w["skipped_views"].items()
    ]
    return {
        "version": content["version"],
        "settings": content["settings"],
        "sequences": len({w["sequence"] for w in listed}),
        "windows": len(listed),
        "views": sum(len(w["views"]) for w in listed),
        "splits": dict(collections.Counter(w["split"] for w in listed)),
        "prepared_now": len(fresh),
        "there_before": len(done),
        "left_out": content["left_out"],
        "skipped": content["skipped"],
        "skipped_views": views,
        "seconds": round(seconds, 3),
        "seconds_per_sequence": round(sum(r["seconds"] for r in fresh) / max(len(fresh), 1), 3),
        "bytes_now": sum(r["bytes"] for r in fresh),
    }
