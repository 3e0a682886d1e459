"""The cache of latents and text features, with two-line encoders."""

import pickle

import fake_records
import numpy as np
import pytest

from syncmv4d_jax import schema
from syncmv4d_jax.data import (
    cache,
    engine,
    records,
)
from syncmv4d_jax.weights import (
    encoders,
    store,
)

HASH = "vae:0123,umt5:4567"
CALLS = []


def encode_video(video):
    CALLS.append(video)
    return video[::4, ::8, ::8].astype(np.float32) / 255


def encode_text(texts):
    lengths = np.array([len(text) + 1 for text in texts], np.int32)
    rows = np.arange(16)[None] < lengths[:, None]
    return np.repeat(rows[..., None] * (1.0 + lengths[:, None, None]), 6, axis=-1), lengths


def make(root, out, **options):
    options = {"encode_video": encode_video, "encode_text": encode_text} | options
    return cache.run(root, out, weights_hash=options.pop("weights_hash", HASH), **options)


@pytest.fixture
def root(tmp_path):
    fake_records.write(tmp_path / "records")
    return tmp_path / "records"


def batch_of(root, out, **data):
    config = fake_records.configuration(root, cache=str(out), cameras="fixed", **data)
    config.task.dit = {"dim": 8}
    return fake_records.batches(config, 1, size=3)[0]


def test_batches_carry_what_was_encoded(root, tmp_path):
    make(root, tmp_path / "cache")
    batch = batch_of(root, tmp_path / "cache")
    sizes = schema.check(batch, where="the cache")
    assert "video" not in batch and sizes["f"] == 2 and sizes["l"] == 7
    raw = batch_of(root, tmp_path / "cache", raw=True)
    wanted = raw["motion"][:, :, ::4, ::8, ::8] / 255
    np.testing.assert_allclose(batch["motion_latents"], wanted, atol=2**-8)  # bfloat16
    for key in schema.SMALL:
        np.testing.assert_array_equal(batch[key], raw[key])
    assert batch["text_lengths"].tolist() == [7, 7, 7]
    assert batch["null_text_lengths"].tolist() == [1, 1, 1]
    assert (batch["text"] == 8).all() and (batch["null_text"][:, 0] == 2).all()
    assert not batch["null_text"][:, 1:].any()


def test_appearance_is_cached_beside_latents_and_read_where_it_is(root, tmp_path):
    def look(image):
        return np.full((14, 14, 768), image.mean(), np.float16)

    looks = cache.Appearance(look, "mark")
    make(root, tmp_path / "cache", appearance=looks)
    raw = batch_of(root, tmp_path / "cache", raw=True)
    schema.check(raw, where="the cache")
    wanted = raw["video"][:, :, 0].mean((2, 3, 4)).astype(np.float16)
    np.testing.assert_array_equal(raw["appearance"][..., 3, 5, 700], wanted)
    assert "appearance" in batch_of(root, tmp_path / "cache")
    with pytest.raises(cache.StaleCache, match="appearance"):
        make(root, tmp_path / "cache", appearance=looks._replace(mark="another"))
    make(root, tmp_path / "plain")
    assert "appearance" not in batch_of(root, tmp_path / "plain", raw=True)
    with pytest.raises(ValueError, match="appearance is kept beside latents"):
        make(root, tmp_path / "texts", appearance=looks, encode_video=None)


def test_latents_of_flow_are_of_its_companded_maps_with_the_tasks_gain(tmp_path):
    root = tmp_path / "records"
    fake_records.write(root, flow=True)
    seen = []

    def encode(clip):
        seen.append(clip)
        return clip[::4, ::8, ::8].astype(np.float32)

    make(root, tmp_path / "cache", encode_video=encode, gain=4.0)
    floats = [clip for clip in seen if clip.dtype == np.float32]
    assert {len(clip) for clip in floats} == {1, fake_records.FRAMES}  # depth, flow

    def read(gain, **task):
        config = fake_records.configuration(
            root, cache=str(tmp_path / "cache"), cameras="fixed", fields=("flow",)
        )
        config.task.update({"dit": {"dim": 8}, "gain": gain, **task})
        return fake_records.batches(config, 1, size=3)[0]

    batch = read(4.0)
    schema.check(batch, where="the cache")
    companded = np.tanh(2 * batch["flow"].astype(np.float32))[:, :, ::4, ::8, ::8]
    np.testing.assert_allclose(batch["flow_latents"], companded, atol=4e-3)  # bfloat16
    depth = np.log(batch["depth0"])
    low, high = depth.min((2, 3), keepdims=True), depth.max((2, 3), keepdims=True)
    wanted = (2 * (depth - low) / (high - low) - 1)[:, :, None, ::8, ::8, None]
    got = batch["depth_latents"]
    np.testing.assert_allclose(got, wanted * np.ones(3), atol=1e-2)
    with pytest.raises(cache.StaleCache, match="with gain 4.0, config.task.gain is 8.0"):
        read(8.0)
    assert "flow_latents" not in read(8.0, flow_form="extent")  # another form of flow
    with pytest.raises(cache.StaleCache, match="gain"):
        make(root, tmp_path / "cache", encode_video=encode, gain=8.0)
    fake_records.write(tmp_path / "plain")
    with pytest.raises(ValueError, match="has no flow to cache"):
        make(tmp_path / "plain", tmp_path / "other", gain=8.0)
    with pytest.raises(ValueError, match="flow are kept beside latents"):
        make(root, tmp_path / "texts", gain=8.0, encode_video=None)


