"""Finished samples on disk: what sampling wrote, read back."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.results import video


def write(
    path: Path, result: dict[str, np.ndarray], inputs: dict[str, Any], meta: dict[str, Any]
) -> None:
    """Writes one sample: videos, `tracks.npz` (schema in DESIGN: docs/data.md) and `meta.json`.

    Args:
      result: video and motion [v n h w 3] in [-1, 1]; tracks_per_view [v n k 3] metres, ...
      inputs: cameras [v ...] of the sample; without them there is no `tracks.npz`.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for kind, prefix in (("video", "view"), ("motion", "motion")):
        for v, clip in enumerate(result.get(kind, ())):
            video.write(partial / f"{prefix}_{v}.mp4", to_uint8(clip), fps=meta["fps"])
    arrays = {key: inputs[key] for key in ("intrinsics", "extrinsics") if key in inputs}
    if "scale" in result:
        arrays["scale"] = result["scale"]
    if "tracks_per_view" in result:
        confidence = result["confidence"]
        tracks = world_tracks.fuse(result["tracks_per_view"], confidence)
        arrays |= {
            "tracks": np.asarray(tracks, np.float32),
            "tracks_per_view": result["tracks_per_view"],
            "confidence": confidence,
            "visibility": confidence > 0.5,
            "anchors": result["anchors"],
            "anchor_valid": result["anchor_valid"],
        }
        if not confidence.any():
            meta = meta | {"warning": "no foreground in the decoded pseudo video: confidence is 0"}
    if arrays:
        np.savez_compressed(partial / "tracks.npz", **arrays)
    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """[-1, 1] float -> 0..255 uint8."""
    return np.clip(np.round((np.asarray(clip) + 1) * 127.5), 0, 255).astype(np.uint8)


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
