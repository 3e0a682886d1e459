"""A real clip of one camera, as other people's tools have read it: depth, masks, tracks.

    <clip>/clip.json     {"fps": 15, "text": "...", "metric": false, "static_camera": true,
                          "labels": {"1": "right", "2": "object"}}
    <clip>/video.mp4
    <clip>/vggt.npz      depth [s h w 1], depth_conf [s h w], extrinsic [s 3 4] world to camera,
                         intrinsic [s 3 3] pixels of h x w, whose centres are at halves
    <clip>/masks/00000.png ...  palette images, the pixel is an object's id; or masks.npz: masks
                         [s h w] uint8
    <clip>/tracks.npz    SpaTrackerV2: coords [s k 3] in its world, extrinsics [s 4 4], intrinsics
                         [s 3 3] pixels of `video` [s 3 h w], visibs [s k] or [s k 1]
                   or    SpatialTracker: pred_tracks [s k 3] = (x px, y px, depth),
                         pred_visibility [s k]
      or dense_3d_track.pkl   DELTA: coords [s k 3] in the camera's frame, vis [s k]

Nothing is run here, and pickles are not executed. Depths of two tools are of two scales: one
factor, the median of their ratios in frame 0, brings the tracks to VGGT's.
"""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from syncmv4d_jax.data import frames, reading, rigs
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.weights import torch_pickle

WORDS = {"left": 0, "right": 1, "object": 2, "other": 3}  # -> index of surfaces.LABELS
JUMP = 0.03  # relative step of depth to a neighbour, from which it is an edge
DOUBT = 20  # percentile of confidence below which a depth does not count
TURN, MOVE = 1.0, 0.02  # degrees; part of the depth: what a still camera may seem to move
SEEN = 0.2  # of the frames: tracks seen less do not count
MISSING = 0.3  # of the mask's pixels without depth: the clip is refused
FARTHEST = 1e6  # pixels, and units of a tracker


@dataclasses.dataclass(frozen=True)
class Scene:
    """A clip; n frames, (H, W) of the video, (h, w) of the depth.

    depth: [n h w] and sure [n h w] bool, where it counts. intrinsics: [3 3], pixels of the video;
    of_depth [3 3], of the depth's. extrinsics: [n 3 4]. masks: [n H W] uint8 ids. labels: {id:
    index of surfaces.LABELS}. tracks: [n k 3] world; visible [n k] bool.
    """

    name: str
    fps: float
    text: str
    metric: bool
    video: frames.Video
    depth: np.ndarray
    sure: np.ndarray
    intrinsics: np.ndarray
    of_depth: np.ndarray
    extrinsics: np.ndarray
    masks: np.ndarray
    labels: dict[int, int]
    tracks: np.ndarray
    visible: np.ndarray


def read(folder: str | Path) -> Scene:
    """Reads a clip.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: files that do not fit each other, a camera that moves and is said to stand still,
        or masks without depth; says which, with numbers.
    """
    folder = Path(folder)
    with reading.parsing(folder, "clip"):
        return _read(folder)


