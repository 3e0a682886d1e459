"""Distillation end to end at small size: taught by a run, exported, sampled by its task."""

import json

import jax
import numpy as np
import pytest
from drawn_weights import drawn

from configs import distill as distill_config
from configs import wan_ti2v
from syncmv4d_jax import main
from syncmv4d_jax.run import assembly, embedded, inputs, sample
from syncmv4d_jax.weights import exports

STEPS, SUBSTEPS, GUIDANCE = 4, 4, 2.0


def ordinary(*, steps=STEPS, guidance=1.0):
    """The configuration of the task that is taught."""
    config = wan_ti2v.get_config("debug").copy_and_resolve_references().unlock()
    config.task.update({"sampler": "euler", "sample_steps": steps, "guidance": guidance})
    return config


def sampled(config, folder):
    """The video [v n h w 3] of the held-out scene, as one who has these weights gets it."""
    embedded.ensure(config, folder)
    own, task = assembly.read(config), assembly.task(config)
    params = assembly.load_params(task, own, folder)
    name, arrays = next(iter(inputs.of_config(own, task)))
    result, _ = sample.make(own, task, params, name, 0, arrays)
    return np.asarray(result["video"], np.float32)


@pytest.mark.slow
def test_a_taught_student_comes_nearer_to_its_teacher(tmp_path):
    """Four steps of one branch beside 16 guided ones, before and after it was taught."""
    plain = drawn(ordinary(), tmp_path / "teacher.safetensors", 0)
    plain.weights.vae = ""  # embedded data makes its own, from a seed
    config = distill_config.get_config("debug_wan").copy_and_resolve_references().unlock()
    config.weights.update(plain.weights)
    config.task.sample_steps = STEPS
    config.task.distill.update({"guidance": GUIDANCE, "points": 1, "substeps": SUBSTEPS})
    config.optim.update({"learning_rate": 2e-3, "ema": 0.9})
    config.train.update({"steps": 60, "batch_size": jax.device_count(), "export": "float32"})
    main.run(config, tmp_path / "taught")
    lines = map(json.loads, (tmp_path / "taught/metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.2 * losses[0]

    student = ordinary()
    student.weights.update(plain.weights)
    export = tmp_path / "taught/weights.safetensors"
    for part in {name.split("/")[0] for name in exports.source(export).leaves}:
        student.weights[part] = str(export)
    many = ordinary(steps=STEPS * SUBSTEPS, guidance=GUIDANCE)
    many.weights.update(plain.weights)
    wanted, before, after = (sampled(one, tmp_path / "any") for one in (many, plain, student))
    off = [np.sqrt(np.mean(np.square(one - wanted))) for one in (before, after)]
    assert off[1] < 0.6 * off[0]
