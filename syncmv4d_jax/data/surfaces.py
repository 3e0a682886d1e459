"""Surfaces of a recording: what is tracked, what only hides it, and what a pixel of frame 0 shows.

A tracked surface is painted, sampled and counted in a crop's bounds. An occluder (forearm, robot
arm, table) is cast with the others, so that it hides them, and nothing else. On disk a surface is

    <name>.npz    faces [q 3]; vertices [n p 3] metres, world frame, or vertices [p 3] with
                  poses [n 4 4] (surface to world)

Records keep all surfaces of a clip once (`pack`), so that where the point goes that any pixel of
any view shows, in frame 0 or later, and how deep it is, can be asked for (`cast`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.data import raycast, reading, rigs

TRACKED, OCCLUDER = "tracked", "occluder"
LABELS = ("left hand", "right hand", "object", "other object")
EXTENT = (0.005, 5.0)  # metres across what is tracked: hands, tools, parts of robots
COLLAPSED = 0.02  # of its usual extent: a frame in which a surface is a point


class BrokenSurface(ValueError):
    """A file that is not a surface; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """A mesh over time.

    Attributes:
      name: unique in its recording.
      faces: [q 3].
      vertices: [n p 3], or [p 3] with `poses`; metres, world frame.
      poses: [n 4 4], surface to world, or None.
      kind: TRACKED or OCCLUDER.
      label: of LABELS, what a cloud's points of it are; "": its name tells.
    """

    name: str
    faces: np.ndarray
    vertices: np.ndarray
    poses: np.ndarray | None = None
    kind: str = TRACKED
    label: str = ""

    @property
    def frames(self) -> int:
        return len(self.vertices if self.poses is None else self.poses)

    def at(self, frame: int) -> np.ndarray:
        """World vertices [p 3], metres, at a frame."""
        if self.poses is None:
            return self.vertices[frame]
        return self.vertices @ self.poses[frame, :3, :3].T + self.poses[frame, :3, 3]


def in_order(found: Sequence[Surface]) -> tuple[Surface, ...]:
    """The tracked ones first: an index below their number names one of them.

    Raises:
      ValueError: nothing is tracked, or an unknown kind.
    """
    if strange := {s.kind for s in found} - {TRACKED, OCCLUDER}:
        raise ValueError(f"kind of a surface: wanted {TRACKED} or {OCCLUDER}, got {strange}")
    tracked = tuple(s for s in found if s.kind == TRACKED)
    if not tracked:
        raise ValueError(f"wanted a surface that is tracked, got {[s.name for s in found]}")
    return tracked + tuple(s for s in found if s.kind == OCCLUDER)


def read(path: Path, *, kind: str = TRACKED) -> Surface:
    """Reads <name>.npz.

    Raises:
      BrokenSurface: unreadable, or as `check` says.
    """
    try:
        values = reading.arrays(path)
        vertices, given = values["vertices"].astype(np.float64), values["faces"]
        poses = values["poses"].astype(np.float64) if "poses" in values else None
    except KeyError as error:
        raise BrokenSurface(f"{path}: no {error} in it") from error
    except (OSError, ValueError) as error:
        raise BrokenSurface(str(error)) from error
    with np.errstate(invalid="ignore"):
        faces = given.astype(np.int64)
    if not np.array_equal(faces, given):
        raise BrokenSurface(f"{path}: faces are not whole numbers")
    found = Surface(path.stem, faces, vertices, poses, kind)
    check(found, where=str(path))
    return found


def check(surface: Surface, *, where: str) -> None:
    """Checks a surface, whoever read it.

    Raises:
      BrokenSurface: wrong shapes, values that are not finite, faces beyond the vertices, poses that
        are not rigid, a frame in which it is a point, or what is tracked in other units.
    """
    vertices, faces, poses = surface.vertices, surface.faces, surface.poses
    wanted = (3, None) if poses is None else (2, 3)
    if (vertices.ndim, None if poses is None else poses.ndim) != wanted or (
        vertices.shape[-1] != 3 or faces.ndim != 2 or faces.shape[1:] != (3,)
    ):
        raise BrokenSurface(
            f"{where}: wanted vertices [n p 3], or [p 3] with poses [n 4 4], and faces [q 3], got "
            f"{vertices.shape}, {faces.shape}"
        )
    if poses is not None:
        try:
            rigs.rigid(poses, where=where)
        except ValueError as error:
            raise BrokenSurface(str(error)) from error
    if not np.isfinite(vertices).all():
        bad = np.flatnonzero(~np.isfinite(vertices.reshape(len(vertices), -1)).all(1))[0]
        place = f"frame {bad}" if poses is None else f"vertex {bad}"
        raise BrokenSurface(f"{where}: values that are not finite, the first in {place}")
    if not faces.size or faces.min() < 0 or faces.max() >= vertices.shape[-2]:
        raise BrokenSurface(
            f"{where}: no faces, or faces beyond the vertices: they name {faces.min(initial=0)}.."
            f"{faces.max(initial=-1)} of {vertices.shape[-2]}, the first of which is 0"
        )
    _check_extent(surface, where)


