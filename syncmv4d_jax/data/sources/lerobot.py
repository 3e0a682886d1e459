"""LeRobot data sets, versions 2.1 and 3.0, as they lie on disk: episodes, cameras, numbers.

    meta/info.json          version, fps, features, how files are named
    meta/episodes...        which files an episode is in; per camera, where it begins there
    data/...parquet         a row a frame: time stamps, actions, pictures of image cameras
    videos/...mp4           v2.1: a file an episode; v3.0: many, end to end, cut per camera
    meta/cameras.json       ours, optional: {"<camera>": {"K": [9], "R": [9], "T": [3],
                            "imgSize": [width, height]}} of cameras that stand still

The format itself has no calibration. A camera that moves has the feature
`observation.extrinsics.<camera>` [3 4] (or its 12 numbers), world to camera, a row a frame, and its
K in meta/cameras.json, or `observation.intrinsics.<camera>` [3 3].

Depth video: codes q of 12 bits, with s = `shift` and the ends of the range a = ln(min + s),
b = ln(max + s)

    depth = exp(a + (b - a) q / 4095) - s   metres,  or linear in q without `use_log`          (1)
"""

import bisect
import dataclasses
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from syncmv4d_jax.data import frames, reading, rigs, transforms, user
from syncmv4d_jax.data.sources import lerobot_layout, taco
from syncmv4d_jax.data.sources.lerobot_layout import Camera, Episode

