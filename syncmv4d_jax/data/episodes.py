"""Episodes of robots as records: videos of named views, text and actions, without surfaces.

    view      video, serial, box; with calibration intrinsics [3 3] and extrinsics [3 4], or of a
              camera that moves [n 3 4]; with a depth camera depth0 [h w] metres
    tracks    frame_valid, source_frames, text; actions [n a] as the data set has them

Nothing is tracked, so there are no tracks, anchors, pseudo videos or scales, and the crop is the
largest centred part of each image, which needs none of them. A view is known by its name: its index
is the name's place in `Settings.views`, whatever else an episode lacks.

A window begins every `every` seconds; of an episode that is shorter than a clip the last frame
repeats. All windows of an episode are in one split.
"""

import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax import disk
from syncmv4d_jax.data import clips, pipeline, reading, records, transforms
from syncmv4d_jax.data.sources import lerobot, taco
from syncmv4d_jax.geometry import cameras

log = logging.getLogger(__name__)
LEAST_SPREAD = 1e-6  # an action that never changes is not divided by its deviation


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes the records; two runs into one folder must agree in all of it.

    Attributes:
      size: (height, width) of the records' videos.  frames, fps: of a clip.
      views: names of the views, in the order of their indices.
      cameras: (view, camera's key or the end of it) pairs; the other views' cameras have their
        names.
      depth: (view, key of a depth camera) pairs.
      every: seconds from a window to the next, 0: one an episode.
      least: views that an episode must have.
      actions: their feature, "" to leave them out; names, mean, std: of its numbers.
      val, test: shares of the episodes.  held_out: texts of tasks that are tested on.
      seed: of the split.
    """

    views: tuple[str, ...]
    size: tuple[int, int] = (480, 704)
    frames: int = 49
    fps: float = 8.0
    cameras: tuple[tuple[str, str], ...] = ()
    depth: tuple[tuple[str, str], ...] = ()
    every: float = 0.0
    least: int = 1
    actions: str = ""
    action_names: tuple[str, ...] = ()
    action_mean: tuple[float, ...] = ()
    action_std: tuple[float, ...] = ()
    val: float = 0.1
    test: float = 0.1
    held_out: tuple[str, ...] = ()
    seed: int = 0
    representation: str = pipeline.VIDEO_ONLY
    points: int = 0
    clusters: int = 0

    def __post_init__(self):
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(f"wanted names of views, each once, got {self.views}")
        known = [name for name, _ in (*self.cameras, *self.depth)]
        if strange := sorted(set(known) - set(self.views)):
            raise ValueError(f"cameras of unknown views {strange}: the views are {self.views}")
        if self.frames % transforms.TEMPORAL_STRIDE != 1:
            raise ValueError(f"wanted frames = 4 m + 1, got {self.frames}")
        if not 1 <= self.least <= len(self.views):
            raise ValueError(f"least: wanted 1 to {len(self.views)} views, got {self.least}")
        if self.every < 0 or not 0 <= self.val + self.test <= 1 or min(self.val, self.test) < 0:
            raise ValueError(
                "wanted every >= 0 and shares val + test within 0..1, got "
                f"{self.every}, {self.val}, {self.test}"
            )
        object.__setattr__(self, "clusters", len(self.views))

    def split(self, sequence: str, text: str) -> str:
        """Returns "train", "val" or "test"; all windows of an episode share it."""
        if text in self.held_out:
            return "test"
        drawn = transforms.seeded(self.seed, "split", sequence).random()
        if drawn < self.test:
            return "test"
        return "val" if drawn < self.test + self.val else "train"


@dataclasses.dataclass(frozen=True)
class Source:
    """An episode of a LeRobot data set that can be opened anywhere: picklable."""

    root: str
    index: int
    hands: str = ""  # nobody's: what other sources are made from
    flip_left: bool = False

    @property
    def id(self) -> str:
        return f"episode_{self.index:06d}"

    def mark(self) -> str:
        """A short hash of what the episode's files are: names, sizes, times of change."""
        data = opened(self.root)
        episode = data.episode(self.index)
        found = [episode.data, *(clip.path for clip in episode.videos.values())]
        text = [f"{episode.index} {episode.length} {episode.text}"]
        for path in sorted(found):
            state = path.stat() if path.is_file() else None
            own = (state.st_size, state.st_mtime_ns) if state else None
            text.append(f"{path.name} {own}")
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


@functools.lru_cache(2)
def opened(root: str) -> lerobot.Dataset:
    """A data set, its lists read once a process."""
    return lerobot.open_dataset(root)


def sources(root: str | Path) -> list[Source]:
    """The episodes of a data set.

    Raises:
      FileNotFoundError, ValueError: as `lerobot.open_dataset`; or it has none.
    """
    found = [Source(str(root), e.index) for e in opened(str(root)).episodes]
    if not found:
        raise ValueError(f"{root}: a data set without episodes")
    return found


def check(settings: Settings, root: str | Path) -> None:
    """Checks names before anything is prepared.

    Raises:
      ValueError: a view whose camera no episode can have, a depth camera that is none, or actions
        that are no feature; lists what there is.
    """
    data = opened(str(root))
    there = sorted(data.cameras)
    for view in settings.views:
        named = dict(settings.cameras).get(view)
        if named is not None and data.camera(named) is None:
            raise ValueError(f"{root}: no camera {named!r} for view {view!r}; it has {there}")
    if all(_camera(data, settings, view) is None for view in settings.views):
        raise ValueError(
            f"{root}: none of the views {settings.views} is a camera of it: say which is, e.g. "
            f"--views head={there[0] if there else '...'}; it has {there}"
        )
    for view, name in settings.depth:
        camera = data.camera(name)
        if camera is None or camera.kind != "depth":
            raise ValueError(f"{root}: {name!r}, depth of view {view!r}, is no depth camera of it")
    if settings.actions and settings.actions not in data.features:
        raise ValueError(f"{root}: no feature {settings.actions!r}; it has {sorted(data.features)}")


def with_actions(settings: Settings, root: str | Path, key: str) -> Settings:
    """Returns settings that keep a feature as actions, with its names and statistics.

    Raises:
      ValueError: no such feature, or no statistics of it.
    """
    data = opened(str(root))
    if key not in data.features:
        raise ValueError(f"{root}: no feature {key!r}; it has {sorted(data.features)}")
    mean, std = lerobot.statistics(data, key)
    std = np.where(std < LEAST_SPREAD, 1.0, std)
    names: Any = data.features[key].get("names") or [str(i) for i in range(len(mean))]
    if isinstance(names, Mapping):  # {"motors": [...]}, as older sets have it
        names = [name for part in names.values() for name in part]
    return dataclasses.replace(
        settings,
        actions=key,
        action_names=tuple(str(name) for name in names),
        action_mean=tuple(float(x) for x in mean),
        action_std=tuple(float(x) for x in std),
    )


def prepare_episode(source: Source, root: Path, settings: Settings) -> dict[str, Any]:
    """Prepares one episode; returns its part of the index, or {"error": reason}."""
    begun = time.perf_counter()
    try:
        part = _prepare(source, Path(root), settings)
    except Exception as error:  # whatever a broken episode runs into must not stop the others
        return {"error": f"{type(error).__name__}: {error}"}
    return part | {"seconds": time.perf_counter() - begun}


def _prepare(source: Source, root: Path, settings: Settings) -> dict[str, Any]:
    place = root / "sequences" / f"{source.id}.json"
    place.unlink(missing_ok=True)  # no part of former records beside new ones
    mark, data = source.mark(), opened(source.root)
    episode = data.episode(source.index)
    text = reading.prompt(episode.text, where=f"{source.id}, its task")
    split, stamps = settings.split(source.id, text), data.stamps(episode)
    file = f"sequences/{source.id}.array_record"
    values: list[dict[str, Any]] = []
    entries = []
    for number, (start, index, valid) in enumerate(windows(stamps, data.fps, settings)):
        views, skipped = _views(data, episode, index, settings)
        own = {
            "frame_valid": valid,
            "source_frames": index.astype(np.int32),
            "text": text,
        }
        if settings.actions:
            own["actions"] = _actions(data, episode, index, settings)
        base = len(values)
        entries.append(
            {
                "id": f"{source.id}-{number}",
                "sequence": source.id,
                "triplet": [text, "", ""],
                "window": number,
                "start": int(start),
                "valid_frames": int(valid.sum()),
                "file": file,
                "record": base,
                "split": split,
                "text": text,
                "views": [
                    {"record": base + 1 + i, "serial": name, "cluster": settings.views.index(name)}
                    for i, name in enumerate(views)
                ],
                "skipped_views": skipped,
            }
        )
        moving = [name for name, x in views.items() if np.ndim(x.get("extrinsics", 0)) == 3]
        if moving:
            entries[-1]["moves"] = [settings.views.index(name) for name in moving]
        values += [own, *views.values()]
        _write_sheet(root / "report" / f"{source.id}-{number}.jpg", views, int(valid.sum()))
    size = records.write_file(root / file, values)
    part = {"windows": entries, "bytes": size, "source": mark}
    records.write_json(place, part)
    return part


def windows(
    stamps: np.ndarray, fps: float, settings: Settings
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Where clips begin in an episode, and their frames.

    Args:
      stamps: [length] seconds. fps: that the data set says it has.

    Returns:
      (start, index [n], valid [n]) of each: the first one's last frame may repeat, the others are
      whole.

    Raises:
      taco.BadSequence: too short, or its time stamps say another rate than the data set.
    """
    rate, length = lerobot.regular(stamps), len(stamps)
    if rate is not None and abs(rate / fps - 1) > 0.01:
        log.warning("time stamps say %.4g frames a second, info.json %g", rate, fps)
    if (rate or fps) < settings.fps * 0.99:
        raise taco.BadSequence(
            f"it has {rate or fps:.4g} frames a second, wanted at least {settings.fps:g}: prepare "
            "with a lower --fps"
        )
    seconds = (settings.frames - 1) / settings.fps
    found: list[tuple[int, np.ndarray, np.ndarray]] = []
    begins = 0.0
    while not found or (settings.every and begins + seconds <= stamps[-1] + 1e-6):
        start = int(np.abs(stamps - begins).argmin())
        if rate is not None:
            index, valid = transforms.frame_index(
                length, source_fps=max(rate, settings.fps), fps=settings.fps,
                frames=settings.frames, start=start,
            )  # fmt: skip
        else:
            wanted = stamps[start] + np.arange(settings.frames) / settings.fps
            index = np.abs(stamps[None] - wanted[:, None]).argmin(1)
            valid = wanted <= stamps[-1] + 0.5 / settings.fps
        found.append((start, index, valid))
        begins += settings.every
    if found[0][2].sum() < clips.LEAST * settings.frames:
        raise taco.BadSequence(
            f"{length} frames in {stamps[-1]:.3g} s are {found[0][2].sum()} of a clip's "
            f"{settings.frames}, wanted {clips.LEAST:.0%} of them at least"
        )
    return found


def _views(data, episode, index, settings) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """{view: values} of those that are there; {view: why it is not}."""
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for view in settings.views:
        camera = _camera(data, settings, view)
        if camera is None:
            skipped[view] = f"no camera of this name; there are {sorted(data.cameras)}"
            continue
        try:
            found[view] = _view(data, episode, camera, view, index, settings)
        except taco.BadSequence as error:
            skipped[view] = str(error)
    if len(found) < settings.least:
        reasons = "; ".join(f"{view}: {why}" for view, why in skipped.items())
        raise taco.BadSequence(f"{len(found)} views, wanted {settings.least}: {reasons}")
    return found, skipped


def _view(data, episode, camera, view, index, settings) -> dict[str, Any]:
    pictures, box = data.pictures(episode, camera, index, settings.size)
    values = {
        "video": records.encode(pictures),
        "box": np.asarray(box, np.float32),
        "serial": camera.key,
    }
    poses = data.poses(episode, camera, view)
    if poses is not None:
        own = cameras.crop_resize_intrinsics(
            data.intrinsics(episode, camera, view), box, settings.size
        )
        poses = poses[0] if len(poses) == 1 else poses[index]
        values |= {"intrinsics": own.astype(np.float32), "extrinsics": poses.astype(np.float32)}
    if view in dict(settings.depth):
        deep = data.camera(dict(settings.depth)[view])
        if deep is None or deep.size != camera.size:
            raise taco.BadSequence(f"{view}: its depth camera has another size than its own")
        metres = Image.fromarray(data.depth(episode, deep, int(index[0])))
        size, nearest = settings.size[::-1], Image.Resampling.NEAREST
        values["depth0"] = np.asarray(metres.resize(size, nearest, box=box))
    return values


def _actions(data, episode, index, settings) -> np.ndarray:
    """[n a] float32: what is commanded at each frame of the clip."""
    rows = data.column(episode, settings.actions).reshape(episode.length, -1)
    if rows.shape[1] != len(settings.action_mean):
        raise taco.BadSequence(
            f"{settings.actions}: wanted {len(settings.action_mean)} numbers a frame, as in the "
            f"data set's statistics, got {rows.shape[1]}"
        )
    return rows[index].astype(np.float32)


def _camera(data: lerobot.Dataset, settings: Settings, view: str):
    camera = data.camera(dict(settings.cameras).get(view, view))
    return None if camera is None or camera.kind == "depth" else camera


def _write_sheet(path: Path, views: Mapping[str, Mapping[str, Any]], frames: int) -> None:
    """A row a view: the first, the middle and the last frame."""
    shown: Sequence[int] = (0, frames // 2, frames - 1)
    rows = [
        np.concatenate([records.decode(v["video"])[n] for n in shown], 1) for v in views.values()
    ]
    with disk.whole(path) as partial:
        Image.fromarray(np.concatenate(rows)).save(partial, "JPEG", quality=85)
