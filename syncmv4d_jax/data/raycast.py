"""Ray casting of triangle meshes by embree: depth, faces and barycentric coordinates of a camera.

Used to draw the embedded scenes and, in preparation, to paint dense pseudo videos and to decide
visibility. Needs no display. A scene is one instant; build a new one for every frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from syncmv4d_jax.geometry import cameras


class Hits(NamedTuple):
    """What the rays of a camera meet, each [h w ...].

    depth: camera z in metres, inf where there is nothing. mesh: index of the mesh, -1 for nothing.
    face: index of the triangle in its mesh. barycentric: [h w 3] weights of its vertices.
    """

    depth: np.ndarray
    mesh: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return self.mesh >= 0


class Scene:
    """Triangle meshes at one instant: a list of (vertices [p 3] metres, faces [q 3] int)."""

    def __init__(self, meshes: Sequence[tuple[np.ndarray, np.ndarray]]):
        if not meshes:
            raise ValueError("raycast.Scene: wanted at least one mesh, got none")
        self.meshes = [(np.asarray(v, np.float32), np.asarray(f, np.int32)) for v, f in meshes]
        self._scene = EmbreeScene()
        for index, (vertices, faces) in enumerate(self.meshes):
            if not np.isfinite(vertices).all():
                raise ValueError(f"raycast.Scene: mesh {index} has vertices that are not finite")
            if faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(vertices):
                raise ValueError(
                    f"raycast.Scene: mesh {index}: faces name vertices {faces.min()}.."
                    f"{faces.max()}, it has {len(vertices)}"
                )
            TriangleMesh(self._scene, vertices, faces)
        sizes = [len(v) for v, _ in self.meshes]
        starts = np.cumsum([0, *sizes[:-1]])
        # All faces in one list, of indices into all vertices in one list.
        self._faces = np.concatenate(
            [f + start for (_, f), start in zip(self.meshes, starts, strict=True)]
        )
        self._first_face = np.cumsum([0] + [len(f) for _, f in self.meshes[:-1]])
        self._vertex_count = sum(sizes)

    def cast(self, intrinsics: np.ndarray, extrinsics: np.ndarray, size: tuple[int, int]) -> Hits:
        """Casts one ray through the centre of every pixel.

        Args:
          intrinsics: [3 3], pixels, centres at integers.
          extrinsics: [3 4], world to camera, metres.
          size: (height, width).
        """
        x, y = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
        pixels = np.stack([x, y], -1).astype(np.float32)
        return self.cast_pixels(pixels, intrinsics, extrinsics)

    def cast_pixels(
        self, pixels: np.ndarray, intrinsics: np.ndarray, extrinsics: np.ndarray
    ) -> Hits:
        """Casts rays through pixels [... 2]; the result has their leading axes."""
        shape = pixels.shape[:-1]
        ray = cameras.bearings(pixels.reshape(-1, 2).astype(np.float32), intrinsics)
        ray = ray @ extrinsics[:, :3]  # rows times R: to world; z = 1, so that distance is depth
        origin = np.broadcast_to(cameras.camera_centre(extrinsics), ray.shape)
        hit = self._scene.run(
            np.ascontiguousarray(origin, np.float32),
            np.ascontiguousarray(ray, np.float32),
            output=True,
        )
        found = hit["geomID"] >= 0
        u, v = hit["u"], hit["v"]
        barycentric = np.stack([1 - u - v, u, v], -1).astype(np.float32)
        return Hits(
            np.where(found, hit["tfar"], np.inf).astype(np.float32).reshape(shape),
            np.where(found, hit["geomID"], -1).reshape(shape),
            np.where(found, hit["primID"], 0).reshape(shape),
            barycentric.reshape(*shape, 3),
        )

    def occluded(self, points: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether anything lies from points [s 3] along directions [s 3]; [s] bool."""
        answer = self._scene.run(
            np.ascontiguousarray(points, np.float32),
            np.ascontiguousarray(directions, np.float32),
            query="OCCLUDED",
        )
        return np.asarray(answer) >= 0

    def interpolate(self, hits: Hits, values: Sequence[np.ndarray]) -> np.ndarray:
        """Per-vertex values at the hits: [... c] float32, else 0.

        Args:
          values: one array [p c] a mesh, or one of all vertices in the meshes' order.

        Raises:
          ValueError: other than one row of values a vertex.
        """
        table = values[0] if len(values) == 1 else np.concatenate(values)
        table = table.astype(np.float32, copy=False)
        if len(table) != self._vertex_count:
            raise ValueError(
                f"raycast.interpolate: wanted {self._vertex_count} rows, one a vertex, got "
                f"{len(table)}"
            )
        met = np.flatnonzero(hits.mask)
        faces = self._first_face.take(hits.mesh.ravel().take(met)) + hits.face.ravel().take(met)
        corners = table.take(self._faces.take(faces, axis=0), axis=0)  # [hits 3 c]
        weights = hits.barycentric.reshape(-1, 3).take(met, axis=0)
        result = np.zeros((hits.mesh.size, table.shape[-1]), np.float32)
        result[met] = np.einsum("si,sic->sc", weights, corners)
        return result.reshape(*hits.mesh.shape, -1)
