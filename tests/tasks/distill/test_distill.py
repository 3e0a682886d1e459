"""Distillation of Wan and of MJD: what teacher, student and target are shown, what is trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny

from configs import distill as distill_config
from configs.readings import learned_codec
from syncmv4d_jax import flow, main, tree
from syncmv4d_jax.models import lora
from syncmv4d_jax.run import assembly, checkpoint, initial, optim, sections, update
from syncmv4d_jax.tasks import base, distill, wan_ti2v
from syncmv4d_jax.tasks.distill import systems, targets
from syncmv4d_jax.weights import exports
from syncmv4d_jax.weights import lora as lora_files


def make(variant="debug_wan", *, steps=2, **changes):
    """A tiny task; changes: of `distill`, others with two underscores of sections of the task."""
    config = distill_config.get_config(variant).copy_and_resolve_references().unlock()
    config.task.sample_steps = steps
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        config.task[section or "distill"][name] = value
    return distill.make(config)


def once(**changes):
    """Settings by which the teacher takes the student's own steps."""
    return {"points": 1, "substeps": 1, **changes}


def wan_batch(task, seed=0):
    rng, (v, *latents) = np.random.default_rng(seed), task.inner.latent_shape
    text, width = (2, 6), task.inner.dit_config.text_dim
    return {
        "video_latents": jnp.asarray(rng.standard_normal((2, v, *latents)), jnp.float32),
        "text": jnp.asarray(rng.standard_normal((*text, width)), jnp.float32),
        "text_lengths": jnp.array([6, 4], jnp.int32),
        "null_text": jnp.asarray(rng.standard_normal((2, 3, width)), jnp.float32),
        "null_text_lengths": jnp.array([3, 3], jnp.int32),
        "latent_valid": jnp.ones((2, latents[0]), bool),
    }


def mjd_batch(task):
    """With latents in place of videos: nothing is to be encoded."""
    batch = syncmv4d_tiny.make_batch()
    keys = jax.random.split(jax.random.key(7))
    for name, key in zip(("video", "motion"), keys, strict=True):
        del batch[name]
        batch[f"{name}_latents"] = jax.random.normal(key, (1, *task.inner.latent_shape))
    return batch


@functools.cache
def weights(task, seed=0):
    """Values everywhere: fresh networks have zeros where something is grown."""
    rng = np.random.default_rng(seed)
    made = tree.flatten(jax.eval_shape(task.init, jax.random.key(seed)))
    noisy = {
        name: jnp.asarray(
            0.1 * rng.standard_normal(x.shape, np.float32) + name.endswith(("scale", "gamma"))
        )
        for name, x in made.items()
    }
    for name in list(noisy):
        if name.startswith("teacher/"):
            noisy[name] = noisy[name.removeprefix("teacher/")]
    return tree.unflatten(noisy)


def loss_of(task, params, batch, *, key=0, **more):
    trainable, frozen = tree.split(params, task.trainable)
    total, terms = jax.jit(task.loss)(trainable, {**frozen, **more}, batch, jax.random.key(key))
    return float(total), terms


# Guidance and the teacher's steps.


def test_targets_are_the_guided_steps_of_the_ordinary_sampler():
    """As many steps as the student's: Euler along the targets is the teacher's guided sample."""
    task, guidance = make(steps=2, **once(guidance=2.5)), 2.5
    plain = dataclasses.replace(
        task.inner, options=dataclasses.replace(task.inner.options, guidance=guidance)
    )
    always = dataclasses.replace(
        task.inner, options=dataclasses.replace(task.inner.options, image_share=1.0)
    )
    system = systems.Wan(always)
    batch, params, key = wan_batch(task), weights(task), jax.random.key(5)
    inputs = {k: batch[k] for k in wan_ti2v.TEXT} | {"first": batch["video_latents"][:, :, :1]}
    wanted = plain.sample(params, inputs, key).latents
    case = system.case(params, batch, jax.random.key(0))

    @jax.jit
    def target(x, interval):
        def field(guidance):
            return lambda x, time: system.velocity(params, case, x, time, guidance)

        return targets.average(field(guidance), field(1.0), x, interval, task.grid, keep=case.keep)[
            0
        ]

    noise = jax.random.normal(key, batch["video_latents"].shape)
    x = case.keep({"video": noise.reshape(-1, *noise.shape[2:])})
    for step in range(2):
        velocity = target(x, jnp.full((case.samples,), step))["video"]
        width = task.grid.times[step] - task.grid.times[step + 1]
        x = case.keep({"video": x["video"] - width * velocity})
    np.testing.assert_allclose(x["video"].reshape(wanted.shape), wanted, atol=2e-5)