def test_a_stopped_run_continues_and_gives_the_same(root, tmp_path):
    def stop(video):
        if len(CALLS) > 20:
            raise KeyboardInterrupt
        return encode_video(video)

    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        make(root, tmp_path / "cache", encode_video=stop)
    with pytest.raises(FileNotFoundError, match="no finished cache"):
        batch_of(root, tmp_path / "cache")
    done = len(CALLS)
    make(root, tmp_path / "cache")
    assert len(CALLS) < 4 * 12 + done  # the first file was not encoded again
    make(root, tmp_path / "other")
    for path in (tmp_path / "other").rglob("*.array_record"):
        twin = tmp_path / "cache" / path.relative_to(tmp_path / "other")
        assert twin.read_bytes() == path.read_bytes()


def test_other_weights_or_records_are_refused(root, tmp_path):
    folder = make(root, tmp_path / "cache")
    with pytest.raises(cache.StaleCache, match="weights_hash.*another --out"):
        make(root, tmp_path / "cache", weights_hash="vae:9999,umt5:4567")
    index = root / "16x24" / "index.json"
    index.write_text(index.read_text() + "\n")
    with pytest.raises(cache.StaleCache, match="run data_prep/cache_latents.py again"):
        batch_of(root, folder)


def test_the_weights_of_a_run_must_be_those_of_the_cache(root, tmp_path):
    part = tmp_path / "weights" / "vae"
    records.write_json(part / "index.json", {"part": "vae", "config": {}, "source": "a"})
    mark = store.weights_mark(tmp_path / "weights", "vae")
    make(root, tmp_path / "cache", weights_hash=f"vae:{mark},umt5:1")
    opened = cache.Cache(tmp_path / "cache", records.Reader(root))
    opened.check_weights({"vae": str(tmp_path / "weights")})
    records.write_json(part / "index.json", {"part": "vae", "config": {}, "source": "b"})
    with pytest.raises(cache.StaleCache, match=r"config.weights.vae"):
        opened.check_weights({"vae": str(part)})
    with pytest.raises(FileNotFoundError, match="umt5"):
        encoders.weights_hash(tmp_path / "weights")


def test_hosts_share_the_work(root, tmp_path):
    CALLS.clear()
    make(root, tmp_path / "cache", shard_index=1, shard_count=2)
    assert len(CALLS) == 24 and not list(tmp_path.rglob("cache.json"))
    folder = make(root, tmp_path / "cache", shard_index=0, shard_count=2)
    assert len(CALLS) == 48 and (folder / "cache.json").is_file()


def same(one, two):
    """Whether two caches have the same files with the same bytes."""
    first, second = (
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (one, two)
    )
    return first == second and len(first) > 5


@pytest.fixture
def pipeline_of_one(monkeypatch):
    """In the place of Beam: `work` of pickled sources and settings, one after the other."""

    def beam(todo, root, settings, *, options, work):
        assert options == ["--runner=Fake"]
        for source in reversed(todo):
            own = pickle.loads(pickle.dumps((source, root, settings)))
            yield source.id, work(*own)

    monkeypatch.setattr(engine, "beam", beam)


def test_a_pipeline_encodes_the_same_bytes(root, tmp_path, pipeline_of_one):
    one = make(root, tmp_path / "one")
    assert same(one, make(root, tmp_path / "two", beam=["--runner=Fake"]))
    half = make(root, tmp_path / "three", beam=["--runner=Fake"], shard_index=1, shard_count=2)
    assert not (half / "cache.json").exists()
    assert same(one, make(root, tmp_path / "three", shard_index=0, shard_count=2))


def test_what_a_pipeline_could_not_encode_is_named_and_done_again(
    root, tmp_path, pipeline_of_one, monkeypatch
):
    def broken(source, folder, job):
        if source.id == "s1":
            return {"error": "OSError: no space"}
        return encode(source, folder, job)

    encode = cache._encode
    monkeypatch.setattr(cache, "_encode", broken)
    with pytest.raises(records.CorruptRecord, match="1 of 4 files.*s1: OSError: no space"):
        make(root, tmp_path / "two", beam=["--runner=Fake"])
    assert not list(tmp_path.rglob("cache.json"))
    monkeypatch.setattr(cache, "_encode", encode)
    CALLS.clear()
    two = make(root, tmp_path / "two", beam=["--runner=Fake"])
    assert len(CALLS) == 12 and same(make(root, tmp_path / "one"), two)


def test_damaged_records_are_what_a_worker_says(root, tmp_path):
    reader = records.Reader(root)
    job = cache._Job(str(reader.root), encode_video, "mark")
    path = reader.root / "sequences/s0.array_record"
    path.write_bytes(path.read_bytes()[:100])
    answer = cache._encode(cache.File("sequences/s0.array_record"), tmp_path, job)
    assert "s0.array_record" in answer["error"]


def test_beam_makes_the_same_bytes(root, tmp_path):
    pytest.importorskip("apache_beam")
    one = make(root, tmp_path / "one")
    assert same(one, make(root, tmp_path / "two", beam=["--runner=DirectRunner"]))


def test_texts_alone_can_be_cached(root, tmp_path):
    make(root, tmp_path / "cache", encode_video=None)
    batch = batch_of(root, tmp_path / "cache")
    assert "video" in batch and "video_latents" not in batch and batch["text"].shape[1:] == (7, 6)


def test_pixels_and_cached_latents_can_be_read_together(root, tmp_path):
    make(root, tmp_path / "cache")
    alone = batch_of(root, tmp_path / "cache")
    both = batch_of(root, tmp_path / "cache", raw=True, latents=True)
    assert "video" not in alone and "video_latents" not in batch_of(
        root, tmp_path / "cache", raw=True
    )
    np.testing.assert_array_equal(both["motion_latents"], alone["motion_latents"])
    assert both["motion"].dtype == np.uint8
