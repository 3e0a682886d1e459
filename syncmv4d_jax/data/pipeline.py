"""Records and caches -> batches (schema.BATCH), by grain.

    source of clips -> shuffle(seed) -> repeat -> position -> this shard's part -> example -> batch

The order is global: batch j holds positions [j B, (j + 1) B) of one shuffled, endless sequence
whatever the number of shards, and everything drawn for an example (its cameras, their order, its
turn, its colours) depends on (seed, position). An iterator's state is JSON-able. Several folders
are mixed by their shares (`config.data.mix`). Cached latents are read where there are any;
`config.data.raw` reads pixels instead, `.latents` both.
"""

import dataclasses
import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from syncmv4d_jax import schema
from syncmv4d_jax.data import cache, controls, drawn_pairs, pixel_flow, records, transforms
from syncmv4d_jax.data.config import DataConfig, Wanted
from syncmv4d_jax.geometry import pseudo_video

log = logging.getLogger(__name__)
COMMANDS = (
    "python data_prep/make_scenes.py --out SCENES (or TACO itself), then "
    "python data_prep/prepare_taco.py --taco SCENES/taco --mano SCENES/mano --out RECORDS, then "
    "--config.data.records=RECORDS"
)
THREADS, AHEAD = 8, 8
# What a tracking video is made of, where it is no "tracking": {what is wanted: clip of a view}.
FOLLOWED = {"point_tracks": "motion", pseudo_video.WARPED: "warped"}
VIDEO_ONLY = "none"  # the representation of motion of records without any


def train_iterator(
    config: DataConfig,
    wanted: Wanted,
    *,
    batch_size: int,
    seed: int,
    shard_index: int,
    shard_count: int,
) -> "Batches":
    """Returns an endless iterator of batches.

    Args:
      config: `config.data`.
      wanted: what the task wants of an example.
      batch_size: of this shard.
      seed: of the order and of all draws.
      shard_index, shard_count: this reader's part.

    Raises:
      ValueError, FileNotFoundError: no records, or not what the task wants; names the command.
      StaleCache: see `Examples`.
      records.CorruptRecord: from the iterator, at a damaged record; with `config.data.skip_corrupt`
        only when all are.
    """
    reader = f"reader {shard_index} of {shard_count}"
    parts = [(config, 1.0 - sum(share for *_, share in config.mix))]
    for folder, cached, share in config.mix:
        parts.append((dataclasses.replace(config, records=folder, cache=cached, mix=()), share))
    every = [Examples(own, wanted, config.split, reader=reader) for own, _ in parts]
    if config.jitter and any(examples.latents for examples in every):
        raise ValueError(
            f"config.data.jitter={config.jitter} changes pixels, but cached latents are read: "
            "--config.data.raw=True with --config.data.latents=False, or --config.data.jitter=0"
        )
    each = [_endless(own, config, seed, part) for part, own in enumerate(every)]
    whole = each[0]
    if len(each) > 1:
        whole = grain.MapDataset.mix(each, weights=[share for _, share in parts])
    dataset = (
        whole[shard_index::shard_count]
        .to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD))
        .batch(batch_size, drop_remainder=True)
    )
    return Batches(iter(dataset), every)