@pytest.mark.parametrize("variant", ["debug_wan", "debug"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(variant):
    """Without guidance and at the teacher's own steps; of MJD with its scale."""
    changes = {} if variant == "debug_wan" else {"cycle__cycle": False, "cycle__dpa": False}
    task = make(variant, **once(guidance=1.0), **changes)
    batch = wan_batch(task) if variant == "debug_wan" else mjd_batch(task)
    total, terms = loss_of(task, weights(task), batch)
    assert total < 1e-9, terms
    assert set(terms) == {f"loss_{name}" for name in task.system.weights} | {"time"}


def test_only_the_student_has_gradients_and_targets_come_from_its_average():
    task = make(points=2, substeps=1, guidance=1.0)
    params, batch = weights(task), wan_batch(task)
    trainable, frozen = tree.split(params, task.trainable)
    assert set(trainable) == {"dit"} and set(frozen) == {"vae", "teacher"}
    gradient = jax.jit(jax.grad(lambda p, f: task.loss(p, f, batch, jax.random.key(0))[0], (0, 1)))
    moved = jax.tree.map(lambda x: 1.05 * x, trainable)
    own, rest = gradient(moved, frozen)
    assert all(np.abs(x).max() > 0 for n, x in tree.flatten(own).items() if n.endswith("kernel"))
    assert not any(np.abs(x).max() > 0 for x in jax.tree.leaves(rest))
    # Average, student and teacher are three; each one counts.
    base_, _ = loss_of(task, {**frozen, **moved}, batch)
    other, _ = loss_of(task, {**frozen, **moved}, batch, average=trainable)
    assert abs(base_ - other) > 1e-6
    taught, _ = loss_of(task, {**frozen, "teacher": moved, **moved}, batch)
    assert abs(base_ - taught) > 1e-6
    same, _ = loss_of(task, {**frozen, **moved}, batch, average=moved)
    np.testing.assert_allclose(same, base_, rtol=1e-6)


def test_an_update_hands_over_the_average_that_it_keeps():
    task = make(points=2, substeps=1, guidance=1.0)
    params, batch, seen = weights(task), wan_batch(task), []
    trainable, frozen = tree.split(params, task.trainable)

    class Seen:
        teachers = task.teachers

        def loss(self, trainable, frozen, batch, rng):
            seen.append(frozen.get("average"))
            return task.loss(trainable, frozen, batch, rng)

    for ema in (0.0, 0.9):
        settings = sections.OptimConfig(ema=ema)
        state = jax.eval_shape(functools.partial(optim.init, settings), trainable)
        jax.eval_shape(update.make_update(Seen(), settings), state, frozen, batch,
                       jax.random.key(0))  # fmt: skip
    assert seen[0] is None
    assert jax.tree.structure(seen[1]) == jax.tree.structure(trainable)


# The closed loop.


def test_feedback_is_the_students_own_of_the_last_refining_step():
    task = make("debug", steps=3, **once(), cycle__refine_every=2, cycle__refine_last=1)
    system, params, batch = task.system, weights(task), mjd_batch(task)
    sigmas = np.append(flow.schedule("euler", 3, shift=5.0).sigma, 0)
    past, there = system.refined()
    np.testing.assert_array_equal(there, [False, True, True])
    np.testing.assert_allclose(past, [1.0, sigmas[0], sigmas[0]])  # step 1 is a plain one
    case = system.case(params, batch, jax.random.key(0))
    noise = {k: jax.random.normal(jax.random.key(3), x.shape) for k, x in case.data.items()}
    remember = jax.jit(
        lambda p, step: system.remember(p, case, noise, step, jax.random.key(4)).conditions[
            "feedback"
        ]
    )
    none, second, third = (remember(params, jnp.array([k])) for k in range(3))  # one program
    assert not none.any() and second.any()
    np.testing.assert_array_equal(second, third)
    # The student's: another transformer, another feedback; no gradient.
    other = {**params, "dit": jax.tree.map(lambda x: 1.1 * x, params["dit"])}
    assert np.abs(remember(other, jnp.array([1])) - second).max() > 1e-6


def test_networks_are_shown_the_feedback():
    task = make("debug", **once())
    params, batch = weights(task), mjd_batch(task)
    case = task.system.case(params, batch, jax.random.key(0))
    time = task.grid.time(jnp.array([1]))

    @jax.jit
    def run(feedback):
        given = case._replace(conditions={**case.conditions, "feedback": feedback})
        return task.system.velocity(params, given, case.data, time, 1.0)[0]["motion"]

    zero = jnp.zeros_like(case.data["motion"])
    assert np.abs(run(zero + 1.0) - run(zero)).max() > 1e-4


# Parameters: the teacher, adapters, files.


@pytest.mark.slow
def test_the_teacher_is_a_copy_of_what_was_given_in_its_own_dtype():
    task = make()
    params = jax.jit(task.init)(jax.random.key(0))
    assert tree.flatten(params["teacher"]).keys() == tree.flatten({"dit": params["dit"]}).keys()
    given = jax.tree.map(lambda x: x + 1.0, params["dit"])
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["teacher"])
    grown = task.grow({**params, "dit": given, "teacher": low}, frozenset({"dit/head/bias"}))
    for name, x in tree.flatten(grown["teacher"]["dit"]).items():
        assert x.dtype == jnp.bfloat16
        np.testing.assert_array_equal(x, tree.flatten(given)[name].astype(jnp.bfloat16))


def test_a_teacher_must_be_given(tmp_path):
    config = distill_config.get_config("debug_wan").copy_and_resolve_references().unlock()
    config.train.random_frozen = False
    stage = assembly.read(config)
    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="'distill' keeps 'vae' frozen"):
        initial.Parameters(assembly.task(config), stage, mesh)
    assert "dit" in assembly.task(config).frozen_parts


