"""What training reads instead of pixels and prompts: VAE latents of every view, features of texts.

    DIR/<h>x<w>/cache.json                      written last: what the cache is made of
    DIR/<h>x<w>/sequences/<id>.array_record     the records' rows: video_latents, motion_latents
                                                [f h w c] bfloat16, and the small values of the
                                                view; of records for control tracking_latents,
                                                warped_latents and hoi_mask [f h w 1] float16 too,
                                                as they have them; where it was asked
                                                for appearance [14 14 768] float16, and of records
                                                with flow flow_latents [f h w c], of the companded
                                                flow, and depth_latents [1 h w c], of frame 0's;
                                                in a clip's own row pairs of view synthesis, where
                                                these were asked for (data/drawn_pairs.py)
    DIR/<h>x<w>/black.array_record              of these: black_latents [f h w c] bfloat16
    DIR/<h>x<w>/texts.array_record              features [l d] bfloat16 of each text, and of ""

A cache knows its records and weights by hash; another pair is refused, not mixed in. Files are
finished one by one, so that a stopped run continues. With several hosts each takes every n-th file.
The reference frame's latent is latent frame 0 (the VAE is causal): it needs no cache of its own.
"""

import dataclasses
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from tqdm import tqdm

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import controls, drawn_pairs, engine, pixel_flow, records
from syncmv4d_jax.geometry import flow_map, masks
from syncmv4d_jax.weights import store

log = logging.getLogger(__name__)
CLIPS = ("video", "motion", "tracking", "warped")
BLACK = "black.array_record"
TEXTS = 8  # encoded at once


class Appearance(NamedTuple):
    """encode: image [h w 3] uint8 -> [14 14 768] float16. mark: of its weights."""

    encode: Callable[[np.ndarray], np.ndarray]
    mark: str


