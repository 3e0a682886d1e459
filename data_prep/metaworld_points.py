"""Points on what the simulator draws, and what it shows where they are; for import_metaworld.py.

Who sees a point is for our ray casting to say. Here the simulator's renderer is asked the same, so
that benchmarks/visibility.py can compare: pictures of depth and of segmentation, FINER times the
size of the videos, so that a silhouette is known to a quarter of their pixels.
"""

from typing import Any, NamedTuple

import mujoco
import numpy as np
import trimesh

COUNT = 500
FINER, OUTSIDE = 4, -2
FLIP = np.diag([1.0, -1.0, -1.0])  # a camera of MuJoCo looks along -z with y up


class Part(NamedTuple):
    """A geom that is drawn: index, surface's name, mesh in the geom's frame, whether tracked."""

    geom: int
    name: str
    mesh: trimesh.Trimesh
    tracked: bool


def pinhole(model: Any, data: Any, camera: int, size: tuple[int, int]):
    """K [3 3] pixels, R [3 3], T [3] world to camera of a camera, OpenCV axes."""
    height, width = size
    focal = height / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    rotation = FLIP @ data.cam_xmat[camera].reshape(3, 3).T
    intrinsics = np.array([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
    return intrinsics, rotation, -rotation @ data.cam_xpos[camera]


class Points(NamedTuple):
    """Points on the tracked parts: owner [k], index of a part; local [k 3] in its geom's frame."""

    owner: np.ndarray
    local: np.ndarray

    @classmethod
    def on(cls, parts: list[Part], seed: int) -> "Points":
        rng = np.random.default_rng(seed)
        tracked = [i for i, part in enumerate(parts) if part.tracked]
        weight = np.sqrt([parts[i].mesh.area for i in tracked])  # small parts get points as well
        owner = np.array(tracked)[rng.choice(len(tracked), COUNT, p=weight / weight.sum())]
        local = np.stack([
            trimesh.sample.sample_surface(parts[i].mesh, 1, seed=int(rng.integers(2**31)))[0][0]
            for i in owner
        ])  # fmt: skip
        return cls(owner, local)

    def at(self, poses: np.ndarray) -> np.ndarray:
        """World positions [k 3], metres, where the parts have `poses` [p 4 4]."""
        own = poses[self.owner]
        return np.einsum("kij,kj->ki", own[:, :3, :3], self.local) + own[:, :3, 3]


class Check:
    """What the simulator shows at points: depth and part of the four pixels around each, in
    pictures of FINER times the size, without the mixing of samples at edges."""

    def __init__(self, model: Any, parts: list[Part], size: tuple[int, int]):
        self.model, self.size = model, size
        samples, model.vis.quality.offsamples = model.vis.quality.offsamples, 0
        self.depth, self.segment = (mujoco.Renderer(model, *size) for _ in range(2))
        model.vis.quality.offsamples = samples
        self.depth.enable_depth_rendering()
        self.segment.enable_segmentation_rendering()
        self.part_of = np.full(model.ngeom + 1, -1)  # the last: what is no geom
        self.part_of[[part.geom for part in parts]] = np.arange(len(parts))

    def look(self, data: Any, camera: int, option: Any, points: np.ndarray):
        """Depth [k 4] float32 and part [k 4] int16 at world points [k 3], row by row of 2 x 2."""
        for renderer in (self.depth, self.segment):
            renderer.update_scene(data, camera, option)
        depth, segment = self.depth.render(), self.segment.render()
        k, rotation, shift = pinhole(self.model, data, camera, self.size)
        y = points @ rotation.T + shift
        with np.errstate(all="ignore"):
            low = np.floor(y[:, :2] / y[:, 2:] * k[0, 0] + k[:2, 2])
        last = np.array(self.size[::-1]) - 2
        inside = ((low >= 0) & (low <= last)).all(1) & (y[:, 2] > 0)
        column, row = np.where(inside[:, None], low, 0).astype(int).T
        at = (row[:, None] + [0, 0, 1, 1], column[:, None] + [0, 1, 0, 1])
        which, kind = np.moveaxis(segment[at], -1, 0)
        met = self.part_of[np.where(kind == mujoco.mjtObj.mjOBJ_GEOM, which, -1)]
        met = np.where(inside[:, None], met, OUTSIDE)
        return np.where(inside[:, None], depth[at], 0).astype(np.float32), met.astype(np.int16)

    def close(self) -> None:
        self.depth.close()
        self.segment.close()
