"""Records of clips that one camera saw: a view each, with the flow of frame 0's pixels.

Of a `sources.dense.Clip`, cut about its centre: flow, validity and depth (pixel_flow.py), and
points for what tracks are for. There are no surfaces, so that the pseudo video is black: such
records are for tasks that read flow. Settings say `metric` and `camera_motion`.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax import recipe, schema
from syncmv4d_jax.data import pixel_flow, prepare, records, transforms, user
from syncmv4d_jax.data.sources import dense
from syncmv4d_jax.geometry import cameras, flow_map


@dataclasses.dataclass(frozen=True)
class Settings:
    """size, frames, fps, points of the records; camera_motion: ways have the camera's in them."""

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    fps: float = 8.0
    points: int = 1600
    camera_motion: bool = False
    seed: int = 0


def values(clip: dense.Clip, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """The examples of a clip: of the window and of its view.

    Raises:
      dense.BrokenClip: nothing of it is known.
    """
    size, whole = settings.size, clip.depth.shape
    index, there = transforms.frame_index(
        len(clip.video), source_fps=clip.fps, fps=settings.fps, frames=settings.frames, start=0
    )
    box = user.centre_box((whole[0], whole[1]), size)
    y, x = (
        np.clip((low + (np.arange(n) + 0.5) * (high - low) / n).astype(int), 0, m - 1)
        for n, low, high, m in ((size[0], box[1], box[3], whole[0]),
                                (size[1], box[0], box[2], whole[1]))
    )  # fmt: skip
    at = (y[:, None], x[None])
    tracks, known = dense.dense(clip)
    ways = (tracks[index] - tracks[:1])[:, y[:, None], x[None]]
    depth, valid = clip.depth[at], known[at]
    lens = cameras.crop_resize_intrinsics(clip.intrinsics, box, size).astype(np.float32)
    poses = clip.extrinsics[index].astype(np.float32)
    camera = flow_map.Camera(depth.astype(np.float32), lens, poses[0])
    start = cameras.to_world(flow_map.start(camera), camera.extrinsics)
    world = (start[None] + ways).astype(np.float32)
    flow = flow_map.forward(world, camera) * valid[None, ..., None]
    fields = {"flow": flow, "flow_valid": valid, "depth0": camera.depth}
    places = np.argwhere(valid)
    if len(places) < 8:
        raise dense.BrokenClip(f"{clip.name}: {len(places)} pixels are known")
    rng = transforms.seeded(settings.seed, clip.name)
    picked = places[rng.choice(len(places), settings.points, replace=len(places) < settings.points)]
    points = world[:, picked[:, 0], picked[:, 1]]
    pictures = [
        np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS, box=box))
        for frame in clip.video[index]
    ]
    still = bool((np.ptp(poses, axis=0) < 1e-6).all())
    seen = _seen(points, lens, poses, size)
    far = cameras.to_camera(points, poses)[..., 2]
    view = {
        "video": records.encode(np.stack(pictures)),
        "motion": records.encode(np.zeros((len(index), *size, 3), np.uint8)),
        "anchors": picked[:, ::-1].astype(np.float32),
        "anchor_valid": np.ones(len(picked), bool),
        "visibility": seen,
        "intrinsics": lens,
        "extrinsics": poses[0] if still else poses,
        "scale": np.array([far.min(), far.max()], np.float32),
        "box": np.round(box).astype(np.int32),
        "serial": "camera",
        **pixel_flow.pack(fields),
    }
    own = {
        "tracks": points.astype(np.float32),
        "surface": np.zeros(len(picked), np.int32),
        "frame_valid": there,
        "source_frames": index.astype(np.int32),
        "text": clip.text,
        "names": "scene",
    }
    return own, view


def _seen(points, lens, poses, size) -> np.ndarray:
    pixels, depth = cameras.project(points, np.repeat(lens[None], len(poses), 0), poses)
    return (depth > 0) & (pixels >= -0.5).all(-1) & (pixels < np.array(size[::-1]) - 0.5).all(-1)


def write(
    out: str | Path,
    clips: Iterable[tuple[str, dense.Clip | ValueError]],
    settings: Settings,
    *,
    shard: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
    """Writes records of clips to `out`/<h>x<w>; what is there of the same clip is left alone.

    Args:
      clips: (id, clip), or (id, why there is none); those of this part.
      shard: which part of how many they are; the index is of all parts that are done.

    Returns:
      The index.

    Raises:
      ValueError: a folder that other settings have made, or one that another process fills.
    """
    root = Path(out) / f"{settings.size[0]}x{settings.size[1]}"
    own = json.loads(json.dumps(dataclasses.asdict(settings)))
    own |= {"version": schema.VERSION, "clusters": 1, "fields": ["flow"], "paths": []}
    with recipe.Lock(root, prepare.lock_name(shard)):
        recipe.claim(root / "recipe.json", recipe.of(settings=own), way="use another --out")
        records.write_json(root / "settings.json", own)
        return _write(root, clips, settings, shard)


def _write(
    root: Path,
    clips: Iterable[tuple[str, dense.Clip | ValueError]],
    settings: Settings,
    shard: tuple[int, int],
) -> dict[str, Any]:
    skipped: list[dict[str, str]] = []
    met, listed = set[str](), set[str]()
    for name, clip in clips:
        place = root / "sequences" / f"{name}.json"
        try:
            if isinstance(clip, ValueError):
                raise clip
            if name in met:
                raise ValueError(f"{name}: wanted distinct ids, this one is there twice")
            met.add(name)
            mark = recipe.mark(clip)
            if prepare.finished(root, name, functools.partial(str, mark)):
                listed.add(name)
                continue
            window, view = values(clip, settings)
        except ValueError as error:
            skipped.append({"sequence": name, "reason": str(error)})
            continue
        place.unlink(missing_ok=True)  # no part of former records beside new ones
        file = f"sequences/{name}.array_record"
        size = records.write_file(root / file, [window, view])
        entry = {
            "id": f"{name}-0", "sequence": name, "triplet": ["", "", ""], "window": 0, "start": 0,
            "valid_frames": int(window["frame_valid"].sum()), "file": file, "record": 0,
            "split": "train", "text": window["text"], "skipped_views": {},
            "views": [{"record": 1, "serial": "camera", "cluster": 0}],
        }  # fmt: skip
        records.write_json(place, {"windows": [entry], "bytes": size, "source": mark})
        listed.add(name)
    return prepare.joined(root, listed, skipped, shard)
