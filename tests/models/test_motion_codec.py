"""The learned motion codec: sizes, cost, reduced pixels, the loop with it, and that it learns."""

import dataclasses

import configurations
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from syncmv4d_jax.geometry import cameras, matching, pseudo_video
from syncmv4d_jax.models import flops, motion_codec
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.run import assembly
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost

FULL = motion_codec.CodecConfig()
TINY = motion_codec.CodecConfig(z_dim=8, space=8, reduction=2, width=16, depth=2)


def full(method, *shape):
    params = module.shapes(motion_codec.Codec, FULL)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    run = lambda p, x: getattr(module.bind(motion_codec.Codec, FULL, p), method)(x)  # noqa: E731
    return jax.eval_shape(run, params, x).shape, flops.count(run, params, x) / 1e12


def test_full_size_shapes_and_flops():
    shape, decode = full("decode", 1, 13, 30, 44, 48)
    assert shape == (1, 49, 120, 176, 4)
    shape, encode = full("encode", 1, 49, 120, 176, 4)
    assert shape == (1, 13, 30, 44, 48)
    assert 0.1 < decode < 3 and 0.1 < encode < 3  # the autoencoder: 306 and 58


def test_the_loop_costs_a_twentieth_at_most():
    """Must show: at most 5 % on top of the transformer (its passes for A11 included in it)."""
    loop = assembly.task(configurations.load("readings.learned_codec", "taco")).loop
    each = syncmv4d_cost.learned(loop, loop.motion.maps) | {
        "mjd": 387.9e12,
        "dpa": 10.9e12,
    }  # benchmarks/cycle.py
    for cost in (syncmv4d_cost.training(loop, each), syncmv4d_cost.sampling(loop, each)):
        assert 1 < sum(cost.values()) / cost["mjd"] <= 1.05


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="divides space=16"):
        motion_codec.CodecConfig(reduction=5)
    config = configurations.load("motion_codec", "debug").copy_and_resolve_references().unlock()
    config.task.codec.z_dim = 9
    with pytest.raises(ValueError, match="of the autoencoder, got"):
        assembly.task(config)
    codec = module.bind(
        motion_codec.Codec, TINY, module.init(motion_codec.Codec, TINY, jax.random.key(0))
    )
    with pytest.raises(ValueError, match="wanted 4 m . 1 frames"):
        codec.encode(jnp.zeros((1, 4, 8, 8, 4)))


def test_first_frame_and_later_ones_keep_their_places():
    """A change of latent frame f changes the video frames that stand behind it, no others."""
    config = dataclasses.replace(TINY, depth=1)
    params = module.init(motion_codec.Codec, config, jax.random.key(0))  # blocks are the identity
    codec = module.bind(motion_codec.Codec, config, params)
    latents = jax.random.normal(jax.random.key(1), (1, 3, 2, 2, 8))
    base = codec.decode(latents)
    assert base.shape == (1, 9, 8, 8, 4)
    for f, frames in ((0, [0]), (1, [1, 2, 3, 4]), (2, [5, 6, 7, 8])):
        moved = codec.decode(latents.at[:, f].add(1.0))
        changed = np.abs(np.asarray(moved - base)).max((0, 2, 3, 4)) > 1e-6
        assert list(np.flatnonzero(changed)) == frames
        maps = jnp.zeros((1, 9, 8, 8, 4)).at[:, jnp.array(frames)].set(1.0)
        seen = np.abs(np.asarray(codec.encode(maps) - codec.encode(maps * 0))).max((0, 2, 3, 4))
        assert list(np.flatnonzero(seen > 1e-6)) == [f]


def test_reduced_pixels_and_intrinsics_agree():
    points = jnp.array([[0.1, -0.2, 2.0], [0.0, 0.3, 2.5]])
    intrinsics = jnp.array([[200.0, 0, 47.5], [0, 210.0, 31.5], [0, 0, 1]])
    pose = jnp.eye(4)[:3]
    pixels, _ = cameras.project(points, intrinsics, pose)
    for by in (2, 4):
        small, _ = cameras.project(points, motion_codec.reduce_intrinsics(intrinsics, by), pose)
        np.testing.assert_allclose(small, motion_codec.reduce_pixels(pixels, by), atol=1e-4)
        np.testing.assert_allclose(motion_codec.enlarge_pixels(small, by), pixels, atol=1e-3)


