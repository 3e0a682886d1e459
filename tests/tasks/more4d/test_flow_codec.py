"""The flow's latents: standardised in one place, decoders that are given or grown, the loss."""

import dataclasses

import jax
import jax.numpy as jnp
import more4d_tiny as tiny
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks.more4d import flow_codec


def make(codec=tiny.CODEC, **options):
    settings = flow_codec.Options(tiny.SIZE, tiny.FRAMES, tiny.VIEWS, **options)
    return flow_codec.FlowCodec(settings, tiny.maps(codec))


@pytest.fixture(scope="module")
def batch():
    return tiny.batch()


def test_latents_are_standardised_and_decoders_undo_it(batch):
    """With a decoder that is the autoencoder's own, statistics change nothing of what comes out."""
    maps = tiny.maps(None)
    params = make(None).init(jax.random.key(0))
    params["flow_decoder"] = {key: params["vae"][key] for key in flow_codec.DECODER}
    measured = {"mean": jnp.array([0.3, -1.0, 2.0, 0.0]), "std": jnp.array([0.5, 2.0, 1.0, 0.1])}
    encode, values = (
        jax.jit(maps.encode),
        jax.jit(lambda p, x: maps.values(p, x, batch["depth0"])[0]),
    )
    plain, scaled = params, {**params, "flow_stats": measured}
    one, two = encode(plain, batch["flow"]), encode(scaled, batch["flow"])
    last = lambda x: x[None, None, None, None, None]  # noqa: E731
    np.testing.assert_allclose(
        two, (one - last(measured["mean"])) / last(measured["std"]), atol=1e-4
    )
    np.testing.assert_allclose(values(plain, one), values(scaled, two), atol=1e-4)


def test_a_decoder_that_is_not_given_is_the_autoencoders(batch):
    task = make(None)
    params = task.init(jax.random.key(0))
    grown = task.grow(params, frozenset({"vae/conv2/kernel"}))
    for name, leaf in tree.flatten(grown["flow_decoder"]).items():
        np.testing.assert_array_equal(leaf, tree.flatten(params["vae"])[name])
    given = task.grow(params, frozenset({"flow_decoder/conv2/kernel"}))
    assert given is params
    trained, _ = tree.split(params, task.trainable)
    assert set(trained) == {"flow_decoder"}
    whole = module.bind(vae.VAE, tiny.VAE, {**params["vae"], **params["flow_decoder"]})
    assert whole is not None


def test_flow_is_zero_in_frame_0_and_without_depth(batch):
    task = make()
    params = tiny.shaken(task.init(jax.random.key(0)))
    depth = batch["depth0"].at[:, :, 3, 4].set(0.0)
    latents = jnp.ones((1, 2, 2, 2, 3, 4))
    flow = jax.jit(task.maps.decode)(params, latents, depth)
    assert flow.shape == (1, 2, 5, *tiny.SIZE, 3)
    assert not np.asarray(flow[:, :, 0]).any() and not np.asarray(flow[:, :, :, 3, 4]).any()
    assert np.abs(flow[:, :, 1:]).max() > 1e-3


def test_what_is_said_to_stand_has_no_flow_and_frame_0s_depth_is_seen(batch):
    """By one cell of the logits' bias; an edge of depth inside a cell changes what comes out."""
    task = make()
    params = tiny.shaken(task.init(jax.random.key(0)))
    latents = jnp.ones((1, 2, 2, 2, 3, 4))
    run = jax.jit(task.maps.values)
    moving, logits = run(params, latents, batch["depth0"])
    bias = params["codec"]["decoder"]["leave"]["bias"]
    still = jnp.where(jnp.arange(len(bias)) % 4 == 3, -40.0, bias)
    decoder = params["codec"]["decoder"]
    stands = {**params, "codec": {"decoder": {**decoder, "leave": {**decoder["leave"],
                                                                   "bias": still}}}}  # fmt: skip
    assert np.abs(moving).max() > 1e-3
    assert np.abs(run(stands, latents, batch["depth0"])[0]).max() < 1e-9
    edge = batch["depth0"].at[:, :, 3, 5].mul(1.2)
    other, _ = run(params, latents, edge)
    assert np.abs(other - moving).max() > 1e-4
    with pytest.raises(ValueError, match="task.codec.guide: wanted 0, or 16"):
        tiny.maps(dataclasses.replace(tiny.CODEC, guide=3))
    with pytest.raises(ValueError, match="task.codec.places: wanted False"):
        tiny.maps(dataclasses.replace(tiny.CODEC, places=True))


