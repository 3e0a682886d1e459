"""Finished samples on disk: what sampling wrote, read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.viz import video


def find(folder: str | Path) -> dict[str, Path]:
    """Returns {id: folder} of the finished samples in `folder`, by name."""
    return {path.parent.name: path.parent for path in sorted(Path(folder).glob("*/meta.json"))}


def read(path: str | Path) -> dict[str, Any]:
    """Reads one sample: video, motion [v n h w 3] uint8, meta, and the arrays of tracks.npz.

    Raises:
      FileNotFoundError: a file is missing; names it.
    """
    path = Path(path)
    sample = {"meta": json.loads((path / "meta.json").read_text())}
    for key, prefix in (("video", "view"), ("motion", "motion")):
        clips = [video.read(p) for p in sorted(path.glob(f"{prefix}_*.mp4"), key=_number)]
        if clips:
            sample[key] = np.stack(clips)
    if "video" not in sample or not (path / "tracks.npz").is_file():
        raise FileNotFoundError(f"{path}: wanted view_<v>.mp4 and tracks.npz; sample it again")
    with np.load(path / "tracks.npz") as arrays:
        return sample | {key: arrays[key] for key in arrays}


def _number(path: Path) -> int:
    return int(path.stem.split("_")[-1])
