"""Algorithm 1 and its readings against the lines written out, on fakes that tag their inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tagged

from syncmv4d_jax import flow
from syncmv4d_jax.tasks.syncmv4d import cycle, cycle_sampling

T = jnp.array([0.3, 0.8])
CONDITIONS = ("x0_selfcond", "noisy", "sim")
LATENTS = ("video", "motion")


def run(settings, weight=1.0, detached=1.3, seed=5):
    """One step on the fakes; those of the feedback have another weight, to be told apart."""
    functions, others = tagged.make(weight), tagged.make(detached)
    rng, truth = jax.random.key(seed), tagged.targets()
    return cycle.train_step(functions, others, truth, T, None, rng, settings=settings)


def wanted(out, cond="x0_selfcond", fed=True, decoded=True):
    """The lines written out for the noises that `out` has drawn."""
    functions, others, truth = tagged.make(), tagged.make(1.3), tagged.targets()
    corrupted = tagged.corrupted(others, truth, T, jax.random.key(5))
    noisy = out.video.noisy, out.motion.noisy, out.tracks.noisy
    how = dict(cond=cond, fed=fed, decoded=decoded)
    return tagged.step(functions, others, truth, noisy, T, corrupted, **how)


def denoised(out):
    """What MJD has said: both velocities and the scale."""
    return out.video.velocity, out.motion.velocity, out.scale


def close(got, wanted):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, wanted)


@pytest.mark.parametrize("cond", CONDITIONS)
def test_a_step_is_algorithm_1_under_each_reading_of_its_condition(cond):
    """Lines 7 to 11 (A8 to A11): what is decoded, aligned, painted, fed back, with which scale."""
    out = run(cycle.Settings(cond=cond, probability=1.0))
    lines = wanted(out, cond)
    close(out.feedback, lines.feedback)
    close(denoised(out), lines.denoised[:3])
    close(out.tracks.velocity, lines.track_velocity)
    for other in CONDITIONS:  # the three readings are told apart
        if other != cond:
            assert np.abs(wanted(out, other).feedback - out.feedback).max() > 1e-2


def test_lines_5_and_6_diffuse_with_one_time_and_noises_of_their_own():
    truth, out = tagged.targets(), run(cycle.Settings())
    t = T.reshape(2, 1, 1, 1, 1, 1)
    video = (1 - t) * truth.latents + t * out.video.noise
    close(out.video.noisy, video.at[:, :, 0].set(truth.latents[:, :, 0]))
    close(out.motion.noisy, (1 - t) * truth.motion_latents + t * out.motion.noise)
    clean, noise = tagged.make().normalise(truth.tracks, None), out.tracks.noise
    over = tagged.over(T, clean)
    close(out.tracks.noisy, (1 - over) * clean + over * noise)
    for a, b in ((out.video.noise, out.motion.noise), (noise, out.motion.noise)):
        n = min(a.size, b.size)
        assert abs(np.corrcoef(np.ravel(a)[:n], np.ravel(b)[:n])[0, 1]) < 0.2
    for x in (out.video.noise, out.motion.noise, noise):
        assert abs(np.std(x) - 1) < 0.25


def test_frame_0_of_a_view_without_a_reference_is_noised_like_the_others():
    hidden = jnp.array([[False, True, False], [False, False, True]])
    truth, context = tagged.targets(), {"hidden": hidden}
    settings = cycle.Settings(probability=1.0)
    functions, others, rng = tagged.make(), tagged.make(1.3), jax.random.key(5)
    out = cycle.train_step(functions, others, truth, T, context, rng, settings=settings)
    t = T.reshape(2, 1, 1, 1, 1, 1)
    noisy = (1 - t) * truth.latents + t * out.video.noise
    first = jnp.where(hidden[..., None, None, None], noisy[:, :, 0], truth.latents[:, :, 0])
    close(out.video.noisy, noisy.at[:, :, 0].set(first))
    lines = wanted(out)  # the feedback's pass sees the same
    close(out.feedback, lines.feedback)
    close(denoised(out), lines.denoised[:3])


def test_a_step_without_feedback_gives_zeros_to_mjd():
    out = run(cycle.Settings(probability=0.0))
    lines = wanted(out, fed=False)
    close(out.feedback, lines.feedback)
    close(denoised(out), lines.denoised[:3])


def test_feedback_of_an_earlier_time_is_that_of_the_same_noises_there():
    """Half of the samples: line 7 at a time above t, the other lines at t as ever."""
    truth, functions = tagged.targets(), (tagged.make(), tagged.make(1.3))
    far, times = 0, []
    for seed in range(12):
        out = run(cycle.Settings(probability=1.0, earlier=0.5), seed=seed)
        same = run(cycle.Settings(probability=1.0), seed=seed)
        close(out.video.noisy, same.video.noisy)
        key = jax.random.split(jax.random.key(seed), len(cycle.DRAWS))[cycle.DRAWS.index("coin")]
        past = cycle._earlier(T, jax.random.fold_in(key, 1), 0.5)
        times.append(np.asarray(past))
        mix = lambda x, noise, past=past: (  # noqa: E731
            (1 - tagged.over(past, x)) * x + tagged.over(past, x) * noise
        )
        video = mix(truth.latents, out.video.noise).at[:, :, 0].set(truth.latents[:, :, 0])
        clean = functions[0].normalise(truth.tracks, None)
        noisy = video, mix(truth.motion_latents, out.motion.noise), mix(clean, out.tracks.noise)
        fed = cycle.feed_back(
            functions[1], truth, *noisy, past, None, jax.random.key(0), cond="x0_selfcond"
        )
        close(out.feedback, fed)
        moved = np.abs(out.feedback - same.feedback).reshape(len(T), -1).max(1) > 1e-4
        np.testing.assert_array_equal(moved, times[-1] > T + 1e-3)
        lines = functions[0].mjd(out.video.noisy, out.motion.noisy, out.feedback, T, None)
        close(out.video.velocity, lines.velocity)
        far += moved.sum()
    assert 6 <= far <= 18  # of 24
    assert np.min(times - np.asarray(T)) >= 0 and np.max(times) <= 1
    assert np.std(np.stack(times)[:, 0]) > 0.1


def test_steps_that_are_not_decoded_align_corrupted_tracks():
    out = run(cycle.Settings(probability=1.0, decoded=0.0))
    close(out.tracks.velocity, wanted(out, decoded=False).track_velocity)


def test_shares_are_those_of_the_settings_and_fall_on_the_same_steps():
    """probability 0.25 of the steps feed back, decoded 0.6 decode, the first among the second."""
    settings, truth = cycle.Settings(probability=0.25, decoded=0.6), tagged.targets()

    @jax.jit
    def draws(seeds):
        def one(seed):
            out = run(settings, 1.0, 1.0, seed)
            corrupted = tagged.corrupted(tagged.make(), truth, T, jax.random.key(seed))
            other = tagged.make().dpa(out.tracks.noisy, corrupted, T, None)
            gap = jnp.max(jnp.abs(out.tracks.velocity - other))
            return jnp.any(out.feedback != 0), gap > 1e-3

        return jax.lax.map(one, seeds)

    fed, decoded = (np.asarray(x) for x in draws(jnp.arange(200)))
    assert 0.15 < fed.mean() < 0.35 and 0.5 < decoded.mean() < 0.7
    assert decoded[fed].all()


def test_no_gradient_comes_from_the_feedback():
    """Line 7: what is fed back is given, though the same networks made it."""

    @functools.partial(jax.jit, static_argnums=1)
    @jax.grad
    def slope(weight, stop):
        held = jax.lax.stop_gradient(weight) if stop else weight
        out = run(cycle.Settings(probability=1.0), weight, held)
        return jnp.sum(jnp.square(out.video.velocity)) + jnp.sum(out.feedback)

    @jax.grad
    def alone(weight):
        """The lines of MJD's own answer, to a feedback that is a number."""
        out = run(cycle.Settings(probability=1.0), 1.0, 1.0)
        noisy = out.video.noisy, out.motion.noisy
        mjd = tagged.make(weight).mjd(*noisy, out.feedback, T, None)
        return jnp.sum(jnp.square(mjd.velocity))

    np.testing.assert_allclose(slope(1.0, True), jax.jit(alone)(1.0), rtol=1e-4)
    assert abs(slope(1.0, False) - slope(1.0, True)) > 1e-2  # there was something to hold back


