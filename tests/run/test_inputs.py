"""What a sample is given of records: what a user has; nothing of the future or of the truth."""

import fake_records
import ml_collections
import numpy as np
import pytest

from configs import taco
from syncmv4d_jax import schema
from syncmv4d_jax.data import pipeline
from syncmv4d_jax.metrics.networks.features import matcher
from syncmv4d_jax.run import assembly, inputs, matched, sections

# What the true scene holds beside its first frame; every key of schema.BATCH is here or is given.
HIDDEN = {
    "motion", "video_latents", "motion_latents", "tracks", "visibility", "anchors", "anchor_valid",
    "scale", "frame_valid", "latent_valid", "points", "point_valid", "point_features", "point_ids",
    "metric", "hoi_mask", "tracking", "tracking_latents", "depth0", "flow", "flow_valid",
    "flow_latents", "depth_latents", "rgb0_latents", "appearance", "render", "render_latents",
    "render_same", "hole_mask", "covered", "sure", "mask", "black_latents",
}  # fmt: skip


def example(root, change=None):
    """An example of records; `change`: of the values of its windows' and views' examples."""
    fake_records.write(root)
    config = ml_collections.ConfigDict()
    config.data = {"records": str(root), "cameras": "fixed"}
    config.task = {"name": "syncmv4d", "size": fake_records.SIZE, "frames": 5, "points": 12}
    settings = assembly.read(config)
    wanted = assembly.wanted(settings)
    ((name, found),) = list(pipeline.examples(settings.data, wanted, "test"))
    assert name == "s3-0"
    return change(found) if change else found


def another_future(found):
    """The same first frames and cameras; everything else is of another scene."""
    rng = np.random.default_rng(9)
    for key in HIDDEN & found.keys():
        value = np.asarray(found[key])
        found[key] = rng.permutation(value.ravel()).reshape(value.shape)
        if value.dtype == bool:
            found[key] = ~value
    video = found["video"].copy()
    video[:, 1:] = rng.integers(0, 255, video[:, 1:].shape)
    return found | {"video": video, "triplet": ("cut", "knife", "box")}


def test_a_sample_is_given_the_same_bits_whatever_happens_later(tmp_path):
    own = inputs.given(example(tmp_path / "a"), anchors="own")
    other = inputs.given(example(tmp_path / "b", another_future), anchors="own")
    assert own.keys() == other.keys()
    for key, value in own.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert own["frame_valid"].all() and own["images"].shape == (3, *fake_records.SIZE, 3)
    # The comparison sees what it should: true correspondences do tell the scenes apart.
    given = [inputs.given(example(tmp_path / x, change), anchors="given")
             for x, change in (("c", None), ("d", another_future))]  # fmt: skip
    assert not np.array_equal(given[0]["anchors"], given[1]["anchors"])
    assert given[0].keys() - own.keys() == {"anchors", "anchor_valid"}


def test_every_key_of_a_batch_is_given_or_hidden():
    """Controls are given where a task reads them, and are read for no other (data/pipeline.py)."""
    named = set(inputs.GIVEN) | set(schema.CONTROLS) | HIDDEN | {"video"}
    assert set(schema.BATCH) | {"null_text", "null_text_lengths"} <= named
    assert not set(inputs.GIVEN) & HIDDEN


def test_a_view_without_its_first_frame(monkeypatch):
    """Nothing of it is given; tasks and query pixels that would look at it are refused."""
    config = taco.get_config("debug").unlock()
    images = np.full((3, 4, 5, 3), 7, np.uint8)
    listed = [("a", {"images": images}), ("b", {"images": images + 1})]
    monkeypatch.setattr(inputs, "_of_config", lambda *_: listed)

    def of(**own):
        config.sample.update({"drop_view": 1, **own})
        return list(inputs.of_config(assembly.read(config), assembly.task(config)))

    (name, found), (_, other) = of()
    assert name == "a" and found["hidden"].tolist() == [False, True, False]
    np.testing.assert_array_equal(found["images"][1], 0)
    np.testing.assert_array_equal(found["images"][[0, 2]], 7)
    assert other["images"][0].min() == 8 and images.min() == 7
    assert of(drop_view=-1) is not None and "hidden" not in of(drop_view=-1)[0][1]
    with pytest.raises(ValueError, match="drop_view=3: wanted one of 3 views"):
        of(drop_view=3)
    with pytest.raises(ValueError, match="anchors='own'.*got 'matched'"):
        of(anchors="matched")
    config.task.dit.multi_view = False
    with pytest.raises(ValueError, match="views that attend to each other"):
        of(anchors="own")
    config.task = {"name": "wan_ti2v"}
    with pytest.raises(ValueError, match="drop_view: task 'wan_ti2v' does not serve it.*syncmv4d"):
        of()


