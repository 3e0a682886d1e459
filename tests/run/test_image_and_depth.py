"""One image with its depth as an input: for a task that reads depth, and for several views."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from syncmv4d_jax.data import depth
from syncmv4d_jax.run import inputs, sections
from syncmv4d_jax.tasks import base

SIZE = (32, 48)


class Task:
    """What the inputs ask of a task."""

    cameras, clip = True, base.Clip(5, SIZE, 3)


class DeepTask(Task):
    reads_depth, reads_appearance = True, False


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    lens = np.array([[70.0, 0, 29.5], [0, 70.0, 19.5], [0, 0, 1]])
    np.savez(tmp_path / "one.npz", depth=np.full((40, 60), 1.1), intrinsics=lens)
    return tmp_path


def own(folder, **values):
    return sections.SampleConfig(images=str(folder / "one.png"), prompt="x", **values)


@pytest.mark.parametrize("task", [Task(), DeepTask()])
def test_one_image_without_depth_says_which_tools_write_it(image, task):
    with pytest.raises(ValueError, match="without depth.*config.sample.depth.*Depth Pro"):
        inputs._posed(own(image), task)


def test_a_folder_of_views_needs_no_depth(image):
    settings = sections.SampleConfig(images=str(image), prompt="x")
    assert inputs._posed(settings, Task()) is None


def test_a_task_that_reads_depth_gets_the_image_alone(image):
    posed = inputs._posed(own(image, depth=str(image / "one.npz")), DeepTask())
    made = inputs._of_posed(posed, DeepTask())
    assert made["images"].shape == (1, *SIZE, 3) and made["depth0"].shape == (1, *SIZE)
    assert made["extrinsics"].shape == (1, 1, 3, 4) and made["frame_valid"].shape == (5,)


def test_several_views_get_a_rig_and_drawn_images(image, monkeypatch):
    """The given image is one of them; the others come from the synthesis."""
    settings = own(image, depth=str(image / "one.npz"), rig="taco")
    posed = inputs._posed(settings, Task())
    assert isinstance(posed, depth.Posed) and len(posed.extrinsics) == 3 and posed.source == 1

    class Draws:
        def text(self, prompt):
            return prompt

        def references(self, posed, text, rng):
            images = np.zeros((3, *SIZE, 3), np.uint8)
            images[posed.source] = posed.image
            return images

    monkeypatch.setattr(inputs.viewpoints, "load", lambda settings: Draws())
    features = np.zeros((2, 4, 8), np.float32), np.array([3, 1])
    text = SimpleNamespace(weights="", max_length=4)
    config = SimpleNamespace(sample=settings, text=text)
    ((name, made),) = inputs._from_user(config, Task(), lambda texts: features)
    assert name == "one" and made["images"].shape == (3, *SIZE, 3)
    np.testing.assert_array_equal(made["images"][1], posed.image)
    assert not made["images"][0].any() and made["view_index"].tolist() == [0, 1, 2]


def test_how_an_image_looks_is_encoded_where_a_task_reads_it(image, monkeypatch):
    class Looks(DeepTask):
        reads_appearance = True

    def encoder(folder):
        assert folder == "dino"
        return lambda picture: np.full((14, 14, 768), picture.mean(), np.float16), "mark"

    monkeypatch.setattr(inputs.appearance, "encoder", encoder)
    posed = inputs._posed(own(image, depth=str(image / "one.npz")), Looks())
    made = inputs._of_posed(posed, Looks(), "dino")
    assert made["appearance"].shape == (1, 14, 14, 768)
    assert made["appearance"].mean() == np.float16(posed.image.mean())
    assert "appearance" not in inputs._of_posed(posed, DeepTask(), "dino")
    assert "appearance" not in inputs._of_posed(posed, Looks())
