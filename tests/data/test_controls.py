"""Clouds, masks and tracking videos: in records, in caches, in batches, mixed, and refused."""

import dataclasses

import numpy as np
import pytest
import tiny

from syncmv4d_jax import schema
from syncmv4d_jax.data import cache, clips, controls, pipeline, prepare, records, surfaces
from syncmv4d_jax.data import config as data_config
from syncmv4d_jax.data.sources import recordings
from syncmv4d_jax.geometry import cameras, masks

SETTINGS = clips.Settings(
    size=(96, 144), frames=9, fps=15.0, points=64, cameras="first", val=0.0, surfaces="none",
    controls=controls.WITH, cloud=200, provenance="sim",
)  # fmt: skip
WANTED = data_config.Wanted(size=(96, 144), frames=9, views=3, cloud=80, tracking="das_tracking")
DATA = data_config.DataConfig(fps=15.0, cameras="fixed", split="")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Records of one recording, and a cache of them with a fake encoder."""
    root = tmp_path_factory.mktemp("controls")
    tiny.write(root / "data", "seq0", views=3)
    prepare.run(recordings.folder_sources(root / "data"), root / "records", SETTINGS)
    cache.run(
        root / "records", root / "cache", encode_video=lambda clip: _encode(clip), weights_hash="",
        encode_text=lambda texts: (np.ones((len(texts), 3, 4), np.float32), [3] * len(texts)),
    )  # fmt: skip
    return root


def _encode(clip):
    """Frames 0, 4, 8 in cells of 16 pixels, means of colours."""
    return clip[::4].reshape(3, 6, 16, 9, 16, 3).mean((2, 4))


def config(root, **changes):
    return dataclasses.replace(DATA, records=str(root / "records"), **changes)


def test_clouds_stay_on_their_surfaces(made):
    reader = records.Reader(made / "records")
    own = reader.tracks(reader.windows[0])
    assert reader.windows[0].provenance == "sim"
    assert own["points"].shape == (9, 200, 3) and own["point_labels"].shape == (200,)
    motion, names = tiny.poses(18), sorted(tiny.SURFACES)  # as the files are read
    label = {"left": 0, "right": 1, "target": 2, "tool": 3}
    stretch = {name: i % 3 for i, name in enumerate(tiny.SURFACES)}
    for n in range(9):
        for name in names:
            here = own["point_labels"] == label[name]
            pose = motion[name][2 * n]
            local = (own["points"][n, here] - pose[:3, 3]) @ pose[:3, :3]
            axis = np.ones(3)
            axis[stretch[name]] = 1.4
            np.testing.assert_allclose(np.linalg.norm(local / axis, axis=1), 0.05, atol=2e-3)
            normal = own["point_normals"][n, here].astype(np.float64) @ pose[:3, :3]
            outwards = local / axis**2
            outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
            assert (normal * outwards).sum(1).min() > 0.95
    assert min(np.bincount(own["point_labels"])) > 30


def test_points_have_the_colours_that_the_first_frame_shows_of_them(made):
    """Those in front and in view alone; a batch has them only where they are asked for."""
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    depth = np.full((4, 6), 2.0)
    depth[1, 2], depth[3, 5] = 1.0, np.inf
    lens, pose = np.diag([2.0, 2.0, 1.0]), np.eye(4)[:3]
    at = lambda x, y, z: (x * z / 2, y * z / 2, z)  # noqa: E731
    points = np.array([at(2, 1, 1.005), at(2, 1, 1.02), at(4, 0, 1.9), at(5, 3, 9), at(6, 0, 1),
                       at(3, 3, -1)])  # fmt: skip
    first = controls.Shot(image, depth, lens, pose)
    found = controls.colours(points, [first])
    assert found["point_coloured"].tolist() == [True, False, True, True, False, False]
    np.testing.assert_array_equal(found["point_colours"][[0, 2, 3]], image[[1, 0, 3], [2, 4, 5]])
    assert not found["point_colours"][[1, 4, 5]].any()
    second = first._replace(image=255 - image, depth=np.full((4, 6), np.inf))
    both = controls.colours(points, [first, second])
    assert both["point_coloured"].tolist() == [True, True, True, True, False, False]
    np.testing.assert_array_equal(both["point_colours"][[0, 1]], [image[1, 2], 255 - image[1, 2]])

    own = records.Reader(made / "records").tracks(records.Reader(made / "records").windows[0])
    seen = own["point_coloured"]
    assert 0.2 < seen.mean() < 1 and own["point_colours"][seen].any()
    wanted = dataclasses.replace(WANTED, colours=True)
    with_ = next(batches(config(made, raw=True), wanted))["point_features"][0]
    without = next(batches(config(made, raw=True), WANTED))["point_features"][0]
    assert not without[..., [3, 4, 5, 7]].any() and 0 < with_[..., 7].mean() < 1
    np.testing.assert_array_equal(with_[..., [0, 8, 9]], without[..., [0, 8, 9]])
    held = controls.example(own, 200, None, colours=True)["point_features"]
    np.testing.assert_allclose(
        (held[3, seen, 3:6] + 1) * 127.5, own["point_colours"][seen], atol=1e-3
    )
    assert not held[:, ~seen, 3:6].any()
    own.pop("point_colours")
    with pytest.raises(
        ValueError, match="task.colours: wanted the points' colours.*prepare them anew"
    ):
        controls.example(own, 200, None, colours=True)


def test_masks_are_the_pixels_that_are_painted(made):
    reader = records.Reader(made / "records")
    values = reader.view(reader.windows[0], reader.windows[0].views[0])
    mask = controls.unpack(values["mask"], (96, 144))
    motion = records.decode(values["motion"])
    tracking = records.decode(values["tracking"])
    np.testing.assert_array_equal(mask, motion.any(-1))
    np.testing.assert_array_equal(mask, tracking.any(-1))
    np.testing.assert_array_equal(motion[0], tracking[0])
    np.testing.assert_array_equal(motion[..., :2], tracking[..., :2])
    assert (motion[8, ..., 2] != tracking[8, ..., 2]).any()
    own = reader.tracks(reader.windows[0])
    pixels, _ = cameras.project(
        own["points"].astype(np.float64), values["intrinsics"], values["extrinsics"]
    )
    x, y = np.round(pixels[4]).astype(int).T
    assert mask[4, y, x].mean() > 0.85


def test_warped_videos_show_what_frame_0_shows_of_the_same_points(made):
    """Frame 0 is the picture itself where a surface is; later a surface point keeps its colour, as
    the tracking video says where it was, and what frame 0 does not see is black."""
    reader = records.Reader(made / "records")
    window = reader.windows[0]
    values = reader.view(window, window.views[0])
    video, warped, tracking = (records.decode(values[k]) for k in ("video", "warped", "tracking"))
    mask = controls.unpack(values["mask"], (96, 144))
    known = warped.any(-1)
    assert not known[~mask].any() and (known & mask).sum() > 0.6 * mask.sum()
    assert known[0].sum() > 0.9 * mask[0].sum()
    np.testing.assert_allclose(warped[0][known[0]], video[0][known[0]], atol=1)
    was = tracking[8][known[8]][:, :2] / 255 * [144, 96]  # where it was, in pixels
    x, y = np.clip(np.rint(was).astype(int), 0, [143, 95]).T
    off = np.abs(warped[8][known[8]].astype(int) - video[0][y, x]).mean()
    still = np.abs(video[0][known[8]].astype(int) - video[0][y, x]).mean()
    assert off < 0.5 * still
    wanted = dataclasses.replace(WANTED, tracking="warped_image")
    raw = next(batches(config(made, raw=True), wanted))
    whole = controls.completed(video[0], warped, mask)
    assert any((raw["tracking"][0, v] == whole).all() for v in range(3))
    latents = next(batches(config(made, cache=str(made / "cache")), wanted))["tracking_latents"]
    assert any(np.allclose(latents[0, v], _encode(whole), atol=1) for v in range(3))
    shot = controls.Shot(
        np.array([[[0], [100]]], np.uint8).repeat(3, -1), np.full((1, 2), np.inf), np.eye(3),
        np.eye(3, 4),
    )  # fmt: skip
    assert controls.shows(shot, np.array([[0.25, 0]]), np.ones(1))[0].tolist() == [[25] * 3]


def test_a_warp_moves_frame_0_and_fills_what_it_did_not_see():
    """What is left behind, and what is new, has the nearest colour that is known."""
    first = np.full((8, 12, 3), 10, np.uint8)
    first[:, :6] = 60
    mask = np.zeros((3, 8, 12), bool)
    mask[0, 2:5, 1:3] = mask[1, 2:5, 4:6] = True
    first[mask[0]] = 200
    warped = np.zeros((3, 8, 12, 3), np.uint8)
    warped[0][mask[0]] = 200
    warped[1, 2:4, 4:6] = 200  # its lowest row was hidden
    found = controls.completed(first, warped, mask)
    np.testing.assert_array_equal(found[0], first)
    wanted = np.where(np.arange(12)[None, :, None] < 6, 60, 10) * np.ones((8, 12, 3), int)
    np.testing.assert_array_equal(found[2], wanted)
    wanted[2:5, 4:6] = 200
    np.testing.assert_array_equal(found[1], wanted)


def test_masks_of_latent_cells():
    mask = np.zeros((9, 8, 8), bool)
    mask[0, :4, :4] = True
    mask[2, :2, :2] = True
    mask[3, 2:4, :2] = True
    mask[8, 6, 7] = True
    found = masks.to_cells(mask, (3, 2, 2))
    assert found.shape == (3, 2, 2, 1) and found.dtype == np.float32
    wanted = np.zeros((3, 2, 2))
    wanted[0, 0, 0], wanted[1, 0, 0], wanted[2, 1, 1] = 1, 0.5, 1 / 16
    np.testing.assert_allclose(found[..., 0], wanted)
    np.testing.assert_allclose(masks.to_cells(mask[None, :1], (1, 2, 2))[0, 0, ..., 0], wanted[0])
    with pytest.raises(ValueError, match="3 latent frames of 2 x 3 cells"):
        masks.to_cells(mask, (3, 2, 3))


def test_raw_batches(made):
    batch = next(batches(config(made, raw=True), WANTED))
    schema.check(batch, where="test")
    assert batch["points"].shape == (1, 9, 80, 3) and batch["point_ids"].tolist() == [True]
    assert batch["tracking"].shape == (1, 3, 9, 96, 144, 3) and batch["mask"].any()
    told = batch["point_features"][0]
    np.testing.assert_array_equal(told[..., 9:].sum(-1), 1)
    np.testing.assert_array_equal(told[..., 6:9], np.broadcast_to([1, 0, 1], (9, 80, 3)))
    np.testing.assert_allclose(np.linalg.norm(told[..., :3], axis=-1), 1, atol=1e-2)


def batches(settings, wanted, size=1, **how):
    return pipeline.train_iterator(
        settings, wanted, batch_size=size, seed=0, shard_index=0, shard_count=1, **how
    )


def test_cached_batches(made):
    wanted = dataclasses.replace(WANTED, text=True)
    batch = next(batches(config(made, cache=str(made / "cache")), wanted))
    schema.check(batch, where="test")
    raw = next(batches(config(made, raw=True), WANTED))
    pixels = raw["tracking"][0, 1]
    np.testing.assert_allclose(batch["tracking_latents"][0, 1], _encode(pixels), rtol=1e-2)
    np.testing.assert_array_equal(batch["black_latents"], 0)
    fold = masks.to_cells(raw["mask"], (3, 6, 9))
    np.testing.assert_allclose(batch["hoi_mask"], fold, atol=1e-3)


def test_a_turned_world_has_turned_clouds(made):
    plain = next(batches(config(made, raw=True), WANTED))
    turned = next(batches(config(made, raw=True, augment=True), WANTED))
    assert np.abs(turned["points"] - plain["points"]).max() > 0.05
    for batch in (plain, turned):
        k, pose = batch["intrinsics"][0], batch["extrinsics"][0, :, 0]
        for view in range(3):
            pixels, _ = cameras.project(batch["points"][0, 0], k[view], pose[view])
            x, y = np.round(pixels).astype(int).T
            assert batch["mask"][0, view, 0][y, x].mean() > 0.85
    middle = turned["points"][0, 0].mean(0)
    label = turned["point_features"][0, 0, :, 9:].argmax(-1)
    for kind in range(4):
        points = turned["points"][0, 0, label == kind]
        normals = turned["point_features"][0, 0, label == kind, :3]
        assert ((points - points.mean(0)) * normals).sum(1).mean() > 0.02
    assert np.isfinite(middle).all()


def test_shares_of_several_folders(made, tmp_path):
    """A quarter of the samples from a second folder, of a real recording."""
    settings = dataclasses.replace(SETTINGS, provenance="real")
    tiny.write(tmp_path / "data", "seq1", views=3)
    prepare.run(recordings.folder_sources(tmp_path / "data"), tmp_path / "records", settings)
    mixed = config(made, raw=True, mix=((str(tmp_path / "records"), "", 0.25),))
    iterator = batches(mixed, WANTED, size=4)
    first = [next(iterator) for _ in range(8)][0]
    counts = iterator.scalars()  # what is read ahead is counted too
    assert counts["sim_examples"] >= 20 and counts["real_examples"] >= 6
    share = counts["real_examples"] / (counts["real_examples"] + counts["sim_examples"])
    assert 0.15 < share < 0.35
    state = iterator.get_state()
    second, again = next(iterator), batches(mixed, WANTED, size=4)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["points"], second["points"])
    assert first.keys() == second.keys()
    with pytest.raises(ValueError, match="leave some to config.data.records"):
        data_config.DataConfig(mix=(("a", "", 0.6), ("b", "", 0.4)))


def test_records_without_control_are_refused(made, tmp_path):
    plain = dataclasses.replace(SETTINGS, controls=(), provenance="real")
    prepare.run(recordings.folder_sources(made / "data"), tmp_path / "records", plain)
    no_image = dataclasses.replace(SETTINGS, controls=("points", "das"))
    prepare.run(recordings.folder_sources(made / "data"), tmp_path / "older", no_image)
    older = dataclasses.replace(DATA, records=str(tmp_path / "older"), raw=True)
    with pytest.raises(ValueError, match="wanted points and das and image .--with points,das,im"):
        next(batches(older, dataclasses.replace(WANTED, tracking="warped_image")))
    next(batches(older, WANTED))
    with pytest.raises(ValueError, match="wanted points and das .--with points,das"):
        batches(config(tmp_path), WANTED)
    more = dataclasses.replace(WANTED, cloud=201)
    with pytest.raises(ValueError, match="wanted 201 points, records have 200"):
        batches(config(made), more)
    with pytest.raises(ValueError, match="wanted controls of"):
        dataclasses.replace(SETTINGS, controls=("flow",))
    with pytest.raises(ValueError, match="wanted provenance of"):
        dataclasses.replace(SETTINGS, provenance="dream")


def test_labels_by_name_and_by_description(tmp_path):
    shape = np.zeros((4, 3)), np.zeros((1, 3), int)
    named = lambda name, label="": surfaces.Surface(  # noqa: E731
        name, shape[1], shape[0], np.eye(4)[None], label=label
    )
    found = controls.labels(
        [named("tool"), named("Left_Hand"), named("target"), named("g1", "right hand")]
    )
    assert found.tolist() == [2, 0, 3, 1]
    folder = tiny.write(tmp_path, "seq0", views=3)
    description = (folder / "recording.json").read_text().rstrip("}")
    more = description + ', "labels": {"tool": "left hand"}, "provenance": "sim"}'
    (folder / "recording.json").write_text(more)
    (source,) = recordings.folder_sources(tmp_path)
    assert source.provenance == "sim"
    labels = {s.name: s.label for s in source.open().surfaces}
    assert labels == {"left": "", "right": "", "target": "", "tool": "left hand"}
    for wrong, message in (
        ('"labels": {"tool": "foot"}', "wanted some of"),
        ('"labels": {"pan": "object"}', "which no surface is"),
        ('"provenance": "dream"', "wanted real or sim"),
    ):
        (folder / "recording.json").write_text(f"{description}, {wrong}}}")
        with pytest.raises(ValueError, match=message):
            source.open()


def test_courses_begin_alike(made, tmp_path):
    """Clips named like each other, whose first frames are equal."""
    tiny.write(tmp_path / "data", "s_0", views=3)
    tiny.write(tmp_path / "data", "s_1", views=3)
    tiny.write(tmp_path / "data", "t_1", views=3)
    prepare.run(recordings.folder_sources(tmp_path / "data"), tmp_path / "records", SETTINGS)
    found = dict(pipeline.examples(config(tmp_path), WANTED, ""))
    others = found["s_0-0"]["courses"]()
    assert len(others) == 1 and not found["t_1-0"]["courses"]()
    np.testing.assert_array_equal(others[0][0], found["s_1-0"]["video"])
    np.testing.assert_array_equal(others[0][1], found["s_1-0"]["mask"])
