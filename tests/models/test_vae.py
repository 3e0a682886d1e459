"""Wan's VAE against goldens and, live, against diffusers; chunks, tiles, causality, memory."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae, vae_layers

GOLDEN = Path(__file__).parents[1] / "golden" / "wan_vae"
# float32: the reference's own chunked and single-pass forms differ by 4e-6.
TOLERANCE = 1e-4
FULL_DEPTH = vae.VAEConfig(
    z_dim=6, dim=8, dec_dim=12, latents_mean=(0.3,) * 6, latents_std=(0.7,) * 6
)


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "tiny.npz"))


@pytest.fixture(scope="module")
def params(golden):
    return tree.unflatten({k[2:]: v for k, v in golden.items() if k.startswith("w:")})


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def encode(params, video, *, config=vae.TINY, chunk=0):
    return module.bind(vae.VAE, config, params).encode(video, chunk=chunk)


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def decode(params, latents, *, config=vae.TINY, chunk=0):
    return module.bind(vae.VAE, config, params).decode(latents, chunk=chunk)


def close(got, wanted, tolerance=TOLERANCE):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.shape == wanted.shape
    assert float(np.abs(got - wanted).max()) <= tolerance


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_golden(golden, params, frames):
    mean = encode(params, golden["video"][:, :frames])
    close(mean, golden[f"mean_{frames}"])
    decoded = decode(params, golden[f"mean_{frames}"])
    close(jnp.clip(decoded, -1, 1), golden[f"decoded_{frames}"])
    assert np.mean(np.abs(decoded) > 1) < 0.5  # most of the comparison is not of clamped values


@pytest.mark.parametrize("chunk", [1, 2])
def test_chunks_equal_single_pass(golden, params, chunk):
    video = golden["video"]
    close(encode(params, video, chunk=chunk), encode(params, video), 1e-5)
    latents = golden["mean_13"]
    close(decode(params, latents, chunk=chunk), decode(params, latents), 1e-5)


def test_chunks_of_one_frame(golden, params):
    video = golden["video"][:, :1]
    close(encode(params, video, chunk=1), encode(params, video), 1e-6)
    close(decode(params, golden["mean_1"], chunk=1), decode(params, golden["mean_1"]), 1e-6)


@pytest.mark.parametrize("how", ["taps", "columns"])
def test_convolutions_agree(how):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 7, 3))
    cases = (
        ((3, 3, 3, 3, 4), (1, 1, 1), vae_layers.SAME),
        ((1, 3, 3, 3, 4), (1, 2, 2), ((0, 1), (0, 1))),
        ((1, 2, 2, 3, 4), (1, 1, 1), ((1, 0), (0, 1))),
        ((3, 1, 1, 3, 4), (2, 1, 1), vae_layers.VALID),
        ((1, 1, 1, 3, 4), (1, 1, 1), vae_layers.VALID),
    )
    for shape, stride, pads in cases:
        kernel = jax.random.normal(jax.random.key(1), shape)
        got, wanted = (
            vae_layers.convolve(x, kernel, stride=stride, pads=pads, how=h) for h in (how, "native")
        )
        close(got, wanted, 1e-5)


def test_causal(golden, params):
    """Latent i sees frames up to 4 i; decoded frames up to 4 i see latents up to i."""
    video = golden["video"]
    changed = video.copy()
    changed[:, 5:] = -changed[:, 5:]
    before, after = encode(params, video), encode(params, changed)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert float(jnp.abs(before[:, 2] - after[:, 2]).max()) > 1e-3
    close(encode(params, video[:, :5]), before[:, :2], 1e-5)
    latents = golden["mean_13"]
    whole = decode(params, latents)
    close(decode(params, latents[:, :2]), whole[:, :5], 1e-5)


def test_normalisation_round_trip():
    mean = jax.random.normal(jax.random.key(0), (1, 2, 3, 4, 48))
    latents = vae.normalise(vae.TI2V_5B, mean)
    close(vae.denormalise(vae.TI2V_5B, latents), mean, 1e-6)
    wanted = (mean[..., 3] + 0.2339) / 1.1677
    close(latents[..., 3], wanted, 1e-5)


def test_statistics_are_applied(golden, params):
    config = dataclasses.replace(
        vae.TINY, latents_mean=(0.1, 0.2, 0.3, 0.4), latents_std=(1.0, 2.0, 3.0, 4.0)
    )
    video = golden["video"][:, :5]
    plain = golden["mean_5"]
    scaled = encode(params, video, config=config)
    close(scaled, (plain - jnp.array([[[[[0.1, 0.2, 0.3, 0.4]]]]])) / jnp.arange(1.0, 5.0)[
        None, None, None, None
    ], 1e-5)  # fmt: skip
    close(vae.denormalise(config, scaled), plain, 1e-5)


def test_shortcuts_by_hand():
    x = jnp.arange(1.0, 1 + 3 * 2 * 2 * 2).reshape(1, 3, 2, 2, 2)
    down = vae_layers.avg_down(x, 4, time=2, space=2)
    assert down.shape == (1, 2, 1, 1, 4)
    # Groups of 16 / 4 = 4: channel 0 at the zero frame, then at frame 0; channel 1 alike.
    close(down[0, 0, 0, 0], [0.0, x[0, 0, ..., 0].mean(), 0.0, x[0, 0, ..., 1].mean()])
    close(down[0, 1, 0, 0, 1], x[0, 2, ..., 0].mean())
    up = vae_layers.dup_up(down, 2, time=2, space=2, first=True)
    assert up.shape == (1, 3, 2, 2, 2)
    close(up[0, 0, ..., 0], jnp.full((2, 2), down[0, 0, 0, 0, 1]))
    close(up[0, 1, ..., 1], jnp.full((2, 2), down[0, 1, 0, 0, 2]))
    assert vae_layers.dup_up(down, 2, time=2, space=2, first=False).shape[1] == 4


def test_upsampling_is_the_convolution_of_doubled_pixels():
    conv = module.bind(_Conv, (3, 5), module.init(_Conv, (3, 5), jax.random.key(0))).conv
    x = jax.random.normal(jax.random.key(1), (1, 2, 4, 3, 3))
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
    close(conv.up(x), conv(doubled), 1e-5)


class _Conv(vae_layers.nnx.Module):
    def __init__(self, sizes, *, rngs):
        self.conv = vae_layers.FrameConv(*sizes, 3, rngs=rngs)


def test_true_size():
    shapes = module.shapes(vae.VAE, vae.TI2V_5B)
    assert tree.count(shapes) == 704_688_668
    assert len(tree.flatten(shapes)) == 196
    wanted = (GOLDEN / "ti2v_5b_shapes.txt").read_text().splitlines()
    got = [f"{name} {list(leaf.shape)}" for name, leaf in sorted(tree.flatten(shapes).items())]
    assert got == wanted
    video = jax.ShapeDtypeStruct((1, 9, 64, 96, 3), jnp.float32)
    latents = jax.eval_shape(functools.partial(encode, config=vae.TI2V_5B), shapes, video)
    assert latents.shape == (1, 3, 4, 6, 48)
    decoded = jax.eval_shape(
        functools.partial(decode, config=vae.TI2V_5B, chunk=1), shapes, latents
    )
    assert decoded.shape == video.shape


@pytest.mark.slow
@pytest.mark.parametrize("run", ["encode", "decode"])
def test_chunks_bound_memory(run):
    """Chunks need less than a single pass; a longer clip costs them little but its own bytes."""
    shapes = module.shapes(vae.VAE, vae.TINY)

    def temporary(latents, chunk):
        shape = (1, 4 * latents - 3, 32, 48, 3) if run == "encode" else (1, latents, 4, 6, 4)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        compiled = globals()[run].lower(shapes, x, chunk=chunk).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    single, chunked, shorter = temporary(17, 0), temporary(17, 1), temporary(9, 1)
    assert chunked < 0.4 * single
    video_bytes = 8 * 4 * 32 * 48 * 3 * 4
    assert chunked - shorter < 1.1 * video_bytes
    assert chunked - shorter < 0.2 * (single - chunked)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 15, 16, 24, 3), "wanted 4 k + 1 frames, got 15"),
        ((1, 13, 20, 24, 3), "divisible by 8, got 20x24"),
        ((1, 13, 16, 24, 4), "wanted video [b n h w 3]"),
        ((13, 16, 24, 3), "wanted video [b n h w 3]"),
    ],
)
def test_bad_videos(params, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        encode(params, jnp.zeros(shape))


def test_bad_settings(params):
    with pytest.raises(ValueError, match=r"wanted latents \[b f h w 4\]"):
        decode(params, jnp.zeros((1, 2, 2, 2, 5)))
    with pytest.raises(ValueError, match="latents >= 0, got -1"):
        encode(params, jnp.zeros((1, 1, 16, 24, 3)), chunk=-1)
    with pytest.raises(ValueError, match="wanted conv of"):
        dataclasses.replace(vae.TINY, conv="fast")
    with pytest.raises(ValueError, match="temporal_downsample for 2 stages"):
        dataclasses.replace(vae.TINY, temporal_downsample=(True,))
    with pytest.raises(ValueError, match="wanted 4 values of latents_mean or none, got 2"):
        dataclasses.replace(vae.TINY, latents_mean=(0.0, 0.0))
    with pytest.raises(ValueError, match="do not fit a shortcut"):
        dataclasses.replace(vae.TINY, dim=7, dim_mult=(3, 5, 5))


def test_zero_input_has_finite_gradients(params):
    """Norms of all-zero pixels."""
    norm = lambda x: jnp.sum(vae_layers.RMSNorm(4, rngs=vae_layers.nnx.Rngs(0))(x))  # noqa: E731
    assert np.isfinite(jax.grad(norm)(jnp.zeros((1, 1, 2, 2, 4)))).all()


def test_bfloat16_stays_close(golden, params):
    config = dataclasses.replace(vae.TINY, dtype="bfloat16")
    video = golden["video"][:, :5]
    got, wanted = encode(params, video, config=config), golden["mean_5"]
    assert got.dtype == jnp.float32
    assert float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))) < 0.05


@pytest.fixture(scope="module")
def peer():
    pytest.importorskip("torch")
    import vae_reference

    model = vae_reference.build(FULL_DEPTH, seed=0)
    return vae_reference, model, vae_reference.ours(model.state_dict())


@pytest.mark.parity
@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17])
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_parity_whole(peer, frames, chunk):
    """Wan's four stages, its time strides and shortcuts; diffusers always runs in chunks."""
    import torch

    reference, model, ours = peer
    video = np.random.default_rng(frames).uniform(-1, 1, (2, frames, 32, 48, 3))
    with torch.no_grad():
        moments = model.encode(reference.first(video)).latent_dist
        mean, logvar = reference.last(moments.mean), reference.last(moments.logvar)
        decoded = reference.last(model.decode(moments.mean).sample)
    bound = module.bind(vae.VAE, FULL_DEPTH, ours)
    got_mean, got_logvar = jax.jit(lambda x: bound.moments(x, chunk=chunk))(jnp.asarray(video))
    close(got_mean, mean)
    close(got_logvar, logvar)
    latents = vae.normalise(FULL_DEPTH, jnp.asarray(mean))
    close(encode(ours, video, config=FULL_DEPTH, chunk=chunk), latents)
    got = decode(ours, latents, config=FULL_DEPTH, chunk=chunk)
    close(jnp.clip(got, -1, 1), decoded)


