"""Writes LeRobot data sets of version 3.0; lerobot_layout.py has the form.

A video file holds many episodes, one after the other, and is cut when it is large, each camera's by
itself; so is a file of numbers. An episode says of every camera at which second it begins there:
frames so far / fps, by counting, not by adding up durations. Every second picture is a key frame,
so that one frame is decoded without many others.
"""

import dataclasses
import fractions
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import mp4
from syncmv4d_jax.data.sources import lerobot_layout

CODECS = {
    "h264": ("libx264", {"crf": "18", **mp4.X264}),
    "av1": ("libsvtav1", {"crf": "30", "preset": "12", "svtav1-params": "lp=1"}),
}
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK = 1000  # files a folder
OWN = {  # columns of every data set
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
    "task_index": "int64",
}  # fmt: skip


class Take(NamedTuple):
    """An episode: text of its task; videos {key: [n h w 3] uint8}, numbers {key: [n ...]}."""

    text: str
    videos: Mapping[str, np.ndarray]
    numbers: Mapping[str, np.ndarray] = {}


def write(
    root: str | Path,
    takes: Iterable[Take],
    *,
    fps: float,
    robot: str = "",
    codec: str = "h264",
    data_mb: float = 100.0,
    video_mb: float = 200.0,
) -> int:
    """Writes a data set, whole or not at all; returns how many episodes it has.

    Args:
      root: a folder that is not there yet.
      codec: of CODECS.
      data_mb, video_mb: sizes from which on files are cut.

    Raises:
      ValueError: no episodes, or episodes of other cameras, sizes or shapes than the first.
      FileExistsError: `root` is there.
    """
    if Path(root).exists():
        raise FileExistsError(f"{root} is there already: name another folder")
    if codec not in CODECS:
        raise ValueError(f"codec: wanted one of {sorted(CODECS)}, got {codec!r}")
    with disk.whole(root) as partial:
        writer = _Writer(partial, fractions.Fraction(fps).limit_denominator(1001), codec)
        writer.limits = data_mb * 2**20, video_mb * 2**20
        for take in takes:
            writer.add(take)
        if not writer.episodes:
            raise ValueError(f"{root}: no episodes to write")
        writer.close(robot)
    return len(writer.episodes)


@dataclasses.dataclass
class _Film:
    """The video file of a camera that is being written."""

    codec: str
    fps: fractions.Fraction
    size: tuple[int, int]
    number: int = -1
    frames: int = 0
    written: int = 0
    container: Any = None
    stream: Any = None

    def open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        name, options = CODECS[self.codec]
        self.container = av.open(str(path), "w")
        self.stream = self.container.add_stream(name, rate=self.fps, options=options)
        self.stream.height, self.stream.width = self.size
        self.stream.pix_fmt, self.stream.gop_size = "yuv420p", 2
        self.frames = self.written = 0
        self.number += 1

    def add(self, clip: np.ndarray) -> None:
        for picture in clip:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, 1 / self.fps
            self.frames += 1
            self._mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.container is not None:
            self._mux(self.stream.encode())
            self.container.close()
            self.container = None

    def _mux(self, packets: Sequence[Any]) -> None:
        self.written += sum(packet.size for packet in packets)
        self.container.mux(packets)


