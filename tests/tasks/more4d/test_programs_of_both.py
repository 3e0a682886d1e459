"""What `plan` compiles of both generators, at full size, by shapes alone."""

import math

import jax
import pytest

from configs import flow_codec, strag, vism
from syncmv4d_jax import tree
from syncmv4d_jax.run import assembly, programs
from syncmv4d_jax.tasks import base

FLOPS = 46.0e12  # of a forward pass over 4290 tokens


@pytest.mark.parametrize(("module", "variant"), [(strag, "full"), (strag, "lora"), (vism, "full")])
def test_full_size_steps_have_shapes_and_work(module, variant):
    task = assembly.task(module.get_config(variant))
    found = programs.named(task, ())
    assert set(found) == {"train_step", "sample_step"}
    train, sample = found["train_step"], found["sample_step"]
    shapes = jax.eval_shape(train.task.init, jax.random.key(0))
    assert set(train.parts) <= set(shapes)
    chosen, frozen = tree.split({p: shapes[p] for p in train.parts}, task.trainable)
    loss, _ = jax.eval_shape(train.task.loss, chosen, frozen, *train.inputs(1), jax.random.key(0))
    assert loss.shape == ()
    inputs = sample.inputs(1)
    out = jax.eval_shape(sample.step, {p: shapes[p] for p in sample.parts}, *inputs)
    assert out.latents["video"].shape == inputs[0].latents["video"].shape
    views = 3 if module is strag else 1
    assert out.latents["video"].shape == (views, 13, 30, 44, 48)
    work = sample.work()
    assert work.tokens == views * 4290
    forward = sum(work.flops.values()) / views / 2  # two branches of guidance
    assert math.isclose(forward, FLOPS, rel_tol=0.02)


def test_the_flow_codec_has_a_training_step():
    task = assembly.task(flow_codec.get_config("demo"))
    (program,) = base.serves(task, base.Planned, "plan").programs().values()
    (batch,) = program.inputs(2)
    assert batch["flow"].shape == (2, 1, 13, 64, 96, 3)
    assert sum(program.work().flops.values()) > 1e9
