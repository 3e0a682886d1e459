"""Pairs that are drawn before training: what a cache keeps of them, what a batch gets, refusals."""

import dataclasses

import fake_records
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import schema
from syncmv4d_jax.data import cache, drawn_pairs, pipeline, records
from syncmv4d_jax.geometry import splat, view_pairs

STILL = view_pairs.Corruption(0.0, 0.0, 0.0, 0.0)
HOW = drawn_pairs.Pairs(8, same=0.5, sources=2, corruption=STILL)


def make(root, out, **options):
    """A cache with an encoder that every test may replace."""
    texts = lambda words: (np.ones((len(words), 3, 4), np.float32), [3] * len(words))  # noqa: E731
    options = {"encode_video": encode, **options}
    return cache.run(root, out, weights_hash="vae:0,umt5:1", encode_text=texts, **options)


def encode(clip):
    """Every fourth frame, every eighth pixel."""
    plain = clip if clip.dtype == np.float32 else clip / np.float32(127.5) - 1
    return plain[::4, ::8, ::8]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    fake_records.write(root / "records", flow=True)
    make(root / "records", root / "cache", pairs=HOW)
    return root


def config(root, same=0.5, **data):
    own = {"cache": str(root / "cache"), "pairs": True, "raw": True, "fields": ("flow",)} | data
    made = fake_records.configuration(root / "records", cameras="fixed", **own)
    spoilt = dict.fromkeys(("scale", "smooth", "dropped", "flow"), 0.0)
    made.task.update({"dit": {"dim": 8}, "views": 3, "same_view": same, "sources": 2,
                      "corruption": spoilt})  # fmt: skip
    return made


def test_a_batch_has_pairs_for_views_and_no_pixels(made):
    batch = fake_records.batches(config(made), 1, size=2)[0]
    sizes = schema.check(batch, where="the cache")
    assert sizes["v"] == 3 and batch["render_same"].any() and not batch["render_same"].all()
    assert not {"video", "flow", "motion_latents"} & set(batch)
    reader = records.Reader(made / "records", "train")
    true = np.stack([
        encode(records.decode(reader.view(window, view)["video"]))
        for window in reader.windows for view in window.views
    ])  # fmt: skip
    kept = batch["video_latents"]
    for clip in kept.reshape(-1, *kept.shape[2:]):
        assert np.abs(true - clip).max((1, 2, 3, 4)).min() < 1e-2
    # Of its own camera's points frame 0 is the picture itself, where they cover it.
    same = batch["render_same"]
    one, other = (batch[key][same][:, 0] for key in ("render_latents", "video_latents"))
    drawn = one.any(-1)
    assert 0.5 < drawn.mean() < 1
    np.testing.assert_allclose(one[drawn], other[drawn], atol=1e-2)
    row = {"pair_targets": np.zeros(8)}
    assert all(len({*drawn_pairs.chosen(row, 7, np.random.default_rng(i))}) == 7 for i in range(9))
    assert drawn_pairs.chosen(row, 20, None).tolist() == list(range(8))


def test_pairs_are_the_same_whenever_they_are_drawn_and_holes_are_grey(made):
    reader = records.Reader(made / "records", "train")
    window = reader.windows[0]
    views = [reader.view(window, view) for view in window.views]
    twice = [drawn_pairs.row(window.id, views, HOW, encode) for _ in range(2)]
    other = drawn_pairs.row("another", views, HOW, encode)
    for key, value in twice[0].items():
        np.testing.assert_array_equal(value, twice[1][key])
    assert any((value != other[key]).any() for key, value in twice[0].items())
    kept = cache.Cache(made / "cache", reader).pairs(window)
    np.testing.assert_array_equal(kept["render_latents"], twice[0]["render_latents"])
    empty = twice[0]["hole_mask"].max(-1) == 0
    assert empty.any() and not twice[0]["render_latents"][empty].any()
    assert set(twice[0]["pair_targets"]) <= set(range(len(window.views)))
    assert twice[0]["hole_mask"].shape == (8, 2, 2, 3, 4)


def test_the_mask_is_the_trust_in_the_points(monkeypatch, made):
    """Half where they cover a cell without being sure."""
    reader = records.Reader(made / "records", "train")
    views = [reader.view(reader.windows[0], view) for view in reader.windows[0].views]
    monkeypatch.setattr(splat, "_hidden", lambda points, *_: jnp.ones(len(points), bool))
    drawn_pairs._draw.clear_cache()
    splat.cloud.clear_cache()
    never = drawn_pairs.row("a", views, HOW, encode)["hole_mask"]
    monkeypatch.undo()
    drawn_pairs._draw.clear_cache()
    sure = drawn_pairs.row("a", views, HOW, encode)["hole_mask"]
    assert 0.3 < never.max() <= 0.5 < 0.6 < sure.max() <= 1
    np.testing.assert_array_equal(never > 0, sure > 0)
    assert HOW.told()["mask"] == drawn_pairs.MASK  # caches of another mask are refused


def test_pairs_with_filled_holes_are_pairs_of_another_kind(made):
    reader = records.Reader(made / "records", "train")
    views = [reader.view(reader.windows[0], view) for view in reader.windows[0].views]
    plain, filled = (
        drawn_pairs.row("a", views, dataclasses.replace(HOW, fill=fill), encode)
        for fill in (False, True)
    )
    np.testing.assert_array_equal(plain["hole_mask"], filled["hole_mask"])
    first, second = (one["render_latents"].astype(np.float32) for one in (plain, filled))
    empty = plain["hole_mask"].max((0, 1, 4)) < 1
    assert np.abs(first - second)[:, :, empty].max() > 0.05
    wanted = config(made)
    wanted.task.fill = True
    with pytest.raises(cache.StaleCache, match=r"another kind than config.task asks for .fill"):
        fake_records.batches(wanted, 1)


def test_sampling_reads_the_record_itself(made):
    _, example = next(iter(pipeline.examples(*fake_records.asked(config(made)), "test")))
    assert "video" in example and "flow" in example and "render_latents" not in example


def test_what_cannot_be_read_or_made_is_refused(made, tmp_path):
    make(made / "records", tmp_path / "words", encode_video=None)
    with pytest.raises(ValueError, match="config.data.pairs: wanted a cache with pairs, got none"):
        fake_records.batches(config(made, cache=str(tmp_path / "words")), 1)
    make(made / "records", tmp_path / "plain")
    with pytest.raises(cache.StaleCache, match="has no pairs, which config.data.pairs asks for"):
        fake_records.batches(config(made, cache=str(tmp_path / "plain")), 1)
    with pytest.raises(cache.StaleCache, match=r"another kind than config.task asks for .same"):
        fake_records.batches(config(made, same=1.0), 1)
    with pytest.raises(cache.StaleCache, match="pairs"):
        make(made / "records", made / "cache", pairs=drawn_pairs.Pairs(9))  # fmt: skip
    with pytest.raises(ValueError, match="beside latents; got texts only"):
        make(made / "records", tmp_path / "texts", encode_video=None, pairs=HOW)
    fake_records.write(tmp_path / "flat")
    with pytest.raises(ValueError, match="has no flow to cache"):
        make(tmp_path / "flat", tmp_path / "none", pairs=HOW)
    with pytest.raises(ValueError, match="at least one pair and one source"):
        drawn_pairs.Pairs(0)
