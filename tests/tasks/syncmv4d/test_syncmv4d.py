"""The task at tiny numbers: losses, gradients, switches, sampling in both anchor modes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from syncmv4d_tiny import B, K, N, V, make, make_batch

from syncmv4d_jax import schema, tree
from syncmv4d_jax.geometry import cameras, pseudo_video
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.tasks.syncmv4d import cycle, options


def value_and_grad(task, batch, seed=1):
    params = jax.jit(task.init)(jax.random.key(0))
    trainable, frozen = tree.split(params, task.trainable)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (loss, scalars), gradients = function(trainable, frozen, batch, jax.random.key(seed))
    return loss, scalars, gradients


@pytest.mark.parametrize("prediction", [pytest.param("velocity", marks=pytest.mark.slow), "data"])
def test_closed_loop_step_is_finite_and_reaches_every_part(prediction):
    batch = make_batch()
    schema.check(batch, where="test")
    task = make(prediction=prediction, cycle__probability=1.0, foreground_gain=2.0)
    loss, scalars, gradients = value_and_grad(task, batch)
    assert np.isfinite(loss)
    terms = {f"loss_{x}" for x in ("video", "motion", "scale", "dpa", "chamfer")}
    assert set(scalars) == terms | {"feedback_share", "feedback_error", "estimate_error"}
    assert scalars["feedback_share"] == 1 and scalars["feedback_error"] > 0  # probability 1
    assert scalars["estimate_error"] > 0
    flat = tree.flatten(gradients)
    assert all(np.isfinite(g).all() for g in flat.values())
    for name in ("dit/head/head/kernel", "dit/motion_head/head/kernel", "dit/scale_head/kernel"):
        assert np.abs(flat[name]).max() > 0, name
    assert any(np.abs(g).max() > 0 for name, g in flat.items() if name.startswith("dpa/"))
    assert not [name for name in flat if name.startswith("vae/")]


def test_points_that_no_view_measures_are_not_in_the_aligners_loss():
    task, batch = make(cycle__cycle=False), make_batch()
    batch["anchor_valid"] = batch["anchor_valid"].at[:, :, :10].set(False)
    params = jax.jit(task.init)(jax.random.key(0))
    trainable, frozen = tree.split(params, task.trainable)
    loss = jax.jit(lambda batch: task.loss(trainable, frozen, batch, jax.random.key(1))[1])
    far = {**batch, "tracks": batch["tracks"].at[:, :, :10].add(1.5)}
    seen = {**batch, "tracks": batch["tracks"].at[:, :, 10:].add(0.5)}
    own, hidden, shown = (loss(x) for x in (batch, far, seen))
    for term in ("loss_dpa", "loss_chamfer"):
        np.testing.assert_allclose(hidden[term], own[term], rtol=1e-5)
        assert abs(shown[term] / own[term] - 1) > 0.05, term


@pytest.mark.slow
def test_switches_remove_their_parts_from_the_program():
    batch = make_batch()
    full, off = make(), make(cycle__dpa=False, cycle__cycle=False)
    assert "dpa" not in jax.eval_shape(off.init, jax.random.key(0))
    loss, scalars, _ = value_and_grad(off, {**batch, **latents(full, batch)})
    assert set(scalars) == {"loss_video", "loss_motion", "loss_scale"} and np.isfinite(loss)
    video = make(
        cycle__dpa=False, cycle__cycle=False, cycle__joint_motion=False, dit__joint_motion=False
    )
    _, scalars, _ = value_and_grad(video, {**batch, **latents(full, batch)})
    assert set(scalars) == {"loss_video"}


def latents(task, batch):
    """Cached latents in place of pixels."""
    params = task.init(jax.random.key(0))
    return {f"{name}_latents": task.encode(params, batch[name]) for name in ("video", "motion")}


def test_without_the_loop_the_program_holds_no_autoencoder():
    task = make(cycle__dpa=False, cycle__cycle=False)
    batch = make_batch()
    batch |= latents(task, batch)
    batch = {k: v for k, v in batch.items() if k not in ("video", "motion")}
    params = task.init(jax.random.key(0))
    trainable, frozen = tree.split(params, task.trainable)
    broken = jax.tree.map(lambda x: x * jnp.nan, frozen)
    loss, _ = task.loss(trainable, broken, batch, jax.random.key(1))
    assert np.isfinite(loss)


@pytest.mark.parametrize("given, guidance", [(True, 1.0), (False, 3.0)])
def test_sampling_gives_every_output(given, guidance):
    task = make(guidance=guidance)
    params = jax.jit(task.init)(jax.random.key(0))
    batch = make_batch()
    first = task.encode(params, batch["video"][:, :, :1])
    keys = ["text", "text_lengths", "intrinsics", "extrinsics", "view_index", "frame_valid"]
    keys += ["anchors", "anchor_valid"] if given else []
    inputs = {key: batch[key] for key in keys} | {"first": first}
    inputs |= {key: batch[key] for key in ("null_text", "null_text_lengths")}
    steps = []
    out = task.sample(
        params, inputs, jax.random.key(5), progress=lambda done, total: steps.append(done)
    )
    assert steps[-1] == task.options.sample_steps
    assert out.latents.shape == out.motion_latents.shape == (B, *task.latent_shape)
    assert out.tracks_per_view.shape == (B, V, N, K, 3)
    assert out.anchors.shape == (B, V, K, 2) and out.scale.shape == (B, V, 2)
    assert out.coarse.shape == (B, V, N, K, 3)
    assert out.closed_form.shape == out.network.shape == (B, N, K, 3)
    sure, asked = np.asarray(out.anchor_confidence[0]), np.asarray(out.anchor_view[0])
    if given:
        assert (asked == -1).all() and (sure == np.asarray(out.anchor_valid[0])).all()
    else:  # each is an exact pixel of one view
        own = np.asarray(out.anchors[0])[asked, np.arange(K)]
        np.testing.assert_array_equal(own, np.round(own))
        assert (sure[asked, np.arange(K)] == 1).all() and (np.sort(sure, 0)[:-1] <= 0.03).all()
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(out))
    np.testing.assert_array_equal(out.latents[:, :, :1], first)


def test_shapes_are_checked_at_the_doors():
    task, batch = make(), make_batch()
    params = jax.eval_shape(task.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"syncmv4d, loss: tracks wanted .* = \[1, 5, 32, 3\]"):
        task.loss(params, params, batch | {"tracks": batch["tracks"][:, :, 1:]}, jax.random.key(0))
    rig = {key: batch[key] for key in ("intrinsics", "extrinsics")}
    inputs = {"first": jnp.zeros((1, 3, 1, 4, 6, 7)), "text": batch["text"], **rig}
    with pytest.raises(ValueError, match=r"sample: first wanted .* = \[1, 3, 1, 4, 6, 8\]"):
        task.sample(params, inputs, jax.random.key(0))
    short = {key: x for key, x in batch.items() if key != "null_text"}
    with pytest.raises(ValueError, match="text_drop=0.1 needs null_text"):
        jax.eval_shape(task.loss, params, params, short, jax.random.key(0))


def test_fuse_weighs_by_confidence():
    tracks = jnp.stack([jnp.zeros((2, 4, 3)), jnp.ones((2, 4, 3))])
    confidence = jnp.stack([jnp.zeros((2, 4)), jnp.ones((2, 4))])
    np.testing.assert_allclose(world_tracks.fuse(tracks, confidence), 1.0, atol=2e-3)
    np.testing.assert_allclose(world_tracks.fuse(tracks, confidence * 0), 0.5, atol=1e-6)


def test_options_refuse_what_cannot_be():
    for bad in ({"prediction": "noise"}, {"motion_repr": "flow"}, {"frames": 12}):
        with pytest.raises(ValueError):
            dataclasses.replace(options.Options(), **bad)
    with pytest.raises(ValueError, match="unknown keys"):
        make(dit__widht=3)
    with pytest.raises(ValueError, match="no depth over time"):
        make(motion_repr="das_tracking")
    assert pseudo_video.REPRESENTATIONS == ("point_tracks", "das_tracking")


@pytest.mark.slow
def test_the_reference_images_move_points_along_their_rays():
    """As geometry/sweep.py says of the last step's tracks; views by themselves say nothing."""
    plain, task = make(), make(cycle__sweep=True)
    params = jax.jit(plain.init)(jax.random.key(0))
    batch = make_batch()
    first = plain.encode(params, batch["video"][:, :, :1])
    keys = ["text", "text_lengths", "intrinsics", "extrinsics", "view_index", "frame_valid"]
    inputs = {key: batch[key] for key in keys} | {"first": first}
    outs = [x.sample(params, inputs, jax.random.key(5)) for x in (plain, task)]
    before, after = (np.asarray(x.tracks_per_view) for x in outs)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3
    pictures = task.loop.pictures(params, first)
    np.testing.assert_allclose(pictures, task.loop.vae.decode(params, first)[:, :, 0])
    query = {key: getattr(outs[0], key) for key in cycle.Query._fields}
    context = task.loop.context(inputs) | query | {"pictures": pictures}
    coarse = cycle.Coarse(outs[0].tracks_per_view, outs[0].confidence)
    latents = jax.random.normal(jax.random.key(1), first.shape)
    run = lambda loop, context: np.asarray(  # noqa: E731
        loop.sweep(params, coarse, latents, context)
    )
    moved = run(task.loop, context) - before

    class Black:
        """An autoencoder to which all is background."""

        def decode(self, params, given):
            assert given is latents
            return jnp.full((1, 3, 1, 32, 48, 3), -1.0)

    black = run(dataclasses.replace(task.loop, vae=Black()), context) - before
    assert np.abs(black - moved).max() > 1e-4
    np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1], moved.shape), atol=1e-5)
    asked = np.asarray(query["anchor_view"][0])
    eyes = np.asarray(cameras.camera_centre(batch["extrinsics"][0, :, 0]))[asked]
    fused = world_tracks.fuse(coarse.tracks, coarse.confidence)[0, 0]
    pixels = np.asarray(query["anchors"])[0, asked, np.arange(len(asked))]
    lenses, poses = (np.asarray(batch[k][0])[asked] for k in ("intrinsics", "extrinsics"))
    rays = cameras.unproject(pixels, np.ones(len(asked), np.float32), lenses, poses[:, 0]) - eyes
    assert np.isfinite(fused).all() and np.abs(moved[0, 0, 0]).max() > 1e-4
    assert np.abs(np.cross(moved[0, 0, 0], rays)).max() < 1e-4
    hidden = context | {"hidden": jnp.array([[False, True, True]])}
    np.testing.assert_array_equal(run(task.loop, hidden), coarse.tracks)
    alone = make(cycle__sweep=True, dit__multi_view=False)
    np.testing.assert_array_equal(run(alone.loop, context), coarse.tracks)
