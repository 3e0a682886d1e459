"""ViSM: the mask's fold, what is drawn and held, its loss, sampling, adapters, refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import more4d_tiny as tiny
import numpy as np
import pytest

from syncmv4d_jax import flow, tree
from syncmv4d_jax.geometry import view_pairs
from syncmv4d_jax.models import conditioned, lora
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.tasks import base
from syncmv4d_jax.tasks.more4d import conditional, vism

STILL = view_pairs.Corruption(0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch()


@pytest.fixture(scope="module")
def params():
    return tiny.shaken(tiny.make_vism().init(jax.random.key(0)))


def loss(task, params, batch, seed=0):
    chosen, frozen = tree.split(params, task.trainable)
    return jax.jit(task.loss)(chosen, frozen, batch, jax.random.key(seed))


def test_the_mask_folds_frame_0_alone_and_four_frames_then():
    covered = np.zeros((1, 1, 5, *tiny.SIZE), bool)
    covered[:, :, 0, :8, :8] = True  # frame 0, cell (0, 0)
    covered[:, :, 2, :8, :4] = True  # half of it, frame 2
    mask = np.asarray(tiny.make_vism().fold(jnp.asarray(covered)))
    assert mask.shape == (1, 1, 2, 2, 3, 4)
    np.testing.assert_array_equal(mask[0, 0, 0, 0, 0], [1, 1, 1, 1])
    np.testing.assert_array_equal(mask[0, 0, 1, 0, 0], [0, 0.5, 0, 0])
    assert mask.sum() == 4.5
    one = tiny.make_vism().fold(jnp.asarray(covered[:, :, :1]))
    np.testing.assert_array_equal(one, mask[:, :, :1])


def test_the_loss_by_its_definition(params, batch):
    """Cached pairs: [z_t, mask, render] in this order, all frames, no frame held."""
    task, rng = tiny.make_vism(), np.random.default_rng(1)
    draw = lambda c: jnp.asarray(rng.standard_normal((1, 2, 2, 2, 3, c), np.float32))  # noqa: E731
    own = {"video_latents": draw(4), "render_latents": draw(4), "hole_mask": draw(4)}
    got, _ = loss(task, params, batch | own, seed=2)
    keys = jax.random.split(jax.random.key(2), 4)
    time, noise_key = jax.random.split(jax.random.split(keys[1])[1])
    data, render, mask = (own[k][0] for k in ("video_latents", "render_latents", "hole_mask"))
    t, w = flow.sample_table(time, (2,), shift=5.0)
    noise = jax.random.normal(noise_key, data.shape)
    s = t[:, None, None, None, None]
    x = jnp.concatenate([(1 - s) * data + s * noise, mask, render], axis=-1)
    model = functools.partial(module.bind, conditioned.ConditionedDiT, task.generator.dit_config)
    text, lengths = (jnp.repeat(batch[k], 2, 0) for k in ("text", "text_lengths"))
    out = jax.jit(lambda p: model(p)(x, 1000 * t, text, context_lengths=lengths))(params["dit"])
    each = np.square(np.asarray(out - (noise - data))).mean((1, 2, 3, 4))
    np.testing.assert_allclose(got, np.mean(np.asarray(w) * each), rtol=1e-4)


def drawn(batch, seed, **options):
    how = {"same": 0.0, "sources": 1, "how": STILL, "form": "depth", "size": tiny.SIZE} | options
    sample = {k: x[0] for k, x in batch.items() if k in ("video", *vism.NEEDED)}
    return jax.jit(functools.partial(view_pairs.draw, **how))(jax.random.key(seed), sample)


def test_a_pair_of_one_view_shows_it_and_one_of_two_shows_what_both_see(batch):
    same = drawn(batch, 0, same=1.0)
    clip = np.asarray(batch["video"][0, int(same.target)])
    assert bool(same.same) and same.covered[0].mean() > 0.99
    here = np.asarray(same.covered[0])
    np.testing.assert_array_equal(np.asarray(same.render[0])[here], clip[0][here])
    other = drawn(batch, 0)
    assert not bool(other.same) and 0.3 < other.covered.mean() < 1.0
    assert not np.asarray(other.render)[~np.asarray(other.covered)].any()


def test_targets_and_sources_are_drawn_as_often_as_said():
    keys = jax.random.split(jax.random.key(0), 400)
    choose = jax.jit(jax.vmap(functools.partial(view_pairs.choose, views=3, same=0.25, sources=2)))
    target, chosen = (np.asarray(x) for x in choose(keys))
    own = chosen[np.arange(400), target]
    assert 0.17 < own.mean() < 0.33  # the target is its own source, and then the only one
    assert (chosen.sum(1)[own] == 1).all() and set(chosen.sum(1)[~own]) == {1, 2}
    assert np.bincount(target).min() > 100
    alone = view_pairs.choose(jax.random.key(1), 1, same=0.0, sources=3)
    assert alone[1].tolist() == [True]


def test_sources_are_spoilt_as_a_users_are(batch):
    from syncmv4d_jax.geometry import cameras, flow_map

    camera = flow_map.Camera(
        batch["depth0"][0, 0], batch["intrinsics"][0, 0], batch["extrinsics"][0, 0, 0]
    )
    tracks = flow_map.inverse(batch["flow"][0, 0].astype(jnp.float32), camera)
    valid = jnp.ones(tiny.SIZE, bool)
    how = view_pairs.Corruption(scale=0.1, smooth=0.0, dropped=0.5, flow=0.0)
    view, moved, kept = view_pairs.spoilt(jax.random.key(3), camera, tracks, valid, how)
    factor = np.asarray(view.depth / camera.depth)
    assert factor.std() < 1e-5 and abs(factor.mean() - 1) > 0.01
    pixels, depth = cameras.project(moved, camera.intrinsics, camera.extrinsics)
    true, far = cameras.project(tracks, camera.intrinsics, camera.extrinsics)
    np.testing.assert_allclose(pixels, true, atol=1e-2)  # along the rays
    np.testing.assert_allclose(depth / far, factor[None].repeat(5, 0), rtol=1e-4)
    assert 0.4 < kept.mean() < 1.0
    how = view_pairs.Corruption(scale=0.0, smooth=0.0, dropped=0.0, flow=0.01)
    _, moved, kept = view_pairs.spoilt(jax.random.key(3), camera, tracks, valid, how)
    off = np.linalg.norm(np.asarray(moved - tracks), axis=-1)
    assert off[0].max() < 1e-5 and 0.01 < off[1:].mean() < 0.025 and kept.all()


@pytest.mark.slow
def test_a_share_of_steps_sees_frame_0_alone(params, batch):
    """Then nothing of later frames matters."""
    task = tiny.make_vism(single_share=1.0, same_view=0.0)
    later = batch | {"video": batch["video"].at[:, :, 1:].set(0)}
    assert float(loss(task, params, batch)[0]) == float(loss(task, params, later)[0])
    whole = tiny.make_vism(single_share=0.0, same_view=0.0)
    assert float(loss(whole, params, batch)[0]) != float(loss(whole, params, later)[0])


def test_where_the_camera_starts_as_the_source_frame_0_does_not_count(params):
    """With a network that says 0 the loss is that of noise less data, over frames from 1 on."""
    task, rng = tiny.make_vism(), np.random.default_rng(4)
    head = jax.tree.map(jnp.zeros_like, params["dit"]["head"]["head"])
    silent = {**params, "dit": {**params["dit"], "head": {**params["dit"]["head"], "head": head}}}
    data = jnp.asarray(rng.standard_normal((2, 2, 2, 3, 4), np.float32))
    condition = jnp.zeros((2, 2, 2, 3, 8))
    text = jnp.zeros((2, 6, 8)), jnp.array([1, 1])
    inputs = conditional.Inputs(condition, *text, jnp.array([True, False]))
    weight = jnp.ones((2, 2, 1, 1, 1))
    run = jax.jit(task.generator.diffusion_loss)
    got, _ = run(silent, data, inputs, weight, jax.random.key(6))
    time, noise_key = jax.random.split(jax.random.key(6))
    _, w = flow.sample_table(time, (2,), shift=5.0)
    square = np.square(np.asarray(jax.random.normal(noise_key, data.shape) - data))
    each = np.array([square[0, 1:].mean(), square[1].mean()])
    np.testing.assert_allclose(got, np.mean(np.asarray(w) * each), rtol=1e-4)


def inputs_of(task, batch, frames=5):
    source = drawn(batch, 0)
    render = jnp.where(source.covered[..., None], source.render, 128).astype(jnp.uint8)
    made = {"render": render[None, None, :frames]}
    made["hole_mask"] = task.fold(source.covered[None, None, :frames])
    return made | {key: batch[key] for key in ("text", "text_lengths")}


def test_details_need_a_width():
    with pytest.raises(ValueError, match="task.details"):
        tiny.make_vism(details=-0.1)


@pytest.mark.slow
def test_a_sample_that_agrees_has_the_colours_of_the_points(params, batch):
    """Where these cover a pixel; elsewhere it is the sample's own."""
    plain, task = tiny.make_vism(), tiny.make_vism(details=0.1)
    inputs = inputs_of(task, batch)
    with pytest.raises(ValueError, match="task.details wanted what points cover"):
        task.sample(params, inputs, jax.random.key(0))
    covered = drawn(batch, 0).covered[None, None, :5]
    inputs |= {"covered": covered}
    out = task.sample(params, inputs, jax.random.key(0))
    np.testing.assert_array_equal(out.given_share, covered)
    points = inputs["render"] / 127.5 - 1
    near = dataclasses.replace(out, latents=task.encode(params, inputs["render"]))
    shown, without = (np.asarray(x.decode(params, near).pixels) for x in (task, plain))
    there = np.broadcast_to(np.asarray(covered)[..., None], shown.shape)
    np.testing.assert_array_equal(shown[~there], without[~there])
    apart = [np.abs(x - np.asarray(points))[there].mean() for x in (shown, without)]
    assert there.any() and not there.all() and apart[0] < 0.5 * apart[1]
    assert plain.sample(params, inputs, jax.random.key(0)).given is None


