"""The whole closed-loop step, sharded == unsharded on eight fake devices: 1e-4.

The loop makes discrete choices (which anchor a pixel follows, which voxel a point is in); what is
matched is compared first. In float64, as in test_meshes: a choice that rounding flips would hide
what is meant here.
"""

import functools

import jax
import meshed
import numpy as np
import pytest
from meshed_loop import make_batch, make_task

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import protocol

quick = functools.partial(jax.jit, compiler_options=meshed.QUICK)


@functools.cache
def parameters(views):
    """Made once: compiling what draws them takes as long as a step."""
    task = make_task(views, "float64")
    make = lambda: meshed.shaken(task.init(jax.random.key(0)), jax.random.key(1))  # noqa: E731
    return jax.device_get(quick(make)())


def closed_loop_step(views, name=None, moving=0.0):
    """(loss, gradients), loss terms and what the loop matched, on a mesh or one device."""
    task = make_task(views, "float64", protocol.Local(kernel="chunked"))  # see test_meshes
    batch, halves = make_batch(task, moving), tree.split(parameters(views), task.trainable)
    if name:
        placement, halves, batch = meshed.placed(name, halves, batch, kernel="chunked")
        task = make_task(views, "float64", placement)

    def step(halves, batch):
        run = jax.value_and_grad(task.loss, has_aux=True)
        (loss, terms), gradients = run(*halves, batch, jax.random.key(2))
        context = task.loop.context(batch)
        arrays = batch["motion_latents"], batch["scale"]
        coarse, _ = task.loop.functions({**halves[0], **halves[1]}, None).decode(*arrays, context)
        return (loss, gradients), terms, coarse

    return jax.device_get(quick(step)(halves, batch))


whole_step = functools.cache(closed_loop_step)


@pytest.mark.slow
@pytest.mark.parametrize("name", meshed.MESHES)
def test_closed_loop_step(name, double):
    compare(name, moving=0.0)


@pytest.mark.slow
def test_closed_loop_step_of_cameras_that_move(double):
    compare("view-ulysses", moving=0.02)


def compare(name, moving):
    """A mesh against one device; moving: metres a frame that the cameras go aside."""
    views = meshed.views_of(name)
    wanted, terms, found = whole_step(views, moving=moving)
    got, others, coarse = closed_loop_step(views, name, moving)
    np.testing.assert_array_equal(coarse.confidence > 0, found.confidence > 0)
    np.testing.assert_allclose(coarse.tracks, found.tracks, atol=1e-4)
    for key, value in terms.items():
        np.testing.assert_allclose(others[key], value, rtol=1e-4, err_msg=key)
    meshed.check(wanted, got, loss=1e-4, leaf=1e-4)
