"""Records of real clips of one camera (sources/monocular.py), for videos that are controlled.

A clip is cut to the middle of its picture and resized. Its tracking video shows the tracks as discs
with the colours of frame 0, nearer ones in front; it stands for the motion too, as there are no
surfaces to paint. Points are drawn anew in every frame, since nobody knows which is which.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax import disk, recipe, schema
from syncmv4d_jax.data import contact_sheet, controls, prepare, records, transforms
from syncmv4d_jax.data.sources import monocular
from syncmv4d_jax.geometry import cameras, pseudo_video

DISCS = 40  # of their radius the height of the picture is


@dataclasses.dataclass(frozen=True)
class Settings:
    """What makes the records; two runs into one folder must agree in all of it.

    size: (height, width). frames, fps: of a clip. points: tracks. cloud: points a frame. test:
    share of the clips that are tested on. seed: of the draws.
    """

    size: tuple[int, int] = (480, 704)
    frames: int = 49
    fps: float = 15.0
    points: int = 256
    cloud: int = 2048
    test: float = 0.02
    seed: int = 0

    def __post_init__(self):
        if self.frames % transforms.TEMPORAL_STRIDE != 1:
            raise ValueError(f"wanted frames = 4 m + 1, got {self.frames}")


def run(
    clips: list[Path], out: str | Path, settings: Settings, *, shard: tuple[int, int] = (0, 1)
) -> dict[str, Any]:
    """Makes the records of folders of clips in `out`/<h>x<w>; returns the index.

    A clip that cannot be used is left out with its reason; whole ones are left alone.

    Args:
      shard: (i, n): every n-th clip from the i-th on; the index is of all parts that are done.

    Raises:
      ValueError: no clips, a folder that other settings have made, or one that another process
        fills.
    """
    root = Path(out) / f"{settings.size[0]}x{settings.size[1]}"
    if not clips:
        raise ValueError("wanted folders of clips with clip.json, got none")
    told = {
        **json.loads(json.dumps(dataclasses.asdict(settings))),
        "version": schema.VERSION, "clusters": 1, "representation": "das_tracking",
        "controls": list(controls.WITH), "provenance": "real", "cameras": "first",
    }  # fmt: skip
    mine = clips[shard[0] :: shard[1]]
    with recipe.Lock(root, prepare.lock_name(shard)):
        recipe.claim(root / "recipe.json", recipe.of(settings=told), way="use another --out")
        records.write_json(root / "settings.json", told)
        skipped = []
        for folder in mine:
            name, mark = folder.name, functools.partial(recipe.content, folder)
            if prepare.finished(root, name, mark):
                continue
            place = root / "sequences" / f"{name}.json"
            try:
                place.unlink(missing_ok=True)  # no part of former records beside new ones
                records.write_json(place, _part(folder, root, settings) | {"source": mark()})
            except (ValueError, OSError) as error:
                skipped.append({"sequence": name, "reason": f"{type(error).__name__}: {error}"})
        gone = {entry["sequence"] for entry in skipped}
        return prepare.joined(root, {f.name for f in mine} - gone, skipped, shard)


def _part(folder: Path, root: Path, settings: Settings) -> dict[str, Any]:
    """Makes one clip's records; returns its part of the index."""
    scene = monocular.read(folder)
    drawn = transforms.seeded(settings.seed, "split", scene.name).random()
    split = "test" if drawn < settings.test else "train"
    own, view, sheet = make(scene, settings)
    file = f"sequences/{scene.name}.array_record"
    size = records.write_file(root / file, [own, view])
    with disk.whole(root / "report" / f"{scene.name}.jpg") as partial:
        Image.fromarray(sheet).save(partial, "JPEG", quality=85)
    window = {
        "id": f"{scene.name}-0", "sequence": scene.name, "triplet": ["follow", "hand", "object"],
        "window": 0, "start": 0, "valid_frames": int(own["frame_valid"].sum()), "file": file,
        "record": 0, "split": split, "text": scene.text, "filmed": True, "provenance": "real",
        "views": [{"record": 1, "serial": "camera", "cluster": 0}], "skipped_views": {},
    }  # fmt: skip
    return {"windows": [window], "bytes": size}


