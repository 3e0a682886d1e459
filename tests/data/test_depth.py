"""Depth of a user's image and its rig: what is read, and every refusal in one paragraph."""

import json

import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax.data import depth
from syncmv4d_jax.geometry import cameras

WHOLE, SIZE = (40, 60), (32, 48)
LENS = np.array([[70.0, 0, 29.5], [0, 70.0, 19.5], [0, 0, 1]])


def made(**changes):
    y, x = np.mgrid[: WHOLE[0], : WHOLE[1]]
    return {"depth": (1.0 + 0.002 * y + 0.001 * x).astype(np.float32), "intrinsics": LENS} | changes


@pytest.fixture
def image(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (*WHOLE, 3), np.uint8)).save(tmp_path / "middle.png")
    return tmp_path / "middle.png"


def write(folder, **changes):
    np.savez(folder / "depth.npz", **made(**changes))
    return folder / "depth.npz"


def rig(folder, eyes=((-0.4, 0, 0), (0, 0, 0), (0.4, 0, 0)), look=(0.0, 0.0, 1.05)):
    """Cameras about one at the origin that looks along z; "middle" is the image's."""
    found = {}
    for name, eye in zip(("left", "middle", "right"), eyes, strict=True):
        pose = cameras.look_at(np.array(eye, float), np.array(look), np.array([0.0, -1.0, 0.0]))
        found[name] = {"K": LENS.ravel().tolist(), "R": pose[:, :3].ravel().tolist(),
                       "T": pose[:, 3].tolist(), "imgSize": [60, 40]}  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps(found))
    return str(folder / "cameras.json")


def read(image, file, rig="", views=1):
    return depth.read(image, file, rig=rig, views=views, size=SIZE)


def test_depth_and_lens_follow_the_crop(image, tmp_path):
    posed = read(image, write(tmp_path))
    assert posed.image.shape == (*SIZE, 3) and posed.depth.shape == SIZE and posed.source == 0
    # A pixel of the crop has the depth of what it shows of the whole image.
    ray = cameras.bearings(np.array([7.0, 21.0]), posed.intrinsics[0].astype(float))
    u, v = (LENS @ ray)[:2]
    assert abs(posed.depth[21, 7] - (1.0 + 0.002 * v + 0.001 * u)) < 2e-3
    down = posed.extrinsics[0, 1, :3]
    np.testing.assert_allclose(down, [0, 0, -1])  # the image's down is the world's


def test_a_rig_has_the_image_among_its_views(image, tmp_path):
    posed = read(image, write(tmp_path), rig(tmp_path), views=3)
    assert posed.source == 1 and posed.extrinsics.shape == (3, 3, 4)
    two = read(image, write(tmp_path), rig(tmp_path), views=2)
    assert two.source == 1 and len(two.extrinsics) == 2
    with pytest.raises(ValueError, match="wanted 4 cameras, got 3"):
        read(image, write(tmp_path), rig(tmp_path), views=4)


def test_the_rig_of_taco_is_drawn_to_the_scene(image, tmp_path):
    posed = read(image, write(tmp_path), "taco", views=3)
    centres = cameras.camera_centre(posed.extrinsics.astype(float))
    assert posed.source == 1 and np.linalg.norm(centres[0] - centres[2]) > 0.3
    middle = np.median(posed.depth)
    at = cameras.unproject(np.array([23.5, 15.5]), middle, *(x[1] for x in posed[2:4]))
    for view in (0, 2):  # all look at what the image's middle shows
        pixels, far = cameras.project(at, posed.intrinsics[view], posed.extrinsics[view])
        assert far > 0 and np.abs(pixels - [23.5, 15.5]).max() < 0.5


BAD = {
    "size": ({"depth": np.ones((20, 30))}, r"depth is 20 x 30, its image is 40 x 60"),
    "millimetres": ({"depth": np.full(WHOLE, 1200.0)}, "median depth is 1200.*millimetres"),
    "inf": ({"depth": np.full(WHOLE, np.inf)}, "100.0% of the depths are inf or NaN.*write 0"),
    "holes": ({"depth": np.where(np.mgrid[:40, :60][0] < 20, 0, 1.0)}, "50% of the depths are 0"),
    "negative": ({"depth": np.full(WHOLE, -1.0)}, "below 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_depth_that_cannot_be(image, tmp_path, name):
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        read(image, write(tmp_path, **changes))


def test_files_that_are_no_depth(image, tmp_path):
    with pytest.raises(FileNotFoundError, match="no depth file; Depth Pro.*write one"):
        read(image, tmp_path / "none.npz")
    np.savez(tmp_path / "z.npz", z=np.ones(WHOLE))
    with pytest.raises(ValueError, match=r"no array depth, it has \['z'\]"):
        read(image, tmp_path / "z.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as npz or npy"):
        read(image, tmp_path / "text.npz")
    np.savez(tmp_path / "bare.npz", depth=made()["depth"])
    with pytest.raises(ValueError, match="the lens of the image is not known"):
        read(image, tmp_path / "bare.npz")
    np.save(tmp_path / "bare.npy", made()["depth"])
    assert read(image, tmp_path / "bare.npy", rig(tmp_path), views=3).source == 1


def test_a_rig_behind_the_scene_is_refused(image, tmp_path):
    behind = rig(tmp_path, eyes=((0, 0, 3.0), (0, 0, 0), (0.4, 0, 0)), look=(0.0, 0.0, 9.0))
    with pytest.raises(ValueError, match="camera 0 has 0% of the image's scene in its view"):
        read(image, write(tmp_path), behind, views=3)