def _read(folder: Path) -> Scene:
    told = _told(folder / "clip.json")
    try:
        video = frames.Video(folder / "video.mp4")
    except taco.BadSequence as error:
        raise ValueError(str(error)) from error
    own = _arrays(folder / "vggt.npz", ("depth", "depth_conf", "extrinsic", "intrinsic"))
    for name in ("intrinsic", "extrinsic"):
        if not np.isfinite(own[name].astype(np.float64)).all():
            raise ValueError(f"{folder / 'vggt.npz'}: {name} has values that are not finite")
    depth = own["depth"].astype(np.float64)
    depth = depth[..., 0] if depth.ndim == 4 else depth
    masks = _masks(folder, video.size)
    counts = {"video": len(video.stamps), "vggt.npz": len(depth), "masks": len(masks)}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{folder}: the numbers of frames differ: {counts}")
    extrinsics = own["extrinsic"].astype(np.float64)[:, :3]
    known = depth[np.isfinite(depth) & (depth > 0)]
    if told["static_camera"] and known.size:
        extrinsics = still(extrinsics, float(np.median(known)), where=str(folder))
    of_depth = np.median(own["intrinsic"].astype(np.float64), axis=0)
    of_depth = of_depth - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # centres at integers
    high, wide = depth.shape[1:]
    intrinsics = cameras.crop_resize_intrinsics(of_depth, (0, 0, wide, high), video.size)
    one = rigs.Camera("video", intrinsics, extrinsics[0], video.size, extrinsics)
    rigs.check_camera(one, where=f"{folder / 'vggt.npz'}")
    labels = {int(key): WORDS[word] for key, word in told["labels"].items()}
    sure = _sure(depth, own["depth_conf"].reshape(depth.shape))
    _check_depth(folder, depth, nearest(masks, depth.shape[1:]))
    pixels, far, seen = _tracks(folder, intrinsics, video.size)
    sane = (np.abs(pixels) < FARTHEST).all(-1) & (np.abs(far) < FARTHEST)
    if bad := int((~sane).sum()):
        raise ValueError(
            f"{folder}: {bad} of the tracks' {far.size} points are not finite, or beyond all bounds"
        )
    if len(pixels) != len(depth):
        raise ValueError(f"{folder}: tracks have {len(pixels)} frames, the video {len(depth)}")
    kept, factor = _matched(folder, pixels, far, seen, depth, masks, video.size)
    far, pixels, seen = factor * far[:, kept], pixels[:, kept], seen[:, kept]
    tracks = np.stack(
        [
            cameras.unproject(p, z, intrinsics, pose)
            for p, z, pose in zip(pixels, far, extrinsics, strict=True)
        ]
    )
    return Scene(
        folder.name, told["fps"], told["text"], told["metric"], video, depth, sure, intrinsics,
        of_depth, extrinsics, masks, labels, tracks, seen,
    )  # fmt: skip


def _told(path: Path) -> dict[str, Any]:
    text = reading.values(path)
    try:
        found: dict[str, Any] = {
            "fps": float(text["fps"]),
            "text": reading.prompt(text["text"], where=f"{path}, text"),
            "metric": bool(text["metric"]),
            "static_camera": bool(text["static_camera"]),
            "labels": dict(text["labels"]),
        }
    except (KeyError, TypeError) as error:
        wanted = "fps, text, metric, static_camera and labels"
        raise ValueError(f"{path}: wanted {wanted}, got {json.dumps(text)[:200]}") from error
    if not 0 < found["fps"] < 1000:
        raise ValueError(f"{path}: fps: wanted frames a second, got {found['fps']}")
    if strange := sorted(set(found["labels"].values()) - set(WORDS)):
        raise ValueError(f"{path}: labels: wanted some of {sorted(WORDS)}, got {strange}")
    return found


def _arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    found = reading.arrays(path)
    if missing := [key for key in wanted if key not in found]:
        raise ValueError(f"{path}: wanted {missing} too, got {sorted(found)}")
    return found


def _masks(folder: Path, size: tuple[int, int]) -> np.ndarray:
    """[n H W] uint8 at the video's size."""
    if (folder / "masks.npz").is_file():
        found = _arrays(folder / "masks.npz", ("masks",))["masks"]
    else:
        inside = reading.entries(folder / "masks") if (folder / "masks").is_dir() else []
        files = [path for path in inside if path.suffix.lower() == ".png"]
        if not files:
            raise FileNotFoundError(f"{folder}: wanted masks/00000.png, ... or masks.npz")
        each = {str(path): np.array(Image.open(path)) for path in files}
        for name, mask in each.items():
            _check_mask(mask, size, name)
        found = np.stack(list(each.values()))
    if found.ndim != 3 or not len(found):
        raise ValueError(f"{folder}: wanted masks [n h w] of ids, got {found.shape}")
    _check_mask(found[0], size, f"{folder}/masks.npz")
    if found.min() < 0 or found.max() > 255:
        raise ValueError(f"{folder}: masks: wanted ids of 0..255, got {found.min()}..{found.max()}")
    return found.astype(np.uint8)


