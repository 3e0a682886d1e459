"""The losses of the paper (Eq. 3 and 5) by hand, on a step whose outcome is made up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import flow, tree
from syncmv4d_jax.tasks.syncmv4d import cycle, loop

T, FRAMES = 0.4, 9


def batch_of(task, seed=0):
    """Nine frames, latents in place of pixels; the last latent frame and its four are padding."""
    rng, batch = np.random.default_rng(seed), tiny.make_batch(seed)
    batch = {k: v for k, v in batch.items() if k not in ("video", "motion")}
    for name in ("video_latents", "motion_latents"):
        batch[name] = jnp.asarray(rng.normal(size=(1, *task.latent_shape)), jnp.float32)
    longer = np.minimum(np.arange(FRAMES), tiny.N - 1)
    batch |= {"tracks": batch["tracks"][:, longer], "visibility": batch["visibility"][:, :, longer]}
    return batch | {
        "latent_valid": jnp.array([[True, True, False]]),
        "frame_valid": jnp.arange(FRAMES)[None] < tiny.N,
    }


def outcome(targets, normalised, errors):
    """A `cycle.Prediction` whose velocities are off by `errors` (video, motion, tracks, scale)."""
    keys = iter(jax.random.split(jax.random.key(1), 3))

    def diffused(data, error):
        noise = jax.random.normal(next(keys), data.shape)
        velocity = flow.velocity(data, noise) + error
        return cycle.Diffused(flow.interpolate(data, noise, T), noise, velocity)

    video, motion, tracks, scale = errors
    return cycle.Prediction(
        diffused(targets.latents, video),
        diffused(targets.motion_latents, motion),
        diffused(normalised, tracks),
        targets.scale + scale,
        jnp.zeros_like(targets.latents),
        jnp.ones(normalised.shape[:-1]),
    )


@pytest.fixture
def stepped(monkeypatch):
    """loss(video, motion, tracks, scale errors, options) -> (total, terms) of a made-up step."""

    def loss(*errors, **options):
        task = tiny.make(text_drop=0.0, frames=FRAMES, **options)
        batch = batch_of(task)

        def step(functions, detached, targets, t, context, rng, *, settings):
            normalised = functions.normalise(targets.tracks, context)
            return outcome(targets, normalised, errors)

        monkeypatch.setattr(cycle, "train_step", step)
        monkeypatch.setattr(flow, "sample_uniform", lambda rng, shape, shift: jnp.full(shape, T))
        total, scalars = jax.jit(task.loss)({}, {}, batch, jax.random.key(0))
        terms = {n: float(x) for n, x in scalars.items() if n.startswith("loss_")}
        return float(total), {n.removeprefix("loss_"): x for n, x in terms.items()}

    return loss


def test_terms_are_mean_squares_over_what_is_valid_and_add_up(stepped):
    """16, A5, A15, lines 12 and 13: all weights 1; frame 0 of the video and padding are out."""
    frames = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1, 1)
    of_tracks = jnp.array([0.0, 0.5, 0.0]).reshape(1, 1, 1, 1, 3)
    scales = np.array([0.3, 0.6])
    total, terms = stepped(frames, 2 * frames, of_tracks, jnp.asarray(scales).reshape(1, 1, 2))
    assert terms["video"] == pytest.approx(4.0, rel=1e-5)  # of frame 1
    assert terms["motion"] == pytest.approx((4.0 + 16.0) / 2, rel=1e-5)
    std = np.asarray(tiny.make().options.scale_std)
    assert terms["scale"] == pytest.approx(np.mean((scales / std) ** 2), rel=1e-4)
    assert terms["dpa"] == pytest.approx(0.25 / 3, rel=1e-4)
    assert 1e-3 < terms["chamfer"] <= 2 * (0.5 * T) ** 2 + 1e-5
    assert total == pytest.approx(sum(terms.values()), rel=1e-5)


def test_the_motions_first_frame_may_weigh_more(stepped):
    frames = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1, 1, 1)
    _, terms = stepped(frames, 2 * frames, 0.0, 0.0, frame0_gain=3.0)
    assert terms["motion"] == pytest.approx((4 * 4.0 + 16.0) / 5, rel=1e-5)
    assert terms["video"] == pytest.approx(4.0, rel=1e-5)


def test_each_term_has_a_weight_of_its_own(stepped):
    weights = {"video": 2.0, "motion": 3.0, "scale": 5.0, "dpa": 7.0, "chamfer": 11.0}
    of_tracks = jnp.array([0.0, 0.5, 0.0]).reshape(1, 1, 1, 1, 3)
    options = {f"{name}_weight": weight for name, weight in weights.items()}
    total, terms = stepped(1.0, 2.0, of_tracks, 0.3, **options)
    assert total == pytest.approx(sum(weights[n] * terms[n] for n in weights), rel=1e-5)
    assert min(terms.values()) > 1e-3


def test_a_perfect_step_costs_nothing(stepped):
    total, terms = stepped(0.0, 0.0, 0.0, 0.0)
    assert set(terms) == {"video", "motion", "scale", "dpa", "chamfer"}
    assert total == pytest.approx(0.0, abs=1e-8)


def test_padded_frames_of_tracks_are_out(stepped):
    late = jnp.zeros((1, 1, FRAMES, 1, 1)).at[:, :, tiny.N :].set(1.0)
    _, terms = stepped(0.0, 0.0, late, 0.0)
    assert terms["dpa"] < 1e-8 and terms["chamfer"] < 1e-8


def test_the_feedback_has_parameters_without_gradient(monkeypatch):
    """Line 7: the networks of the feedback are given as they are."""
    task = tiny.make(frames=FRAMES)
    monkeypatch.setattr(
        loop.Loop, "functions", lambda self, params, first, network=False: params["dit"]["weight"]
    )

    class Stop(Exception):
        pass

    def step(functions, detached, *_, **__):
        raise Stop(functions, detached)

    monkeypatch.setattr(cycle, "train_step", step)

    def value(weight, which):
        with pytest.raises(Stop) as found:
            task.loss({"dit": {"weight": weight}}, {}, batch_of(task), jax.random.key(0))
        return found.value.args[which]

    assert jax.grad(value)(2.0, 0) == 1 and jax.grad(value)(2.0, 1) == 0
    assert value(2.0, 1) == 2


def test_the_autoencoder_is_not_trained():
    """8: of all parts only MJD and the aligner are."""
    task = tiny.make()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    trainable, frozen = tree.split(shapes, task.trainable)
    assert set(trainable) == {"dit", "dpa"} and set(frozen) == {"vae"}