def test_tracks_come_back_from_a_reduced_pseudo_video():
    """A plane that slides: matched at half size, unprojected with the reduced camera."""
    n, h, w, by = 3, 64, 96, 2
    x, y = np.meshgrid(np.arange(w), np.arange(h))
    scale, depth = np.array([0.9, 1.3], np.float32), 1.1
    origin = np.stack([np.stack([x - 3.0 * i, y - 2.0 * i], -1) for i in range(n)])
    mask = np.stack([(np.abs(o[..., 0] - 40) < 22) & (np.abs(o[..., 1] - 30) < 18) for o in origin])
    pseudo = pseudo_video.paint_surface(origin, np.full((n, h, w), depth), mask, scale)
    colours, small = motion_codec.reduce_video(jnp.asarray(pseudo, jnp.float32)[None], by)
    assert colours.shape == (1, n, h // by, w // by, 3) and small.any()
    anchors = jnp.array([[30.0, 25.0], [40.0, 32.0], [52.0, 38.0]])
    intrinsics = jnp.array([[200.0, 0, 47.5], [0, 200.0, 31.5], [0, 0, 1]])
    pose = jnp.eye(4, dtype=jnp.float32)[:3]
    found = jax.jit(
        lambda video: pseudo_video.decode(
            video,
            motion_codec.reduce_pixels(anchors, by),
            jnp.ones(3, bool),
            jnp.asarray(scale),
            motion_codec.reduce_intrinsics(intrinsics, by),
            pose,
            settings=matching.settings_for(h // by, w // by),
        )
    )(colours[0])
    now = np.asarray(anchors) + np.array([3.0, 2.0], np.float32) * np.arange(n)[:, None, None]
    now = jnp.asarray(now, jnp.float32)
    wanted = cameras.unproject(now, jnp.full((n, 3), depth), intrinsics, pose)
    assert found.visible.all()
    np.testing.assert_allclose(found.tracks, wanted, atol=2e-3)  # 0.4 px at 1.1 m


@pytest.mark.slow
def test_the_loop_runs_with_the_codec():
    scalars = configurations.trace_update(configurations.load("readings.learned_codec", "debug"))
    assert {"loss_dpa", "loss_motion"} <= scalars


@pytest.mark.slow
def test_a_codec_learns_maps_from_a_projection_of_them():
    """Latents are a fixed random projection of smooth maps: both directions are learnable."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 16
    maps = []
    for _ in range(8):
        a, b, c = rng.uniform(0.2, 0.8, 3)
        clip = [
            np.stack([a * x + 0.1, b * y + 0.1, c * (x + y) / 2 + 0.01 * i], -1) for i in range(5)
        ]
        mask = np.broadcast_to((x < a + 0.2)[None, ..., None], (5, 16, 16, 1))
        maps.append(np.concatenate([np.stack(clip) * mask, mask], -1))
    maps = jnp.asarray(np.stack(maps), jnp.float32)
    params = module.init(motion_codec.Codec, TINY, jax.random.key(0))
    teacher = module.bind(
        motion_codec.Codec, TINY, module.init(motion_codec.Codec, TINY, jax.random.key(7))
    )
    latents = teacher.encode(maps)
    latents = (latents - latents.mean()) / latents.std()

    def loss(params):
        codec = module.bind(motion_codec.Codec, TINY, params)
        out, mask = codec.decode(latents), maps[..., 3:]
        colour = jnp.sum(jnp.abs(out[..., :3] - maps[..., :3]) * mask) / jnp.sum(mask)
        return colour, jnp.mean(jnp.square(codec.encode(maps) - latents))

    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)

    @jax.jit
    def update(params, state):
        gradients = jax.grad(lambda p: sum(loss(p)))(params)
        updates, state = optimiser.update(gradients, state)
        return optax.apply_updates(params, updates), state

    before = loss(params)
    for _ in range(400):
        params, state = update(params, state)
    after = loss(params)
    assert after[0] < 0.1 * before[0] and after[1] < 0.1 * before[1], (before, after)


def test_a_guide_reaches_the_maps_of_all_frames():
    """And no guide is no column."""
    config = dataclasses.replace(TINY, guide=3)
    codec = module.bind(motion_codec.Codec, config, drawn(config))
    latents = jax.random.normal(jax.random.key(1), (1, 2, 4, 6, 8))
    guide = jax.random.normal(jax.random.key(2), (1, 4, 6, 3))
    change = codec.decode(latents, guide.at[0, 1, 2].add(1.0)) - codec.decode(latents, guide)
    assert (np.abs(np.asarray(change)).max((0, 2, 3, 4)) > 1e-4).all()
    assert module.shapes(motion_codec.Codec, TINY)["decoder"]["enter"]["kernel"].shape == (8, 16)


def drawn(config):
    return module.init(motion_codec.Codec, config, jax.random.key(0))


def test_the_guide_is_the_reference_image_and_nothing_where_a_view_has_none():
    config = configurations.load("readings.learned_codec", "debug").copy_and_resolve_references()
    loop = assembly.task(config).loop
    v, f, h, w, c = loop.latent_shape
    weights, key = {"codec": drawn(loop.motion.maps.config)}, jax.random.key(3)
    latents = jax.random.normal(key, (1, v, f, h, w, c))
    first = jax.random.normal(jax.random.key(4), (1, v, 1, h, w, c))
    maps = jax.jit(loop.motion._maps)
    seen = maps(weights, first, latents, {})
    hidden = jnp.arange(v)[None] == 1
    part = maps(weights, first, latents, {"hidden": hidden})
    np.testing.assert_array_equal(part[:, 0], seen[:, 0])
    assert float(jnp.abs(part[:, 1] - seen[:, 1]).max()) > 1e-3
    np.testing.assert_array_equal(part[:, 1], maps(weights, 0 * first, latents, {})[:, 1])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_sees_the_videos_first_latents(share):
    """All of them, or with all guides dropped none; given, or made of the pixels."""
    config = configurations.load("motion_codec", "debug").copy_and_resolve_references().unlock()
    config.task.guide_drop = share
    task = assembly.task(config)
    params = jax.jit(task.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    pixels = {
        name: jnp.asarray(rng.integers(0, 255, (1, 3, 5, 32, 48, 3)), jnp.uint8)
        for name in ("motion", "video")
    }
    guide = jax.jit(task._guide)(params, pixels, jax.random.key(1))
    assert guide.shape == (3, 4, 6, 8) and bool(jnp.any(guide)) == (share == 0)
    if share == 0:
        codec = video.FrozenVAE(task.vae_config)
        latents = jax.jit(codec.encode_bytes)(params, pixels["video"])
        given = task._guide(params, {"video_latents": latents}, jax.random.key(1))
        np.testing.assert_allclose(given, latents[0, :, 0], atol=1e-6)
        np.testing.assert_allclose(guide, given, atol=1e-4)


def test_a_guide_of_another_width_is_refused():
    config = configurations.load("motion_codec", "debug").copy_and_resolve_references().unlock()
    config.task.codec.guide = 5
    with pytest.raises(ValueError, match="guide: wanted 0, or 8 .* got 5"):
        assembly.task(config)


def test_places_count_from_the_pixels_own():
    """A decoder that says nothing says that all stands still; u0 / W and v0 / H, as painted."""
    config = dataclasses.replace(TINY, places=True)
    params = drawn(config)
    silent = {name: 0 * x for name, x in params["decoder"]["leave"].items()}
    still = {**params, "decoder": {**params["decoder"], "leave": silent}}
    maps = module.bind(motion_codec.Codec, config, still).decode(jnp.zeros((1, 2, 4, 6, 8)))
    assert maps.shape == (1, 5, 16, 24, 4) and not np.any(maps[..., 2:])
    np.testing.assert_allclose(maps[0, 3, 7, :, 0], np.arange(24) / 24, atol=1e-6)
    np.testing.assert_allclose(maps[0, 3, :, 5, 1], np.arange(16) / 16, atol=1e-6)
    plain = module.bind(motion_codec.Codec, config, params).decode(jnp.zeros((1, 2, 4, 6, 8)))
    own = np.asarray(plain - maps)[0, 0].reshape(4, 4, 6, 4, 4)  # cells of 4 x 4 map pixels
    assert np.abs(own - own[:1, :, :1]).max() > 1e-3  # each is told where it is
