"""What a task may serve, said in one sentence where it does not; shapes at a door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import (
    distill,
    dpa,
    flow_codec,
    hvg3d,
    motion_codec,
    silhouette,
    strag,
    taco,
    vism,
    wan_ti2v,
    wan_vae,
)  # fmt: skip
from syncmv4d_jax import flow
from syncmv4d_jax.run import assembly, pictures, sample
from syncmv4d_jax.tasks import base, video

CONFIGS = (
    distill, dpa, flow_codec, hvg3d, motion_codec, silhouette, strag, taco, vism, wan_ti2v, wan_vae,
)  # fmt: skip
# protocol -> tasks that serve it; all are trained, priced, planned and run on embedded data.
SERVED = {
    base.Task: {
        "distill",
        "dpa",
        "hvg3d",
        "more4d.flow_codec",
        "more4d.strag",
        "more4d.vism",
        "motion_codec",
        "silhouette",
        "syncmv4d",
        "wan_ti2v",
        "wan_vae",
    },
    base.Rebuilt: {"more4d.strag", "more4d.vism"},
    base.Sampled: {"distill", "hvg3d", "more4d.strag", "more4d.vism", "syncmv4d", "wan_ti2v"},
}


@pytest.mark.parametrize(
    "wanted", [base.Task, base.Sampled, base.Rebuilt, base.Priced, base.Planned, base.Embedded]
)
def test_tasks_serve_what_they_say(wanted):
    served = SERVED.get(wanted, SERVED[base.Task])
    tasks = [assembly.task(config.get_config("debug")) for config in CONFIGS]
    assert {task.name for task in tasks if isinstance(task, wanted)} == served
    assert set(base.able(wanted)) == served
    for task in tasks:
        assert hash(task) == hash(assembly.task(CONFIGS[tasks.index(task)].get_config("debug")))


@pytest.mark.parametrize("config", [dpa, motion_codec, silhouette, wan_vae])
def test_a_mode_that_a_task_does_not_serve_is_one_sentence(config, tmp_path):
    config = config.get_config("debug")
    able = "distill, hvg3d, more4d.strag, more4d.vism, syncmv4d, w"
    words = rf"task '{config.task.name}' does not serve it, tasks.base.Sampled .*: {able}"
    with pytest.raises(ValueError, match=f"mode=sample: {words}"):
        sample.run(config, tmp_path)
    with pytest.raises(ValueError, match=f"sample_every > 0: {words}"):
        pictures.Pictures(config, assembly.task(config), {}, None)


@pytest.mark.parametrize(
    "config, changes, wanted",
    [
        (taco, {}, True),
        (taco, {"views": 1}, False),
        (distill, {}, None),  # as what it teaches
        (wan_ti2v, {}, False),
        (strag, {}, False),  # its views' tracks are one copy
    ],
)
def test_draws_are_compared_where_several_views_have_tracks(config, changes, wanted):
    own = config.get_config("debug").unlock()
    own.task.update(changes)
    task = assembly.task(own)
    wanted = base.compared(task.inner) if wanted is None else wanted
    assert base.compared(task) is wanted


def test_shapes_at_a_door_agree_with_each_other_and_with_the_task():
    axes = {"tracks": "b n k 3", "anchors": "b v k 2", "extrinsics": "b v n? 3 4"}
    good = {"tracks": (2, 5, 7, 3), "anchors": (2, 3, 7, 2), "extrinsics": (2, 3, 1, 3, 4)}

    def check(**changes):
        arrays = {key: np.zeros(shape) for key, shape in (good | changes).items()}
        base.check("here", arrays, axes, v=3)

    check()
    check(extrinsics=(2, 3, 5, 3, 4))
    base.check("here", {"tracks": None}, axes)
    for key, shape, message in (
        (
            "anchors",
            (2, 2, 7, 2),
            r"here: anchors wanted \[b v k 2\] = \[2, 3, 7, 2\], got",
        ),
        ("anchors", (2, 3, 6, 2), "anchors wanted"),
        ("anchors", (3, 7, 2), r"anchors wanted \[b v k 2\], got \(3, 7, 2\)"),
        ("tracks", (2, 5, 7, 2), "tracks wanted"),
        ("extrinsics", (2, 3, 4, 3, 4), r"extrinsics wanted .* = \[2, 3, 5, 3, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            check(**{key: shape})


# tasks/video.py


def test_a_mean_is_weighted_by_a_field():
    error = jnp.array([[1.0, 2.0], [3.0, 0.0]])
    weight = jnp.array([[1.0, 4.0], [1.0, 4.0]])
    assert video.mean_square(error, weight) == (1 + 16 + 9) / 10
    counted = jnp.ones((1, 2))
    each = video.mean_square(error, weight, counted=counted, axes=(1,))
    np.testing.assert_allclose(each, [17 / 2, 9 / 2])
    assert video.mean_square(error, weight * 0) == 0


def test_the_guided_scan_joins_branches_and_carries():
    """Three branches, two latents of which one has its frame 0 held, a count of the calls."""
    data = {"video": jnp.full((2, 3, 1, 1, 1), 2.0), "motion": jnp.full((2, 3, 1, 1, 1), -1.0)}
    offsets, scales = jnp.array([0.0, 0.5, 1.0]), (3.0, 1.0)
    schedule = flow.schedule("unipc", 6, shift=2.0)
    seen = []

    def denoise(state, row, given):
        x = video.branch(state.latents, 3)
        seen.append(x["video"].shape)
        off = jnp.repeat(offsets, 2)[:, None, None, None, None]
        target = video.branch(data, 3)
        velocity = {k: (x[k] - target[k] + off) / row.sigma for k in x}
        return video.guide(velocity, scales), state.carried + given

    keys = jax.random.split(jax.random.key(0))
    noise = {k: jax.random.normal(key, data[k].shape) for k, key in zip(data, keys, strict=True)}
    first = {"video": jnp.full((2, 1, 1, 1, 1), 9.0)}
    state = video.start(schedule, noise, jnp.zeros(()))
    state = video.scan(denoise, state, schedule, first=first, given=jnp.arange(6.0))
    assert seen == [(6, 3, 1, 1, 1)] and state.carried == 15
    np.testing.assert_array_equal(state.latents["video"][:, :1], first["video"])
    # v is off by v_3 + 1 (v_2 - v_3) + 3 (v_1 - v_2): 1 - 0.5 - 1.5 = -1, so the data is off by 1.
    np.testing.assert_allclose(state.latents["video"][:, 1:], 3.0, atol=1e-3)
    np.testing.assert_allclose(state.latents["motion"], 0.0, atol=1e-3)
    # On the way each of them is where its own solver brings it.
    half = video.start(schedule, noise, jnp.zeros(()))
    half = video.scan(denoise, half, schedule.rows(0, 4), first=first, given=jnp.arange(4.0))
    x, memory = noise["motion"], flow.start(schedule, noise["motion"])
    for i in range(4):
        row = schedule.row(i)
        x, memory = flow.step(x, (x - data["motion"] - 1) / row.sigma, memory, row)
    np.testing.assert_allclose(half.latents["motion"], x, atol=1e-5)
    one = video.scan(
        lambda state, row, _: ({k: x - data[k] for k, x in state.latents.items()}, None),
        video.start(schedule, noise), schedule.rows(0, 1), first={},
    )  # fmt: skip
    assert np.isfinite(one.latents["video"]).all() and video.guide({"a": 1}, ()) == {"a": 1}


def test_each_latent_has_a_solver_of_its_own():
    """What a solver of two steps remembers of one latent does not reach the other."""
    schedule = flow.schedule("unipc", 5, shift=2.0)
    keys = jax.random.split(jax.random.key(1))
    noise = {n: jax.random.normal(k, (1, 2, 1, 1, 3)) for n, k in zip("ab", keys, strict=True)}

    def run(latents):
        def denoise(state, row, _):
            return {n: jnp.tanh(x) * (1 + row.sigma) for n, x in state.latents.items()}, None

        return video.scan(denoise, video.start(schedule, latents), schedule, first={}).latents

    together = run(noise)
    for name, x in noise.items():
        np.testing.assert_allclose(together[name], run({name: x})[name], atol=1e-6)
