"""TACO's own calibration against its own frames: K, R, T are read the right way round."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax.data import transforms
from syncmv4d_jax.data.sources import taco
from syncmv4d_jax.geometry import cameras

GOLDEN = Path(__file__).parents[2] / "golden" / "taco"
CORNER = np.array([270, 170])  # of the crop in its frame
LEFT = {"22139905", "22139910", "22139914", "22139946"}
CENTRE = {"22139916", "22139906", "22139908", "22070938"}
RIGHT = {"22139909", "22139913", "22139911", "21218078"}


@pytest.fixture(scope="module")
def rig():
    return taco.read_calibration(GOLDEN / "calibration.json")


def colour(image, axis):
    """Where the crop has the arrow's colour: that channel is high, the two others are low."""
    low = np.delete(image, axis, axis=-1).max(-1)
    return (image[..., axis] > 150) & (low < 115)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_projected_world_axes_lie_on_the_drawn_arrows(rig, axis):
    image = np.asarray(Image.open(GOLDEN / "axes_20230927_032_22139908.png")).astype(int)
    camera = rig["22139908"]
    world = np.stack([np.zeros(3), 0.3 * np.eye(3)[axis]])
    (origin, tip), depth = cameras.project(world, camera.intrinsics, camera.extrinsics)
    assert (depth > 0).all()
    y, x = np.nonzero(colour(image, axis))
    drawn = np.stack([x, y], axis=-1) + CORNER
    # The other arrows are drawn over the first pixels of an axis: from a tenth on.
    line = origin + np.linspace(0.1, 1, 60)[:, None] * (tip - origin)
    distance = np.linalg.norm(line[:, None] - drawn, axis=-1).min(axis=1)
    assert distance.max() < 2
    length = np.linalg.norm(tip - origin)
    near = drawn[np.linalg.norm(drawn - origin, axis=-1) < length + 8]
    along = (near - origin) @ (tip - origin) / length
    across = np.abs(np.cross(np.append(tip - origin, 0), np.c_[near - origin, 0 * along])[:, 2])
    beside = across / length < 3
    assert abs(along[beside].max() - length) < 2  # the arrow ends where the axis does


def test_the_real_rig_splits_into_left_centre_and_right(rig):
    names = np.array(sorted(rig))
    clusters = transforms.view_clusters(np.stack([rig[n].extrinsics for n in names]), 3)
    assert [set(names[clusters == i].tolist()) for i in range(3)] == [LEFT, CENTRE, RIGHT]
