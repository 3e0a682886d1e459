"""What records keep for videos that are controlled: clouds, masks and tracking videos.

    tracks example   points [n p 3] float32, metres, world; point_valid [n p]; point_normals [n p 3]
                     float16 (none: not known); point_labels [p] or [n p], index of surfaces.LABELS;
                     point_ids, metric [] bool: see schema.BATCH; point_colours [p 3] uint8,
                     point_coloured [p] bool (none: not known): of frame 0, where a camera sees it
    view example     tracking, a clip: the pseudo video with frame 0's depths; warped, a clip of
                     the same pixels: the colours that frame 0 shows of what is there, black where
                     it shows none (`clip` completes them); mask, packed bits of [n h w]: hands
                     and objects

Points are drawn by area in frame 0 and followed on their surfaces. A batch gets a part of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from syncmv4d_jax.data import records, surfaces, transforms
from syncmv4d_jax.geometry import cameras

WITH = ("points", "das", "image")
SLACK = 0.01  # metres that a point may lie behind what a pixel of frame 0 meets, and be seen
FIELDS = ("points", "point_valid", "point_features", "point_ids", "metric")


def labels(found: Sequence[surfaces.Surface]) -> np.ndarray:
    """The label of each surface, an index of surfaces.LABELS.

    A surface without one is a hand where its name says left or right, else an object; the first of
    the objects, a tool for instance, is told from the others.
    """
    result, objects = [], 0
    for surface in found:
        label = surface.label
        for side in ("left", "right"):
            if not label and side in surface.name.lower():
                label = f"{side} hand"
        if label not in surfaces.LABELS[:2]:
            label = label or surfaces.LABELS[2 + (objects > 0)]
            objects += 1
        result.append(surfaces.LABELS.index(label))
    return np.array(result, np.uint8)


def cloud(
    meshes: Sequence[Sequence[np.ndarray]],
    faces: Sequence[np.ndarray],
    names: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The values of a record's tracks example.

    Args:
      meshes: of each frame, the surfaces' vertices [p 3], metres, world.
      faces: of the surfaces. names: their `labels`.
      count: points.
    """
    chosen = transforms.by_area(meshes[0], faces, count, rng)
    return {
        "points": np.stack([chosen.positions(mesh) for mesh in meshes]).astype(np.float32),
        "point_valid": np.ones((len(meshes), count), bool),
        "point_normals": np.stack([chosen.normals(mesh) for mesh in meshes]).astype(np.float16),
        "point_labels": names[chosen.mesh],
        "point_ids": np.array(True),
        "metric": np.array(True),
    }


class Shot(NamedTuple):
    """Frame 0 of a camera: image [h w 3] uint8, depth [h w] metres (inf: nothing), [3 3], [3 4]."""

    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray


def colours(points: np.ndarray, shots: Sequence[Shot]) -> dict[str, np.ndarray]:
    """What frame 0 shows of a cloud: the values point_colours and point_coloured of a record.

    Args:
      points: [p 3], metres, world, at frame 0.
      shots: of all cameras; the first that sees a point has its colour.
    """
    found, seen = np.zeros((len(points), 3), np.uint8), np.zeros(len(points), bool)
    for shot in shots:
        pixels, depth = cameras.project(points, shot.intrinsics, shot.extrinsics)
        shown, there = shows(shot, pixels, depth)
        mine = there & ~seen
        found[mine], seen = shown[mine], seen | mine
    return {"point_colours": found, "point_coloured": seen}


