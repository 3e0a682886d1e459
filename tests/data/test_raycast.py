"""Ray casting: depth, barycentric coordinates and shadows against closed forms."""

import numpy as np
import pytest
import trimesh

from syncmv4d_jax.data import raycast
from syncmv4d_jax.geometry import cameras

SIZE = (48, 64)
INTRINSICS = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
EXTRINSICS = cameras.look_at(np.array([0.3, 0.9, 0.7]), np.zeros(3), np.array([0.0, 0, 1]))


def ball(centre=(0.0, 0, 0), radius=0.2, subdivisions=4):
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return np.asarray(mesh.vertices) + centre, np.asarray(mesh.faces)


def test_depth_is_that_of_a_sphere():
    hits = raycast.Scene([ball()]).cast(INTRINSICS, EXTRINSICS, SIZE)
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    ray = np.stack([(x - 31.5) / 60, (y - 23.5) / 60, np.ones(SIZE)], -1)
    centre = EXTRINSICS[:, 3]
    a, b = (ray**2).sum(-1), ray @ centre
    inside = b**2 - a * (centre @ centre - 0.2**2)
    depth = (b - np.sqrt(np.maximum(inside, 0))) / a
    well_inside = inside > 0.002
    assert hits.mask[well_inside].all() and not hits.mask[inside < -0.002].any()
    assert well_inside.sum() > 100
    # The mesh lies within radius (1 - cos(half an edge's angle)) < 0.5 mm below the sphere, seen
    # from a slant at most 4 times that.
    assert np.abs(hits.depth - depth)[well_inside].max() < 2e-3
    assert np.isinf(hits.depth[~hits.mask]).all() and (hits.mesh[~hits.mask] == -1).all()


def test_hits_interpolate_to_the_points_behind_their_pixels():
    scene = raycast.Scene([ball(), ball((0.1, 0.3, 0.05), 0.08)])
    hits = scene.cast(INTRINSICS, EXTRINSICS, SIZE)
    assert set(np.unique(hits.mesh)) == {-1, 0, 1}
    points = scene.interpolate(hits, [v for v, _ in scene.meshes])
    pixels, depth = cameras.project(points, INTRINSICS, EXTRINSICS)
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    error = np.abs(pixels - np.stack([x, y], -1))[hits.mask]
    assert error.max() < 1e-3
    assert np.abs(depth - hits.depth)[hits.mask].max() < 1e-5
    assert (points[~hits.mask] == 0).all()


def test_the_nearer_mesh_hides_the_other():
    eye = cameras.camera_centre(EXTRINSICS)
    scene = raycast.Scene([ball(), ball(0.5 * eye, 0.1)])
    hits = scene.cast_pixels(np.array([[31.5, 23.5]]), INTRINSICS, EXTRINSICS)
    assert hits.mesh.tolist() == [1]
    assert abs(hits.depth[0] - (0.5 * np.linalg.norm(eye) - 0.1)) < 1e-3


def test_shadow_rays():
    scene = raycast.Scene([ball((0.0, 0, 0.5))])
    points = np.array([[0.0, 0, 0], [0.5, 0, 0], [0.0, 0, 1.0]])
    up = np.tile([0.0, 0, 1], (3, 1))
    assert scene.occluded(points, up).tolist() == [True, False, False]


def test_errors_name_the_mesh():
    vertices, faces = ball(subdivisions=1)
    with pytest.raises(ValueError, match="at least one mesh"):
        raycast.Scene([])
    with pytest.raises(ValueError, match="mesh 1 has vertices that are not finite"):
        raycast.Scene([(vertices, faces), (vertices * np.nan, faces)])
    with pytest.raises(ValueError, match="mesh 0: faces name vertices 0..99"):
        raycast.Scene([(vertices, np.array([[0, 1, 99]]))])
    scene = raycast.Scene([(vertices, faces)])
    hits = scene.cast(INTRINSICS, EXTRINSICS, SIZE)
    with pytest.raises(ValueError, match="wanted 42 rows"):
        scene.interpolate(hits, [np.zeros((41, 3))])