def run(
    data: str | Path,
    out: str | Path,
    *,
    encode_video: Callable[[np.ndarray], Any] | None,
    encode_text: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    weights_hash: str,
    appearance: Appearance | None = None,
    gain: float | None = None,
    pairs: drawn_pairs.Pairs | None = None,
    size: tuple[int, int] | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
    beam: Sequence[str] | None = None,
) -> Path:
    """Caches all views and texts of a folder of records.

    Args:
      data: records (with one size, or the size named by `size`).
      out: the cache; a folder for the size is made in it.
      encode_video: clip [n h w 3] uint8, or float32 of -1..1 -> latents [f h w c]; None caches
        texts only.
      encode_text: b texts -> features [b l d], lengths [b].
      weights_hash: of the weights behind both, "vae:<hash>,umt5:<hash>" (see `weights_hash`).
      appearance: encodes frame 0, None: not at all; it wants `encode_video`.
      gain: of the flow's companding (geometry/flow_map.py), None: no latents of flow.
      pairs: how pairs of view synthesis are drawn, None: none are.
      shard_index, shard_count: this process's part of the files.
      beam: options of an Apache Beam pipeline whose workers encode the files; `encode_video` must
        be picklable then. None: this process does.

    Returns:
      The folder of this size.

    Raises:
      StaleCache: `out` was made of other records or weights.
      recipe.Held: another process fills this part.
      records.CorruptRecord: a damaged record; of a pipeline what its workers could not encode.
      ValueError: appearance or pairs without latents, or by a pipeline; a gain without latents,
        or for records without flow; pairs of these.
    """
    if appearance is not None and encode_video is None:
        raise ValueError("cache: appearance is kept beside latents, wanted both or texts only")
    if appearance is not None and beam is not None:
        raise ValueError("cache: appearance is encoded by this process, not by a pipeline")
    if pairs is not None and (encode_video is None or beam is not None):
        raise ValueError("cache: pairs are encoded by this process, beside latents; got "
                         f"{'texts only' if encode_video is None else 'a pipeline'}")  # fmt: skip
    if gain is not None and encode_video is None:
        raise ValueError("cache: latents of flow are kept beside latents, not beside texts only")
    reader = records.Reader(data, size=size)
    if (gain is not None or pairs is not None) and "flow" not in reader.settings.get("fields", ()):
        raise ValueError(f"{reader.root}: has no flow to cache: prepare it with --with flow")
    folder = Path(out) / reader.root.name
    made_of = {
        "version": schema.VERSION,
        "records": recipe.content(reader.root / "index.json"),
        "weights_hash": weights_hash,
        "latents": encode_video is not None,
    }
    if appearance is not None:
        made_of["appearance"] = appearance.mark
    if gain is not None:
        made_of["gain"] = float(gain)
    if pairs is not None:
        made_of["pairs"] = pairs.told()
    with recipe.Lock(folder, f"cache-{shard_index}-of-{shard_count}"):
        _claim(folder, made_of)
        encoders = encode_video, encode_text, appearance
        _fill(folder, reader, made_of, encoders, pairs, (shard_index, shard_count), beam)
    return folder


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a folder of records, to be encoded anywhere: picklable."""

    name: str

    @property
    def id(self) -> str:
        return Path(self.name).stem


@dataclasses.dataclass(frozen=True)
class _Job:
    """How files are encoded: the folder of the records, what encodes, and the cache's own id, of
    which two runs of one process must not share a reader."""

    records: str
    encode: Callable[[np.ndarray], Any]
    mark: str
    gain: float | None = None


@functools.lru_cache(2)
def _opened(folder: str, mark: str) -> tuple[records.Reader, dict[str, list[records.Window]]]:
    reader = records.Reader(folder)
    return reader, _by_file(reader)


def _by_file(reader: records.Reader) -> dict[str, list[records.Window]]:
    found: dict[str, list[records.Window]] = {}
    for window in reader.windows:
        found.setdefault(window.file, []).append(window)
    return found


def _encode(source: File, root: Path, job: _Job) -> engine.Answer:
    """Encodes a file; {"error": reason} where it cannot be."""
    try:
        reader, windows = _opened(job.records, job.mark)
        rows = _rows(reader, windows[source.name], job.encode, None, job.gain)
        return {"bytes": records.write_file(root / source.name, rows)}
    except Exception as error:  # it must not stop the others
        return {"error": f"{type(error).__name__}: {error}"}


def _encode_by_beam(todo: Sequence[str], folder: Path, job: _Job, options: Sequence[str]) -> None:
    files = [File(name) for name in todo]
    found = engine.beam(files, folder, job, options=options, work=_encode)
    failed = [f"{name}: {answer['error']}" for name, answer in found if "error" in answer]
    if failed:
        raise records.CorruptRecord(
            f"{folder}: {len(failed)} of {len(files)} files are not encoded, the others are (run "
            f"the same command again for these): {'; '.join(failed[:3])}"
        )


def _fill(
    folder: Path,
    reader: records.Reader,
    made_of: dict[str, Any],
    encoders: tuple[Callable | None, Callable, Appearance | None],
    pairs: drawn_pairs.Pairs | None,
    shard: tuple[int, int],
    beam: Sequence[str] | None,
) -> None:
    """Encodes what is not there; the last process to finish writes cache.json."""
    encode_video, encode_text, appearance = encoders
    by_file = _by_file(reader)
    if encode_video is not None:
        mine = list(by_file)[shard[0] :: shard[1]]
        todo = [name for name in mine if not (folder / name).is_file()]
        begun = time.perf_counter()
        if beam is not None:
            job = _Job(str(reader.root), encode_video, made_of["records"], made_of.get("gain"))
            _encode_by_beam(todo, folder, job, beam)
        else:
            gain = made_of.get("gain")
            for name in tqdm(todo, unit="sequence", desc="latents"):
                rows = _rows(reader, by_file[name], encode_video, appearance, gain, pairs)
                records.write_file(folder / name, rows)
        log.info("%d sequences in %.1f s", len(todo), time.perf_counter() - begun)
        if shard[0] == 0 and "das" in reader.settings.get("controls", ()):
            clip = np.zeros((reader.settings["frames"], *reader.settings["size"], 3), np.uint8)
            latents = np.asarray(encode_video(clip)).astype(ml_dtypes.bfloat16)
            records.write_file(folder / BLACK, [{"black_latents": latents}])
    meta = {}
    if shard[0] == 0:
        texts = ["", *sorted({window.text for window in reader.windows})]
        meta = _write_texts(folder / "texts.array_record", texts, encode_text)
        records.write_json(folder / "texts.json", meta)
    whole = encode_video is None or all((folder / name).is_file() for name in by_file)
    if whole and (folder / "texts.json").is_file():  # the last process to finish
        meta = json.loads((folder / "texts.json").read_text())
        records.write_json(folder / "cache.json", made_of | meta)


def _claim(folder: Path, made_of: dict[str, Any]) -> None:
    path = folder / "made_of.json"
    if not path.is_file():
        records.write_json(path, made_of)
        return
    if differ := recipe.differences(json.loads(path.read_text()), made_of):
        text = "; ".join(differ)
        raise StaleCache(
            f"{folder} was made of something else ({text}); use another --out or remove it"
        )


def _rows(
    reader: records.Reader,
    windows: Sequence[records.Window],
    encode: Callable,
    appearance: Appearance | None,
    gain: float | None,
    pairs: drawn_pairs.Pairs | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file in the records' order; those that are no view's stay empty, but
    for a clip's pairs."""
    for window in windows:
        views = [reader.view(window, view) for view in window.views]
        yield {} if pairs is None else drawn_pairs.row(window.id, views, pairs, encode)
        # All clips of a window are handed over first: devices work while the host waits.
        running = [
            {c: encode(controls.clip(values, c)) for c in CLIPS if c in values}
            | ({} if gain is None else _flow(values, encode, gain))
            for values in views
        ]
        for values, latents in zip(views, running, strict=True):
            row = {
                f"{c}_latents": np.asarray(x).astype(ml_dtypes.bfloat16) for c, x in latents.items()
            }
            if "mask" in values:
                row["hoi_mask"] = _mask(values, row["video_latents"].shape[:3])
            if appearance is not None:
                row["appearance"] = appearance.encode(records.decode_first(values["video"]))
            yield row | {key: values[key] for key in (*schema.SMALL, "depth0") if key in values}
        if window.surfaces >= 0:
            yield {}


