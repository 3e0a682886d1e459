"""Cameras and actions of latent frames: off they are not there, at the start they change nothing,
and then each reaches its own latent frame alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.mjd import conditions, mjd, tokens, warm_start
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.nn import module

B, V, F, H, W, C, A = 2, 3, 3, 4, 6, 4, 2
N = 4 * (F - 1) + 1
BASE = mjd_config.MJDConfig(
    dim=24, ffn_dim=48, heads=2, layers=2, patch=(1, 2, 2), in_channels=C, out_channels=C,
    freq_dim=16, text_dim=12, text_len=5, dtype="float32",
)  # fmt: skip
ALONE = dataclasses.replace(BASE, joint_motion=False)


def poses(seed=0, frames=N):
    """[b v n 3 4] rigid."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(B, V, frames, 3, 3)))[0]
    shift = rng.normal(size=(B, V, frames, 3, 1))
    return jnp.asarray(np.concatenate([turn, shift], -1), jnp.float32)


def given(config, **more):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(B, V, F, H, W, C)), jnp.float32)
    motion = x[..., ::-1] if config.joint_motion else None
    k = jnp.asarray(np.tile([[4.0, 0, 1], [0, 4.0, 0.5], [0, 0, 1]], (B, V, 1, 1)), jnp.float32)
    more = {"intrinsics": k, "extrinsics": poses(), **more}
    if config.actions:
        rows = rng.normal(size=(B, N, config.actions))
        more = {"actions": jnp.asarray(rows, jnp.float32), **more}
    return mjd.Inputs(x, motion, jnp.array([300.0, 700.0]), motion, **more)


TEXT = mjd.Text(jnp.asarray(np.random.default_rng(2).normal(size=(B, 5, 12)), jnp.float32))


def alive(params):
    """Zero-initialised maps made to count."""
    flat = tree.flatten(params)
    for i, (name, x) in enumerate(sorted(flat.items())):
        if "embedding" in name or "inter_view" in name or "head" in name:
            flat[name] = x + 0.1 * jax.random.normal(jax.random.key(i), x.shape)
    return tree.unflatten(flat)


def run(config, params, inputs):
    return module.bind(mjd.MJD, config, params)(inputs, TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASE, ALONE], ids=["joint", "video"])
def test_paths_without_conditions_stay_and_with_them_nothing_changes_at_first(base):
    plain = warm_start.init(base, jax.random.key(0))
    more = dataclasses.replace(base, camera_embedding=True, camera_form="rays", actions=A)
    full = warm_start.init(more, jax.random.key(0))
    new = tree.flatten(full).keys() - tree.flatten(plain).keys()
    assert {name.split("/")[0] for name in new} == {"action_embedding", "blocks"}
    assert all("action_embedding" in n or "camera_embedding" in n for n in new)
    assert not tree.flatten(plain).keys() - tree.flatten(full).keys()
    shared = tree.unflatten(tree.flatten(full) | tree.flatten(plain))
    with_them = run(more, shared, given(more))
    without = run(base, plain, given(base))
    np.testing.assert_allclose(with_them.velocity, without.velocity, atol=1e-5)
    if base.joint_motion:
        np.testing.assert_allclose(with_them.motion_velocity, without.motion_velocity, atol=1e-5)


def frames_changed(one, other):
    gap = np.abs(np.asarray(one) - np.asarray(other)).max((0, 1, 3, 4, 5))
    return (gap > 1e-6).tolist()


def test_an_action_enters_at_the_latent_frame_that_it_leads_to():
    """Frames 4f - 4 .. 4f - 1 lead to those of latent frame f; nothing leads to the first, and the
    last action leads to none."""
    embed = module.init(conditions.ActionEmbedding, dataclasses.replace(ALONE, actions=A),
                        jax.random.key(0))  # fmt: skip
    embed["last"]["kernel"] = embed["last"]["kernel"] + 0.3
    layer = module.bind(conditions.ActionEmbedding, dataclasses.replace(ALONE, actions=A), embed)
    time = jax.random.normal(jax.random.key(1), (B, 2, 24))
    actions = jax.random.normal(jax.random.key(2), (B, N, A))
    plain, motion = layer(time, actions, None)
    assert plain.shape == motion.shape == (B, F, 24)
    np.testing.assert_array_equal(plain[:, 0], time[:, 0])
    np.testing.assert_array_equal(motion[:, 0], time[:, 1])
    for at, frame in ((0, 1), (3, 1), (4, 2), (7, 2), (8, None)):
        moved, _ = layer(time, actions.at[:, at].add(1.0), None)
        changed = [bool(np.abs(moved - plain)[:, f].max() > 1e-6) for f in range(F)]
        assert changed == [f == frame for f in range(F)], at
    dropped, _ = layer(time, actions, jnp.array([True, False]))
    np.testing.assert_array_equal(dropped[0], plain[0])
    np.testing.assert_array_equal(dropped[1, 1:], np.broadcast_to(time[1, 1], (F - 1, 24)))