class Shifts:
    """A matcher whose second image shows everything two pixels to the right."""

    name, files, threshold = "shifts", {}, 0.5

    def __init__(self, blind=()):
        self.blind, self.calls = blind, 0

    def __call__(self, first, second):
        self.calls += 1
        at = np.array([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
        sure = np.array([0.9, 0.4, 0.0 if self.calls in self.blind else 0.8])
        if self.calls in self.blind:
            sure[:] = 0.1
        return matcher.Matches(at, at + [2.0, 0.0], sure)


def test_matched_points_are_pixels_of_the_middle_view_and_what_is_found_elsewhere():
    images = np.zeros((3, 16, 24, 3), np.uint8)
    found = matched.anchors(images, Shifts(), count=5)
    assert found["anchor_valid"].tolist() == [[True] * 2 + [False] * 3] * 3
    np.testing.assert_array_equal(found["anchors"][1, :2], [[3, 4], [7, 8]])
    np.testing.assert_array_equal(found["anchors"][0, :2], [[5, 4], [9, 8]])
    with pytest.raises(ValueError, match="shifts finds nothing of view 1 in view 2"):
        matched.anchors(images, Shifts(blind=(2,)), count=5)
    with pytest.raises(ValueError, match="at least two views"):
        matched.anchors(images[:1], Shifts(), count=5)


def test_a_matcher_without_weights_says_where_they_are_from():
    wanted = sections.SampleConfig(anchors="matched")
    with pytest.raises(ValueError, match="XFeat: wanted its weights in config.sample.features"):
        matched.load(wanted)
    assert matched.load(sections.SampleConfig()) is None
    with pytest.raises(ValueError, match="config.sample.anchors: wanted one of"):
        sections.SampleConfig(anchors="record")


def cloud(points=40):
    rng = np.random.default_rng(1)
    valid = np.ones((5, points), bool)
    valid[:, 0] = False
    return {"points": rng.normal(size=(5, points, 3)).astype(np.float32), "point_valid": valid}


def test_points_that_are_off_by_so_much():
    """By themselves in every frame, always in the same way; nothing else is touched."""
    own = cloud(4000)
    found = inputs.disturbed("a", own, noise=0.01, drop=0.0)
    error = found["points"] - own["points"]
    np.testing.assert_allclose(error.std((0, 1)), 0.01, rtol=0.05)
    assert abs(np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1]) < 0.05
    np.testing.assert_array_equal(found["point_valid"], own["point_valid"])
    again, other = (inputs.disturbed(name, own, noise=0.01, drop=0.0) for name in "ab")
    np.testing.assert_array_equal(again["points"], found["points"])
    assert found["points"].dtype == np.float32 and np.any(other["points"] != found["points"])


def test_half_of_the_points_are_left_out_of_all_frames():
    own = cloud()
    found = inputs.disturbed("a", own, noise=0.0, drop=0.5)
    np.testing.assert_array_equal(found["points"], own["points"])
    left = found["point_valid"]
    assert left.any(0).sum() in (19, 20) and not left[:, 0].any()
    np.testing.assert_array_equal(left, np.repeat(left[:1], 5, 0))
    with pytest.raises(ValueError, match="wanted examples with points, a has none"):
        inputs.disturbed("a", {"images": 0}, noise=0.0, drop=0.5)
    with pytest.raises(ValueError, match="wanted 0 <= share < 1, got 1"):
        sections.SampleConfig(point_drop=1.0)
    with pytest.raises(ValueError, match="point_noise"):
        sections.SampleConfig(point_noise=-1.0)
