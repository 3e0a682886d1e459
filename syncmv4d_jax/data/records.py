"""Records on disk: ArrayRecord files, read at random without TensorFlow.

    DIR/<h>x<w>/index.json                         settings, windows, skipped sequences, those
                                                   left out, marks of what they were made from
    DIR/<h>x<w>/sequences/<id>.array_record|.json  the examples of a sequence; its part of the index

A window (clip) of a sequence has one example for tracks and text, one for every view, so that only
the chosen views are read, and where they were asked for one of the surfaces. An example is `SMVR`,
version, lengths, checksum; a JSON part that names the values; their bytes. Values are arrays,
texts, and clips: videos that are decoded on demand. Records are exact; to be sent they can be made
small: clips as films (`film`), arrays of places in units of a step (`Steps`).

    tracks  tracks [n k 3] float32, metres, world; surface [k] int32; frame_valid [n] bool;
            source_frames [n] int32; text, names
    view    video, motion [n h w 3] uint8 clips; anchors [k 2], anchor_valid [k], visibility [n k],
            intrinsics [3 3], extrinsics [3 4] or, of a camera that moves, [n 3 4] (see `poses`),
            scale [2] as in schema.BATCH; box [4]; serial
    both    for videos that are controlled: see controls.py
    surfaces  see surfaces.pack
"""

import collections
import dataclasses
import json
import struct
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from array_record.python import array_record_module

from syncmv4d_jax import disk, schema
from syncmv4d_jax.data import films, surfaces

MAGIC = b"SMVR"
HEAD = struct.Struct("<4sHIQI")  # magic, version, bytes of JSON, bytes of values, crc32
OPTIONS = "group_size:1,zstd:1"
OPEN_FILES = 64
ANEW = (
    "records of another version (crops fitted to the future, no occluders): make them anew with "
    "python data_prep/prepare_taco.py --taco DIR --mano DIR --out ANOTHER (embedded scenes first: "
    "python data_prep/make_scenes.py --out DIR)"
)