CODES = 4095  # of depth
DEPTH = {"depth_min": 0.01, "depth_max": 10.0, "shift": 3.5, "use_log": True}
IRREGULAR = 0.25  # part of a frame's time that a time stamp may be early or late
LATE = 0.5  # frames that a video's frame may lie from its time stamp
OPEN_VIDEOS = 8


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, opened by `open_dataset`.

    Attributes:
      fps: as info.json says it; `stamps` says what it is.
      features: of info.json.
      cameras: {key: Camera}.
      episodes: in order.
      calibration: {camera: rigs.Camera} of meta/cameras.json.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    cameras: Mapping[str, Camera]
    episodes: tuple[Episode, ...]
    calibration: Mapping[str, rigs.Camera]

    def episode(self, index: int) -> Episode:
        """The episode of a number.

        Raises:
          taco.BadSequence: there is none.
        """
        at = bisect.bisect_left(self.episodes, index, key=lambda e: e.index)
        if at == len(self.episodes) or self.episodes[at].index != index:
            raise taco.BadSequence(f"{self.root}: no episode {index}")
        return self.episodes[at]

    def camera(self, name: str) -> Camera | None:
        """The camera of a key, or of the end of one; None: it has no such camera.

        Raises:
          ValueError: several cameras end so.
        """
        if name in self.cameras:
            return self.cameras[name]
        found = [c for c in self.cameras.values() if c.name == name or c.key.endswith(f".{name}")]
        if len(found) > 1:
            raise ValueError(f"{self.root}: {name!r} is one of {[c.key for c in found]}: which?")
        return found[0] if found else None

    def column(self, episode: Episode, key: str) -> np.ndarray:
        """The numbers of a feature, a row a frame: [length ...].

        Raises:
          taco.BadSequence: no such column, or other shapes than info.json says.
        """
        table = _rows(self, episode, key)
        where = f"{episode.data}, episode {episode.index}, {key}"
        shape = tuple(self.features.get(key, {}).get("shape", (1,)))
        try:
            values = np.asarray(table.column(key).to_pylist())
            if values.dtype == object:
                raise ValueError("its rows differ in shape")
        except (ValueError, KeyError) as error:
            raise taco.BadSequence(f"{where}: wanted {list(shape)} a frame, {error}") from error
        if values.shape not in ((episode.length, *shape), (episode.length,) * (shape == (1,))):
            got = list(values.shape)
            raise taco.BadSequence(
                f"{where}: info.json says {list(shape)} a frame of {episode.length}, the data has "
                f"{got}"
            )
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise taco.BadSequence(f"{where}: values that are not finite")
        return values

    def stamps(self, episode: Episode) -> np.ndarray:
        """Seconds of an episode's frames from its first, [length] float64.

        Raises:
          taco.BadSequence: no time stamps, or they do not rise.
        """
        seconds = self.column(episode, "timestamp").reshape(-1).astype(np.float64)
        if (np.diff(seconds) <= 0).any():
            raise taco.BadSequence(f"{episode.data}, episode {episode.index}: time does not rise")
        return seconds - seconds[0]

    def pictures(
        self, episode: Episode, camera: Camera, index: np.ndarray, size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        """Frames `index` [n] of an episode, the largest centred part of the aspect of `size`.

        Returns:
          [n h w 3] uint8, and the part that they show.

        Raises:
          taco.BadSequence: a file that is missing or damaged, frames that are not in it, another
            size than info.json says, or a clock that is not the episode's.
        """
        box = user.centre_box(camera.size, size)
        if camera.kind == "image":
            return self._stored(episode, camera, index, box, size), box
        video, numbers = self._numbers(episode, camera, index)
        return video.read(numbers, box, size), box

    def depth(self, episode: Episode, camera: Camera, frame: int) -> np.ndarray:
        """Depth [h w] float32, metres, of one frame of a depth camera (Eq. 1); 0: not measured.

        Raises:
          taco.BadSequence: as `pictures`.
        """
        video, numbers = self._numbers(episode, camera, np.array([frame]))
        info = {**DEPTH, **{k.removeprefix("video."): x for k, x in camera.info.items()}}
        try:
            codes = _codes(video, int(numbers[0]))
        except Exception as error:  # a damaged file raises whatever its parser runs into
            raise taco.BadSequence(f"{video.path}: no depth in it ({error})") from error
        return decode_depth(codes, info)

    def poses(self, episode: Episode, camera: Camera, name: str) -> np.ndarray | None:
        """Extrinsics [length 3 4] of a camera that moves, [1 3 4] of one that does not; None
        without calibration. `name`: what the camera is called besides its own name.

        Raises:
          taco.BadSequence: numbers that are no poses.
        """
        for called in (name, camera.name):
            key = f"observation.extrinsics.{called}"
            if key in self.features:
                rows = self.column(episode, key).astype(np.float64).reshape(episode.length, -1)
                return _poses(rows, where=f"{self.root}, episode {episode.index}, {key}")
            if called in self.calibration:
                return self.calibration[called].extrinsics[None]
        return None

    def intrinsics(self, episode: Episode, camera: Camera, name: str) -> np.ndarray:
        """K [3 3] of a camera's pictures as they are stored; see `poses`.

        Raises:
          taco.BadSequence: there is none; says where to add it.
        """
        for called in (name, camera.name):
            if called in self.calibration:
                known = self.calibration[called]
                return frames.fit_intrinsics(known, camera.size, f"{self.root}, {camera.key}")
            key = f"observation.intrinsics.{called}"
            if key in self.features:
                rows = self.column(episode, key).astype(np.float64).reshape(-1, 3, 3)
                if np.ptp(rows, axis=0).max() > 1e-3:
                    raise taco.BadSequence(f"{self.root}, episode {episode.index}, {key}: K moves")
                return rows[0]
        raise taco.BadSequence(
            f"{self.root}: camera {camera.key!r} has poses and no K: add it to meta/cameras.json, "
            f"or as the feature observation.intrinsics.{name}"
        )

    def _stored(self, episode, camera, index, box, size):
        column = _rows(self, episode, camera.key).column(camera.key)
        found = []
        for i in index:
            try:
                value = column[int(i)].as_py()
                raw = value["bytes"] or (self.root / value["path"]).read_bytes()
                picture = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))
            except Exception as error:  # a damaged picture raises whatever its parser runs into
                where = f"{episode.data}, episode {episode.index}, {camera.key}, frame {i}"
                raise taco.BadSequence(f"{where}: cannot be read ({error})") from error
            _check_size(picture.shape[:2], camera, self.root)
            found.append(transforms.crop_resize(picture, box, size))
        return np.stack(found)

    def _numbers(self, episode, camera, index) -> tuple[frames.Video, np.ndarray]:
        """The video of a camera and the numbers of its frames at the episode's frames `index`."""
        clip = episode.videos.get(camera.key)
        if clip is None or not clip.path.is_file():
            path = clip.path if clip else f"a video of {camera.key} in {self.root}/meta/episodes"
            raise taco.BadSequence(f"episode {episode.index}: not found: {path}")
        video = _video(clip.path, clip.path.stat().st_mtime_ns)
        _check_size(video.size, camera, clip.path)
        seconds = clip.begins + self.stamps(episode)
        # Nearest: sums of durations drift, and a file may begin after 0.
        after = np.clip(np.searchsorted(video.stamps, seconds), 1, max(1, len(video.stamps) - 1))
        pair = np.stack([after - 1, np.minimum(after, len(video.stamps) - 1)])
        far = np.abs(video.stamps[pair] - seconds)
        numbers = pair[far.argmin(0), np.arange(len(seconds))]
        # All of the episode that the file reaches: at 15 frames a second, every other frame of a
        # camera of 30 has a picture at its time, of another moment.
        judged = seconds <= video.stamps[-1]
        judged[np.asarray(index)] = True
        late = np.where(judged, far.min(0), 0.0)
        if (late > LATE / self.fps).any():
            at = int(np.argmax(late))
            raise taco.BadSequence(
                f"{clip.path}: its clock is not episode {episode.index}'s: no frame within "
                f"{LATE / self.fps:.4f} s of {seconds[at]:.4f} s, the nearest is {late[at]:.4f} s "
                "away"
            )
        if (np.diff(numbers[judged]) <= 0).any():
            raise taco.BadSequence(
                f"{clip.path}: it has fewer frames a second than the {self.fps:g} of episode "
                f"{episode.index}: one picture would stand for several"
            )
        return video, numbers[np.asarray(index)]


