"""Batches: the contract, determinism, resuming, and independence of the number of readers."""

import json
import threading

import fake_records
import numpy as np
import pytest
from fake_records import asked, batches, configuration

from syncmv4d_jax import schema
from syncmv4d_jax.data import pipeline, records, transforms
from syncmv4d_jax.geometry import cameras


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    fake_records.write(path, valid=4)
    return path


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_batches_follow_the_schema(root):
    (batch,) = batches(configuration(root), 1)
    sizes = schema.check(batch, where="the test")
    assert [sizes[a] for a in ["b", "v", "n", "h", "w", "k", "f"]] == [2, 3, 5, 16, 24, 12, 2]
    assert batch["view_index"].tolist() == [[0, 1, 2]] * 2
    assert batch["frame_valid"].sum(1).tolist() == [4, 4]
    assert batch["latent_valid"].tolist() == [[True, False]] * 2


def test_only_the_drawn_views_are_read(root, monkeypatch):
    rows, read, here = [], records.File.read, threading.get_ident()

    def count(file, row):
        if threading.get_ident() == here:  # not readers ahead of an earlier test
            rows.append(row)
        return read(file, row)

    monkeypatch.setattr(records.File, "read", count)
    pipeline.Examples(*asked(configuration(root)), "train").get(0, np.random.default_rng(0))
    assert len(rows) == 4  # three views and the clip's own


def test_an_epoch_has_every_clip_once_and_draws_new_cameras(root):
    made = batches(configuration(root), 8, size=3)
    tracks = [np.sort(batch["tracks"].sum(axis=(1, 2, 3))) for batch in made]
    for epoch in tracks:
        np.testing.assert_array_equal(epoch, tracks[0])
    drawn = {}  # the cameras of each clip, over the epochs
    for batch in made:
        for clip, pose in zip(batch["tracks"], batch["extrinsics"], strict=True):
            drawn.setdefault(clip.tobytes(), set()).add(pose.tobytes())
    assert len(drawn) == 3 and all(len(poses) > 2 for poses in drawn.values())
    orders = {batch["tracks"].tobytes() for batch in made}
    assert len(orders) > 1


def test_the_same_seed_gives_the_same_batches_another_one_does_not(root):
    config = configuration(root, augment=True)
    first, again = batches(config, 4), batches(config, 4)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    other = batches(config, 4, seed=1)
    assert not all(same(a, b) for a, b in zip(first, other, strict=True))


def test_a_resumed_iterator_goes_on_as_the_unbroken_one(root):
    config = configuration(root)
    options = {"batch_size": 2, "seed": 3, "shard_index": 1, "shard_count": 2}
    unbroken = pipeline.train_iterator(*asked(config), **options)
    for _ in range(3):
        next(unbroken)
    state = json.loads(json.dumps(unbroken.get_state()))
    wanted = [next(unbroken) for _ in range(3)]
    resumed = pipeline.train_iterator(*asked(config), **options)
    resumed.set_state(state)
    assert all(same(next(resumed), batch) for batch in wanted)


