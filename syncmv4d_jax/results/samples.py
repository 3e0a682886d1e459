"""A finished sample on disk, written and read here.

    <id>/view_<v>.mp4, motion_<v>.mp4   one a view; motion where the task makes it
    <id>/view_<v>.mkv                   the same to the last bit, where `sample.exact` asks for it
    <id>/tracks.npz                     tracks, cameras, scale: what there is of ARRAYS
    <id>/meta.json                      prompt, fps, settings, and `files`: the names of all others

`meta["recipe"]` is what the sample was made from. The name of a sample is the newest's that was
asked for; one of another recipe that had it is kept as <id>_<mark of its recipe>, and takes the
name back when it is asked for again.

Videos are always there. A task without points writes no tracks, one without cameras no cameras, and
without any of ARRAYS there is no tracks.npz: text to video is a sample like any other.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import disk, recipe
from syncmv4d_jax.data import reading, rigs
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.results import video

log = logging.getLogger(__name__)
# Key of a sample -> prefix of its files. render, holes: points drawn along a camera path, and
# where they cover nothing (white), beside the video that was made of them.
CLIPS = {"video": "view", "motion": "motion", "render": "render", "holes": "holes"}
# [v 3 3] pixels; [v 3 4] world to camera, [v n 3 4] where a camera moves
CAMERAS = ("intrinsics", "extrinsics")
GIVEN = (  # by a task that makes points
    "tracks_per_view",  # [v n k 3] metres: each view's own copy
    "confidence",  # [v n k] 0..1
    "anchors",  # [v k 2] pixels: where the points are in frame 0
    "anchor_valid",  # [v k] bool
)
PARTS = (  # where a task has them
    "anchor_confidence",  # [v k] 0..1, in the anchors
    "anchor_view",  # [k] the view whose pixel was chosen, -1: all views' were given
    "coarse",  # [v n k 3] metres: what the last generated motion decodes to
    "coarse_confidence",  # [v n k] 0..1
    "closed_form",  # [n k 3] metres: the coarse tracks, aligned without a network
    "network",  # [n k 3] metres: the same with it
)
POINTS = (
    "tracks",  # [n k 3] metres, world frame: one copy of all views
    "visibility",  # [v n k] bool
    *GIVEN,
    *PARTS,
)
DENSE = (  # of a task that says where every pixel goes
    "flow",  # [v n h w 3] float16, geometry/flow_map.py
    "depth0",  # [v h w] metres
    "images",  # [v h w 3] uint8, frame 0
)
PATH = ("path_intrinsics", "path_extrinsics")  # [v n 3 3], [v n 3 4] of cameras that move
DRAWN = (  # of what was made of drawn points: the clips `render` and `holes`, exactly
    "drawn",  # [v n h w 3] uint8
    "covered",  # [v n h w] bool
    "sure",  # [v n h w] bool, see geometry/splat.py
)
# scale: [v 2] metres, nearest and farthest depth
ARRAYS = (*CAMERAS, "scale", *POINTS, *DENSE, *PATH, *DRAWN)
NOTHING_SEEN = "no foreground in the decoded pseudo video: confidence is 0"


def write(
    path: str | Path,
    result: Mapping[str, np.ndarray],
    inputs: Mapping[str, Any],
    meta: Mapping[str, Any],
    *,
    exact: bool = False,
) -> None:
    """Writes one sample, whole or not at all.

    Args:
      path: the sample's folder; one that is there is replaced, or kept beside if it was made from
        something else than `meta["recipe"]`.
      result: video and, where there is, motion [v n h w 3] in [-1, 1]; where there are, scale,
        DENSE, PATH, DRAWN, and tracks_per_view with confidence, anchors and anchor_valid as in
        POINTS.
      inputs: of the sample; its cameras are written, where it has them.
      meta: JSON values, with fps.
      exact: writes what the mp4 of the videos loses, too: the colours of every second pixel.

    Raises:
      ValueError: no video, or values that are not finite.
    """
    path = Path(path)
    if not len(result.get("video", ())):
        raise ValueError(f"{path}: wanted a video [v n h w 3], got {sorted(result)}")
    for key in (*CLIPS, *ARRAYS):
        values = np.asarray((inputs if key in CAMERAS else result).get(key, 0))
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {key} {values.shape} has values that are not finite")
    arrays = {key: inputs[key] for key in CAMERAS if key in inputs} | points(result)
    if "extrinsics" in arrays:
        arrays["extrinsics"] = cameras.poses(arrays["extrinsics"])
    if "scale" in result:
        arrays["scale"] = result["scale"]
    arrays |= {key: result[key] for key in (*DENSE, *PATH, *DRAWN) if key in result}
    if "flow" in arrays:
        arrays["flow"] = np.asarray(arrays["flow"], np.float16)
    if "confidence" in arrays and not arrays["confidence"].any():
        meta = {**meta, "warning": NOTHING_SEEN}
    with disk.whole(path) as partial:
        partial.mkdir()
        for key, prefix in CLIPS.items():
            for v, clip in enumerate(result.get(key, ())):
                video.write(partial / f"{prefix}_{v}.mp4", to_uint8(clip), fps=meta["fps"])
        for v, clip in enumerate(result["video"] if exact else ()):
            video.write_exact(partial / f"view_{v}.mkv", to_uint8(clip), fps=meta["fps"])
        if arrays:
            np.savez_compressed(partial / "tracks.npz", **arrays)
        meta = {**meta, "files": sorted(file.name for file in partial.iterdir())}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1))
        _set_aside(path, meta.get("recipe"))


def made(path: str | Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a whole sample of recipe `wanted` has the name `path`, or had it and has it again."""
    path = Path(path)
    if _made_from(path) == wanted:
        return True
    former = _beside(path, wanted)
    if _made_from(former) != wanted:
        return False
    _set_aside(path, wanted)
    former.rename(path)
    log.info("%s: the former sample of these settings has its name again", path)
    return True