def open_dataset(root: str | Path) -> Dataset:
    """Opens a data set.

    Raises:
      FileNotFoundError: no meta/info.json in it, or no list of episodes.
      ValueError: another version, or descriptions that do not fit together.
    """
    root = Path(root)
    with reading.parsing(root, "data set of LeRobot"):
        return _opened(root)


def _opened(root: Path) -> Dataset:
    info = reading.values(root / "meta/info.json")
    if not isinstance(info, dict):
        raise ValueError(f"{root}/meta/info.json: wanted an object, got {type(info).__name__}")
    version = str(info.get("codebase_version"))
    if version not in lerobot_layout.VERSIONS:
        raise ValueError(
            f"{root}/meta/info.json: wanted codebase_version of {lerobot_layout.VERSIONS}, got "
            f"{version!r}; lerobot converts older ones"
        )
    try:
        features, fps = info["features"], float(info["fps"])
        made = [lerobot_layout.camera(key, x) for key, x in features.items()]
        cameras = {c.key: c for c in made if c is not None}
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps {fps}")
        episodes = lerobot_layout.episodes(root, info, cameras)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{root}: its descriptions do not fit together: {error!r}") from error
    path = root / "meta/cameras.json"
    calibration = rigs.read(path) if path.is_file() else {}
    return Dataset(root, version, fps, features, cameras, episodes, calibration)