def test_a_reduced_map_is_enlarged_about_its_pixels():
    """Map pixel j is the video's pixel 2 j + 1: a ramp stays the same ramp."""
    maps = tiny.maps()
    height, width = tiny.SIZE
    ramp = np.arange(width, dtype=np.float32)
    small = jnp.asarray(np.broadcast_to(ramp[1::2][None, :, None], (height // 2, width // 2, 3)))
    large = maps._enlarge(small[None, None, None], tiny.SIZE)[0, 0, 0]
    np.testing.assert_allclose(large[4, 1:-1, 0], ramp[1:-1], atol=1e-4)


def test_the_loss_counts_what_is_known_and_more_what_moves(batch):
    task = make(noise=0.0)
    params = tiny.shaken(task.init(jax.random.key(0)))
    chosen, frozen = tree.split(params, task.trainable)
    run = jax.jit(task.loss)
    total, scalars = run(chosen, frozen, batch, jax.random.key(0))
    np.testing.assert_allclose(total, scalars["l1"] + scalars["moves"], rtol=1e-6)
    latents = jax.jit(task.maps.encode)(params, batch["flow"])
    values, logits = jax.jit(task.maps.values)(params, latents, batch["depth0"])
    true = flow_map.compand(batch["flow"].astype(jnp.float32), 8.0)[:, :, :, 1::2, 1::2]
    moving = (np.abs(batch["flow"]).max((2, 5)) > flow_map.MOVING)[:, :, 1::2, 1::2]
    weight = (1 + 4 * moving)[:, :, None, :, :, None] * np.ones(true.shape)
    wanted = (np.abs(values - true) * weight).sum() / weight.sum()
    np.testing.assert_allclose(scalars["l1"], wanted, rtol=1e-4)
    entropy = np.where(moving[:, :, None], np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))
    np.testing.assert_allclose(scalars["moves"], entropy.mean(), rtol=1e-4)
    hidden = batch["flow_valid"].at[:, :, :8].set(False)
    other = batch["flow"].at[:, :, :, :8].add(0.1)
    known = run(chosen, frozen, batch | {"flow_valid": hidden}, jax.random.key(0))[1]
    whole = flow_map.compand(batch["flow"].astype(jnp.float32), 8.0)
    latents = jax.jit(task.maps.vae.encode)(params, whole)
    changed = batch | {"flow_valid": hidden, "flow": other, "flow_latents": latents}
    got = run(chosen, frozen, changed, jax.random.key(0))[1]
    np.testing.assert_allclose(got["l1"], known["l1"], rtol=1e-5)
    np.testing.assert_allclose(got["moves"], known["moves"], rtol=1e-5)


def test_what_does_not_fit_is_refused(batch):
    with pytest.raises(ValueError, match="of the autoencoder"):
        tiny.maps(dataclasses.replace(tiny.CODEC, z_dim=8))
    with pytest.raises(ValueError, match="positive gain"):
        tiny.maps(gain=0.0)
    with pytest.raises(ValueError, match="--with flow"):
        task = make()
        params = task.init(jax.random.key(0))
        task.loss(params, {}, {"text": batch["text"]}, jax.random.key(0))


def test_each_form_learns_what_it_is_sampled_as(batch):
    """The records' flow is in parts of depth: brought to the form, and back from it."""
    depth, extent = tiny.maps(), tiny.maps(form="extent")
    camera = flow_map.Camera(batch["depth0"], batch["intrinsics"], batch["extrinsics"][:, :, 0])
    np.testing.assert_array_equal(depth.own(batch), batch["flow"].astype(jnp.float32))
    own = extent.own(batch)
    tracks = flow_map.inverse(batch["flow"].astype(jnp.float32), camera)
    np.testing.assert_allclose(own, flow_map.forward(tracks, camera, form="extent"), atol=1e-6)
    assert np.abs(own - batch["flow"]).max() > 0.01
    back, world = extent.plain(own, camera)
    np.testing.assert_allclose(back, batch["flow"].astype(jnp.float32), atol=1e-5)
    np.testing.assert_allclose(world, tracks, atol=1e-5)
    assert depth.reads == () and "depth0" in extent.reads