@pytest.mark.parametrize("shards", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_readers(root, shards):
    config = configuration(root)
    whole = batches(config, 3, size=4)
    parts = [batches(config, 3, size=4 // shards, index=i, shards=shards) for i in range(shards)]
    for step, batch in enumerate(whole):
        for key in batch:  # the shards take turns
            merged = np.stack([part[step][key] for part in parts], axis=1)
            np.testing.assert_array_equal(merged.reshape(batch[key].shape), batch[key])


def test_fixed_cameras_are_the_first_of_each_cluster(root):
    batch = batches(configuration(root, cameras="fixed"), 1, size=1)[0]
    (name, example), *_ = pipeline.examples(*asked(configuration(root)), "test")
    assert name == "s3-0" and example["prompt"] == "text 1"
    assert example["video"].shape == example["motion"].shape == (3, 5, 16, 24, 3)
    reader = records.Reader(root, "test")
    views = [reader.view(reader.windows[0], reader.windows[0].views[i]) for i in (0, 2, 4)]
    assert np.array_equal(example["extrinsics"][:, 0], np.stack([v["extrinsics"] for v in views]))
    assert np.array_equal(example["video"][1], records.decode(views[1]["video"]))
    assert batch["view_index"].tolist() == [[0, 1, 2]]


def test_examples_are_limited_by_count(root):
    config = configuration(root)
    every = pipeline.examples(*asked(config), "train")
    assert [name for name, _ in every] == ["s0-0", "s1-0", "s2-0"]
    two = pipeline.examples(*asked(config), "train", count=2)
    assert [name for name, _ in two] == ["s0-0", "s1-0"]


def test_turning_the_world_keeps_what_cameras_see(root):
    plain, turned = (
        batches(configuration(root, augment=augment), 1)[0] for augment in (False, True)
    )
    assert np.abs(plain["tracks"] - turned["tracks"]).max() > 0.1
    for batch in (plain, turned):
        order = np.argsort(batch["view_index"], axis=1)[..., None, None, None]
        batch["extrinsics"] = np.take_along_axis(batch["extrinsics"], order, axis=1)
        tracks = np.repeat(batch["tracks"][:, None], 3, axis=1)
        batch["seen"] = cameras.to_camera(tracks, batch["extrinsics"])
    np.testing.assert_allclose(plain["seen"], turned["seen"], atol=1e-5)


def test_fewer_points_can_be_asked_for_not_more(root):
    config = configuration(root)
    config.task.points = 5
    batch = batches(config, 1)[0]
    assert schema.check(batch, where="x")["k"] == 5
    config.task.points = 13
    with pytest.raises(ValueError, match=r"points: wanted 13, records have 12.*--points"):
        batches(config, 1)


def test_wrong_configurations_name_the_command(root, tmp_path):
    with pytest.raises(ValueError, match=r"make_scenes.*prepare_taco"):
        batches(configuration(""), 1)
    config = configuration(root)
    config.task.frames = 9
    with pytest.raises(ValueError, match="frames: wanted 9, records have 5"):
        batches(config, 1)
    config = configuration(root)
    config.task.size = (32, 48)
    with pytest.raises(FileNotFoundError, match=r"32x48.*--size"):
        batches(config, 1)
    config = configuration(root)
    config.task.dit = {"dim": 8}
    with pytest.raises(ValueError, match="cache_latents"):
        batches(config, 1)
    with pytest.raises(FileNotFoundError, match="cache_latents"):
        batches(configuration(root, cache=str(tmp_path)), 1)
    with pytest.raises(ValueError, match=r"wanted one of .'sample', 'fixed'.*got 'all'"):
        batches(configuration(root, cameras="all"), 1)


def test_a_damaged_record_is_named_by_the_iterator(tmp_path):
    folder = fake_records.write(tmp_path, sequences=2)
    path = folder / "sequences" / "s0.array_record"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(records.CorruptRecord, match="s0"):
        batches(configuration(tmp_path), 1, size=1)


def test_views_are_reordered_with_all_that_is_theirs(root):
    plain, mixed = (
        batches(configuration(root, augment=augment), 6, size=3) for augment in (False, True)
    )
    orders = np.concatenate([batch["view_index"] for batch in mixed])
    assert len({tuple(order) for order in orders}) > 3
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    for a, b in zip(plain, mixed, strict=True):
        for i, order in enumerate(b["view_index"]):
            for key in schema.PER_VIEW:
                if key in a and key != "extrinsics":  # those are turned as well
                    np.testing.assert_array_equal(b[key][i], a[key][i][order], err_msg=key)
    again = batches(configuration(root, augment=True), 6, size=3)
    assert all(same(a, b) for a, b in zip(mixed, again, strict=True))


def test_every_value_of_a_view_is_reordered(root):
    example = pipeline.Examples(*asked(configuration(root)), "train").get(0, None)
    per_view = {key for key, field in schema.BATCH.items() if field.axes.split()[:2] == ["b", "v"]}
    assert per_view & set(example) == set(schema.PER_VIEW) & set(example)
    assert set(schema.PER_VIEW) == per_view


def test_a_camera_that_moves_gives_every_view_a_pose_a_frame(tmp_path):
    root = fake_records.write(tmp_path, sequences=2, moving=1)
    batch = batches(configuration(root, cameras="fixed"), 1, size=1)[0]
    assert schema.check(batch, where="x")["n"] == 5 and batch["extrinsics"].shape == (1, 3, 5, 3, 4)
    still, moving = batch["extrinsics"][0, 0], batch["extrinsics"][0, 1]
    assert (still == still[:1]).all() and np.abs(moving[1:] - moving[:1]).max() > 0.01
    np.testing.assert_array_equal(cameras.poses(batch["extrinsics"]), batch["extrinsics"])


def test_colours_jitter_alike_in_all_views_and_only_the_videos(root):
    plain, other = (batches(configuration(root, jitter=jitter), 1)[0] for jitter in (0.0, 0.3))
    assert np.abs(plain["video"].astype(int) - other["video"]).mean() > 1
    assert other["video"].dtype == np.uint8
    assert all(np.array_equal(plain[key], other[key]) for key in plain if key != "video")
    assert same(other, batches(configuration(root, jitter=0.3), 1)[0])
    with pytest.raises(ValueError, match="wanted 0 <= jitter < 1, got 1.5"):
        batches(configuration(root, jitter=1.5), 1)


def test_jitter_without_pixels_is_refused(root, monkeypatch):
    made = pipeline.Examples(*asked(configuration(root)), "train")
    made.latents = True
    with pytest.raises(ValueError, match="jitter=0.2 changes pixels.*data.latents=False"):
        monkeypatch.setattr(pipeline, "Examples", lambda *_, **__: made)
        batches(configuration(root, jitter=0.2), 1)


def test_jitter_of_one_colour_keeps_black_and_bounds():
    video = np.zeros((2, 3, 4, 5, 3), np.uint8)
    assert not transforms.recolour(video, 0.5, np.random.default_rng(0)).any()
    for seed, white in ((1, 255), (3, round(255 * 0.58564917))):  # gains of 1.01 and 0.59
        bright = transforms.recolour(video + 255, 0.5, np.random.default_rng(seed))
        assert (bright == white).all()


def test_damaged_records_can_be_skipped_and_are_counted(tmp_path, caplog):
    folder = fake_records.write(tmp_path, sequences=4)  # s0 to s2 are trained on
    path = folder / "sequences" / "s1.array_record"
    whole = pipeline.Examples(*asked(configuration(tmp_path)), "train")
    wanted = whole.get(2, None)
    path.write_bytes(path.read_bytes()[:500])
    made = pipeline.Examples(*asked(configuration(tmp_path)), "train")
    assert same(made.get_or_next(1, None), wanted) and made.skipped == 1
    assert "skipped a corrupt record (1 so far)" in caplog.text and "s1" in caplog.text
    config = configuration(tmp_path, skip_corrupt=True)
    reader = pipeline.train_iterator(
        *asked(config), batch_size=3, seed=0, shard_index=1, shard_count=2
    )
    assert reader.scalars() == {"skipped_examples": 0}
    [next(reader) for _ in range(3)]
    assert reader.scalars()["skipped_examples"] >= 1
    assert "reader 1 of 2 skipped a corrupt record" in caplog.text
    first = batches(config, 3, size=3)
    assert all(same(a, b) for a, b in zip(first, batches(config, 3, size=3), strict=True))
    for name in ("s0", "s2"):
        path = folder / "sequences" / f"{name}.array_record"
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(records.CorruptRecord, match="none of 3 examples"):
        batches(config, 1, size=1)
