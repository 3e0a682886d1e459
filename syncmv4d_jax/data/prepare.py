"""From recordings to records: all sequences, in parallel, resumable, with a report.

A sequence is finished when its part of the index is in place; its records are renamed into place
just before. A run that was stopped, however hard, is continued by the same command and gives the
same bytes. A broken sequence is listed with its reason and stops nothing.

`recipe.json` says what the folder was made from; other settings are refused. A sequence whose files
have changed since is prepared again. The index lists the sequences of the last command alone: one
that was left out since stays on disk and out of training.
"""

import collections
import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from tqdm import tqdm

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import clips, contact_sheet, engine, records
from syncmv4d_jax.data.sources import mano, recordings

log = logging.getLogger(__name__)
# Settings that earlier versions did not write down.
BEFORE: dict[str, Any] = {
    "representation": "point_tracks", "controls": [], "cloud": 2048, "provenance": "real",
    "fields": [], "depth": "", "paths": [], "action_names": [], "action_mean": [],
    "action_std": [],
}  # fmt: skip


class Source(engine.Source, Protocol):
    """What is prepared, and what it is made from.

    hands, flip_left: MANO's folder and whether the left is mirrored, "" where it has no hands.
    """

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
    work: engine.Work | None = None,
    shard: tuple[int, int] = (0, 1),
    beam: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Prepares `sources` into `out`/<h>x<w> and returns the summary, also written as summary.json.

    Args:
      jobs: processes; each holds one sequence in memory.
      shard: (i, n): every n-th source, from the i-th on; other processes, on any machine that sees
        `out`, take the others. The index is of all that are done.
      beam: options of an Apache Beam pipeline that takes the place of the processes, None: none.
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
    with recipe.Lock(root, lock_name(shard)):
        _claim(root, settings, sources)
        work = work or prepare_sequence
        if beam is None:
            run_all = functools.partial(engine.pool, jobs=jobs, work=work)
        else:
            run_all = functools.partial(engine.beam, options=beam, work=work)
        return _run(sources, root, settings, run_all, shard)


def _run(
    sources: Sequence[Source],
    root: Path,
    settings: Settings,
    run_all: Callable[..., Iterator[tuple[str, dict[str, Any]]]],
    shard: tuple[int, int],
) -> dict[str, Any]:
    begun = time.perf_counter()
    mine = sources[shard[0] :: shard[1]]
    done = {s.id for s in mine if finished(root, s.id, s.mark)}
    todo = [source for source in mine if source.id not in done]
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(todo), unit="sequence", desc="prepare") as bar:
        for name, result in run_all(todo, root, settings):
            results[name] = result
            if "error" in result:
                log.warning("skipped %s: %s", name, result["error"])
            bar.update()
    failed = {s.id: results[s.id] for s in todo if "error" in results[s.id]}
    skipped = [{"sequence": name, "reason": r["error"]} for name, r in failed.items()]
    content = _index(sources, root, skipped, shard)
    if content["left_out"]:
        log.warning("prepared before, not in the index: %s", ", ".join(content["left_out"]))
    summary = _summary(content, results, done, time.perf_counter() - begun)
    records.write_json(root / "summary.json", summary)
    contact_sheet.write_report(root, content, summary)
    return summary


def _index(
    sources: Sequence[Source],
    root: Path,
    skipped: list[dict[str, str]],
    shard: tuple[int, int],
) -> dict[str, Any]:
    """Writes the index of what is done, of all shards, and returns it."""
    index, count = shard
    order = {source.id: i for i, source in enumerate(sources)}
    ids = order.keys()
    if count == 1:
        return records.gather_index(root, skipped, only=ids - {x["sequence"] for x in skipped})
    records.write_json(root / "shards" / f"{index}of{count}.json", skipped)
    while True:  # another shard may finish meanwhile: the last to look has seen all
        there = _state(root, count)
        every = [x for path in sorted(there) for x in _list(path) if x["sequence"] in ids]
        every.sort(key=lambda x: order[x["sequence"]])
        found = records.gather_index(root, every, only=ids - {x["sequence"] for x in every})
        if _state(root, count) == there:
            return found


def lock_name(shard: tuple[int, int]) -> str:
    """What a preparation is called in its folder: parts do not disturb each other."""
    return "prepare" if shard[1] == 1 else f"prepare-{shard[0]}of{shard[1]}"


def joined(
    root: Path, listed: Iterable[str], skipped: list[dict[str, str]], shard: tuple[int, int]
) -> dict[str, Any]:
    """Writes the index of what this part and those that are done have listed, and returns it.

    Args:
      listed: ids of this part's sequences that are there.
      skipped: those that are not, with their reasons.
    """
    if shard[1] == 1:
        return records.gather_index(root, skipped, only=set(listed))
    own = {"listed": sorted(listed), "skipped": skipped}
    records.write_json(root / "shards" / f"{shard[0]}of{shard[1]}.json", own)
    while True:  # another part may finish meanwhile: the last to look has seen all
        there = _state(root, shard[1])
        parts = [json.loads(p.read_text()) for p in sorted(there) if p.parent.name == "shards"]
        names = {name for part in parts for name in part["listed"]}
        every = sorted((x for part in parts for x in part["skipped"]), key=lambda x: x["sequence"])
        found = records.gather_index(root, every, only=names)
        if _state(root, shard[1]) == there:
            return found


def _state(root: Path, count: int) -> dict[Path, int]:
    """What the shards have finished, and when."""
    found = [*(root / "sequences").glob("*.json"), *(root / "shards").glob(f"*of{count}.json")]
    return {path: path.stat().st_mtime_ns for path in found}


def _list(path: Path) -> list[dict[str, str]]:
    """What a shard skipped; [] of a sequence's part of the index."""
    return json.loads(path.read_text()) if path.parent.name == "shards" else []


def _claim(root: Path, settings: Settings, sources: Sequence[Source]) -> None:
    """Writes settings.json and recipe.json, or checks that they say the same."""
    path, way = root / "settings.json", "use another --out"
    own = dataclasses.asdict(cast(Any, settings))
    mine = json.loads(json.dumps(own | {"version": schema.VERSION}))
    if path.is_file():
        there = {k: x for k, x in BEFORE.items() if k in mine} | json.loads(path.read_text())
        if differ := recipe.differences(there, mine):
            text = "; ".join(differ)
            raise recipe.Other(f"{root} was made with other settings ({text}); {way}")
    hands = {source.hands: source.flip_left for source in sources if source.hands}
    models = {name: recipe.content(Path(next(iter(hands))) / name) for name in mano.FILES if hands}
    made = recipe.of(settings=mine, mano=models, flip_left=any(hands.values()))
    recipe.claim(root / "recipe.json", made, way=way)
    if not path.is_file():
        records.write_json(path, mine)


def finished(root: Path, name: str, mark: Callable[[], Any]) -> bool:
    """Whether the records of a sequence are there, whole, and of what its files are now.

    Args:
      mark: of the files, as the sequence's part of the index has it in `source`.
    """
    part = recipe.read(root / "sequences" / f"{name}.json")
    file = root / "sequences" / f"{name}.array_record"
    if part is None:
        return False
    if not file.is_file() or part.get("bytes", file.stat().st_size) != file.stat().st_size:
        log.warning("%s: its records are gone or cut short; prepared again", name)
        return False
    if "source" in part and part["source"] != mark():
        log.warning("%s: its files have changed since; prepared again", name)
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