@pytest.mark.parity
def test_parity_parts(peer):
    """Each kind of layer, alone, without history on either side where the two agree."""
    import torch

    reference, model, ours = peer
    bound = module.bind(vae.VAE, FULL_DEPTH, ours)
    rng = np.random.default_rng(1)

    def compare(name, theirs, mine, c):
        x = rng.standard_normal((2, 3, 4, 6, c)).astype(np.float32)
        with torch.no_grad():
            wanted = theirs(reference.first(x))
        assert wanted.numel() > 0, name
        close(mine(jnp.asarray(x)), reference.last(wanted))

    start = vae_layers.History
    encoder, decoder = model.encoder, model.decoder
    compare("conv", encoder.conv_in, lambda x: bound.encoder.conv1(x, start()), 12)
    stage, other = encoder.down_blocks[1], bound.encoder.downsamples_1
    compare("shortcut", stage.resnets[0], lambda x: other.resnet_0(x, start()), 8)
    compare("residual", stage.resnets[1], lambda x: other.resnet_1(x, start()), 16)
    middle, mine = encoder.mid_block.attentions[0], bound.encoder.middle.attention
    compare("attention", middle, mine, 32)
    compare("norm", encoder.norm_out, bound.encoder.head.norm, 32)
    down = lambda x: vae_layers.avg_down(x, 16, time=2, space=2)  # noqa: E731
    compare("avg_down", stage.avg_shortcut, down, 8)
    up = decoder.up_blocks[2].avg_shortcut
    mine = lambda x: vae_layers.dup_up(x, 24, time=1, space=2, first=False)  # noqa: E731
    compare("dup_up", up, mine, 48)
    time = decoder.up_blocks[1].avg_shortcut
    first = lambda x: time(x, first_chunk=True)  # noqa: E731
    mine = lambda x: vae_layers.dup_up(x, 48, time=2, space=2, first=True)  # noqa: E731
    compare("dup_up first", first, mine, 48)


