"""MJD: equality with Wan, view equivariance, independence of views, sizes, token counts."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.mjd import (
    block as mjd_block,
)
from syncmv4d_jax.models.mjd import (
    config as mjd_config,
)
from syncmv4d_jax.models.mjd import (
    mjd,
    tokens,
    warm_start,
)
from syncmv4d_jax.models.nn import module, protocol, rope
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit

SMALL = {f.name: getattr(wan_config.TINY, f.name) for f in dataclasses.fields(wan_config.TINY)}
TINY = mjd_config.MJDConfig(**SMALL)
GOLDEN = Path(__file__).parent.parent / "golden/mjd_parts"


def inputs(b=2, v=3, f=2, h=4, w=4, c=4, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    video, motion, feedback = (jax.random.normal(k, (b, v, f, h, w, c)) for k in keys[:3])
    text = jax.random.normal(keys[3], (b, 5, TINY.text_dim))
    return video, motion, feedback, text, jnp.array([300.0, 700.0])


def randomise(params, seed=1):
    """Random values everywhere, zero-initialised layers included."""
    flat = tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    return tree.unflatten(
        {
            n: x + 0.1 * jax.random.normal(k, x.shape)
            for k, (n, x) in zip(keys, flat.items(), strict=True)
        }
    )


def run(config, params, video, motion, t, text, *, placement=protocol.LOCAL, **more):
    given = mjd.Inputs(video, motion, t, **more)

    def call(params):
        return module.bind(mjd.MJD, config, params)(given, mjd.Text(text), placement=placement)

    return jax.jit(call)(params)


@dataclasses.dataclass(frozen=True)
class Hidden(protocol.Local):
    """Attention in which nobody sees motion, scale and register tokens."""

    extra: int = TINY.extra_tokens
    dense: int = 0
    patch: int = 0

    def attend(self, q, k, v, *, mask=None, lengths=None, kind="intra"):
        index = np.arange(k.shape[1])
        if kind == "intra":
            seen = (index >= self.extra) & (index < self.extra + self.dense)
            mask = jnp.asarray(seen)[None, None, None]
        elif kind == "inter":  # tokens are (v m p)
            mask = jnp.asarray(index // self.patch % 2 == 0)[None, None, None]
        return super().attend(q, k, v, mask=mask, lengths=lengths, kind=kind)


@pytest.mark.slow
def test_video_path_equals_wan_at_the_start():
    wan = randomise(module.init(dit.DiT, wan_config.TINY, jax.random.key(0)))
    params = warm_start.warm_start(TINY, warm_start.init(TINY, jax.random.key(1)), wan)
    video, motion, feedback, text, t = inputs()
    f, h, w = (n // p for n, p in zip(video.shape[2:5], TINY.patch, strict=True))
    hidden = Hidden(dense=f * h * w, patch=h * w)
    out = run(TINY, params, video, motion, t, text, feedback=feedback, placement=hidden)
    model = module.bind(dit.DiT, wan_config.TINY, wan)
    for view in range(3):
        wanted = model(video[:, view], t, text, first_frame=True)
        np.testing.assert_allclose(out.velocity[:, view], wanted, atol=1e-5)
    seen = run(TINY, params, video, motion, t, text, feedback=feedback)
    assert jnp.max(jnp.abs(seen.velocity - out.velocity)) > 1e-3  # the mask did something


def test_permuting_views_permutes_the_result():
    config = dataclasses.replace(TINY, camera_embedding=True)
    params = randomise(warm_start.init(config, jax.random.key(1)))
    video, motion, feedback, text, t = inputs()
    index = jnp.array([[0, 1, 2], [0, 1, 2]])
    cameras = jax.random.normal(jax.random.key(9), (2, 3, 3, 4))
    order = jnp.array([2, 0, 1])
    plain = run(
        config, params, video, motion, t, text,
        feedback=feedback, view_index=index, extrinsics=cameras,
    )  # fmt: skip
    turned = run(
        config, params, video[:, order], motion[:, order], t, text,
        feedback=feedback[:, order], view_index=index[:, order], extrinsics=cameras[:, order],
    )  # fmt: skip
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(a[:, order], b, atol=2e-5)


@pytest.mark.slow
def test_without_multi_view_views_are_independent():
    config = dataclasses.replace(TINY, multi_view=False)
    params = randomise(warm_start.init(config, jax.random.key(1)))
    assert not [n for n in tree.flatten(params) if "inter_view" in n]
    video, motion, feedback, text, t = inputs()
    together = run(config, params, video, motion, t, text, feedback=feedback)
    for view in range(3):
        one = slice(view, view + 1)
        alone = run(
            config, params, video[:, one], motion[:, one], t, text, feedback=feedback[:, one]
        )
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[:, one], b, atol=1e-6)


def test_with_multi_view_every_view_matters():
    params = randomise(warm_start.init(TINY, jax.random.key(1)))
    video, motion, feedback, text, t = inputs()
    base = run(TINY, params, video, motion, t, text, feedback=feedback)
    other = run(TINY, params, video.at[:, 2].add(1.0), motion, t, text, feedback=feedback)
    for a, b in zip(base, other, strict=True):
        assert jnp.max(jnp.abs(a[:, 0] - b[:, 0])) > 1e-4


def test_literal_sum_equals_tied_second_embedding():
    second = randomise(warm_start.init(TINY, jax.random.key(1)))
    tied = dict(second) | {
        "feedback_embedding": {"kernel": second["motion_patch_embedding"]["kernel"]}
    }
    literal = {k: v for k, v in second.items() if k != "feedback_embedding"}
    video, motion, feedback, text, t = inputs()
    config = dataclasses.replace(TINY, inject="literal_sum")
    a = run(TINY, tied, video, motion, t, text, feedback=feedback)
    b = run(config, literal, video, motion, t, text, feedback=feedback)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_fresh_model_ignores_feedback_and_other_views():
    params = warm_start.init(TINY, jax.random.key(1))
    video, motion, feedback, text, t = inputs()
    a = run(TINY, params, video, motion, t, text, feedback=feedback)
    b = run(TINY, params, video, motion, t, text, feedback=None)
    np.testing.assert_array_equal(a.scale, b.scale)
    moved = run(TINY, params, video.at[:, 2].add(1.0), motion, t, text)
    np.testing.assert_allclose(moved.scale[:, :2], b.scale[:, :2], atol=1e-6)


def test_video_only_has_no_motion():
    config = dataclasses.replace(TINY, joint_motion=False)
    params = warm_start.init(config, jax.random.key(1))
    video, motion, _, text, t = inputs()
    out = run(config, params, video, None, t, text)
    assert out.motion_velocity is None and out.scale is None
    assert out.velocity.shape == video.shape
    with pytest.raises(ValueError, match="joint_motion=False"):
        run(config, params, video, motion, t, text)


def test_full_size_parts_and_tokens():
    config = mjd_config.MJDConfig()
    shapes = module.shapes(mjd.MJD, config)
    sizes = {}
    for name, leaf in tree.flatten(shapes).items():
        part = name.split("/")[1] if name.startswith("blocks/") else name.split("/")[0]
        sizes[part] = sizes.get(part, 0) + leaf.size
    d, layers = config.dim, config.layers
    attention = 4 * (d * d + d) + 2 * d
    assert sizes["inter_view_attn"] == layers * attention
    assert sizes["inter_view_modulation"] == layers * 3 * d
    assert sizes["motion_modulation"] == sizes["scale_modulation"] == layers * 9 * d
    assert sizes["motion_time_projection"] == 6 * d * d + 6 * d == 56_641_536
    assert sizes["extra_embedding"] == 8 * d
    wan = tree.flatten(module.shapes(dit.DiT, wan_config.TI2V_5B))
    mine = tree.flatten(shapes)
    assert all(mine[name].shape == leaf.shape for name, leaf in wan.items())
    layout = tokens.Layout(3, (13, 15, 22), config.extra_tokens, 2)
    assert layout.tokens + config.text_len == 9100


def test_parameters_of_the_new_parts_are_those_of_the_golden_file():
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.lines() == (GOLDEN / "parts.txt").read_text().splitlines()
    totals = dict(line.split()[1:] for line in make.lines() if line.startswith("total"))
    # A12, A13: 37.8 M a block for inter-view attention, 56.6 M for motion's time projection.
    assert int(totals["blocks/inter_view_attn"]) / 30 == pytest.approx(37.8e6, rel=2e-3)
    assert int(totals["motion_time_projection"]) == pytest.approx(56.6e6, rel=2e-3)


def test_flops_of_a_block_follow_the_closed_formula():
    """The built block at full size against `flops.mjd_block`, counted from its jaxpr."""
    config = mjd_config.MJDConfig()
    layout = tokens.Layout(3, (13, 15, 22), config.extra_tokens, 2)
    params = module.shapes(mjd_block.MJDBlock, config)
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)  # noqa: E731
    dense = 3 * 2 * 330
    table = lambda *s: jax.eval_shape(  # noqa: E731
        lambda: rope.rotations(jnp.zeros((*s, 3), jnp.int32), d_head=config.d_head)
    )
    conditions = mjd_block.Conditions(
        shape(1, 2, 6, config.dim), shape(1, 1, 6, config.dim), table(layout.tokens),
        table(13, dense), None,
    )  # fmt: skip

    def run(params, x, text, conditions):
        block = module.bind(mjd_block.MJDBlock, config, params)
        return block(x, text, conditions=conditions, layout=layout)

    text = jax.ShapeDtypeStruct((1, 512, config.dim), config.dtype)  # as the transformer gives it
    got = flops.count(run, params, shape(3, layout.tokens, config.dim), text, conditions)
    wanted = flops.total(flops.mjd_block(config, views=3, frames=13, positions=330))
    assert got == pytest.approx(wanted, rel=0.02)


def test_full_size_runs_by_shape():
    config = mjd_config.MJDConfig()
    params = module.shapes(mjd.MJD, config)
    latents = jax.ShapeDtypeStruct((1, 3, 13, 30, 44, 48), jnp.float32)
    out = jax.eval_shape(
        lambda p, x, t, c: module.bind(mjd.MJD, config, p)(mjd.Inputs(x, x, t, x), mjd.Text(c)),
        params,
        latents,
        jax.ShapeDtypeStruct((1,), jnp.float32),
        jax.ShapeDtypeStruct((1, 512, 4096), jnp.float32),
    )
    assert out.velocity.shape == out.motion_velocity.shape == latents.shape
    assert out.scale.shape == (1, 3, 2)
