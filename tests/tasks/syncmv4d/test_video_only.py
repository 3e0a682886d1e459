"""Videos of several views without tracks or cameras, as robots' data sets have them."""

import jax
import numpy as np
import pytest
import syncmv4d_tiny as tiny

from syncmv4d_jax import schema
from syncmv4d_jax.run import inputs
from syncmv4d_jax.tasks import base

OFF = {
    "cycle__dpa": False, "cycle__cycle": False, "cycle__joint_motion": False,
    "dit__joint_motion": False,
}  # fmt: skip


def bare():
    """A batch of videos alone."""
    left_out = {*schema.CAMERAS, *schema.TRACKED, "motion"}
    return {key: x for key, x in tiny.make_batch().items() if key not in left_out}


@pytest.mark.slow
def test_views_are_trained_without_tracks_and_cameras():
    task = tiny.make(**OFF)
    assert isinstance(task, base.Sampled) and not task.cameras
    params = task.init(jax.random.key(0))
    frozen = {"vae": params.pop("vae")}
    loss, scalars = jax.jit(task.loss)(params, frozen, bare(), jax.random.key(1))
    whole, _ = jax.jit(task.loss)(params, frozen, tiny.make_batch(), jax.random.key(1))
    assert float(loss) == float(whole) == float(scalars["loss_video"]) > 0


@pytest.mark.parametrize("changes", [{}, {**OFF, "foreground_gain": 2.0}])
def test_what_a_task_misses_of_a_batch_is_named(changes):
    task = tiny.make(**changes)
    params = jax.eval_shape(task.init, jax.random.key(0))
    with pytest.raises(ValueError, match="no intrinsics, extrinsics, tracks.*multi_view.py"):
        task.loss(params, {}, bare(), jax.random.key(0))


def test_sampling_wants_cameras_where_the_loop_does():
    task = tiny.make()
    given = {key: x for key, x in bare().items() if key in schema.CONDITIONS}
    with pytest.raises(ValueError, match="sample: no intrinsics, extrinsics"):
        task.sample({}, given, jax.random.key(0))


def test_images_of_views_need_no_cameras(tmp_path):
    from PIL import Image

    for i, name in enumerate(("head", "left", "right")):
        Image.fromarray(np.full((64, 96, 3), 50 * i, np.uint8)).save(tmp_path / f"{name}.png")
    given = inputs._images(str(tmp_path), tiny.make(**OFF))
    assert given["images"].shape == (3, 32, 48, 3) and given["view_index"].tolist() == [0, 1, 2]
    assert [int(image.mean()) for image in given["images"]] == [0, 50, 100]
    with pytest.raises(ValueError, match="wanted 2 images"):
        inputs._images(str(tmp_path), tiny.make(**OFF, views=2))
    with pytest.raises(FileNotFoundError):
        inputs._images(str(tmp_path), tiny.make())
