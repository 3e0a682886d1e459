"""How a LeRobot data set lies on disk: versions 2.1 and 3.0, their cameras, episodes and tasks.

    v2.1    a parquet and a video an episode; meta/episodes.jsonl, meta/tasks.jsonl
    v3.0    many episodes a file, cut apart for each camera; meta/episodes/*.parquet says where an
            episode is and, of every camera, at which second it begins there; meta/tasks.parquet

Paths are made of `data_path` and `video_path` of meta/info.json, never of habits.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from syncmv4d_jax.data import reading

VERSIONS = ("v2.1", "v3.0")


def parquet() -> Any:
    """Returns pyarrow.parquet.

    Raises:
      ImportError: it is not installed; names the extra.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("LeRobot needs pyarrow: pip install 'syncmv4d_jax[robots]'") from error
    return pyarrow.parquet


class Camera(NamedTuple):
    """A feature with pictures: kind "video", "image" or "depth"; size (h, w); info of the video."""

    key: str
    kind: str
    size: tuple[int, int]
    info: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What follows the last point of the key."""
        return self.key.rsplit(".", 1)[-1]


class Clip(NamedTuple):
    """Where a camera's video of an episode is: path, and the seconds at which it begins there."""

    path: Path
    begins: float


@dataclasses.dataclass(frozen=True)
class Episode:
    """index; length in frames; text of its task; data: the parquet file; videos: {key: Clip}."""

    index: int
    length: int
    text: str
    data: Path
    videos: Mapping[str, Clip]


def episodes(
    root: Path, info: Mapping[str, Any], cameras: Mapping[str, Camera]
) -> tuple[Episode, ...]:
    """The episodes of a data set, by number.

    Args:
      info: of meta/info.json. cameras: of its features.

    Raises:
      FileNotFoundError: no list of them.
      KeyError, TypeError, ValueError: lists that do not say what they should.
    """
    version = info["codebase_version"]
    tasks = _tasks(root, version)
    make = _episodes_2 if version == "v2.1" else _episodes_3
    return tuple(sorted(make(root, info, cameras, tasks), key=lambda e: e.index))


def camera(key: str, feature: Mapping[str, Any]) -> Camera | None:
    """The camera of a feature of info.json, None where it has no pictures."""
    if feature["dtype"] not in ("video", "image"):
        return None
    info = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    shape, names = list(feature["shape"]), [str(n) for n in feature.get("names") or ()]
    first = bool(names) and names[0].startswith("channel")  # in old ports
    height, width = (int(x) for x in (shape[1:] if first else shape[:2]))
    deep = bool(info.get("is_depth_map") or info.get("video.is_depth_map"))
    return Camera(key, "depth" if deep else feature["dtype"], (height, width), info)


def _tasks(root: Path, version: str) -> dict[int, str]:
    if version == "v2.1":
        return {int(x["task_index"]): str(x["task"]) for x in lines(root / "meta/tasks.jsonl")}
    path = root / "meta/tasks.parquet"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found")
    with reading.parsing(path, "table of tasks"):
        return _named(parquet().read_table(path))


def _named(table: Any) -> dict[int, str]:
    name = "task" if "task" in table.column_names else "__index_level_0__"
    return dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))


def _episodes_2(root, info, cameras, tasks) -> Iterator[Episode]:
    size = int(info["chunks_size"])
    for row in lines(root / "meta/episodes.jsonl"):
        index = int(row["episode_index"])
        named = {"episode_index": index, "episode_chunk": index // size}
        videos = {
            key: Clip(root / info["video_path"].format(video_key=key, **named), 0.0)
            for key, camera in cameras.items()
            if camera.kind != "image"
        }
        data = root / info["data_path"].format(**named)
        yield Episode(index, int(row["length"]), _text(row["tasks"], tasks), data, videos)


def _episodes_3(root, info, cameras, tasks) -> Iterator[Episode]:
    files = sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))
    if not files:
        raise FileNotFoundError(f"{root}/meta/episodes: no chunk-*/file-*.parquet in it")
    moving = [key for key, camera in cameras.items() if camera.kind != "image"]
    for path in files:
        with reading.parsing(path, "table of episodes"):
            rows = _rows(path)
            found = [_episode(root, row, info, moving, _text(row["tasks"], tasks)) for row in rows]
        yield from found


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table, without their statistics."""
    names = parquet().read_schema(path).names
    kept = [name for name in names if not name.startswith("stats/")]
    return parquet().read_table(path, columns=kept).to_pylist()


def _episode(root: Path, row, info, moving: list[str], text: str) -> Episode:
    videos = {}
    for key in moving:
        at = {x: row.get(f"videos/{key}/{x}") for x in ("chunk_index", "file_index")}
        if None in at.values():
            continue  # this episode has no such view
        name = info["video_path"].format(video_key=key, **at)
        videos[key] = Clip(root / name, float(row[f"videos/{key}/from_timestamp"]))
    place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    data = root / info["data_path"].format(**place)
    return Episode(int(row["episode_index"]), int(row["length"]), text, data, videos)


def _text(named: Any, tasks: Mapping[int, str]) -> str:
    """The text of an episode's tasks, which are texts or numbers of them."""
    text = " ".join(tasks[int(x)] if not isinstance(x, str) else x for x in named)
    if "\0" in text:
        raise ValueError(f"the text of a task has zero bytes: {text!r:.60}")
    return text


def lines(path: Path) -> list[Any]:
    """The values of a file with JSON in every line."""
    with reading.parsing(path, "JSON lines"):
        return [json.loads(line) for line in reading.lines(path)]
