"""What an mp4 says that its decoder does not, and how H.264 is written alike on all machines.

The former is the part of the pictures that is shown.

Boxes are read as ISO 14496-12 has them: size, four letters, content; `clap` is in the description
of a track's samples: width, height and how far its centre is off the picture's, as fractions.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

TO_ENTRIES = (b"trak", b"mdia", b"minf", b"stbl", b"stsd")
VISUAL = 78  # bytes of a video's entry before its own boxes
# Without it x264 chooses its code by the processor, and with AVX-512 two encodings of the same
# frames in one process differed. For every libx264 here (tests/data/test_video_reader.py).
X264 = {"x264-params": "cpu-independent=1"}


def window(path: Path) -> tuple[tuple[int, int], tuple[Fraction, ...]] | None:
    """Returns (stored width and height, `clap`) where a video is shown in part, else None."""
    for entries in _inside(_movie(path), *TO_ENTRIES):
        for _, entry in _boxes(entries[8:]):
            if len(entry) < VISUAL:
                continue
            stored = struct.unpack(">2H", entry[24:28])
            for kind, content in _boxes(entry[VISUAL:]):
                if kind == b"clap" and len(content) >= 32:
                    numbers = struct.unpack(">IIIIiIiI", content[:32])
                    pairs = zip(numbers[::2], numbers[1::2], strict=True)
                    clap = tuple(Fraction(up, down or 1) for up, down in pairs)
                    if clap != (*stored, 0, 0):
                        return stored, clap
    return None


def _movie(path: Path) -> bytes:
    """The content of the box `moov`; b"" of what is no mp4."""
    end = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        while at + 8 <= end:
            file.seek(at)
            start = file.read(16)
            size, kind = struct.unpack(">I4s", start[:8])
            head = 8
            if size == 1 and len(start) == 16:
                size, head = struct.unpack(">Q", start[8:])[0], 16
            size = size or end - at
            if size < head:
                break
            if kind == b"moov":
                file.seek(at + head)
                return file.read(size - head)
            at += size
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        size = size or len(data) - at
        if size < 8:
            return
        yield kind, data[at + 8 : at + size]
        at += size


def _inside(data: bytes, *names: bytes) -> Iterator[bytes]:
    for kind, content in _boxes(data):
        if kind == names[0]:
            yield from _inside(content, *names[1:]) if len(names) > 1 else [content]