def test_adapters_are_taught_by_the_transformer_that_they_adapt(tmp_path):
    """No second transformer; files in diffusers' layout give the same velocities."""
    rank = {"ranks": ((r"self_attn/[qkvo]/kernel$", 2),), "alpha": 4.0}
    config = distill_config.get_config("debug_wan").copy_and_resolve_references().unlock()
    config.task.lora, config.task.distill = rank, once(guidance=1.0)
    task = distill.make(config)
    assert task.trainable == "^(lora)/" and task.teachers == ()
    assert set(task.frozen_parts) == {"dit", "vae"}
    params, batch = weights(task), wan_batch(task)
    assert set(params) == {"dit", "vae", "lora"}
    fresh = {**params, "lora": jax.tree.map(jnp.zeros_like, params["lora"])}
    assert loss_of(task, fresh, batch)[0] < 1e-9 < loss_of(task, params, batch)[0]
    lora_files.save(tmp_path / "a.safetensors", params["lora"], alpha=4.0, layout="diffusers")
    again = lora_files.load(tmp_path / "a.safetensors", alpha=4.0)
    merged = {**params, "dit": lora.merge(params["dit"], again, alpha=4.0)}
    del merged["lora"]
    plain = dataclasses.replace(task.inner, lora_config=lora.LoRAConfig())
    inputs = {k: batch[k] for k in wan_ti2v.TEXT} | {"first": batch["video_latents"][:, :, :1]}
    wanted = task.sample(params, inputs, jax.random.key(0)).latents
    np.testing.assert_allclose(
        plain.sample(merged, inputs, jax.random.key(0)).latents, wanted, atol=1e-4
    )


def test_adapters_of_mjd_leave_it_as_it_is(tmp_path):
    """Its frozen transformer is the teacher; a file in diffusers' layout, merged, samples alike."""
    rank = {"ranks": ((r"^blocks/(self_attn/[qkvo]|ffn/linear_2)/kernel$", 2),), "alpha": 4.0}
    config = distill_config.get_config("debug").copy_and_resolve_references().unlock()
    config.task.lora, config.task.distill = rank, once(guidance=1.0)
    config.task.cycle.update({"cycle": False, "dpa": False})
    task = distill.make(config)
    assert task.trainable == "^(lora)/" and task.teachers == ()
    assert set(task.frozen_parts) == {"dit", "vae"}
    params, batch = weights(task), mjd_batch(task)
    fresh = {**params, "lora": jax.tree.map(jnp.zeros_like, params["lora"])}
    assert loss_of(task, fresh, batch)[0] < 1e-9 < loss_of(task, params, batch)[0]
    lora_files.save(tmp_path / "a.safetensors", params["lora"], alpha=4.0, layout="diffusers")
    again = lora_files.load(tmp_path / "a.safetensors", alpha=4.0)
    base_ = {"dit": params["dit"], "vae": params["vae"]}
    merged = {**base_, "dit": lora.merge(params["dit"], again, alpha=4.0)}
    plain = dataclasses.replace(task.inner, lora_config=lora.LoRAConfig())

    @functools.partial(jax.jit, static_argnums=0)
    def run(inner, params):
        case = systems.MJD(inner).case(params, batch, jax.random.key(0))
        case = case._replace(conditions={**case.conditions, "feedback": 0 * case.data["motion"]})
        time = task.grid.time(jnp.array([1]))
        return systems.MJD(inner).velocity(params, case, case.data, time, 1.0)[0]

    found, wanted = run(task.inner, params), run(plain, merged)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
        assert np.abs(run(plain, base_)[name] - wanted[name]).max() > 1e-3


