"""Crops from the first frame alone: they do not tell what happens next."""

import dataclasses

import numpy as np
import pytest

from syncmv4d_jax.data import clips, raycast, transforms
from syncmv4d_jax.data.scenes import hand, scene
from syncmv4d_jax.data.sources import mano
from syncmv4d_jax.geometry import cameras

SIZE, PICTURE, SCENES, LAST = (64, 96), (120, 160), 40, 45


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    hand.write(folder)
    models = mano.load_hands(folder)
    specs = [scene.specify(i, seed=0, held_out=False) for i in range(SCENES)]
    return [scene.World(spec, LAST + 1, models) for spec in specs]


def place_and_way(world, settings):
    """Where frame 0's foreground lies in each crop [v 4], px, and the mean way of its points."""
    first, last = ([v for v, _, _ in world.surfaces(n)] for n in (0, LAST))
    clouds = {"first": first[:4], "clip": [*first[:4], *last[:4]]}[settings.crop]
    cast = raycast.Scene([(v, f) for v, f, _ in world.surfaces(0)])
    places, names = [], scene.draw_cameras(world.spec, 3, seed=0)
    for camera in scene.rig(PICTURE, names).values():
        box = clips.box_of(camera, PICTURE, clouds, settings, np.zeros(3))
        intrinsics = cameras.crop_resize_intrinsics(camera.intrinsics, box, SIZE)
        mesh = cast.cast(intrinsics, camera.extrinsics, SIZE).mesh
        y, x = np.nonzero((mesh >= 0) & (mesh < 4))
        places.append([x.mean(), y.mean(), (x.min() + x.max()) / 2, (y.min() + y.max()) / 2])
        before, after = (
            cameras.project(np.concatenate(v[:4]), intrinsics, camera.extrinsics)[0]
            for v in (first, last)
        )
        places[-1] += (after - before).mean(0).tolist()
    return np.array(places)


def explained(worlds, crop):
    """R2, leave one scene out, of a ridge regression: place in the crop -> mean way on screen."""
    settings = clips.Settings(size=SIZE, crop=crop)
    rows = np.stack([place_and_way(world, settings) for world in worlds])
    errors = []
    for i in range(len(rows)):
        train = np.delete(rows, i, 0).reshape(-1, 6)
        x, y = np.c_[train[:, :4] / 10, np.ones(len(train))], train[:, 4:]
        weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(5), x.T @ y)
        errors.append(rows[i, :, 4:] - np.c_[rows[i, :, :4] / 10, np.ones(3)] @ weights)
    return 1 - np.var(errors, axis=(0, 1)) / rows[..., 4:].var((0, 1))


def test_the_crop_of_the_first_frame_does_not_tell_the_motion(worlds):
    assert explained(worlds, "first").max() < 0.2
    assert explained(worlds, "clip").max() > 0.5  # what was wrong with the former crop


def test_the_first_crop_is_a_function_of_the_first_frame(worlds):
    settings, world = clips.Settings(size=SIZE), worlds[0]
    (camera,) = scene.rig(PICTURE, ("22139916",)).values()
    first = [v for v, _, _ in world.surfaces(0)[:4]]
    box = clips.box_of(camera, PICTURE, first, settings, np.zeros(3))
    low, high = np.array(transforms.projected_bounds(first, camera.intrinsics, camera.extrinsics)
                         ).reshape(2, 2)  # fmt: skip
    wide, extent = box[2] - box[0], (high - low + 2) * 1.8
    assert wide == pytest.approx(min(max(extent[0], extent[1] * 1.5), 160), abs=2)
    moved = clips.box_of(camera, PICTURE, first, settings, np.array([0.0, 0.0, -1.0]))
    assert moved[2] - moved[0] == pytest.approx(0.92 * wide, abs=2)


def test_boxes_are_clamped_to_the_image_but_hold_the_surfaces():
    inside = transforms.crop_box((20, 20, 140, 80), (120, 160), SIZE, margin=1.8, least=1.2)
    assert inside == (0, 0, 160, 106)  # of 220 x 146 that the margin asks for
    over = transforms.crop_box((0, 0, 158, 100), (120, 160), SIZE, margin=1.8, least=1.2)
    assert over[2] - over[0] == pytest.approx(1.2 * 160, abs=2)  # padded: what is there must fit
    assert transforms.crop_box((60, 50, 90, 70), (120, 160), SIZE, margin=1.8, least=1.2) == (
        transforms.crop_box((60, 50, 90, 70), (120, 160), SIZE, margin=1.8)
    )


def test_unknown_crops_are_refused():
    with pytest.raises(ValueError, match="wanted crop of .'first', 'clip'., got 'future'"):
        clips.Settings(crop="future")
    assert dataclasses.asdict(clips.Settings())["crop"] == "first"