class CorruptRecord(ValueError):
    """A record or file that is not what was written; the message names file and row."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Examples to be read one after the other, whose number is known before.

    make: returns an iterator of (id, example); called once an iteration.
    """

    count: int
    make: Callable[[], Iterator[tuple[str, dict[str, Any]]]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return self.make()


class Clip(NamedTuple):
    """A video as it lies in an example; `decode` opens it. coding: of CODINGS."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    coding: str = "clip"


CODINGS = ("clip", "differences", "film")  # "clip": plain zlib, in older records


class Steps(NamedTuple):
    """An array [n ...] float32 that is stored in whole units, as what each row adds to the one
    before: `unpack` gives an array that is half a unit off at most."""

    array: np.ndarray
    unit: float

    def tobytes(self) -> bytes:
        units = np.round(self.array.astype(np.float64) / self.unit).astype(np.int32)
        planes = np.diff(units, axis=0, prepend=0 * units[:1]).reshape(-1, 1).view(np.uint8)
        return struct.pack("<d", self.unit) + zlib.compress(planes.T.tobytes(), 9)

    @staticmethod
    def read(data: bytes | memoryview, shape: Sequence[int]) -> np.ndarray:
        (unit,) = struct.unpack("<d", data[:8])
        planes = np.frombuffer(zlib.decompress(data[8:]), np.uint8).reshape(4, -1)
        added = np.ascontiguousarray(planes.T).view(np.int32).reshape(shape)
        return (np.cumsum(added, axis=0) * unit).astype(np.float32)


def encode(video: np.ndarray) -> Clip:
    """Codes a video [n h w c] uint8, exactly: what each pixel adds to the one on its left.

    Raises:
      ValueError: another dtype or number of axes.
    """
    if video.dtype != np.uint8 or video.ndim != 4:
        raise ValueError(f"clip: wanted [n h w c] uint8, got {video.shape} {video.dtype}")
    steps = video.copy()
    steps[:, :, 1:] -= video[:, :, :-1]
    return Clip("uint8", video.shape, steps.tobytes(), "differences")


def film(video: np.ndarray, *, quantiser: int, planes: bool = False) -> Clip:
    """Codes a video [n h w 3] uint8 as a film, smaller and not exactly; see films.write."""
    return Clip(
        "uint8", video.shape, films.write(video, quantiser=quantiser, planes=planes), "film"
    )


def decode(clip: Clip) -> np.ndarray:
    """Returns the video of `encode` or `film`."""
    if clip.coding == "film":
        return films.read(clip.data)
    if clip.coding == "clip":
        return np.frombuffer(zlib.decompress(clip.data), clip.dtype).reshape(clip.shape)
    steps = np.frombuffer(clip.data, np.uint8).reshape(clip.shape)
    return np.add.accumulate(steps, axis=2, dtype=np.uint8)


def decode_first(clip: Clip) -> np.ndarray:
    """Returns the first frame [h w c] of the video of `encode`, without decoding the others."""
    if clip.coding == "clip":
        return decode(clip)[0]
    size = int(np.prod(clip.shape[1:]))
    return decode(clip._replace(shape=(1, *clip.shape[1:]), data=clip.data[:size]))[0]


def pack(values: Mapping[str, Any]) -> bytes:
    """Returns the bytes of an example of arrays (bfloat16 too), clips and texts."""
    fields, chunks = [], []
    for name, value in sorted(values.items()):
        if isinstance(value, str):
            kind, dtype, shape, data = "text", "", [], value.encode()
        elif isinstance(value, Clip):
            kind, dtype, shape, data = value.coding, value.dtype, list(value.shape), value.data
        elif isinstance(value, Steps):
            kind, dtype, shape, data = "steps", "float32", list(value.array.shape), value.tobytes()
        else:
            kind, dtype, shape = "array", value.dtype.name, list(value.shape)
            data = np.ascontiguousarray(value).tobytes()
        fields.append([name, kind, dtype, shape, len(data)])
        chunks.append(data)
    text, body = json.dumps(fields).encode(), b"".join(chunks)
    mark = zlib.crc32(body, zlib.crc32(text))
    return HEAD.pack(MAGIC, schema.VERSION, len(text), len(body), mark) + text + body


def unpack(data: bytes, *, where: str) -> dict[str, Any]:
    """Returns the values of an example; arrays are read-only.

    Raises:
      CorruptRecord: not an example, damaged, or of another version.
    """
    if len(data) < HEAD.size or data[:4] != MAGIC:
        raise CorruptRecord(f"{where}: not an example of ours ({len(data)} bytes)")
    _, version, length, size, mark = HEAD.unpack_from(data)
    if version != schema.VERSION:
        raise CorruptRecord(f"{where}: wanted version {schema.VERSION}, got {version}; {ANEW}")
    body = memoryview(data)[HEAD.size :]
    if len(body) != length + size or zlib.crc32(body) != mark:
        raise CorruptRecord(f"{where}: damaged (wanted {length + size} bytes, got {len(body)})")
    values: dict[str, Any] = {}
    offset = length
    for name, kind, dtype, shape, count in json.loads(bytes(body[:length])):
        part = body[offset : offset + count]
        if kind == "text":
            values[name] = bytes(part).decode()
        elif kind in CODINGS:
            values[name] = Clip(dtype, tuple(shape), bytes(part), kind)
        elif kind == "steps":
            values[name] = Steps.read(part, shape)
        else:
            known = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
            values[name] = np.frombuffer(part, known).reshape(shape)
        offset += count
    return values


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, whole or not at all."""
    with disk.whole(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def write_file(path: Path, examples: Iterable[Mapping[str, Any]]) -> int:
    """Writes examples into a file, whole or not at all; returns its bytes."""
    with disk.whole(path) as partial:
        writer = array_record_module.ArrayRecordWriter(str(partial), OPTIONS)
        for values in examples:
            writer.write(pack(values))
        writer.close()
    return path.stat().st_size


def gather_index(
    root: Path,
    skipped: Sequence[Mapping[str, str]] = (),
    *,
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """Joins the parts of finished sequences into root/index.json and returns it.

    Args:
      skipped: sequences that could not be prepared, with reasons.
      only: ids of sequences; others that lie in the folder stay out and are named. None: all.

    Raises:
      FileNotFoundError: a sequence whose records are not there.
    """
    there = {path.stem: path for path in sorted((root / "sequences").glob("*.json"))}
    parts = {
        name: json.loads(path.read_text())
        for name, path in there.items()
        if only is None or name in only
    }
    windows = [window for part in parts.values() for window in part["windows"]]
    for file in dict.fromkeys(window["file"] for window in windows):
        if not (root / file).is_file():
            raise FileNotFoundError(f"{root / file}: its records are gone; prepare again")
    content = {
        "version": schema.VERSION,
        "settings": json.loads((root / "settings.json").read_text()),
        "windows": windows,
        "skipped": list(skipped),
        "left_out": sorted(there.keys() - parts.keys()),
        "sources": {name: part["source"] for name, part in parts.items() if "source" in part},
    }
    write_json(root / "index.json", content)
    return content


class View(NamedTuple):
    """A view of a window: row of its example, camera, cluster index."""

    record: int
    serial: str
    cluster: int


class Window(NamedTuple):
    """A clip of a sequence: where its examples are and what it is; surfaces: -1 if not stored.
    provenance: "real" or "sim". filmed: its videos are what happened, not one picture. moves:
    clusters with cameras that do."""

    id: str
    sequence: str
    split: str
    text: str
    triplet: tuple[str, str, str]
    file: str
    record: int
    views: tuple[View, ...]
    surfaces: int = -1
    provenance: str = "real"
    filmed: bool = True
    moves: tuple[int, ...] = ()


class File:
    """One file, open; safe to use from many threads."""

    def __init__(self, path: Path):
        """Opens a file.

        Raises:
          FileNotFoundError: no such file.
          CorruptRecord: truncated or damaged.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such record file; prepare again")
        self.path, self._lock = path, threading.Lock()
        try:
            self._reader = array_record_module.ArrayRecordReader(
                str(path), "readahead_buffer_size:0"
            )
            self.rows = self._reader.num_records()
        except Exception as error:  # its errors have no common type
            raise CorruptRecord(f"{path}: cannot be opened ({error})") from error

    def read(self, row: int) -> dict[str, Any]:
        """Returns the values of a row.

        Raises:
          CorruptRecord: not there, or damaged.
        """
        where = f"{self.path}, row {row}"
        if not 0 <= row < self.rows:
            raise CorruptRecord(f"{where}: truncated, the file has {self.rows} rows")
        with self._lock:
            try:
                (data,) = self._reader.read([row])
            except Exception as error:  # its errors have no common type
                raise CorruptRecord(f"{where}: cannot be read ({error})") from error
        return unpack(data, where=where)


class Files:
    """The files of a folder, opened when they are read; the ones used least lately are let go."""

    def __init__(self, root: Path):
        self.root, self._lock = root, threading.Lock()
        self._open: collections.OrderedDict[str, File] = collections.OrderedDict()

    def open(self, name: str) -> File:
        """Returns an open file; raises as `File`."""
        with self._lock:
            if name not in self._open:
                self._open[name] = File(self.root / name)
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]


def find(root: str | Path, size: tuple[int, int] | None = None) -> Path:
    """Returns the folder with index.json: `root`, or its <h>x<w>; the only one without a size.

    Raises:
      FileNotFoundError: none, or none of that size; lists what is there.
    """
    root = Path(root)
    if (root / "index.json").is_file():
        return root
    there = sorted(path.parent for path in root.glob("*x*/index.json"))
    if size is not None:
        fits = [path for path in there if path.name == f"{size[0]}x{size[1]}"]
    else:
        fits = there
    if len(fits) != 1:
        wanted = f"{size[0]}x{size[1]}" if size is not None else "one <h>x<w>"
        raise FileNotFoundError(
            f"{root}: wanted records in {wanted}/index.json, found {[p.name for p in there]}; "
            "python data_prep/prepare_taco.py --taco DIR --mano DIR --out DIR --size HxW makes them"
        )
    return fits[0]


class Reader:
    """A folder of records: `windows`, and their tracks and views at random."""

    def __init__(self, root: str | Path, split: str = "", *, size: tuple[int, int] | None = None):
        """Reads the index; `split` keeps the windows of one split.

        Raises:
          FileNotFoundError: no index.
          CorruptRecord: an index of another version, or not JSON.
          ValueError: no window in the split.
        """
        self.root = find(root, size)
        path = self.root / "index.json"
        text = path.read_bytes()
        try:
            index = json.loads(text)
            version = index["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptRecord(f"{path}: not an index of records ({error})") from error
        if version != schema.VERSION:
            raise CorruptRecord(f"{path}: wanted version {schema.VERSION}, got {version}; {ANEW}")
        self.settings = index["settings"]
        every = [_window(entry) for entry in index["windows"]]
        self.windows = [w for w in every if not split or w.split == split]
        if not self.windows:
            have = dict(collections.Counter(w.split for w in every))
            raise ValueError(f"{path}: wanted clips of split {split!r}, it has {have}")
        self.files = Files(self.root)

    def tracks(self, window: Window) -> dict[str, Any]:
        """Returns the values of a window's own example."""
        return self.files.open(window.file).read(window.record)

    def view(self, window: Window, view: View) -> dict[str, Any]:
        """Returns the values of a view; `video` and `motion` are clips to `decode`."""
        return self.files.open(window.file).read(view.record)

    def surfaces(self, window: Window) -> tuple[surfaces.Surface, ...]:
        """Returns the surfaces of a window, at the frames of the clip.

        Raises:
          ValueError: they were not stored; says how they are.
        """
        if window.surfaces < 0:
            raise ValueError(
                f"{self.root}: no surfaces of {window.id} are stored: prepare the records with "
                "python data_prep/prepare_taco.py --surfaces all (or test)"
            )
        return surfaces.unpack(self.files.open(window.file).read(window.surfaces))


def poses(values: Mapping[str, Any]) -> np.ndarray:
    """Returns extrinsics [n 3 4] of a view's values, n = 1 for a camera that stands still."""
    stored = values["extrinsics"]
    return stored[None] if stored.ndim == 2 else stored


def _window(entry: Mapping[str, Any]) -> Window:
    views = tuple(View(v["record"], v["serial"], v["cluster"]) for v in entry["views"])
    triplet = tuple(entry["triplet"])
    identifier, sequence, split, text = (entry[key] for key in ("id", "sequence", "split", "text"))
    file, row, other = entry["file"], entry["record"], entry.get("surfaces", -1)
    origin = entry.get("provenance", "real")
    told = origin, bool(entry.get("filmed", True)), tuple(entry.get("moves", ()))
    return Window(identifier, sequence, split, text, triplet, file, row, views, other, *told)