def test_with_an_aligner_and_adapters_only_these_are_trained():
    task = distill.make(distill_config.get_config("mjd_lora"))
    assert task.trainable == "^(lora)/" and set(task.frozen_parts) == {"dit", "dpa", "vae"}
    assert task.inner.trainable == "^lora/"
    step = task.programs()["train_step"]
    assert set(step.parts) == {"dit", "dpa", "lora", "vae"}


def test_the_demos_student_samples_as_the_demo_does():
    """With its codec, origin of depths, shift and loop; 4 steps of it, 16 of the teacher."""
    taught = assembly.task(distill_config.get_config("demo"))
    plain = assembly.task(learned_codec.get_config("demo"))
    assert taught.inner == dataclasses.replace(
        plain, options=dataclasses.replace(plain.options, sample_steps=4)
    )
    assert taught.inner.codec_config is not None and "codec" in taught.frozen_parts
    wanted = flow.schedule("euler", 16, shift=plain.options.sample_shift).sigma
    np.testing.assert_allclose(taught.grid.times[:-1], wanted, rtol=1e-6)


# What is refused, and whole runs.


def test_a_student_that_samples_otherwise_is_refused():
    with pytest.raises(ValueError, match="sampler='euler' and task.guidance=1 .*got 'unipc'"):
        config = distill_config.get_config("debug_wan").copy_and_resolve_references().unlock()
        config.task.sampler = "unipc"
        distill.make(config)
    config = distill_config.get_config("debug_wan").copy_and_resolve_references().unlock()
    config.task.of = "wan_vae"
    with pytest.raises(ValueError, match=r"config.task.of: wanted .*'syncmv4d'\), got 'wan_vae'"):
        distill.make(config)
    task = make(**once(guidance=2.0))
    batch = {k: x for k, x in wan_batch(task).items() if "null" not in k}
    with pytest.raises(ValueError, match=r"task.distill.guidance=2.0 needs null_text"):
        loss_of(task, weights(task), batch)


def test_costs_count_teacher_target_and_memory():
    for variant in ("debug_wan", "debug"):
        task = make(variant, points=2, substeps=3, guidance=2.0)
        tokens, call, closed = task.system.price()
        assert (closed.keys() == set()) == (variant == "debug_wan")
        found = task.cost({"text": np.zeros((5, 1, 1))})
        assert found["tokens"] == 5 * tokens
        np.testing.assert_allclose(found["flops"], 5 * ((3 + 6 + 1) * call + sum(closed.values())))
    single = make(points=1, substeps=3, guidance=1.0)
    _, call, _ = single.system.price()
    np.testing.assert_allclose(single.cost({"text": np.zeros((1, 1, 1))})["flops"], 6 * call)
    programs = single.programs()
    assert isinstance(single, base.Priced) and programs["train_step"].parts == ("dit", "teacher")
    assert sum(programs["train_step"].work().flops.values()) == 6 * call
    assert programs["sample_step"].parts == ("dit",)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["debug_wan", "debug"])
def test_a_run_trains_resumes_samples_and_hands_over(variant, tmp_path):
    """Unbroken and resumed are equal; the exported file samples by the ordinary task."""

    def run(folder, mode="train", **changes):
        config = distill_config.get_config(variant).copy_and_resolve_references().unlock()
        config.train.batch_size, config.train.export = jax.device_count(), "float32"
        config.train.update(changes)
        config.mode = mode
        if mode == "sample" and variant == "debug":  # the aligner is the teacher's, as it was
            made = jax.jit(assembly.task(config).init)(jax.random.key(0))
            exports.write({"dpa": made["dpa"]}, tmp_path / "dpa.safetensors")
            config.weights.dpa = str(tmp_path / "dpa.safetensors")
        main.run(config, folder)

    run(tmp_path / "whole", steps=4)
    run(tmp_path / "parts", steps=2)
    run(tmp_path / "parts", steps=4)
    whole, parts = (
        checkpoint.restore_params(tmp_path / name / "checkpoints") for name in ("whole", "parts")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    run(tmp_path / "whole", "sample")
    assert list((tmp_path / "whole" / "samples").glob("*/view_0.mp4"))
    parts = {name.split("/")[0] for name in exports.source(
        tmp_path / "whole" / "weights.safetensors").leaves}  # fmt: skip
    assert parts == {"dit"}