def _made_from(path: Path) -> dict[str, Any] | None:
    """The recipe of a sample, {} where it does not say; None where none is, or a file is lost."""
    meta = recipe.read(path / "meta.json")
    if meta is None or not all((path / name).is_file() for name in meta.get("files", ())):
        return None
    return meta.get("recipe", {})


def _beside(path: Path, made_from: Mapping[str, Any]) -> Path:
    return path.with_name(f"{path.name}_{recipe.mark(made_from)[:8]}")


def _set_aside(path: Path, wanted: Mapping[str, Any] | None) -> None:
    """Gives a sample of another recipe a name of its own."""
    there = _made_from(path)
    if wanted is None or there is None or there == wanted:
        return
    meta = recipe.read(path / "meta.json") or {}
    aside = _beside(path, there or meta)
    if aside.is_dir():  # the same sample, made twice
        shutil.rmtree(aside)
    path.rename(aside)
    how = "; ".join(recipe.differences(there, wanted)) if there else "it does not say from what"
    log.warning("%s: the one there was made from something else (%s), kept as %s", path, how,
                aside.name)  # fmt: skip


def points(result: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a sample (see `write`) keeps of its points, by POINTS; {} without any."""
    if "tracks_per_view" not in result:
        return {}
    own = {key: np.asarray(result[key]) for key in GIVEN}
    own |= {key: np.asarray(result[key]) for key in PARTS if key in result}
    fused = world_tracks.fuse(own["tracks_per_view"], own["confidence"])
    seen = own["confidence"] > 0.5
    return own | {"tracks": np.asarray(fused, np.float32), "visibility": seen}


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """[-1, 1] float -> 0..255 uint8."""
    return np.clip(np.round((np.asarray(clip) + 1) * 127.5), 0, 255).astype(np.uint8)


def find(folder: str | Path) -> dict[str, Path]:
    """Returns {id: folder} of the finished samples in `folder`, by name."""
    found = (path.parent for path in sorted(Path(folder).glob("*/meta.json")))
    return {path.name: path for path in found if not path.name.startswith(".")}


def read(path: str | Path) -> dict[str, Any]:
    """Reads one sample.

    Returns:
      meta, video [v n h w 3] uint8 and, where it has them, motion [v n h w 3] uint8 and ARRAYS.

    Raises:
      FileNotFoundError: a file of it is missing; names it.
      ValueError: its views are not of one size, one has a camera that no view has, or arrays are
        not finite.
    """
    path = Path(path)
    meta = reading.values(path / "meta.json")
    if not isinstance(meta, dict):
        raise ValueError(f"{path / 'meta.json'}: wanted an object, got {type(meta).__name__}")
    wanted = meta.pop("files", ["view_0.mp4"])  # samples of the first version have no list
    if lost := [name for name in wanted if not (path / name).is_file()]:
        raise FileNotFoundError(f"{path}: wanted {', '.join(lost)}; sample it again")
    sample: dict[str, Any] = {"meta": meta}
    for key, prefix in CLIPS.items():
        both = (path.glob(f"{prefix}_*.{ending}") for ending in ("mkv", "mp4"))
        files = next((sorted(one, key=_number) for x in both if (one := list(x))), [])
        if files:
            sample[key] = _stacked([video.read(file) for file in files], files)
    if (path / "tracks.npz").is_file():
        arrays = reading.arrays(path / "tracks.npz")
        sample |= {key: arrays[key] for key in ARRAYS if key in arrays}
        for key in arrays.keys() & set(ARRAYS):
            if arrays[key].dtype.kind == "f" and not np.isfinite(arrays[key]).all():
                raise ValueError(f"{path / 'tracks.npz'}: {key} has values that are not finite")
    if set(CAMERAS) <= sample.keys() and "video" in sample:
        _check_cameras(path / "tracks.npz", sample)
    return sample


def _check_cameras(path: Path, sample: Mapping[str, Any]) -> None:
    lenses, poses = (np.asarray(sample[key]) for key in CAMERAS)
    views, size = len(sample["video"]), sample["video"].shape[2:4]
    if lenses.shape != (views, 3, 3) or poses.shape[:1] + poses.shape[-2:] != (views, 3, 4):
        raise ValueError(
            f"{path}: wanted intrinsics [v 3 3] and extrinsics [v 3 4] or [v n 3 4] of {views} "
            f"views, got {lenses.shape} and {poses.shape}"
        )
    for v, (lens, pose) in enumerate(zip(lenses, poses, strict=True)):
        way = pose.reshape(-1, 3, 4)
        camera = rigs.Camera(f"view {v}", lens, way[0], size, way if len(way) > 1 else None)
        rigs.check_camera(camera, where=f"{path}: the camera of view {v}", cropped=True)


def fps(sample: Mapping[str, Any]) -> float:
    """Frames a second of a sample's videos; 8 where it does not say."""
    return float(sample.get("meta", {}).get("fps") or 8.0)


def _stacked(clips: list[np.ndarray], files: list[Path]) -> np.ndarray:
    if len({clip.shape for clip in clips}) > 1:
        sizes = ", ".join(f"{f.name} {c.shape}" for f, c in zip(files, clips, strict=True))
        raise ValueError(f"{files[0].parent}: wanted views [n h w 3] of one size, got {sizes}")
    return np.stack(clips)


def _number(path: Path) -> int:
    return int(path.stem.split("_")[-1])
