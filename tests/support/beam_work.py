"""Sources and work that worker processes of a runner import: their records are their names."""

import os
import signal
import time

import numpy as np

from syncmv4d_jax.data import records

FRAMES = 5


class Source:
    """Something whose records are its name; it is broken where that ends in 3.

    kills: a file; the process that is first at s2 writes it and is killed.
    """

    hands, flip_left = "", False

    def __init__(self, number, kills=""):
        self.id, self.kills = f"s{number}", str(kills)

    def mark(self):
        return self.id


def work(source, root, settings):
    """Writes what `prepare_sequence` would, of nothing but the name; and who did it."""
    if source.id.endswith("3"):
        return {"error": "BadSequence: number three"}
    if source.kills and source.id == "s2" and not os.path.exists(source.kills):
        with open(source.kills, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    file = f"sequences/{source.id}.array_record"
    size = records.write_file(root / file, [{"text": source.id}])
    window = {
        "id": f"{source.id}-0", "sequence": source.id, "triplet": ["a", "b", "c"], "file": file,
        "split": "train", "text": source.id, "record": 0, "views": [], "skipped_views": {},
        "valid_frames": FRAMES,
    }  # fmt: skip
    part = {"windows": [window], "bytes": size, "source": source.mark()}
    records.write_json(root / "sequences" / f"{source.id}.json", part)
    (root / "who").mkdir(exist_ok=True)
    (root / "who" / source.id).write_text(str(os.getpid()))
    time.sleep(0.2)  # so that another process gets some
    return part | {"seconds": 0.0}


def encode_video(video):
    return video[::4, ::8, ::8].astype(np.float32) / 255


def sources(count=7, kills=""):
    return [Source(i, kills) for i in range(count)]


def files(folder):
    """{name: bytes} of what was prepared."""
    found = {p.name: p.read_bytes() for p in (folder / "16x24/sequences").iterdir()}
    return found | {"index.json": (folder / "16x24/index.json").read_bytes()}