def _flow(values: Mapping[str, Any], encode: Callable, gain: float) -> dict[str, Any]:
    fields = pixel_flow.unpack(values)
    flow = flow_map.compand(fields["flow"].astype(np.float32), gain)
    depth = flow_map.depth_picture(fields["depth0"])[None]
    return {"flow": encode(np.asarray(flow)), "depth": encode(np.asarray(depth))}


def _mask(values: Mapping[str, Any], latent: tuple[int, int, int]) -> np.ndarray:
    seen = controls.unpack(values["mask"], values["video"].shape[1:3])
    return masks.to_cells(seen, latent).astype(np.float16)


def _write_texts(path: Path, texts: Sequence[str], encode: Callable) -> dict[str, Any]:
    rows, longest = [], 0
    for start in range(0, len(texts), TEXTS):
        features, lengths = encode(texts[start : start + TEXTS])
        for feature, length in zip(features, lengths, strict=True):
            longest = max(longest, int(length))
            rows.append({"features": np.asarray(feature[:length]).astype(ml_dtypes.bfloat16)})
    records.write_file(path, rows)
    return {"texts": {text: row for row, text in enumerate(texts)}, "text_length": longest}


class StaleCache(recipe.Other):
    """A cache that was made of other records or with other weights."""


class Cache:
    """What `cache.run` wrote: latents of views and features of texts (see data/cache.py)."""

    def __init__(self, root: str | Path, reader: records.Reader):
        """Opens a cache of the records of `reader`.

        Raises:
          FileNotFoundError: not a finished cache.
          StaleCache: of other records.
        """
        self.root = Path(root)
        name = reader.root.name
        folder = self.root / name if (self.root / name / "cache.json").is_file() else self.root
        self.path = folder / "cache.json"
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{self.path}: no finished cache; python data_prep/cache_latents.py --data "
                f"{reader.root} --weights DIR --out {self.root} makes it"
            )
        self.meta = json.loads(self.path.read_text())
        now = recipe.content(reader.root / "index.json")
        if self.meta["version"] != schema.VERSION or self.meta["records"] != now:
            raise StaleCache(
                f"{self.path} was made of records {self.meta['records']} (version "
                f"{self.meta['version']}), {reader.root} is {now} (version {schema.VERSION}): "
                "run data_prep/cache_latents.py again"
            )
        self.latents = bool(self.meta["latents"])
        self.appearance = "appearance" in self.meta
        self.gain = self.meta.get("gain")
        self._files = records.Files(folder)
        self._texts: dict[str, np.ndarray] = {}

    def check_weights(self, given: Mapping[str, str]) -> None:
        """Compares the weights of config.weights with those of the cache, where both are known.

        Raises:
          StaleCache: they differ.
        """
        for named in filter(None, self.meta["weights_hash"].split(",")):
            part, _, mark = named.partition(":")
            now = store.weights_mark(given.get(part, ""), part)
            if mark and now and mark != now:
                raise StaleCache(
                    f"{self.path} was made with {part} {mark}, but config.weights.{part}="
                    f"{given[part]} is {now}: run data_prep/cache_latents.py with these weights "
                    "and another --out"
                )

    def check_gain(self, gain: float | None) -> bool:
        """Returns whether it has latents of flow for a task with this gain (None: not read).

        Raises:
          StaleCache: of another gain.
        """
        if gain is None or self.gain is None:
            return False
        if self.gain != gain:
            raise StaleCache(
                f"{self.path} has latents of flow with gain {self.gain}, config.task.gain is "
                f"{gain}: run data_prep/cache_latents.py --flow {gain} with another --out"
            )
        return self.latents

    def view(self, window: records.Window, view: records.View) -> dict[str, Any]:
        """Returns video_latents, motion_latents [f h w c] bfloat16 and the small values of a view.

        Raises:
          records.CorruptRecord: a damaged file.
        """
        return self._files.open(window.file).read(view.record)

    def check_pairs(self, asked: Mapping[str, Any]) -> None:
        """Compares its pairs of view synthesis with what a task asks for (`Pairs.asked`).

        Raises:
          StaleCache: it has none, or others.
        """
        have = {key: x for key, x in self.meta.get("pairs", {}).items() if key != "count"}
        again = "data_prep/cache_latents.py --pairs COUNT with another --out"
        if not have:
            raise StaleCache(
                f"{self.path} has no pairs, which config.data.pairs asks for: run {again}"
            )
        if differ := recipe.differences(have, dict(asked)):
            raise StaleCache(
                f"{self.path} has pairs of another kind than config.task asks for "
                f"({'; '.join(differ)}): run {again}"
            )

    def pairs(self, window: records.Window) -> dict[str, np.ndarray]:
        """Returns a clip's pairs, as data/drawn_pairs.py has them.

        Raises:
          records.CorruptRecord: a damaged file.
        """
        return self._files.open(window.file).read(window.record)

    def black(self) -> dict[str, np.ndarray]:
        """Returns black_latents [f h w c], of a black clip; {} of records without control."""
        if not (self.path.parent / BLACK).is_file():
            return {}
        row = self._files.open(BLACK).read(0)
        return {key: x.astype(np.float32) for key, x in row.items()}

    def text(self, text: str) -> dict[str, np.ndarray]:
        """Returns text [l d] and null_text [l d], rows beyond their lengths zero.

        Raises:
          StaleCache: the text is not in the cache.
        """
        result = {}
        for key, wanted in (("text", text), ("null_text", "")):
            if wanted not in self.meta["texts"]:
                raise StaleCache(f"{self.path}: no features of {wanted!r}: cache again")
            if wanted not in self._texts:
                row = self.meta["texts"][wanted]
                features = self._files.open("texts.array_record").read(row)["features"]
                self._texts[wanted] = features.astype(np.float32)
            features = self._texts[wanted]
            longest = int(self.meta["text_length"])
            result[key] = np.pad(features, ((0, longest - len(features)), (0, 0)))
            result[f"{key}_lengths"] = np.asarray(len(features), np.int32)
        return result
