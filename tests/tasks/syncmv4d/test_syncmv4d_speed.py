"""Sampling with fewer FLOPs: keys of the text once, guidance in an interval, steps reused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import flow
from syncmv4d_jax.models import flops, reuse
from syncmv4d_jax.models.mjd import mjd, warm_start
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost
from syncmv4d_jax.tasks.syncmv4d import cycle, cycle_sampling, sampling

# Without aligner and matching: the network and the sampler alone.
ALONE = {"cycle__dpa": False, "cycle__cycle": False, "motion_repr": "das_tracking"}


def sample(task, **changes):
    """A sample of random weights: no head and no modulation is zero."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes)
    batch = tiny.make_batch()
    names = "text text_lengths intrinsics extrinsics view_index frame_valid anchors anchor_valid"
    inputs = {key: batch[key] for key in names.split()}
    first = jax.random.normal(jax.random.key(2), (1, *task.latent_shape))[:, :, :1]
    inputs |= {"first": first, "null_text": batch["text"] * 0}
    inputs |= {"null_text_lengths": batch["null_text_lengths"]}
    return task.sample(params, inputs, jax.random.key(5), **changes)


def test_keys_of_the_text_are_what_the_blocks_compute():
    config = tiny.make().mjd_config
    params = jax.jit(functools.partial(warm_start.init, config))(jax.random.key(0))
    text = jax.random.normal(jax.random.key(1), (2, 5, config.text_dim))
    lengths = jnp.array([5, 2])
    x = jax.random.normal(jax.random.key(2), (2, 3, 2, 4, 6, config.in_channels))

    @jax.jit
    def both(params):
        model, t = module.bind(mjd.MJD, config, params), jnp.array([300.0, 700.0])
        keys = model.text_keys(text, lengths)
        # The text's share of the output is not zero in a fresh model: cross-attention is not.
        inputs = mjd.Inputs(x, x, t, x)
        return (
            model(inputs, mjd.Text(text, lengths)),
            model(inputs, keys),
            model(inputs, jax.tree.map(lambda a: a[:, ::-1], keys)),
        )

    params["head"]["head"]["kernel"] = jnp.full_like(params["head"]["head"]["kernel"], 0.1)
    wanted, got, swapped = both(params)
    np.testing.assert_allclose(got.velocity, wanted.velocity, rtol=0, atol=1e-5)
    assert np.abs(swapped.velocity - wanted.velocity).max() > 1e-4


def test_blocks_run_again_once_the_change_adds_up():
    x = jnp.ones((1, 2, 3))
    memory = reuse.empty(x, x)
    ran = []
    for i, allowed in enumerate([True, True, True, True, False, True]):
        seen = x * (1 + 0.1 * i)
        rule = reuse.Rule(0.25, jnp.asarray(allowed))
        y, memory = reuse.step(lambda x, i=i: x + i + 1, x, seen, memory, rule=rule)
        ran.append(float(y[0, 0, 0]))
    # Changes 0.1, 0.09, 0.08: the third after a run passes 0.25; a step that may not runs.
    assert ran == [2, 2, 2, 5, 6, 6]
    assert memory.reused == 3 and memory.total == pytest.approx(0.1 / 1.4)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.8), (0.9, 1.0)])
def test_guided_runs_cover_every_step_once(interval):
    sigmas = np.append(np.linspace(1, 0.05, 20), 0.0)
    plain = cycle_sampling.plan_steps(sigmas, cycle.Settings())
    runs = cycle_sampling.plan_guidance(sigmas, plain, interval)
    assert [i for begin, end, *_ in runs for i in range(begin, end)] == list(range(20))
    for begin, end, refine, guided in runs:
        inside = (sigmas[begin:end] >= interval[0]) & (sigmas[begin:end] <= interval[1])
        assert (inside == guided).all() and (end - begin == 1 or not refine)
    if interval == (0.0, 1.0):
        assert [run[:3] for run in runs] == plain