def _endless(examples: "Examples", config: DataConfig, seed: int, part: int) -> grain.MapDataset:
    """The clips of one folder, shuffled, again and again; part: which of config.data's."""
    read = examples.get_or_next if config.skip_corrupt else examples.get

    def make(position: int, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([seed, position, *[part] * (part > 0)])
        example = read(index, rng)
        if config.augment:
            example = _reorder(_turn(example, rng), rng)
        if config.jitter:
            example["video"] = transforms.recolour(example["video"], config.jitter, rng)
        return example

    return (
        grain.MapDataset.source(_share(len(examples), config.share, seed))
        .shuffle((seed + part) % 2**32)
        .repeat()
        .map_with_index(make)
    )


class Batches:
    """An iterator of batches that can be stopped and continued, and knows what it left out."""

    def __init__(self, iterator: grain.DatasetIterator, examples: Sequence["Examples"]):
        self._iterator, self._examples = iterator, examples

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Returns where it is; JSON-able."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` was called."""
        self._iterator.set_state(state)

    def scalars(self) -> dict[str, float]:
        """Counts of this reader since it was made, for the log; sum them over processes.

        Returns:
          skipped_examples: replaced for a damaged record, those read ahead included;
          real_examples, sim_examples: read so far, where records of both kinds are mixed.
        """
        found = {"skipped_examples": float(sum(x.skipped for x in self._examples))}
        if len(self._examples) > 1:
            for kind in ("real", "sim"):
                found[f"{kind}_examples"] = float(sum(x.read[kind] for x in self._examples))
        return found


def _share(count: int, share: float, seed: int) -> list[int]:
    """Returns the indices of a random share of clips, in order; the same for every shard."""
    if share == 1:
        return list(range(count))
    chosen = np.random.default_rng([seed, count]).permutation(count)
    return sorted(int(i) for i in chosen[: max(1, round(share * count))])


def examples(config: DataConfig, wanted: Wanted, split: str, *, count: int = 0) -> records.Listing:
    """Lists (id, unbatched example with video, motion, prompt, triplet) in order, first cameras.

    Where the surfaces of a clip are stored, `surfaces` is a function that reads them; of records
    for control and of those with actions `courses` is one of what else follows the same first
    frame (`Examples.courses`).

    Args:
      config: `config.data`.
      wanted: what the task wants of an example.
      split: of the records.
      count: of examples, 0 = all.

    Raises:
      As `train_iterator`.
    """
    made = Examples(config, wanted, split, raw=True)
    count = min(count or len(made), len(made))

    def read():
        for index in range(count):
            window = made.reader.windows[index]
            example = made.get(index, None) | {"prompt": window.text}
            example |= {"triplet": window.triplet, "filmed": window.filmed}
            if made.wanted.cloud or "actions" in example:
                example["courses"] = functools.partial(made.courses, index)
            if window.surfaces >= 0:
                example["surfaces"] = functools.partial(made.reader.surfaces, window)
            unread = () if made.cache else ("text", "text_lengths")
            yield window.id, {key: x for key, x in example.items() if key not in unread}

    return records.Listing(count, read)


class Examples:
    """Unbatched examples of one split, at random."""

    def __init__(
        self,
        config: DataConfig,
        wanted: Wanted,
        split: str,
        *,
        raw: bool = False,
        reader: str = "reader",
    ):
        """Opens records and cache.

        Args:
          config: `config.data`.
          wanted: what the task wants of an example.
          split: of the records.
          raw: give pixels, whatever the configuration says.
          reader: what to call this reader in the log.

        Raises:
          ValueError: config.data.records is empty, or the records do not fit config.task.
          FileNotFoundError: no records, no cache.
          StaleCache: the cache belongs to other records or to other weights than config.weights.
        """
        if not config.records:
            raise ValueError(f"config.data.records is empty: {COMMANDS}")
        self.reader = records.Reader(config.records, split, size=wanted.size)
        self.points = _check(self.reader, config, wanted)
        self.views = wanted.views or int(self.reader.settings["clusters"])
        self.named = bool(self.reader.settings.get("views"))
        if self.named:
            _leave_out(self.reader, self.views)
        drawn = lambda cluster: self.named or cluster < self.views  # noqa: E731
        self.moving = any(drawn(c) for w in self.reader.windows for c in w.moves)
        self.fixed = config.cameras == "fixed"
        self.fields = config.fields
        self.cache = cache.Cache(config.cache, self.reader) if config.cache else None
        if self.cache:
            self.cache.check_weights(wanted.weights)
        elif wanted.text and not raw:
            raise ValueError(
                "config.data.cache is empty, but the transformer reads text features: "
                "python data_prep/cache_latents.py --data RECORDS --weights DIR --out CACHE, then "
                "--config.data.cache=CACHE"
            )
        cached = self.cache is not None and self.cache.latents
        self.pairs = config.pairs and not raw
        if self.pairs and not cached:
            raise ValueError(
                "config.data.pairs: wanted a cache with pairs, got none: python "
                "data_prep/cache_latents.py --data RECORDS --weights DIR --out CACHE --pairs COUNT"
            )
        if self.pairs and self.cache is not None:
            self.cache.check_pairs(wanted.pairs)
        self.raw = (raw or config.raw or not cached) and not self.pairs
        self.latents = cached and (not self.raw or config.latents)
        flows = self.cache is not None and self.cache.check_gain(wanted.gain)
        self.flows = flows and self.latents and "flow" in config.fields
        self.wanted = wanted
        self.name, self.skipped = reader, 0  # examples replaced by `get_or_next`, here
        self.read = dict.fromkeys(("real", "sim"), 0)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reader.windows)

    def get(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """Returns an example; cameras are drawn by `rng`, or the first of each cluster are taken.

        Raises:
          records.CorruptRecord: a damaged record.
        """
        window = self.reader.windows[index]
        if self.pairs:
            return self._drawn(window, rng)
        chosen = self._cameras(window, None if self.fixed else rng)
        views = [self._view(window, view) for view in chosen]
        own = self.reader.tracks(window)
        shared = set(views[0]).intersection(*views)  # one camera may have a calibration, one not
        shared -= set() if set(schema.CAMERAS) <= shared else set(schema.CAMERAS)
        if "extrinsics" in shared:
            frames = max(len(view["extrinsics"]) for view in views)
            frames = len(own["frame_valid"]) if self.moving else frames
            for view in views:  # one camera that moves makes all have a pose a frame
                poses = view["extrinsics"]
                view["extrinsics"] = np.broadcast_to(poses, (frames, *poses.shape[1:]))
        example = {key: np.stack([view[key] for view in views]) for key in sorted(shared)}
        example |= {"tracks": own["tracks"]} if "tracks" in own else {}
        if "actions" in own:
            example["actions"] = self._standardised(own["actions"])
        example |= {
            "frame_valid": own["frame_valid"],
            "latent_valid": transforms.latent_valid(own["frame_valid"]),
            "view_index": np.array([view.cluster for view in chosen], np.int32),
        }
        if self.wanted.cloud:
            colours = self.wanted.colours
            example |= controls.example(own, self.wanted.cloud, rng, colours=colours)
        with self._lock:
            self.read[window.provenance] += 1
        if self.cache:
            example |= self.cache.text(window.text)
            example |= self.cache.black() if self.wanted.tracking and self.latents else {}
        else:  # for tasks that read no text
            example |= {
                "text": np.zeros((1, 1), np.float32),
                "text_lengths": np.zeros((), np.int32),
            }
        return _fewer(example, self.points)

    def _drawn(self, window: records.Window, rng: np.random.Generator | None) -> dict[str, Any]:
        """An example whose views are pairs of the clip that were drawn before."""
        assert self.cache is not None
        pairs = self.cache.pairs(window)
        kept = drawn_pairs.chosen(pairs, self.views, rng)
        targets = pairs["pair_targets"][kept]
        seen = {int(i): self.cache.view(window, window.views[i])["video_latents"] for i in targets}
        valid = self.reader.tracks(window)["frame_valid"]
        with self._lock:
            self.read[window.provenance] += 1
        return {
            "video_latents": np.stack([seen[int(i)] for i in targets]).astype(np.float32),
            "render_latents": pairs["render_latents"][kept].astype(np.float32),
            "hole_mask": pairs["hole_mask"][kept].astype(np.float32),
            "render_same": pairs["pair_same"][kept],
            "frame_valid": valid,
            "latent_valid": transforms.latent_valid(valid),
            "view_index": np.arange(len(kept), dtype=np.int32),
            **self.cache.text(window.text),
        }

    def get_or_next(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Returns `get`, of the next index (in a ring) where that is damaged; counts and logs it.

        Raises:
          records.CorruptRecord: everything is damaged.
        """
        for step in range(len(self)):
            try:
                return self.get((index + step) % len(self), rng)
            except records.CorruptRecord as error:
                last = error
                with self._lock:
                    self.skipped += 1
                    text = "%s skipped a corrupt record (%d so far): %s"
                    log.warning(text, self.name, self.skipped, error)
        raise records.CorruptRecord(f"none of {len(self)} examples can be read; last: {last}")

    def _standardised(self, actions: np.ndarray) -> np.ndarray:
        """[n a] by the data set's mean and deviation, float32."""
        have = self.reader.settings
        mean, std = (np.asarray(have[f"action_{key}"], np.float32) for key in ("mean", "std"))
        return (actions - mean) / std

    def courses(self, index: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Videos and masks [v n h w ...] of other clips that begin with the same frames and text;
        None of records without masks.

        Of the embedded scenes these are the other courses of a layout (data_prep/make_scenes.py).
        """
        own, found = self.reader.windows[index], []
        alike = lambda w: (w.sequence.rpartition("_")[0], w.text, w.triplet)  # noqa: E731
        first = [self._first(own, view) for view in self._cameras(own, None)]
        for window in self.reader.windows:
            if window.sequence == own.sequence or alike(window) != alike(own):
                continue
            views = self._cameras(window, None)
            if all(
                np.array_equal(a, self._first(window, b)) for a, b in zip(first, views, strict=True)
            ):
                values = [self._view(window, view) for view in views]
                masks = [x["mask"] for x in values if "mask" in x]
                video = np.stack([x["video"] for x in values])
                found.append((video, np.stack(masks) if masks else None))
        return found

    def _first(self, window: records.Window, view: records.View) -> np.ndarray:
        return records.decode_first(self.reader.view(window, view)["video"])

    def _cameras(self, window: records.Window, rng: np.random.Generator | None):
        if self.named:  # any of them: a view is known by its name, and some may be missing
            order = np.arange(len(window.views)) if rng is None else rng.permutation(
                len(window.views))  # fmt: skip
            return [window.views[i] for i in sorted(order[: self.views])]
        chosen = []
        for cluster in range(self.views):
            there = [view for view in window.views if view.cluster == cluster]
            if not there:
                raise records.CorruptRecord(f"{window.id}: no view of cluster {cluster}")
            chosen.append(there[int(rng.integers(len(there))) if rng is not None else 0])
        return chosen

    def _view(self, window: records.Window, view: records.View) -> dict[str, np.ndarray]:
        result: dict[str, np.ndarray] = {}
        if self.latents and self.cache:
            values = self.cache.view(window, view)
            more: tuple[str, ...] = ()
            more += ("hoi_mask",) if self.wanted.tracking else ()
            more += ("flow_latents", "depth_latents") if self.flows else ()
            for key in ("video_latents", "motion_latents", *more):
                if key in values:
                    result[key] = values[key].astype(np.float32)
            if self.wanted.tracking:
                latents = values[f"{FOLLOWED.get(self.wanted.tracking, 'tracking')}_latents"]
                result["tracking_latents"] = latents.astype(np.float32)
        if self.raw:
            values = self.reader.view(window, view)
            there = [key for key in ("video", "motion") if key in values]
            result |= {key: records.decode(values[key]) for key in there}
            if self.wanted.tracking:
                own = FOLLOWED.get(self.wanted.tracking, "tracking")
                result["tracking"] = controls.clip(values, own)
                result["mask"] = controls.unpack(values["mask"], result["video"].shape[1:3])
        result |= {key: values[key] for key in (*schema.SMALL, "depth0") if key in values}
        if self.cache and self.cache.appearance:
            result["appearance"] = self.cache.view(window, view)["appearance"]
        if "flow" in self.fields:
            result |= pixel_flow.unpack(values if self.raw else self.reader.view(window, view))
        return result | ({"extrinsics": records.poses(values)} if "extrinsics" in values else {})


def _leave_out(reader: records.Reader, views: int) -> None:
    """Keeps the windows with as many named views as are wanted.

    Raises:
      ValueError: none.
    """
    kept = [window for window in reader.windows if len(window.views) >= views]
    if not kept:
        most = max(len(window.views) for window in reader.windows)
        raise ValueError(
            f"{reader.root}: wanted clips with {views} views, they have {most} at most: set "
            f"config.task.views={most}"
        )
    if len(kept) < len(reader.windows):
        lost = len(reader.windows) - len(kept)
        log.info("%s: %d clips with fewer than %d views are left out", reader.root, lost, views)
    reader.windows = kept


def _check(reader: records.Reader, config: DataConfig, wanted: Wanted) -> int:
    """Compares records with what is wanted; returns the number of points to give (0: all)."""
    have = {"representation": "point_tracks", "fields": [], "paths": []} | reader.settings
    if have["representation"] == VIDEO_ONLY:  # the task says what it misses of them
        have |= {"representation": wanted.representation, "points": wanted.points or 0}
    asked = {
        "size": list(wanted.size) if wanted.size else None,
        "frames": wanted.frames,
        "fps": config.fps,
        "representation": wanted.representation,
    }
    if wanted.tracking == "point_tracks":  # the motion itself is followed
        asked["representation"] = wanted.tracking
    problems = [
        f"{k}: wanted {v}, records have {have[k]}"
        for k, v in asked.items()
        if v is not None and v != have[k]
    ]
    if (wanted.views or 0) > have["clusters"] + len(have["paths"]):
        there = f"{have['clusters']} clusters and {len(have['paths'])} moving cameras"
        problems.append(f"views: wanted {wanted.views}, records have {there}")
    if lacking := set(config.fields) - set(have["fields"]):
        problems.append(f"fields: wanted {sorted(lacking)} too (--with), records have others")
    stored = have.get("controls", ())
    needs = ["points", "das", *["image"] * (wanted.tracking == pseudo_video.WARPED)]
    if wanted.cloud and not set(needs) <= set(stored):
        problems.append(
            f"control: wanted {' and '.join(needs)} (--with {','.join(needs)}), records have "
            f"{stored}"
        )
    elif (wanted.cloud or 0) > have.get("cloud", 0):
        problems.append(f"cloud: wanted {wanted.cloud} points, records have {have['cloud']}")
    if (wanted.points or 0) > have["points"]:
        problems.append(f"points: wanted {wanted.points}, records have {have['points']}")
    if problems:
        raise ValueError(
            f"{reader.root} does not fit config.task ({'; '.join(problems)}): prepare the records "
            "again with these values (data_prep/prepare_taco.py --size --frames --fps --points "
            "--representation --with --cloud)"
        )
    return wanted.points or int(have["points"])


def _fewer(example: dict[str, Any], points: int) -> dict[str, Any]:
    """Takes `points` of the points, evenly."""
    have = example["tracks"].shape[1] if "tracks" in example else 0
    if points < have:
        kept = np.floor((np.arange(points) + 0.5) * have / points).astype(int)
        for key in ("tracks", "visibility", "anchors", "anchor_valid"):
            axis = {"anchor_valid": -1, "visibility": -1}.get(key, -2)
            example[key] = np.take(example[key], kept, axis=axis)
    return example


def _turn(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Turns the world about the vertical through the scene: tracks and cameras, not pixels."""
    angle = float(rng.uniform(-np.pi, np.pi))  # drawn whatever the example has
    if "tracks" not in example:  # nothing says where the scene is
        return example
    centre = example["tracks"][0].mean(0)
    example = controls.turned(example, angle, centre)
    tracks, extrinsics = transforms.rotate_world(
        example["tracks"], example["extrinsics"], angle, centre
    )
    return {**example, "tracks": tracks, "extrinsics": extrinsics}


def _reorder(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Permutes the views with all that is theirs; a view keeps the index of its cluster."""
    order = rng.permutation(len(example["view_index"]))
    return {
        key: value[order] if key in schema.PER_VIEW else value for key, value in example.items()
    }
