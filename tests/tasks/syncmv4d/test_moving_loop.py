"""The closed loop on cameras that move: the path of a still rig is that rig, another is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import schema
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.tasks import dpa

V, N = tiny.V, tiny.N


def moving(batch, step=0.02):
    """The batch with cameras that go aside by `step` metres a frame."""
    every = jnp.broadcast_to(batch["extrinsics"], (1, V, N, 3, 4))
    shift = step * jnp.arange(N)[None, None, :]
    return {**batch, "extrinsics": every.at[..., 0, 3].add(shift)}


@pytest.fixture(scope="module")
def setting():
    task, batch = tiny.make(), tiny.make_batch()
    params = jax.jit(task.init)(jax.random.key(0))
    frozen = {"vae": params.pop("vae")}
    loss = jax.jit(task.loss)
    return task, batch, lambda batch: loss(params, frozen, batch, jax.random.key(1))[1]


@pytest.mark.slow
def test_the_loss_follows_the_cameras(setting):
    _, batch, loss = setting
    assert schema.check(moving(batch), where="test")["n"] == N
    one, same, other = loss(batch), loss(moving(batch, 0.0)), loss(moving(batch))
    for name in one:
        np.testing.assert_allclose(one[name], same[name], rtol=2e-3, atol=1e-5)
    assert abs(float(other["loss_dpa"] / one["loss_dpa"]) - 1) > 1e-3
    assert all(np.isfinite(float(x)) for x in other.values())


@pytest.mark.slow
def test_the_loop_paints_and_matches_with_the_pose_of_each_frame(setting):
    """What is decoded from what is painted is the points again, seen from moving cameras."""
    task, batch, _ = setting
    batch = moving(batch, 0.01)
    context = task.loop.context(batch)
    assert context["extrinsics"].shape == (1, V, N, 3, 4) and context["centre"].shape == (1, 3)
    points = jnp.broadcast_to(batch["tracks"][:, None], (1, V, N, tiny.K, 3))
    _, depth = cameras.project(points, batch["intrinsics"], context["extrinsics"])
    scale = jnp.stack([depth.min((2, 3)), depth.max((2, 3))], -1)
    height, width = task.options.size
    y, x = np.mgrid[:height, :width]
    code = np.full((height, width), 0.5)
    frame0 = jnp.asarray(np.stack([x / width, y / height, code], -1), jnp.float32)
    frame0 = jnp.broadcast_to(frame0, (1, V, height, width, 3))
    still = {**context, "extrinsics": context["extrinsics"][:, :, 0]}
    warp = task.loop.motion.warp(frame0, scale, context)
    for a, b in zip(warp, task.loop.motion.warp(frame0, scale, still), strict=True):
        np.testing.assert_array_equal(a, b)  # frame 0's pose alone
    moved = task.loop.motion.paint(points, scale, warp, context)
    stood = task.loop.motion.paint(points, scale, warp, still)
    np.testing.assert_allclose(moved[:, :, 0], stood[:, :, 0], atol=1e-6)
    assert np.abs(moved[:, :, 4] - stood[:, :, 4]).max() > 0.1


@pytest.mark.slow
def test_samples_are_made_with_moving_cameras(setting):
    task, batch, _ = setting
    params = jax.jit(task.init)(jax.random.key(0))
    batch = moving(batch)
    inputs = {key: batch[key] for key in schema.CONDITIONS if key in batch and "anchor" not in key}
    inputs["first"] = task.encode(params, batch["video"][:, :, :1])
    made = task.sample(params, inputs, jax.random.key(0))
    assert made.tracks_per_view.shape == (1, V, N, tiny.K, 3)
    assert np.isfinite(np.asarray(made.tracks_per_view)).all()


@pytest.mark.slow
def test_the_aligner_task_takes_moving_cameras():
    from configs import dpa as dpa_config

    task = dpa.make(dpa_config.get_config("debug"))
    batch = tiny.make_batch()
    params = jax.jit(task.init)(jax.random.key(0))
    loss = jax.jit(task.loss)
    values = [float(loss(params, {}, x, jax.random.key(1))[0])
              for x in (batch, moving(batch, 0.0), moving(batch))]  # fmt: skip
    assert values[0] == pytest.approx(values[1], rel=1e-4) and np.isfinite(values).all()
    assert abs(values[2] / values[0] - 1) > 1e-4


def test_foreground_cells_follow_the_camera(setting):
    del setting
    task = tiny.make(foreground_gain=1.0)
    batch = tiny.make_batch()
    weights = [np.asarray(task._foreground(task.loop.context(x), x))
               for x in (batch, moving(batch, 0.0), moving(batch, 0.15))]  # fmt: skip
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[2] != weights[0]).any()