class _Writer:
    """Files that are open, and what the metadata will say."""

    def __init__(self, root: Path, fps: fractions.Fraction, codec: str):
        self.root, self.fps, self.codec = root, fps, codec
        self.limits = 0.0, 0.0
        self.films: dict[str, _Film] = {}
        self.features: dict[str, dict[str, Any]] = {}
        self.episodes: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.rows: list[dict[str, np.ndarray]] = []
        self.file = self.frames = self.held = 0
        self.sums: dict[str, list[np.ndarray]] = {}

    def add(self, take: Take) -> None:
        length = self._check(take)
        number, task = len(self.episodes), self.tasks.setdefault(take.text, len(self.tasks))
        columns: dict[str, np.ndarray] = {
            "timestamp": (np.arange(length) / float(self.fps)).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": self.frames + np.arange(length),
            "task_index": np.full(length, task),
        }
        columns |= {key: np.asarray(x, np.float32) for key, x in take.numbers.items()}
        size = sum(x.nbytes for x in columns.values())
        if self.rows and self.held + size > self.limits[0]:
            self._flush()
        self.rows.append(columns)
        self.held += size
        place = {"chunk_index": self.file // CHUNK, "file_index": self.file % CHUNK}
        entry: dict[str, Any] = {
            "episode_index": number,
            "tasks": [take.text],
            "length": length,
            **{f"data/{key}": x for key, x in place.items()},
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
        }
        for key, clip in take.videos.items():
            entry |= {f"videos/{key}/{name}": x for name, x in self._film(key, clip).items()}
        self.episodes.append(
            entry | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
        self.frames += length
        for key, values in take.numbers.items():
            self.sums.setdefault(key, []).append(np.asarray(values, np.float64))

    def close(self, robot: str) -> None:
        self._flush()
        for film in self.films.values():
            film.close()
        self._write_tables()
        numbers = {key: np.concatenate(parts) for key, parts in self.sums.items()}
        stats = {
            key: {
                **{name: getattr(np, name)(x, axis=0).tolist() for name in ("min", "max", "mean")},
                "std": np.std(x, axis=0).tolist(),
                "count": [len(x)],
            }
            for key, x in numbers.items()
        }
        rate = float(self.fps)
        info = {
            "codebase_version": "v3.0",
            "robot_type": robot or None,
            "total_episodes": len(self.episodes),
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": self.limits[0] / 2**20,
            "video_files_size_in_mb": self.limits[1] / 2**20,
            "fps": int(rate) if rate.is_integer() else rate,
            "splits": {"train": f"0:{len(self.episodes)}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": self.features,
        }
        for name, content in (("info", info), ("stats", stats)):
            path = self.root / f"meta/{name}.json"
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def _check(self, take: Take) -> int:
        """Takes the features of the first episode, compares those of the others; its length."""
        found = {key: _video_feature(x, self.fps, self.codec) for key, x in take.videos.items()}
        for key, dtype in OWN.items():
            found[key] = {"dtype": dtype, "shape": [1], "names": None}
        for key, x in take.numbers.items():
            shape = list(np.shape(x)[1:]) or [1]
            found[key] = {"dtype": "float32", "shape": shape, "names": None}
        number = len(self.episodes)
        if not take.videos:
            raise ValueError(f"episode {number}: no videos")
        self.features = self.features or found
        if found != self.features:
            differ = sorted(
                k for k in found.keys() | self.features.keys()
                if found.get(k) != self.features.get(k)
            )  # fmt: skip
            raise ValueError(f"episode {number} differs from the first in {differ}")
        every = {key: len(x) for key, x in (*take.videos.items(), *take.numbers.items())}
        if len(set(every.values())) > 1 or not min(every.values()):
            raise ValueError(f"episode {number}: wanted equally many frames of all, got {every}")
        return next(iter(every.values()))

    def _film(self, key: str, clip: np.ndarray) -> dict[str, Any]:
        """Writes an episode's frames of a camera; returns where they are."""
        film = self.films.setdefault(key, _Film(self.codec, self.fps, clip.shape[1:3]))
        if film.container is None or film.written > self.limits[1]:
            film.close()
            number = film.number + 1
            place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
            film.open(self.root / VIDEO.format(video_key=key, **place))
        begins = film.frames
        film.add(clip)
        place = {"chunk_index": film.number // CHUNK, "file_index": film.number % CHUNK}
        stamps = {"from_timestamp": begins / self.fps, "to_timestamp": film.frames / self.fps}
        return place | {name: float(x) for name, x in stamps.items()}

    def _flush(self) -> None:
        """Writes the rows that are held as one file, one row group."""
        import pyarrow as pa

        place = {"chunk_index": self.file // CHUNK, "file_index": self.file % CHUNK}
        columns = {}
        for key in self.rows[0]:
            values = np.concatenate([rows[key] for rows in self.rows])
            columns[key] = _column(pa, values)
        self._write(pa.table(columns), self.root / DATA.format(**place))
        self.rows, self.held, self.file = [], 0, self.file + 1

    def _write_tables(self) -> None:
        import pyarrow as pa

        tasks = pa.table(
            {"task_index": pa.array(range(len(self.tasks)), pa.int64()), "task": list(self.tasks)}
        )
        # The real library reads the texts as the index of a pandas table.
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(_PANDAS)})
        self._write(tasks, self.root / "meta/tasks.parquet")
        name = "meta/episodes/chunk-000/file-000.parquet"
        self._write(pa.Table.from_pylist(self.episodes), self.root / name)

    def _write(self, table: Any, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lerobot_layout.parquet().write_table(table, path, row_group_size=max(1, len(table)))


_PANDAS = {
    "index_columns": ["task"],
    "column_indexes": [
        {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
         "metadata": {"encoding": "UTF-8"}}
    ],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64",
         "numpy_type": "int64", "metadata": None},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object",
         "metadata": None},
    ],
    "pandas_version": "2.2.0",
}  # fmt: skip


def _column(pa: Any, values: np.ndarray) -> Any:
    """An arrow array of rows [n ...]: lists of fixed length, of lists where there are more axes."""
    if values.ndim == 1:
        return pa.array(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values.tolist(), pa.list_(pa.list_(pa.float32())))


def _video_feature(clip: np.ndarray, fps: fractions.Fraction, codec: str) -> dict[str, Any]:
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
        raise ValueError(f"video: wanted [n h w 3] uint8, got {clip.shape} {clip.dtype}")
    _, height, width, _ = clip.shape
    info = {
        "video.height": height, "video.width": width, "video.codec": codec, "video.channels": 3,
        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": float(fps),
        "has_audio": False,
    }  # fmt: skip
    names = ["height", "width", "channels"]
    return {"dtype": "video", "shape": [height, width, 3], "names": names, "info": info}