def _check_mask(mask: np.ndarray, size: tuple[int, int], where: str) -> None:
    if mask.ndim != 2:
        raise ValueError(
            f"{where}: wanted a mask [h w] of ids (palette images), got {mask.shape}: coloured "
            "overlays do not say which object a pixel is"
        )
    if mask.shape != tuple(size):
        raise ValueError(
            f"{where}: the mask is {mask.shape[1]} x {mask.shape[0]}, the video {size[1]} x "
            f"{size[0]}: masks of another size lie elsewhere; save them as large as the video"
        )


def nearest(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[n H W] -> [n h w], the pixel that lies there."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, images.shape[1:3], strict=True)
    )
    return images[:, rows][:, :, columns]


def still(extrinsics: np.ndarray, depth: float, *, where: str) -> np.ndarray:
    """The one pose [n 3 4], n times, of a camera that is said to stand still.

    Raises:
      ValueError: the poses [n 3 4] differ by more than noise; depth: typical, in their unit.
    """
    middle = np.median(extrinsics, axis=0)
    u, _, v = np.linalg.svd(middle[:, :3])
    rotation = u @ v
    cosine = (np.einsum("nij,ij->n", extrinsics[:, :, :3], rotation) - 1) / 2
    turn = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max())
    centre = -rotation.T @ middle[:, 3]
    moved = np.linalg.norm(cameras.camera_centre(extrinsics) - centre, axis=-1).max() / depth
    if turn > TURN or moved > MOVE:
        raise ValueError(
            f"{where}: the camera is said to stand still, but turns by {turn:.2g} degrees and "
            f"moves by {moved:.1%} of the depth; say static_camera: false"
        )
    pose = np.concatenate([rotation, middle[:, 3:]], axis=1)
    return np.broadcast_to(pose, (len(extrinsics), 3, 4)).copy()