@pytest.mark.parametrize("grad", ["none", "scale"])
def test_the_aligners_loss_moves_mjd_by_the_scale_alone_or_not_at_all(grad):
    """A9, by numbers: the derivative is that of the decoded tracks by the scale."""
    truth, settings = tagged.targets(), cycle.Settings(probability=0.0, grad=grad)

    def step(weight, settings):
        functions = dataclasses.replace(tagged.make(), mjd=tagged.make(weight).mjd)
        rng = jax.random.key(5)
        return cycle.train_step(functions, functions, truth, T, None, rng, settings=settings)

    def loss(weight):
        return jnp.sum(jnp.square(step(weight, settings).tracks.velocity))

    def by_scale(weight):
        """The lines again, with everything but the scale of line 10 held."""
        f, out = tagged.make(), step(1.0, settings)
        motion_t, _, velocity = out.motion
        moved = tagged.make(weight).mjd(out.video.noisy, motion_t, out.feedback, T, None)
        estimate = motion_t - tagged.over(T, motion_t) * velocity
        coarse, _ = f.decode(estimate, moved.scale, None)
        return jnp.sum(jnp.square(f.dpa(out.tracks.noisy, coarse, T, None)))

    got, wanted = (jax.jit(jax.grad(f))(1.0) for f in (loss, by_scale))
    assert abs(wanted) > 1e-3
    np.testing.assert_allclose(got, wanted if grad == "scale" else 0.0, rtol=1e-4)


