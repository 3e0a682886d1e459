"""The closed loop on fakes of a few lines: what flows where, switches, and exact recovery."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import flow
from syncmv4d_jax.tasks.syncmv4d import cycle, cycle_sampling

B, V, F, H, W, C, N, K = 2, 3, 2, 2, 2, 4, 5, 6
LATENT = (B, V, F, H, W, C)


def targets(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return cycle.Targets(
        jax.random.normal(keys[0], LATENT),
        jax.random.normal(keys[1], LATENT),
        jax.random.normal(keys[2], (B, V, N, K, 3)),
        jax.random.uniform(keys[3], (B, V, 2)) + 1,
    )


def perfect(truth):
    """Functions that know the data: the velocity to it, the tracks behind any latent."""

    def toward(x_t, data, t):
        return (x_t - data) / jnp.reshape(t, t.shape + (1,) * (x_t.ndim - 1))

    def mjd(video, motion, feedback, t, context):
        return cycle.Velocities(
            toward(video, truth.latents, t),
            None if motion is None else toward(motion, truth.motion_latents, t),
            truth.scale,
        )

    return cycle.Functions(
        mjd=mjd,
        dpa=lambda tracks_t, coarse, t, context: toward(tracks_t, truth.tracks, t),
        decode=lambda latents, scale, context: (
            cycle.Coarse(truth.tracks, jnp.ones(truth.tracks.shape[:-1])),
            jnp.zeros((B, V, N, H, W, 3)),
        ),
        warp=lambda frame0, scale, context: frame0,
        encode=lambda tracks, scale, warp, context: truth.motion_latents,
        normalise=lambda tracks, context: tracks,
        denormalise=lambda tracks, context: tracks,
        corrupt=lambda tracks, t, context, rng: cycle.Coarse(tracks, jnp.ones(tracks.shape[:-1])),
    )


def run(functions, settings, truth=None, seed=0):
    truth = targets() if truth is None else truth
    step = lambda: cycle.train_step(  # noqa: E731
        functions, functions, truth, jnp.array([0.3, 0.8]), None, jax.random.key(seed),
        settings=settings,
    )  # fmt: skip
    return jax.jit(step)()


@pytest.mark.parametrize("cond", ["x0_selfcond", "noisy", "sim"])
def test_perfect_functions_have_no_error(cond):
    truth = targets()
    out = run(perfect(truth), cycle.Settings(cond=cond, probability=1.0), truth)
    wanted = flow.velocity(truth.latents, out.video.noise)[:, :, 1:]
    np.testing.assert_allclose(out.video.velocity[:, :, 1:], wanted, atol=1e-4)
    for one, data in ((out.motion, truth.motion_latents), (out.tracks, truth.tracks)):
        np.testing.assert_allclose(one.velocity, flow.velocity(data, one.noise), atol=1e-4)
    np.testing.assert_allclose(out.feedback, truth.motion_latents)
    np.testing.assert_array_equal(out.video.noisy[:, :, 0], truth.latents[:, :, 0])


def test_probability_zero_means_no_feedback():
    out = run(perfect(targets()), cycle.Settings(probability=0.0))
    assert not np.any(out.feedback)


def test_noises_are_independent_and_time_is_shared():
    truth = targets()
    out = run(perfect(truth), cycle.Settings(), truth)
    correlation = np.corrcoef(np.ravel(out.video.noise), np.ravel(out.motion.noise))[0, 1]
    assert abs(correlation) < 0.3
    t = jnp.array([0.3, 0.8]).reshape(B, 1, 1, 1, 1, 1)
    np.testing.assert_allclose(
        out.motion.noisy, (1 - t) * truth.motion_latents + t * out.motion.noise, atol=1e-6
    )


def test_switches_leave_out_what_they_name():
    def forbidden(*_):
        raise AssertionError("called although switched off")

    truth = targets()
    fakes = dataclasses.replace(perfect(truth), dpa=forbidden, decode=forbidden, encode=forbidden)
    out = run(fakes, cycle.Settings(dpa=False, cycle=False), truth)
    assert out.tracks is None
    out = run(fakes, cycle.Settings(joint_motion=False, dpa=False, cycle=False), truth)
    assert out.motion is None and out.tracks is None
    fakes = dataclasses.replace(perfect(truth), encode=forbidden)
    out = run(fakes, cycle.Settings(cycle=False), truth)
    assert out.tracks is not None and not np.any(out.feedback)


@pytest.mark.parametrize("grad", ["none", "scale"])
def test_gradient_of_the_aligner_reaches_the_scale_only_when_asked(grad):
    truth = targets()
    fakes = perfect(truth)

    def loss(weight):
        def mjd(video, motion, feedback, t, context):
            out = fakes.mjd(video, motion, feedback, t, context)
            moved = out.motion_velocity * weight
            return out._replace(scale=out.scale * weight, motion_velocity=moved)

        def decode(latents, scale, context):
            tracks = truth.tracks * jnp.mean(scale) + jnp.mean(latents)
            return cycle.Coarse(tracks, jnp.ones(tracks.shape[:-1])), jnp.zeros((B, V, N, H, W, 3))

        live = dataclasses.replace(
            fakes, mjd=mjd, decode=decode, dpa=lambda x, coarse, t, context: coarse.tracks
        )
        out = cycle.train_step(
            live, fakes, truth, jnp.array([0.3, 0.8]), None, jax.random.key(0),
            settings=cycle.Settings(grad=grad),
        )  # fmt: skip
        return jnp.sum(jnp.square(out.tracks.velocity))

    gradient = jax.grad(loss)(1.0)
    assert (gradient != 0) == (grad == "scale")


@pytest.mark.parametrize("hidden", [None, 1])
@pytest.mark.parametrize("kind", ["euler", "unipc", "dpmpp_2m"])
def test_sampling_with_the_true_velocity_returns_the_data(kind, hidden):
    """Frame 0 of a view without a reference is generated, and nothing of its `first` is read."""
    truth = targets()
    functions, settings = perfect(truth), cycle.Settings(refine_every=3, refine_last=2)
    schedule = flow.schedule(kind, 8, shift=3.0)
    sigmas = np.append(schedule.sigma, 0.0)
    runs = cycle_sampling.plan_steps(sigmas, settings)
    first = truth.latents[:, :, :1]
    if hidden is not None:
        first = first.at[:, hidden].set(9.0)
        hidden = jnp.broadcast_to(jnp.arange(V) == hidden, (B, V))
    state = cycle_sampling.sample_start(
        jax.random.key(3), schedule, first, settings=settings, latent_shape=LATENT,
        scale=truth.scale, hidden=hidden,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.key(4), (B, V, N, K, 3))
    state = cycle_sampling.start_tracks(
        state, None, noise, sigmas[0], warp=jnp.zeros((B, V, H, W, 3))
    )
    refining = [begin for begin, _, refine in runs if refine]
    warps = cycle_sampling.plan_warps(sigmas, runs, settings)
    for (begin, end, refine), fresh in zip(runs, warps, strict=True):
        if refine:
            later = [i for i in refining if i > begin]
            state = cycle_sampling.sample_refine(
                functions, state, schedule.row(begin), sigmas[later[0]] if later else 0.0, fresh,
                first, {"hidden": hidden}, settings=settings,
            )  # fmt: skip
        else:
            state = cycle_sampling.sample_plain(
                functions, state, schedule.rows(begin, end), first, {"hidden": hidden}
            )
    np.testing.assert_allclose(state.run.latents["video"], truth.latents, atol=2e-4)
    np.testing.assert_allclose(state.run.latents["motion"], truth.motion_latents, atol=2e-4)
    np.testing.assert_allclose(state.tracks_t, truth.tracks, atol=2e-4)
    np.testing.assert_allclose(state.refined.tracks, truth.tracks, atol=2e-4)


@pytest.mark.parametrize("fresh", [True, False])
def test_query_pixels_that_are_not_given_move_with_the_tracks_until_they_settle(fresh):
    truth, asked = targets(), []
    start = cycle.Query(*(jnp.full((B, V, K), x) for x in (1.0, 1.0, 0.5)), jnp.zeros((B, K)))

    def decode(latents, scale, context):
        asked.append(np.asarray(context["anchors"]))
        return perfect(truth).decode(latents, scale, context)

    def relocate(frame0, scale, tracks, context):
        moved = context["anchors"] + jnp.mean(tracks.tracks) + scale[:, :, :1]
        return start._replace(anchors=moved)

    functions = dataclasses.replace(perfect(truth), decode=decode, relocate=relocate)
    schedule, first = flow.schedule("euler", 3, shift=1.0), truth.latents[:, :, :1]
    state = cycle_sampling.sample_start(
        jax.random.key(3), schedule, first, settings=cycle.Settings(), latent_shape=LATENT,
        scale=truth.scale,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.key(4), truth.tracks.shape)
    warp = jnp.zeros((B, V, H, W, 3))
    state = cycle_sampling.start_tracks(state, None, noise, 1.0, warp=warp, query=start)
    after = cycle_sampling.sample_refine(
        functions, state, schedule.row(0), 0.5, jnp.asarray(fresh), first, {"text": 0},
        settings=cycle.Settings(),
    )  # fmt: skip
    np.testing.assert_array_equal(asked[0], start.anchors)
    moved = start.anchors + jnp.mean(after.refined.tracks) + truth.scale[:, :, :1]
    wanted = moved if fresh else start.anchors
    np.testing.assert_allclose(after.query.anchors, wanted, rtol=1e-5)
    np.testing.assert_array_equal(after.query.anchor_confidence, start.anchor_confidence)
    np.testing.assert_allclose(after.coarse.tracks, truth.tracks)


@pytest.mark.parametrize("on", [True, False])
def test_swept_tracks_are_what_the_last_step_gives(on):
    truth, seen = targets(), {}
    start = cycle.Query(*(jnp.full((B, V, K), x) for x in (1.0, 1.0, 0.5)), jnp.zeros((B, K)))
    settings = cycle.Settings(sweep=on)

    def encode(tracks, scale, warp, context):
        return truth.motion_latents + jnp.mean(tracks)

    def relocate(frame0, scale, tracks, context):
        return start._replace(anchors=start.anchors + jnp.mean(tracks.tracks))

    def sweep(tracks, latents, context):
        seen["anchors"], seen["latents"] = context["anchors"], latents.shape
        return tracks.tracks + 7.0 + jnp.mean(jnp.abs(latents - truth.motion_latents[:, :, :1]))

    functions = dataclasses.replace(perfect(truth), encode=encode, relocate=relocate, sweep=sweep)
    schedule, first = flow.schedule("euler", 3, shift=1.0), truth.latents[:, :, :1]
    state = cycle_sampling.sample_start(
        jax.random.key(3), schedule, first, settings=settings, latent_shape=LATENT,
        scale=truth.scale,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.key(4), truth.tracks.shape)
    warp = jnp.zeros((B, V, H, W, 3))
    for query, last in ((start, 0.0), (start, 0.5), (None, 0.0)):
        state = cycle_sampling.start_tracks(state, None, noise, 1.0, warp=warp, query=query)
        after = cycle_sampling.sample_refine(
            functions, state, schedule.row(0), last, jnp.asarray(True), first, {"text": 0},
            settings=settings,
        )  # fmt: skip
        moved = 7.0 * (on and query is not None and last == 0)  # given query pixels are exact
        np.testing.assert_allclose(after.refined.tracks, truth.tracks + moved, atol=1e-5)
        mean = jnp.mean(truth.tracks) + moved
        np.testing.assert_allclose(after.feedback, truth.motion_latents + mean, atol=1e-4)
        if query is not None:
            np.testing.assert_allclose(after.query.anchors, start.anchors + mean, rtol=1e-4)
    assert bool(seen) == on and seen.get("latents", (B, V, 1))[:3] == (B, V, 1)
    np.testing.assert_allclose(after.coarse.tracks, truth.tracks)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_runs_cover_every_step_once(steps):
    sigmas = np.append(np.linspace(1, 0.05, steps), 0.0)
    settings = cycle.Settings(refine_every=5, refine_last=3)
    runs = cycle_sampling.plan_steps(sigmas, settings)
    covered = [i for begin, end, _ in runs for i in range(begin, end)]
    assert covered == list(range(steps))
    assert runs[-1][2] and runs[-1][1] == steps  # the last step refines: tracks end at sigma 0
    assert runs[0] == (0, 1, True)  # and the first: query pixels are there from then on
    off = cycle.Settings(dpa=False, cycle=False)
    assert cycle_sampling.plan_steps(sigmas, off) == [(0, steps, False)]


def test_the_warp_is_taken_anew_until_the_anchors_time():
    sigmas = np.append(np.linspace(1, 0.05, 20), 0.0)
    settings = cycle.Settings(refine_every=3, refine_last=2)
    runs = cycle_sampling.plan_steps(sigmas, settings)
    fresh = cycle_sampling.plan_warps(sigmas, runs, settings)
    taken = [sigmas[begin] for (begin, _, _), new in zip(runs, fresh, strict=True) if new]
    kept = [
        sigmas[begin]
        for (begin, _, refine), new in zip(runs, fresh, strict=True)
        if refine and not new
    ]
    assert sum(sigma <= settings.anchor_time for sigma in taken) == 1
    assert max(kept) < min(taken) and len(taken) > 2


def test_a_kept_warp_is_not_computed_again():
    truth = targets()

    def encode(tracks, scale, warp, context):
        return jnp.broadcast_to(jnp.mean(warp), LATENT)

    functions = dataclasses.replace(
        perfect(truth), encode=encode, warp=lambda *_: jnp.ones((B, V, H, W, 3))
    )
    schedule, settings = flow.schedule("euler", 4), cycle.Settings()
    state = cycle_sampling.sample_start(
        jax.random.key(0), schedule, truth.latents[:, :, :1], settings=settings,
        latent_shape=LATENT, scale=truth.scale,
    )  # fmt: skip
    zeros = jnp.zeros((B, V, N, K, 3))
    state = cycle_sampling.start_tracks(
        state, None, zeros, 1.0, warp=jnp.full((B, V, H, W, 3), 7.0)
    )
    for fresh, wanted in ((False, 7.0), (True, 1.0)):
        out = cycle_sampling.sample_refine(
            functions, state, schedule.row(0), 0.5, jnp.asarray(fresh), truth.latents[:, :, :1],
            None, settings=settings,
        )  # fmt: skip
        np.testing.assert_allclose(out.feedback, wanted)
        np.testing.assert_allclose(out.warp, wanted)


def test_settings_refuse_what_cannot_be():
    for bad in ({"cond": "gt"}, {"grad": "full"}, {"dpa": False}, {"joint_motion": False}):
        with pytest.raises(ValueError):
            cycle.Settings(**bad)