@pytest.mark.parity
def test_parity_resampling_in_chunks(peer):
    """Down and Up over chunks 1, 4, 4 and 1, 1, 1 with caches on both sides."""
    import torch

    reference, model, ours = peer
    bound = module.bind(vae.VAE, FULL_DEPTH, ours)
    cases = (
        (model.encoder.down_blocks[1].downsampler, bound.encoder.downsamples_1.resample, 16, 4),
        (model.decoder.up_blocks[0].upsampler, bound.decoder.upsamples_0.resample, 48, 1),
    )
    for theirs, mine, c, step in cases:
        x = np.random.default_rng(c).standard_normal((1, 1 + 2 * step, 4, 6, c), np.float32)
        cache, wanted, got, past = [None], [], [], None
        for piece in np.split(x, [1, 1 + step], axis=1):
            with torch.no_grad():
                wanted.append(reference.last(theirs(reference.first(piece), cache, [0])))
            history = vae_layers.History(past)
            got.append(mine(jnp.asarray(piece), history))
            past = history.kept
        close(jnp.concatenate(got, axis=1), np.concatenate(wanted, axis=1))
        single = mine(jnp.asarray(x), vae_layers.History())
        close(single, np.concatenate(wanted, axis=1))


@pytest.mark.parity
def test_parity_gradients(peer):

    reference, model, ours = peer
    video = np.random.default_rng(5).uniform(-1, 1, (1, 5, 16, 32, 3)).astype(np.float32)
    model.zero_grad()
    mean = model.encode(reference.first(video)).latent_dist.mean
    model._decode(mean * 0.3).sample.clamp(-50, 50)
    (mean**2).sum().backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    wanted = tree.flatten(reference.ours(wanted))

    def loss(params):
        return jnp.sum(module.bind(vae.VAE, FULL_DEPTH, params).moments(jnp.asarray(video))[0] ** 2)

    got = tree.flatten(jax.jit(jax.grad(loss))(ours))
    for name, value in wanted.items():
        close(got[name], value, 1e-4 * max(1.0, float(np.abs(value).max())))


def test_interleaving_by_padding_equals_stacking():
    phases = [
        jax.random.normal(key, (1, 2, 3, 4, 5)) for key in jax.random.split(jax.random.key(8), 4)
    ]
    wanted, got = vae_layers._by_stacking(phases), vae_layers._by_padding(phases)
    np.testing.assert_array_equal(wanted, got)