def _check_extent(surface: Surface, where: str) -> None:
    extents = np.ptp(surface.vertices, axis=-2).max(-1, keepdims=surface.poses is not None)
    usual = float(np.median(extents))
    if (extents < COLLAPSED * usual).any():
        raise BrokenSurface(f"{where}: frame {int(np.argmin(extents))} has it in one point")
    if surface.kind == TRACKED and not EXTENT[0] <= usual <= EXTENT[1]:
        raise BrokenSurface(f"{where}: it is {usual:.3g} m wide: {rigs.UNITS}")


def write(folder: Path, surface: Surface) -> None:
    """Writes folder/<name>.npz, whole or not at all."""
    values: dict[str, Any] = {"faces": surface.faces.astype(np.int32)}
    values["vertices"] = surface.vertices.astype(np.float32)
    if surface.poses is not None:
        values["poses"] = surface.poses.astype(np.float32)
    with disk.whole(folder / f"{surface.name}.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **values)


def pack(found: Sequence[Surface], index: np.ndarray) -> dict[str, Any]:
    """The surfaces at the frames `index` [n] of a clip as values of a record's example."""
    values: dict[str, Any] = {
        "surface_names": "\n".join(s.name for s in found),
        "surface_kinds": "\n".join(s.kind for s in found),
    }
    for i, surface in enumerate(found):
        values[f"faces_{i}"] = surface.faces.astype(np.int32)
        if surface.poses is None:
            values[f"vertices_{i}"] = surface.vertices[index].astype(np.float32)
        else:
            values[f"vertices_{i}"] = surface.vertices.astype(np.float32)
            values[f"poses_{i}"] = surface.poses[index].astype(np.float64)
    return values


def unpack(values: Mapping[str, Any]) -> tuple[Surface, ...]:
    """The surfaces of `pack`; their frames are those of the clip."""
    names, kinds = (values[f"surface_{what}"].split("\n") for what in ("names", "kinds"))
    return tuple(
        Surface(name, values[f"faces_{i}"], values[f"vertices_{i}"], values.get(f"poses_{i}"), kind)
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    )


class Shown(NamedTuple):
    """What rays meet, each [k ...]: index of the surface (-1: none), face, weights [k 3]."""

    surface: np.ndarray
    face: np.ndarray
    weights: np.ndarray

    def positions(self, found: Sequence[Surface], frames: Sequence[int]) -> np.ndarray:
        """Where it is at `frames`: [n k 3] float32 metres, world; NaN where nothing is met."""
        result = np.full((len(frames), len(self.surface), 3), np.nan, np.float32)
        for index in np.unique(self.surface[self.surface >= 0]):
            here = self.surface == index
            corners = found[index].faces[self.face[here]]
            for n, frame in enumerate(frames):
                vertices = found[index].at(frame)[corners]
                result[n, here] = np.einsum("kic,ki->kc", vertices, self.weights[here])
        return result


def cast(
    found: Sequence[Surface],
    pixels: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
    *,
    frame: int = 0,
) -> Shown:
    """What pixels of a camera show.

    Args:
      pixels: [k 2], (x, y), parts of pixels allowed.
      intrinsics: [3 3], pixels. extrinsics: [3 4], world to camera, metres: of that frame.
    """
    scene = raycast.Scene([(surface.at(frame), surface.faces) for surface in found])
    hits = scene.cast_pixels(pixels, intrinsics, extrinsics)
    return Shown(hits.mesh, hits.face, hits.barycentric)


def tracks(
    found: Sequence[Surface],
    pixels: np.ndarray,
    intrinsics: np.ndarray,
    extrinsics: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The true tracks of pixels [k 2] of a view's first frame.

    Returns:
      tracks [n k 3] float32, metres, world, NaN where a pixel shows no surface; tracked [k] bool:
      it shows one that is tracked.
    """
    met = cast(found, pixels, intrinsics, extrinsics)
    tracked = np.array([surface.kind == TRACKED for surface in found] + [False])
    return met.positions(found, range(found[0].frames)), tracked[met.surface]
