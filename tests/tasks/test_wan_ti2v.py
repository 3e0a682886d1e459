"""Wan alone: the task's loss, its sampler against diffusers, adapters, inputs that are refused."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import folders
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import wan_ti2v as wan_ti2v_config
from syncmv4d_jax import flow, tree
from syncmv4d_jax.data import user
from syncmv4d_jax.models import lora
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit, vae
from syncmv4d_jax.results import video as video_files
from syncmv4d_jax.run import assembly, sample, train
from syncmv4d_jax.tasks import base, video, wan_ti2v
from syncmv4d_jax.weights import exports, release, tokenizer

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
MEAN, STD = (0.1, -0.2, 0.3, 0.05), (0.8, 1.3, 0.6, 1.1)  # make_golden.py
OPTIONS = wan_ti2v.Options(size=(32, 48), frames=9, sample_steps=6, run_steps=4)
VAE = dataclasses.replace(vae.TINY, latents_mean=MEAN, latents_std=STD)
LORA = lora.LoRAConfig(ranks=((r"self_attn/[qkvo]/kernel$", 2),), alpha=4.0)
GENERATOR = np.random.default_rng(0)


def make(*, config=wan_config.TINY, adapters=LORA, **options):
    return wan_ti2v.WanTI2V(
        options=dataclasses.replace(OPTIONS, **options),
        dit_config=config,
        vae_config=VAE,
        lora_config=adapters,
    )


def plain(**options):
    return make(adapters=lora.LoRAConfig(), **options)


def stored(name):
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def weights_of(name):
    return tree.unflatten({k[2:]: jnp.asarray(v) for k, v in name.items() if k[:2] == "w:"})


@pytest.fixture(scope="module")
def params():
    return {"dit": weights_of(stored("wan_dit/tiny.npz")),
            "vae": weights_of(stored("wan_vae/tiny.npz"))}  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    text, null = rng.standard_normal((2, 2, 8, 16), np.float32)
    return {
        "video_latents": jnp.asarray(rng.standard_normal((2, 1, 3, 4, 6, 4), np.float32)),
        "text": jnp.asarray(text),
        "text_lengths": jnp.array([6, 2], jnp.int32),
        "null_text": jnp.asarray(null[:, :3]),
        "null_text_lengths": jnp.array([1, 1], jnp.int32),
        "latent_valid": jnp.array([[True, True, True], [True, True, False]]),
    }


# Sampling.


def test_image_to_video_equals_diffusers(params):
    """Encoder, six guided UniPC steps of the official schedule and decoder: a committed golden."""
    golden = stored("wan_ti2v/loop.npz")
    task, reports = plain(), []
    assert task.latent_shape == (1, 3, 4, 6, 4)
    image = jnp.asarray(golden["image"])[None, None, None]
    first = task.encode(params, image)
    np.testing.assert_allclose(first[0], golden["first"], atol=1e-4)
    texts, lengths = golden["texts"], golden["lengths"]
    inputs = {
        "text": jnp.asarray(texts[:1, :7]),
        "text_lengths": jnp.asarray(lengths[:1]),
        "null_text": jnp.asarray(texts[1:]),
        "null_text_lengths": jnp.asarray(lengths[1:]),
        "first": first,
    }
    report = lambda *x: reports.append(x)  # noqa: E731
    before = wan_ti2v.run_steps._cache_size()
    out = task.sample(params, inputs, jax.random.key(7), progress=report)
    np.testing.assert_allclose(out.latents[0], golden["latents"], atol=1e-3, rtol=0)
    np.testing.assert_array_equal(out.latents[:, :, :1], first)
    assert reports == [(3, 6), (6, 6)] and wan_ti2v.run_steps._cache_size() == before + 1
    pixels = jnp.clip(task.decode(params, out).pixels[0], -1, 1)
    np.testing.assert_allclose(pixels, golden["video"].astype(np.float32), atol=3e-3)
    # Another task, made anew: an equal one is the same program, one with other options is not.
    plain().sample(params, inputs, jax.random.key(7))
    assert wan_ti2v.run_steps._cache_size() == before + 1
    other = dataclasses.replace(task, options=dataclasses.replace(task.options, guidance=2.0))
    changed = other.sample(params, inputs, jax.random.key(7)).latents
    assert np.abs(changed - out.latents).max() > 1e-3
    assert wan_ti2v.run_steps._cache_size() == before + 2


@pytest.mark.parity
@pytest.mark.parametrize("with_image", [True, False])
@pytest.mark.parametrize("kind", ["unipc", "dpmpp_2m"])
def test_live_diffusers(kind, with_image):
    pytest.importorskip("diffusers")
    import ti2v_reference as reference

    theirs = reference.wan_reference.build(wan_config.TINY, seed=11)
    codec = reference.vae_reference.build(vae.TINY, seed=12)
    arrays = reference.wan_reference.arrays(theirs)
    params = {
        "dit": tree.unflatten(reference.wan_reference.from_diffusers(arrays)),
        "vae": reference.vae_reference.ours(codec.state_dict()),
    }
    params = jax.tree.map(jnp.array, params)
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (1, 1, 1, 32, 48, 3), np.uint8)
    texts = rng.standard_normal((2, 8, 16), np.float32)
    noise = jax.random.normal(jax.random.key(3), (1, 1, 3, 4, 6, 4))
    first, latents, video = reference.image_to_video(
        theirs, codec, image=image[0].astype(np.float32) / 127.5 - 1 if with_image else None,
        noise=np.array(noise[0]), texts=texts, kind=kind, steps=6, guidance=5.0, mean=MEAN,
        std=STD,
    )  # fmt: skip
    task = plain(sampler=kind, guidance=5.0, vae_chunk=1)
    inputs = dict(zip(("text", "null_text"), jnp.asarray(texts)[:, None], strict=True))
    inputs |= dict.fromkeys(("text_lengths", "null_text_lengths"), jnp.array([8]))
    if with_image:
        inputs["first"] = task.encode(params, jnp.asarray(image))
        np.testing.assert_allclose(inputs["first"][0], first, atol=1e-4)
    out = task.sample(params, inputs, jax.random.key(3))
    np.testing.assert_allclose(out.latents[0], latents, atol=1e-3, rtol=0)
    decoded = jnp.clip(task.decode(params, out).pixels[0], -1, 1)
    np.testing.assert_allclose(decoded, video, atol=1e-3)


def test_without_guidance_or_image(params, batch):
    task = plain(guidance=1.0, sample_steps=2, views=2)
    inputs = {key: batch[key] for key in ("text", "text_lengths")}
    out = task.sample(params, inputs, jax.random.key(0)).latents
    assert out.shape == (2, 2, 3, 4, 6, 4)
    # Views are clips of their own: in another order, the same clips.
    schedule = flow.schedule("unipc", 2, shift=5.0)
    noise = jax.random.normal(jax.random.key(0), out.shape).reshape(4, 3, 4, 6, 4)[::-1]
    conditions = {
        "text": jnp.repeat(batch["text"], 2, 0)[::-1],
        "lengths": jnp.repeat(batch["text_lengths"], 2)[::-1],
        "first": {},
    }
    start = video.start(schedule, {"video": noise})
    again = wan_ti2v.run_steps(task, params, start, schedule, conditions).latents["video"]
    np.testing.assert_allclose(out.reshape(noise.shape), again[::-1], atol=1e-4)


def test_refused_inputs(params, batch):
    task = plain()
    texts = {key: batch[key] for key in batch if "text" in key}
    first = jnp.zeros((2, 1, 1, 4, 6, 4))
    rng = jax.random.key(0)
    with pytest.raises(ValueError, match="not finite"):
        task.sample(params, texts | {"first": first.at[0, 0, 0, 1, 1, 1].set(jnp.nan)}, rng)
    with pytest.raises(ValueError, match=r"first wanted \[b v 1 hl wl c\] = \[2, 1, 1, 4, 6, 4\]"):
        task.sample(params, texts | {"first": first[..., :5, :]}, rng)
    without = {key: x for key, x in texts.items() if not key.startswith("null")}
    with pytest.raises(ValueError, match=r"guidance=5.0 needs null_text"):
        task.sample(params, without, rng)
    long = texts | {"text": jnp.zeros((2, 9, 16))}
    with pytest.raises(ValueError, match="at most 8 rows"):
        task.sample(params, long, rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 8}, r"wanted 4 n \+ 1 frames, got 8"),
        ({"size": (40, 48)}, "height divisible by 16"),
        ({"size": (32, 0)}, "width divisible by 16"),
        ({"image_share": 1.5}, "wanted 0..1"),
        ({"views": 0}, "at least 1"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        plain(**options)


def test_channels_must_agree():
    with pytest.raises(ValueError, match="wanted 4 channels"):
        make(config=dataclasses.replace(wan_config.TINY, in_channels=8))


# Training.


def loss(task, params, batch, seed=0):
    chosen, frozen = tree.split(params, task.trainable)
    return jax.jit(task.loss)(chosen, frozen, batch, jax.random.key(seed))


def test_loss_by_its_definition(params, batch):
    """The loss, written down again for one draw of the random numbers."""
    task = plain(text_drop=0.5)
    got, scalars = loss(task, params, batch, seed=1)
    time, noise_key, text_key, _ = jax.random.split(jax.random.key(1), 4)
    t, weight = flow.sample_table(time, (2,), shift=5.0)
    data = batch["video_latents"][:, 0]
    noise = jax.random.normal(noise_key, data.shape)
    s = t[:, None, None, None, None]
    x = ((1 - s) * data + s * noise).at[:, :1].set(data[:, :1])
    drop = np.asarray(jax.random.uniform(text_key, (2,)) < 0.5)
    assert drop.any() and not drop.all()
    null = jnp.pad(batch["null_text"], ((0, 0), (0, 5), (0, 0)))
    text = jnp.where(drop[:, None, None], null, batch["text"])
    lengths = jnp.where(drop, batch["null_text_lengths"], batch["text_lengths"])
    model = module.bind(dit.DiT, wan_config.TINY, params["dit"])
    times = (1000 * t)[:, None] * jnp.array([[0.0, 1.0, 1.0]])  # zero on frame 0
    v = jax.jit(lambda *a: model(*a, context_lengths=lengths))(x, times, text)
    error = np.asarray(jnp.mean(jnp.square(v - (noise - data)), axis=(2, 3, 4)))
    each = np.array([error[0, 1:].mean(), error[1, 1]])  # the last frame of the second is padding
    np.testing.assert_allclose(got, np.mean(np.asarray(weight) * each), rtol=1e-4)
    np.testing.assert_allclose(scalars["error"], each.mean(), rtol=1e-4)


def test_text_to_video_counts_frame_0(params, batch):
    """Without an image all frames are noised, counted and at time t."""
    task = plain(text_drop=0.0, image_share=0.0)
    moved = batch | {"video_latents": batch["video_latents"].at[:, :, 0].add(1.0)}
    assert float(loss(task, params, batch)[0]) != float(loss(task, params, moved)[0])


def test_an_image_alone_is_text_to_image(params, batch):
    task = plain(text_drop=0.0, frames=1, image_share=1.0)
    one = {"video_latents": batch["video_latents"][:, :, :1]}
    one["latent_valid"] = batch["latent_valid"][:, :1]
    assert float(loss(task, params, batch | one)[0]) > 0


def test_raw_video_is_encoded(params):
    task = plain(views=2, frames=1)
    pixels = jnp.asarray(GENERATOR.integers(0, 256, (1, 2, 1, 32, 48, 3), np.uint8))
    latents = task.encode(params, pixels)
    raw = jax.jit(task.clean_latents)(params, {"video": pixels})
    cached = task.clean_latents(params, {"video_latents": latents})
    np.testing.assert_allclose(raw, cached, atol=1e-5)


def test_refused_batches(params, batch):
    with pytest.raises(ValueError, match="wanted latents"):
        loss(plain(frames=5), params, batch)
    without = {key: x for key, x in batch.items() if key != "null_text"}
    with pytest.raises(ValueError, match=r"text_drop=0.1 needs null_text"):
        loss(plain(), params, without)


def test_adapters_alone_are_trained():
    task = make()
    assert task.trainable == "^lora/" and task.frozen_parts == ("dit", "vae")
    chosen, _ = tree.split(jax.eval_shape(task.init, jax.random.key(0)), task.trainable)
    assert chosen.keys() == {"lora"} and tree.count(chosen) == 2 * 4 * (48 * 2 + 2 * 48)


# Configurations.


@pytest.mark.parametrize("variant", wan_ti2v_config.VARIANTS)
def test_configurations(variant):
    config = wan_ti2v_config.get_config(variant)
    with pytest.raises((AttributeError, KeyError)):
        config.unknown = 1
    task = wan_ti2v.make(config)
    assert isinstance(task, base.Task)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    trained, _ = tree.split(shapes, task.trainable)
    if variant == "debug":
        return
    assert tree.count(shapes["dit"]) == 4_999_787_712
    assert tree.count(shapes["vae"]) == 704_688_668
    assert task.vae_config == dataclasses.replace(vae.TI2V_5B)
    assert task.latent_shape == (1, 31, 44, 80, 48)
    # 30 blocks: eight of 3072 x 3072 and two of 3072 x 14336, both of rank 32.
    adapters = 30 * 32 * (8 * 2 * 3072 + 2 * (3072 + 14336))
    assert tree.count(trained) == (4_999_787_712 if variant == "full" else adapters)
    cost = task.cost({"text": np.zeros((2, 512, 4096), np.float16)})
    assert cost["tokens"] == 2 * 27280
    np.testing.assert_allclose(cost["flops"] / 6, 521e12, rtol=0.02)


def test_unknown_keys_are_refused():
    config = wan_ti2v_config.get_config("debug").copy_and_resolve_references()
    config.unlock()
    config.task.speed = 1
    with pytest.raises(ValueError, match="unknown keys"):
        wan_ti2v.make(config)


def test_the_negative_prompt_is_the_release_s():
    config = wan_ti2v_config.get_config()
    assert config.sample.negative_prompt == tokenizer.NEGATIVE_PROMPT


# From converted weights to a video on disk.


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """An official release folder of tiny random weights, converted."""
    root = tmp_path_factory.mktemp("release")
    folders.write_official(root / "official")
    release.convert(root / "official", root / "converted")
    return root / "converted"


def configuration(converted, **sample):
    config = wan_ti2v_config.get_config("debug").copy_and_resolve_references()
    config.unlock()
    config.task.dit = dataclasses.asdict(wan_config.TINY)
    config.task.vae = dataclasses.asdict(vae.TINY)
    config.task.size, config.task.views, config.task.sample_steps = (32, 48), 1, 2
    config.task.guidance = 3.0
    config.weights.dit = config.weights.vae = config.text.weights = str(converted)
    config.text.max_length = wan_config.TINY.text_len
    config.sample.negative_prompt = "a bowl"
    config.sample.update(sample)
    return config


def test_prompt_and_image_to_mp4(converted, tmp_path):
    pixels = GENERATOR.integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cup.png")
    config = configuration(converted, images=str(tmp_path / "cup.png"), prompt="a hand")
    sample.run(config, tmp_path)
    out = tmp_path / "samples" / "cup"
    assert sorted(p.name for p in out.iterdir()) == ["meta.json", "view_0.mp4"]
    assert video_files.read(out / "view_0.mp4").shape == (5, 32, 48, 3)
    meta = json.loads((out / "meta.json").read_text())
    assert (meta["prompt"], meta["steps"], meta["guidance"]) == ("a hand", 2, 3.0)
    config.sample.images = ""
    sample.run(config, tmp_path)  # text to video
    assert len(list((tmp_path / "samples").glob("text_*/view_0.mp4"))) == 1


def test_refused_files_and_prompts(converted, tmp_path):
    config = configuration(converted, images=str(tmp_path / "cup.png"), prompt="a hand")
    with pytest.raises(FileNotFoundError, match="no such image"):
        sample.run(config, tmp_path)
    values = np.ones((32, 48), np.float32)
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "cup.tiff")
    with pytest.raises(ValueError, match="not finite"):
        user.read_image(tmp_path / "cup.tiff", size=(32, 48))
    (tmp_path / "cup.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        user.read_image(tmp_path / "cup.png", size=(32, 48))
    (tmp_path / "more.png").write_bytes(b"")
    with pytest.raises(ValueError, match="wanted one image, got 3"):
        user.read_image(tmp_path, size=(32, 48))
    config = configuration(converted, prompt="a hand pours water " * 9)
    with pytest.raises(ValueError, match="tokens, wanted at most 8"):
        sample.run(config, tmp_path)
    assert not list((tmp_path / "samples").iterdir())


def test_an_image_is_covered_and_centred(tmp_path):
    pixels = np.zeros((20, 100, 3), np.uint8)
    pixels[:, 40:60] = 255
    Image.fromarray(pixels).save(tmp_path / "stripe.png")
    got = user.read_image(tmp_path, size=(40, 60))
    assert got.shape == (40, 60, 3) and got.dtype == np.uint8
    np.testing.assert_array_equal(got[20, :, 0] > 127, (np.arange(60) >= 10) & (np.arange(60) < 50))


class Clips:
    """An endless iterator of random batches, as the training loop wants one."""

    def __init__(self, batch_size):
        self.count, self.size = 0, batch_size

    def __next__(self):
        rng, b = np.random.default_rng(self.count), self.size
        self.count += 1
        return {
            "video_latents": rng.standard_normal((b, 1, 2, 4, 6, 4), np.float32),
            "text": rng.standard_normal((b, 8, 16), np.float32),
            "text_lengths": np.full((b,), 5, np.int32),
            "null_text": np.zeros((b, 8, 16), np.float32),
            "null_text_lengths": np.ones((b,), np.int32),
            "latent_valid": np.ones((b, 2), bool),
        }

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


def clips(config, wanted, *, batch_size, seed, shard_index, shard_count):
    del config, wanted, seed, shard_index, shard_count
    return Clips(batch_size)


def test_adapters_train_beside_converted_weights_and_sample(converted, tmp_path, monkeypatch):
    config = configuration(converted, prompt="a hand", name="one")
    config.data.name = f"{__name__}:clips"
    config.task.lora = {"ranks": ((r"self_attn/[qkvo]/kernel$", 2),), "alpha": 4.0}
    config.train.random_frozen, config.train.batch_size = False, 8
    config.train.export = "float32"
    train.run(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4 and np.isfinite(rows[-1]["loss"])
    trained = assembly.trained_params(config, tmp_path)
    assert trained.keys() == {"lora"}
    assert float(np.abs(trained["lora"]["blocks"]["self_attn"]["q"]["b"]).max()) > 0
    steps = [("weights", "theirs", "kohya"), ("theirs", "back", "jax")]
    for src, out, to in steps:
        src, out = (str(tmp_path / f"{x}.safetensors") for x in (src, out))
        flags = ["convert_lora", "--src", src, "--out", out, "--to", to, "--alpha", "4"]
        monkeypatch.setattr(sys, "argv", flags)
        runpy.run_path(str(ROOT / "data_prep/convert_lora.py"), run_name="__main__")
    again = tree.flatten(exports.read(tmp_path / "back.safetensors", "lora"))
    for path, leaf in tree.flatten(trained["lora"]).items():
        np.testing.assert_allclose(again[path], leaf, rtol=1e-6, atol=1e-8)
    config.task.guidance = 1.0
    sample.run(config, tmp_path)
    assert video_files.read(tmp_path / "samples/one/view_0.mp4").shape == (5, 32, 48, 3)