def test_a_network_whose_holes_are_filled_is_shown_the_colours_around_them(params, batch):
    """In training and in sampling; by itself, saying nothing, it gives them."""
    own = {"prediction": "data", "residual": True}
    plain, task = tiny.make_vism(**own), tiny.make_vism(**own, fill=True)
    silent = {
        n: 0 * x if n.startswith("dit/head/head/") else x for n, x in tree.flatten(params).items()
    }
    silent, picture = tree.unflatten(silent), drawn(batch, 0)
    inputs = inputs_of(task, batch)
    with pytest.raises(ValueError, match=r"task.fill wanted what points cover .'covered', 'sure'"):
        task.sample(silent, inputs, jax.random.key(0))
    inputs |= {k: getattr(picture, k)[None, None] for k in ("covered", "sure")}
    seen = view_pairs.shown(picture.render, picture.covered, picture.sure, fill=True)
    there, sure = np.asarray(picture.covered), np.asarray(picture.sure)
    assert np.abs(np.asarray(seen))[~there].mean() > 0.1 and not sure.all()
    wanted = task.generator.vae.encode(params, seen[None, None])
    got = task.sample(silent, inputs, jax.random.key(0)).latents
    np.testing.assert_allclose(got, wanted, atol=5e-3)  # colours are rounded to bytes
    other = plain.sample(silent, inputs, jax.random.key(0)).latents
    assert np.abs(other - wanted).max() > 0.05
    losses = [float(loss(one, silent, batch)[0]) for one in (plain, task)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_sampling_of_a_clip_and_of_one_frame(params, batch):
    task = tiny.make_vism()
    assert isinstance(task, base.Synthesis) and isinstance(task, base.Sampled)
    inputs = inputs_of(task, batch)
    out = task.sample(params, inputs, jax.random.key(0))
    assert out.latents.shape == (1, 1, 2, 2, 3, 4)
    assert task.decode(params, out).pixels.shape == (1, 1, 5, *tiny.SIZE, 3)
    first = jnp.ones((1, 1, 1, 2, 3, 4))
    held = task.sample(params, inputs | {"first": first}, jax.random.key(0)).latents
    np.testing.assert_array_equal(held[:, :, :1], first)
    assert np.abs(held[:, :, 1:] - out.latents[:, :, 1:]).max() > 1e-4
    one = task.sample(params, inputs_of(task, batch, 1), jax.random.key(0)).latents
    assert one.shape == (1, 1, 1, 2, 3, 4)
    blind = tiny.make_vism(mask=False).sample(params, inputs, jax.random.key(0)).latents
    assert np.abs(blind - out.latents).max() > 1e-4


def test_cached_latents_stand_for_the_pixels_of_the_target(params, batch):
    task = tiny.make_vism()
    video = jnp.asarray(batch["video"]).astype(jnp.float32) / 127.5 - 1
    latents = jax.jit(task.generator.vae.encode)(params, video)
    wanted = loss(task, params, batch, seed=4)[0]
    got = loss(task, params, batch | {"video_latents": latents}, seed=4)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    other = loss(task, params, batch | {"video_latents": latents + 1}, seed=4)[0]
    assert abs(other - wanted) > 1e-2


def test_a_residual_network_that_says_nothing_gives_the_points(params, batch):
    """Its loss is then the points' squared error, its sample their latents, guided or not."""
    task = tiny.make_vism(prediction="data", residual=True, guidance=2.0, sampler="euler")
    silent = {
        n: 0 * x if n.startswith("dit/head/head/") else x for n, x in tree.flatten(params).items()
    }
    silent = tree.unflatten(silent)
    draw = lambda i, c: jax.random.normal(jax.random.key(i), (1, 2, 2, 2, 3, c))  # noqa: E731
    own = {"video_latents": draw(1, 4), "render_latents": draw(2, 4), "hole_mask": draw(3, 4)}
    options = {"condition_drop": 0.0, "text_drop": 0.0}
    plain = tiny.make_vism(prediction="data", residual=True, **options)
    wanted = np.square(own["video_latents"] - own["render_latents"]).mean()
    np.testing.assert_allclose(loss(plain, silent, batch | own)[0], wanted, rtol=1e-5)
    inputs = inputs_of(task, batch) | {k: batch[k] for k in ("null_text", "null_text_lengths")}
    render = task.encode(silent, inputs["render"])
    got = task.sample(silent, inputs, jax.random.key(0)).latents
    np.testing.assert_allclose(got, render, atol=2e-3)  # a step knows its time in thousandths
    task.programs()["sample_step"].inputs(1)
    with pytest.raises(ValueError, match='wanted task.prediction="data" with it'):
        tiny.make_vism(residual=True)


@pytest.mark.slow
def test_adapters_leave_the_base_as_it_is(batch):
    ranks = lora.LoRAConfig(ranks=((r"self_attn/[qkvo]/kernel$", 2),), alpha=4.0)
    task = tiny.make_vism(adapters=ranks)
    params = task.init(jax.random.key(0))
    trained, frozen = tree.split(params, task.trainable)
    names = set(tree.flatten(trained))
    assert {n for n in names if n.startswith("dit/")} == {
        "dit/condition_embedding/kernel", "dit/patch_embedding/kernel", "dit/patch_embedding/bias"
    }  # fmt: skip
    plain = {k: x for k, x in params.items() if k != "lora"}
    same = loss(tiny.make_vism(), plain, batch)[0]
    np.testing.assert_allclose(loss(task, params, batch)[0], same, rtol=1e-6)
    assert task.programs()["train_step"].parts == ("dit", "lora")


def test_refused_inputs(params, batch):
    task = tiny.make_vism()
    with pytest.raises(ValueError, match=r"config.sample.sources.*config.sample.camera_path"):
        task.sample(params, {"text": batch["text"]}, jax.random.key(0))
    inputs = inputs_of(task, batch)
    small = inputs | {"render": inputs["render"][..., :8, :, :]}
    with pytest.raises(ValueError, match="render wanted"):
        task.sample(params, small, jax.random.key(0))
    with pytest.raises(ValueError, match="wanted pixels"):
        loss(task, params, {k: x for k, x in batch.items() if k != "video"})
    with pytest.raises(ValueError, match=r"no \['depth0'\]"):
        loss(task, params, {k: x for k, x in batch.items() if k != "depth0"})


def test_the_truth_after_its_latents_is_the_autoencoders(params, batch):
    task = tiny.make_vism()
    assert task.rebuilt_by == ("vae",)
    found = task.rebuild({"vae": params["vae"]}, batch).pixels
    latents = task.vae.encode(params, batch["video"].astype(jnp.float32) / 127.5 - 1)
    np.testing.assert_allclose(found, task.vae.decode(params, latents), atol=1e-4)