@pytest.mark.parametrize("anchor_time", [0.0, 0.9])
def test_sampling_closes_the_loop_line_by_line(anchor_time):
    """A10, A22: from the estimate, through the aligner and the painting, to MJD's next call."""
    settings = cycle.Settings(refine_every=2, refine_last=2, anchor_time=anchor_time)
    functions, truth = tagged.make(), tagged.targets()
    schedule = flow.schedule("euler", 6, shift=2.0)
    sigmas = np.append(schedule.sigma, 0.0)
    first = truth.latents[:, :, :1]
    runs = cycle_sampling.plan_steps(sigmas, settings)
    fresh = cycle_sampling.plan_warps(sigmas, runs, settings)
    state = cycle_sampling.sample_start(
        jax.random.key(3), schedule, first, settings=settings, latent_shape=tagged.LATENT,
        scale=truth.scale,
    )  # fmt: skip
    noise = jax.random.normal(jax.random.key(4), truth.tracks.shape)
    empty = jnp.zeros((tagged.B, tagged.V, tagged.H, tagged.W, 3))
    state = cycle_sampling.start_tracks(state, None, noise, sigmas[0], warp=empty)
    start = *map(state.run.latents.get, LATENTS), state.tracks_t
    refining = [begin for begin, _, refine in runs if refine]
    assert refining == [0, 2, 4, 5]
    for (begin, end, refine), new in zip(runs, fresh, strict=True):
        if refine:
            later = [i for i in refining if i > begin]
            state = cycle_sampling.sample_refine(
                functions, state, schedule.row(begin), sigmas[later[0]] if later else 0.0, new,
                first, None, settings=settings,
            )  # fmt: skip
        else:
            state = cycle_sampling.sample_plain(
                functions, state, schedule.rows(begin, end), first, None
            )
    taken = [begin for (begin, _, _), new in zip(runs, fresh, strict=True) if new]
    assert taken == ([0, 2, 4, 5] if anchor_time == 0 else [0, 2])
    lines = tagged.sampled(functions, start, first, sigmas, refining, taken)
    latents = map(state.run.latents.get, LATENTS)
    close((*latents, state.tracks_t, state.refined.tracks), lines)