def statistics(dataset: Dataset, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of a feature over the data set, as its metadata says them, [a] float64.

    Raises:
      ValueError: it says none.
    """
    path = dataset.root / "meta/stats.json"
    with reading.parsing(path, "statistics"):
        mean, std = _statistics(dataset, key)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise ValueError(f"{path}: {key} has statistics that are not finite")
    return mean, std


def _statistics(dataset: Dataset, key: str) -> tuple[np.ndarray, np.ndarray]:
    path = dataset.root / "meta/stats.json"
    if path.is_file():
        own = reading.values(path).get(key)
        if own is not None:
            mean, std = (np.asarray(own[x], np.float64).reshape(-1) for x in ("mean", "std"))
            return mean, std
    path = dataset.root / "meta/episodes_stats.jsonl"
    rows = lerobot_layout.lines(path) if path.is_file() else []
    each = [row["stats"][key] for row in rows if key in row["stats"]]
    if not each:
        raise ValueError(f"{dataset.root}: no statistics of {key!r} in meta/stats.json")
    count = np.array([np.asarray(x["count"]).reshape(-1)[0] for x in each], np.float64)[:, None]
    mean, std = (np.stack([np.asarray(x[k], np.float64).reshape(-1) for x in each])
                 for k in ("mean", "std"))  # fmt: skip
    share = count / count.sum()
    middle = (share * mean).sum(0)
    return middle, np.sqrt((share * (std**2 + (mean - middle) ** 2)).sum(0))


def regular(stamps: np.ndarray) -> float | None:
    """Frames a second of time stamps [n], None where they are not evenly spaced."""
    if len(stamps) < 2:
        return None
    step = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
    off = np.abs(stamps - stamps[0] - step * np.arange(len(stamps))).max()
    return None if off > IRREGULAR * step else float(1 / step)


def decode_depth(codes: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Codes [h w] of 12 bits -> metres, float32 (Eq. 1); code 0 is not measured."""
    low, high, shift = (float(info[k]) for k in ("depth_min", "depth_max", "shift"))
    share = codes.astype(np.float64) / CODES
    if info["use_log"]:
        a, b = np.log(low + shift), np.log(high + shift)
        metres = np.exp(a + (b - a) * share) - shift
    else:
        metres = low + (high - low) * share
    unit = 1e-3 if info.get("depth_unit") == "mm" and high > 100 else 1.0  # a range in mm
    return np.where(codes > 0, metres * unit, 0.0).astype(np.float32)


def _codes(video: frames.Video, number: int) -> np.ndarray:
    with av.open(str(video.path)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == number:
                if frame.format.name != "gray12le":
                    raise ValueError(f"pixels of the form {frame.format.name}, wanted gray12le")
                return frame.to_ndarray()
    raise ValueError(f"no frame {number}")


def _rows(dataset: Dataset, episode: Episode, key: str) -> Any:
    """The rows of an episode, of one column, in the order of its frames."""
    if not episode.data.is_file():
        raise taco.BadSequence(f"episode {episode.index}: not found: {episode.data}")
    wanted, where = ["frame_index", key], [("episode_index", "=", episode.index)]
    try:
        if key not in lerobot_layout.parquet().read_schema(episode.data).names:
            raise ValueError(f"no column {key!r}")
        table = lerobot_layout.parquet().read_table(episode.data, columns=wanted, filters=where)
        table = table.sort_by("frame_index")
        if len(table) != episode.length:
            raise ValueError(f"wanted {episode.length} rows, it has {len(table)}")
    except Exception as error:  # a damaged file raises whatever its parser runs into
        raise taco.BadSequence(f"{episode.data}, episode {episode.index}: {error}") from error
    return table


@functools.lru_cache(OPEN_VIDEOS)
def _video(path: Path, changed: int) -> frames.Video:
    """A video, opened once for all episodes in it; `changed` makes another of a changed file."""
    del changed
    return frames.Video(path)


def _check_size(size: tuple[int, int], camera: Camera, where: Path) -> None:
    if tuple(size) != camera.size:
        raise taco.BadSequence(
            f"{where}, {camera.key}: info.json says {camera.size[0]} x {camera.size[1]} pixels, it "
            f"has {size[0]} x {size[1]}"
        )


def _poses(rows: np.ndarray, *, where: str) -> np.ndarray:
    """Rows of 12 numbers -> poses [n 3 4], checked."""
    if rows.shape[1] != 12:
        raise taco.BadSequence(
            f"{where}: wanted [3 4] world to camera a frame, got {rows.shape[1]} numbers"
        )
    last = np.broadcast_to(np.array([[[0.0, 0, 0, 1]]]), (len(rows), 1, 4))
    try:
        return rigs.rigid(np.concatenate([rows.reshape(-1, 3, 4), last], 1), where=where)[:, :3]
    except ValueError as error:
        raise taco.BadSequence(str(error)) from error