@pytest.mark.slow
def test_steps_are_reused_when_asked_and_nothing_else_changes():
    some, programs = {**ALONE, "guidance": 3.0, "sample_steps": 5}, sampling.plain._cache_size
    before, wanted = programs(), sample(tiny.make(**some))
    assert programs() == before + 1 and sample(tiny.make(**some)) and programs() == before + 1
    # The same task with another option is another program: nothing compiled goes stale.
    options = dataclasses.replace(tiny.make(**some).options, guidance=1.0)
    alone = sample(dataclasses.replace(tiny.make(**some), options=options))
    assert programs() == before + 2
    assert np.abs(alone.latents - wanted.latents).max() > 1e-4
    assert wanted.reused_steps is None
    never = sample(tiny.make(**some, reuse_threshold=1e-9))
    assert never.reused_steps == 0
    np.testing.assert_allclose(never.motion_latents, wanted.motion_latents, rtol=0, atol=1e-5)
    often = sample(tiny.make(**some, reuse_threshold=1e9, guidance_interval=(0.6, 1.0)))
    assert often.reused_steps == 3  # not the first step, nor the last
    assert np.isfinite(often.latents).all()
    assert np.abs(often.motion_latents - wanted.motion_latents).max() > 1e-4


def test_cost_of_sampling_is_that_of_its_programs(monkeypatch):
    task = tiny.make(**ALONE, guidance=3.0, sample_steps=4, guidance_interval=(0.9, 1.0))
    each, caught = syncmv4d_cost.parts(task.loop), {}
    sigmas = flow.schedule("unipc", 4, shift=task.options.sample_shift).sigma
    guided = int(np.sum(np.asarray(sigmas) >= 0.9))
    assert 0 < guided < 4

    def text(loop, params, context, guided):
        run = functools.partial(loop.text_keys, guided=guided)
        return count("text", run, params, context)

    def plain(loop, guidance, *arguments):
        name = "plain" if guidance != 1.0 else "plain_alone"
        return count(name, functools.partial(sampling.plain_run, loop, guidance), *arguments)

    def count(name, function, *arguments):
        caught[name] = caught.get(name, 0) + flops.count(function, *arguments)
        return jax.tree.map(jnp.zeros_like, jax.eval_shape(function, *arguments))

    monkeypatch.setattr(sampling, "text_keys", text)
    monkeypatch.setattr(sampling, "plain", plain)
    sample(task)
    assert set(caught) == {"text", "plain", "plain_alone"}
    wanted = syncmv4d_cost.sampling(task.loop, each)["mjd"]
    # The formulas leave out rope's rotations: products too, a large part at heads this narrow.
    assert wanted <= sum(caught.values()) <= 1.08 * wanted
    assert caught["text"] == pytest.approx(2 * syncmv4d_cost.text(task.loop))
    assert caught["plain"] / guided == pytest.approx(
        2 * caught["plain_alone"] / (4 - guided), rel=0.02
    )
    halved = syncmv4d_cost.sampling(task.loop, each, reused=2)["mjd"]
    assert halved == pytest.approx((wanted + 2 * syncmv4d_cost.text(task.loop)) / 2, rel=1e-6)


def test_utilisation_counts_nothing_twice():
    batch = tiny.make_batch()
    plain, again = (tiny.make(dit__remat=x) for x in ("none", "full"))
    assert plain.cost(batch) == again.cost(batch)
    each = syncmv4d_cost.parts(again.loop)
    costs = [syncmv4d_cost.training(task.loop, each)["mjd"] for task in (again, plain)]
    assert costs[0] - costs[1] == each["mjd"]


def test_switches_are_checked():
    with pytest.raises(ValueError, match=r"guidance_interval: wanted 0 <= lowest <= highest <= 1"):
        tiny.make(guidance_interval=(0.9, 0.2))
    with pytest.raises(ValueError, match=r"reuse_threshold: wanted >= 0, got -1"):
        tiny.make(reuse_threshold=-1.0)