@pytest.mark.parametrize("base", [BASE, ALONE], ids=["joint", "video"])
def test_actions_change_what_is_made_unless_they_are_dropped(base):
    config = dataclasses.replace(base, actions=A)
    params = alive(warm_start.init(config, jax.random.key(0)))
    inputs = given(config)
    other = inputs._replace(actions=inputs.actions + 1.0)
    acts = jnp.array([True, False])
    outs = [run(config, params, x._replace(acts=acts)).velocity for x in (inputs, other)]
    assert np.abs(outs[0][0] - outs[1][0]).max() > 1e-4
    np.testing.assert_array_equal(outs[0][1], outs[1][1])


def test_rays_are_those_of_the_middle_of_each_token():
    extrinsics = poses()
    k = given(ALONE).intrinsics
    layout = tokens.Layout(V, (F, 2, 3), 8, 2, pad=1)
    found = np.asarray(conditions.cameras(extrinsics, k, layout, form="rays"))
    assert found.shape == (B * V, layout.tokens, 6) and not found[:, -1].any()
    rotation, shift = np.asarray(extrinsics)[..., :3], np.asarray(extrinsics)[..., 3]
    eye = -np.einsum("bvnji,bvnj->bvni", rotation, shift)
    origin = eye[:, :, :1].mean(1, keepdims=True)
    b, v, f, i, j = 1, 2, 2, 1, 2
    ray = np.linalg.inv(np.asarray(k)[b, v]) @ [j, i, 1.0]
    ray = rotation[b, v, 4 * f].T @ ray
    ray /= np.linalg.norm(ray)
    moment = np.cross(eye[b, v, 4 * f] - origin[b, 0, 0], ray)
    at = f * 6 + i * 3 + j
    for start in (8, 8 + 18):
        np.testing.assert_allclose(
            found[b * V + v, start + at], np.concatenate([ray, moment]), atol=1e-4
        )


def test_poses_of_cameras_that_move_reach_their_latent_frame():
    config = dataclasses.replace(ALONE, camera_embedding=True)
    params = alive(warm_start.init(config, jax.random.key(0)))
    still = poses(frames=1)[:, :, 0]
    one = run(config, params, given(config, extrinsics=still)).velocity
    many = jnp.broadcast_to(still[:, :, None], (B, V, N, 3, 4))
    np.testing.assert_allclose(
        run(config, params, given(config, extrinsics=many)).velocity, one, atol=1e-5
    )
    layout = tokens.Layout(V, (F, 2, 3), 0, 1)
    rows = conditions.cameras(many, None, layout, form="pose")
    assert rows.shape == (B * V, 18, 12)
    moved = conditions.cameras(many.at[:, :, 4].add(1.0), None, layout, form="pose")
    changed = np.abs(np.asarray(moved - rows)).max((0, 2)) > 0
    assert changed.tolist() == [False] * 6 + [True] * 6 + [False] * 6
    other = many.at[:, :, 4:].add(0.5)
    gap = np.abs(run(config, params, given(config, extrinsics=other)).velocity - one)
    assert gap.max() > 1e-4


def test_what_is_missing_is_named():
    for changes, more, text in (
        ({"camera_embedding": True}, {"extrinsics": None}, "camera_embedding needs extrinsics"),
        ({"camera_embedding": True, "camera_form": "rays"}, {"intrinsics": None}, "rays"),
        ({"actions": A}, {"actions": jnp.zeros((B, N, 3))}, r"wanted actions .*\(2, 9, 2\)"),
    ):
        config = dataclasses.replace(ALONE, **changes)
        params = warm_start.init(config, jax.random.key(0))
        with pytest.raises(ValueError, match=text):
            run(config, params, given(config, **more))
    with pytest.raises(ValueError, match="camera_form"):
        dataclasses.replace(BASE, camera_form="quaternion")
    with pytest.raises(ValueError, match="actions"):
        dataclasses.replace(BASE, actions=-1)
