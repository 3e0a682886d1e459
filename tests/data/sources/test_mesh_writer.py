"""Embedded scenes as glTF, OBJ sequences and point caches, read again: within 0.1 mm."""

import dataclasses

import numpy as np
import pytest

from syncmv4d_jax.data import controls, surfaces
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano, mesh_recordings, mesh_writer, taco

FRAMES, EVERY, NEAR = 8, 5, 1e-4  # metres


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """All surfaces of a held-out scene: hands and forearms bend, tool, target and table do not."""
    folder = tmp_path_factory.mktemp("mano")
    hand.write(folder)
    spec = scene.specify(3, seed=0, held_out=True, course=1)
    world = scene.World(spec, FRAMES * EVERY, mano.load_hands(folder))
    found = [
        surfaces.Surface(side, world.faces[side], world.hands[side]) for side in ("left", "right")
    ]
    for role in ("tool", "target"):
        thing, poses = world.objects[role], getattr(world.motion, role)
        found.append(surfaces.Surface(role, thing.faces, thing.vertices, poses))
    return [some(surface) for surface in (*found, *scene.occluders(world))]


def some(surface):
    """Every fifth frame: a scene begins slowly."""
    if surface.poses is not None:
        return dataclasses.replace(surface, poses=surface.poses[::EVERY])
    return dataclasses.replace(surface, vertices=surface.vertices[::EVERY])


@pytest.mark.parametrize("form", mesh_writer.FORMS)
def test_embedded_meshes_come_back(form, moving, tmp_path):
    """Whether they bend or not; hidden and hiding ones are told apart, and clouds are the same."""
    paths = [mesh_writer.write(tmp_path, s, form, fps=taco.FPS) for s in moving]
    hiding = [s.name for s in moving if s.kind == surfaces.OCCLUDER]
    found = mesh_recordings.Meshes(fps=taco.FPS, occluders=hiding).read(paths)
    assert [s.name for s in found] == [s.name for s in moving]
    assert [s.kind for s in found] == [s.kind for s in moving]
    for own, theirs in zip(found, moving, strict=True):
        np.testing.assert_array_equal(own.faces, theirs.faces)
        assert own.frames == theirs.frames == FRAMES
        for n in range(FRAMES):
            np.testing.assert_allclose(own.at(n), theirs.at(n), atol=NEAR, err_msg=own.name)
    np.testing.assert_allclose(cloud(found), cloud(moving), atol=NEAR)
    assert np.ptp(cloud(found), axis=0).max() > 0.02  # something moved


def cloud(found):
    """[n p 3]: points of what is followed."""
    own = [s for s in found if s.kind == surfaces.TRACKED]
    meshes = [[s.at(n) for s in own] for n in range(FRAMES)]
    made = controls.cloud(
        meshes, [s.faces for s in own], controls.labels(own), 300, np.random.default_rng(0)
    )
    assert np.bincount(made["point_labels"], minlength=4).min() > 5
    return made["points"]


def test_an_unknown_form_is_refused(moving, tmp_path):
    with pytest.raises(ValueError, match="wanted a form of"):
        mesh_writer.write(tmp_path, moving[0], "abc", fps=30)
    with pytest.raises(ValueError, match="occluders: no meshes .'wall'."):
        path = mesh_writer.write(tmp_path, moving[2], "gltf", fps=30)
        mesh_recordings.Meshes(occluders=["wall"]).read([path])