def _sure(depth: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Where depth counts: known, confident, and no edge."""
    known = np.isfinite(depth) & (depth > 0)
    lowest = np.percentile(confidence[known], DOUBT) if known.any() else 0.0
    filled = np.where(known, depth, np.inf)
    edge = np.zeros(depth.shape, bool)
    for axis in (1, 2):
        with np.errstate(invalid="ignore"):
            step = np.abs(np.diff(filled, axis=axis))
        low = np.minimum(*(np.delete(filled, i, axis) for i in (0, -1)))
        high = ~(step < JUMP * low)
        pads = [[(0, 0)] * 3, [(0, 0)] * 3]
        pads[0][axis], pads[1][axis] = (0, 1), (1, 0)
        edge |= np.pad(high, pads[0]) | np.pad(high, pads[1])
    return known & (confidence >= lowest) & ~edge


def _check_depth(folder: Path, depth: np.ndarray, masks: np.ndarray) -> None:
    inside = masks > 0
    if not inside.any():
        raise ValueError(f"{folder}: the masks are empty")
    lacking = float((~(np.isfinite(depth) & (depth > 0)))[inside].mean())
    if lacking > MISSING:
        raise ValueError(f"{folder}: {lacking:.0%} of the masks' pixels have no depth")


def _tracks(
    folder: Path, intrinsics: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels [n k 2] of the video, depths [n k] of the tracker's scale, seen [n k] bool."""
    if (folder / "dense_3d_track.pkl").is_file():
        found = _pickled(folder / "dense_3d_track.pkl")
        local, seen = np.asarray(found["coords"], np.float64), np.asarray(found["vis"]) > 0.5
        pixels, depth = cameras.project(local, intrinsics, np.eye(3, 4))
        return pixels, depth, seen.reshape(depth.shape)
    path = folder / "tracks.npz"
    found = _arrays(path, ())
    if "pred_tracks" in found:
        seen = _arrays(path, ("pred_visibility",))["pred_visibility"]
        given = found["pred_tracks"].astype(np.float64)
        return given[..., :2], given[..., 2], seen.reshape(given.shape[:2]) > 0.5
    found = _arrays(path, ("coords", "extrinsics", "intrinsics", "visibs", "video"))
    own = np.median(found["intrinsics"].astype(np.float64), axis=0)
    high, wide = found["video"].shape[-2:]
    own = cameras.crop_resize_intrinsics(own, (0, 0, wide, high), size)
    poses = found["extrinsics"].astype(np.float64)[:, :3]
    both = [
        cameras.project(x.astype(np.float64), own, pose)
        for x, pose in zip(found["coords"], poses, strict=True)
    ]
    pixels, depth = (np.stack(part) for part in zip(*both, strict=True))
    return pixels, depth, found["visibs"].reshape(depth.shape) > 0.5


def _pickled(path: Path) -> dict[str, Any]:
    """DELTA's dictionary of arrays; what else a pickle can do is refused."""
    try:
        found = torch_pickle.load(path.read_bytes())
    except (pickle.UnpicklingError, ValueError) as error:
        raise ValueError(f"{path}: no plain pickle of arrays ({error})") from error
    if not isinstance(found, dict) or not {"coords", "vis"} <= found.keys():
        raise ValueError(f"{path}: wanted coords and vis, got {type(found).__name__}")
    return found


def _matched(folder, pixels, far, seen, depth, masks, size) -> tuple[np.ndarray, float]:
    """Which tracks count [k] bool, and the factor from their depths to `depth`."""
    x, y = np.round(pixels[0]).astype(int).T
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0]) & seen[0] & (far[0] > 0)
    held = masks[0][y.clip(0, size[0] - 1), x.clip(0, size[1] - 1)] > 0
    kept = inside & held & (seen.mean(0) >= SEEN)
    if not kept.any():
        raise ValueError(
            f"{folder}: of {len(kept)} tracks none starts in the mask and is seen in {SEEN:.0%} of "
            "the frames"
        )
    high, wide = depth.shape[1:]
    rows = (y[kept] * high // size[0]).clip(0, high - 1)
    columns = (x[kept] * wide // size[1]).clip(0, wide - 1)
    true = depth[0, rows, columns]
    known = np.isfinite(true) & (true > 0)
    if not known.any():
        raise ValueError(f"{folder}: no depth where the tracks start")
    return kept, float(np.median(true[known] / far[0, kept][known]))


def cloud(
    scene: Scene, frame: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a frame: half of hands, half of objects, as many a square metre everywhere.

    Returns:
      points [p 3] world, labels [p], valid [p] bool; without any pixel of a kind the other has all.
    """
    ids = nearest(scene.masks[frame][None], scene.depth.shape[1:])[0]
    kinds = np.full(256, -1)
    for key, label in scene.labels.items():
        kinds[key] = label
    label = kinds[ids]
    usable = scene.sure[frame] & (label >= 0)
    hands, things = usable & (label < 2), usable & (label >= 2)
    half = count // 2 if hands.any() and things.any() else count * bool(hands.any())
    places = []
    for where, number in ((hands, half), (things, count - half)):
        flat = np.flatnonzero(where)
        if number and flat.size:
            weight = scene.depth[frame].ravel()[flat] ** 2
            places.append(rng.choice(flat, number, p=weight / weight.sum()))
    if not places:
        return np.zeros((count, 3)), np.zeros(count, int), np.zeros(count, bool)
    chosen = np.concatenate(places)
    y, x = np.divmod(chosen, ids.shape[1])
    pixels = np.stack([x, y], -1).astype(np.float64)
    depth = scene.depth[frame].ravel()[chosen]
    points = cameras.unproject(pixels, depth, scene.of_depth, scene.extrinsics[frame])
    return points, label.ravel()[chosen], np.ones(count, bool)