def shows(shot: Shot, pixels: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours [p 3] uint8 that a picture shows of points, between its pixels bilinear, and [p]
    bool: whether it sees them.

    Args:
      pixels: [p 2], (x, y), where the points are. depth: [p], metres.
    """
    height, width = shot.depth.shape
    x, y = np.rint(pixels).astype(int).T
    inside = (depth > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    seen = inside & (depth <= shot.depth[y, x] + SLACK)
    at = np.clip(np.where(seen[:, None], pixels, 0), 0, [width - 1, height - 1])
    low = np.floor(at).astype(int)
    part, high = (at - low)[:, None], np.minimum(low + 1, [width - 1, height - 1])
    rows = [
        shot.image[y, low[:, 0]] * (1 - part[..., 0]) + shot.image[y, high[:, 0]] * part[..., 0]
        for y in (low[:, 1], high[:, 1])
    ]
    colours = np.rint(rows[0] * (1 - part[..., 1]) + rows[1] * part[..., 1]).astype(np.uint8)
    return np.where(seen[:, None], colours, np.uint8(0)), seen


def example(
    values: Mapping[str, Any],
    count: int,
    rng: np.random.Generator | None,
    *,
    colours: bool = False,
) -> dict[str, np.ndarray]:
    """FIELDS of schema.BATCH, unbatched, of a record's tracks example.

    Args:
      count: points to give: drawn by `rng`, or spread evenly over all.
      colours: with those that frame 0 shows; points of a real video, drawn in every frame anew,
        have none.

    Raises:
      ValueError: colours of records that were made before they were kept.
    """
    have = values["points"].shape[1]
    if rng is None:
        kept = np.floor((np.arange(count) + 0.5) * have / count).astype(int)
    else:
        kept = np.sort(rng.choice(have, count, replace=False))
    points = values["points"][:, kept]
    told = np.zeros((*points.shape[:2], 13), np.float32)
    if "point_normals" in values:
        told[..., :3] = values["point_normals"][:, kept]
        told[..., 6] = 1
    if colours and bool(values["point_ids"]):
        if "point_colours" not in values:
            raise ValueError(
                "task.colours: wanted the points' colours, these records were made before they "
                "were kept; prepare them anew with --with points,das"
            )
        known = values["point_coloured"][kept]
        told[..., 3:6] = np.where(known[:, None], values["point_colours"][kept] / 127.5 - 1, 0)
        told[..., 7] = known
    told[..., 8] = bool(values["point_ids"])
    label = np.broadcast_to(values["point_labels"][..., kept], points.shape[:2])
    told[..., 9:] = label[..., None] == np.arange(len(surfaces.LABELS))
    return {
        "points": points,
        "point_valid": values["point_valid"][:, kept],
        "point_features": told,
        "point_ids": np.array(bool(values["point_ids"])),
        "metric": np.array(bool(values["metric"])),
    }


def turned(example: Mapping[str, Any], angle: float, centre: np.ndarray) -> dict[str, Any]:
    """An example's clouds in a world turned about the vertical (transforms.rotate_world)."""
    found, poses = dict(example), example["extrinsics"]
    if "points" not in found:
        return found
    told = found["point_features"]
    turn = lambda x, about: transforms.rotate_world(x, poses, angle, about)[0]  # noqa: E731
    normals = turn(told[..., :3], np.zeros(3))
    found["points"] = turn(found["points"], centre)
    found["point_features"] = np.concatenate([normals, told[..., 3:]], axis=-1)
    return found


def clip(values: Mapping[str, Any], name: str) -> np.ndarray:
    """A clip [n h w 3] uint8 of a view's values: as it is stored; `warped` completed."""
    stored = records.decode(values[name])
    if name != "warped":
        return stored
    mask = unpack(values["mask"], stored.shape[1:3])
    return completed(records.decode_first(values["video"]), stored, mask)


def completed(first: np.ndarray, warped: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A video [n h w 3] uint8 of frame 0 and how its surfaces move, without a network.

    What moves shows its colours of frame 0, and where frame 0 does not see it those of the nearest
    pixel that it sees; behind it stands frame 0, and where things stood in that the nearest pixel
    beside them.

    Args:
      first: [h w 3] uint8. warped: [n h w 3] uint8, frame 0's colours at today's places, black
        where there are none. mask: [n h w] bool: where surfaces are.
    """
    made = np.empty_like(warped)
    behind = _nearest(first, ~mask[0])
    for n in range(len(warped)):
        shown = _nearest(warped[n], mask[n] & warped[n].any(-1))
        made[n] = np.where(mask[n][..., None], shown, behind)
    made[0] = first
    return made


def _nearest(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The image [h w 3] with the nearest known pixel's colour in the others."""
    if not known.any():
        return image
    y, x = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return image[y, x]


def pack(mask: np.ndarray) -> np.ndarray:
    """mask: [n h w] bool -> bits [n bytes] uint8."""
    return np.packbits(mask.reshape(len(mask), -1), axis=1)


def unpack(bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask [n h w] of `pack`; size: (h, w)."""
    flat = np.unpackbits(bits, axis=1, count=size[0] * size[1])
    return flat.reshape(-1, *size).astype(bool)