def make(
    scene: monocular.Scene, settings: Settings
) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Returns a clip's tracks example, view example, and sheet to look at [h w 3] uint8."""
    rng = transforms.seeded(settings.seed, scene.name)
    index, valid = transforms.frame_index(
        len(scene.depth), source_fps=scene.fps, fps=settings.fps, frames=settings.frames, start=0
    )
    box = _middle(scene.video.size, settings.size)
    intrinsics = cameras.crop_resize_intrinsics(scene.intrinsics, box, settings.size)
    pictures = scene.video.read(index, box, settings.size)
    mask = _cut(scene.masks[index], box, settings.size) > 0
    many = scene.tracks.shape[1]
    kept = np.sort(rng.choice(many, settings.points, replace=many < settings.points))
    tracks, seen = scene.tracks[index][:, kept], scene.visible[index][:, kept]
    poses = scene.extrinsics[index]
    pixels, depth = _projected(tracks, intrinsics, poses)
    inside = ((pixels >= -0.5) & (pixels < np.array(settings.size[::-1]) - 0.5)).all(-1)
    seen = seen & inside & (depth > 0)
    scale = pseudo_video.depth_scale(depth, seen)
    pseudo_video.check_scale(scale, where=scene.name)
    shape = mask[..., None].astype(np.uint8)
    where = pseudo_video.encode_colours(pixels[0], depth[0], scale, size=settings.size)
    painted = paint(pixels, depth, seen, np.round(where * 255).astype(np.uint8), settings.size)
    painted = painted * shape
    shot = controls.Shot(pictures[0], np.full(settings.size, np.inf), intrinsics, poses[0])
    first, _ = controls.shows(shot, pixels[0], np.where(seen[0], depth[0], 0))
    warped = paint(pixels, depth, seen, first, settings.size) * shape
    drawn = [monocular.cloud(scene, int(i), settings.cloud, rng) for i in index]
    points, labels, there = (np.stack(x) for x in zip(*drawn, strict=True))
    own = {
        "tracks": tracks.astype(np.float32), "surface": np.zeros(settings.points, np.int32),
        "frame_valid": valid, "source_frames": index.astype(np.int32), "text": scene.text,
        "names": "clip", "points": points.astype(np.float32), "point_valid": there,
        "point_labels": labels.astype(np.uint8), "point_ids": np.array(False),
        "metric": np.array(scene.metric),
    }  # fmt: skip
    moves = bool((np.ptp(poses, axis=0) > 1e-9).any())
    view = {
        "video": records.encode(pictures), "motion": records.encode(painted),
        "tracking": records.encode(painted), "warped": records.encode(warped),
        "mask": controls.pack(mask),
        "intrinsics": intrinsics.astype(np.float32),
        "extrinsics": (poses if moves else poses[0]).astype(np.float32),
        "anchors": pixels[0].astype(np.float32), "anchor_valid": seen[0], "visibility": seen,
        "scale": np.asarray(scale, np.float32), "box": np.round(box).astype(np.int32),
        "serial": "camera",
    }  # fmt: skip
    return own, view, _sheet(pictures, mask, painted, own, intrinsics, poses, valid)


def _projected(points, intrinsics, poses) -> tuple[np.ndarray, np.ndarray]:
    both = [cameras.project(x, intrinsics, pose) for x, pose in zip(points, poses, strict=True)]
    pixels, depth = zip(*both, strict=True)
    return np.stack(pixels), np.stack(depth)


def _middle(whole: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest box of the size's aspect in the middle of a picture of size `whole`."""
    scale = min(whole[0] / size[0], whole[1] / size[1])
    high, wide = scale * size[0], scale * size[1]
    x, y = (whole[1] - wide) / 2, (whole[0] - high) / 2
    return x, y, x + wide, y + high


def _cut(images: np.ndarray, box: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """[n H W] cut to a box and resized to the nearest pixels."""
    x0, y0, x1, y1 = box
    rows = (y0 + (np.arange(size[0]) + 0.5) * (y1 - y0) / size[0]).astype(int)
    columns = (x0 + (np.arange(size[1]) + 0.5) * (x1 - x0) / size[1]).astype(int)
    return images[:, rows][:, :, columns]


def paint(
    pixels: np.ndarray,
    depth: np.ndarray,
    seen: np.ndarray,
    colours: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """The tracking video [n h w 3] uint8 of tracks: discs of their colours, black elsewhere.

    Args:
      pixels: [n k 2]. depth: [n k]. seen: [n k] bool. colours: [k 3] uint8.
    """
    radius = max(1, size[0] // DISCS)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = np.stack([x, y], -1)[np.hypot(x, y) <= radius]
    result = np.zeros((len(pixels), *size, 3), np.uint8)
    for n in range(len(pixels)):
        order = np.argsort(-depth[n][seen[n]], kind="stable")  # the nearest last
        at = np.round(pixels[n][seen[n]][order]).astype(int)[:, None] + disc
        flat = np.repeat(colours[seen[n]][order], len(disc), axis=0)
        columns, rows = at.reshape(-1, 2).T
        inside = (columns >= 0) & (columns < size[1]) & (rows >= 0) & (rows < size[0])
        result[n, rows[inside], columns[inside]] = flat[inside]
    return result


def _sheet(pictures, mask, painted, own: Mapping[str, Any], intrinsics, poses, valid) -> np.ndarray:
    """Masks, points and tracks over the first, middle and last frame."""
    rows, last = [], int(valid.sum()) - 1
    for n in (0, last // 2, last):
        tinted = pictures[n].copy()
        tinted[mask[n]] = tinted[mask[n]] // 2 + np.array([127, 0, 0], np.uint8)
        pixels, _ = cameras.project(own["points"][n].astype(np.float64), intrinsics, poses[n])
        there, label = own["point_valid"][n], own["point_labels"][n]
        dots = contact_sheet.draw_tracks(pictures[n], pixels, there, label)
        rows.append(np.concatenate([tinted, dots, painted[n]], axis=1))
    return np.concatenate(rows)
