"""Closed FLOP formulas against known figures and against XLA's count of a small program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from syncmv4d_jax.models import flops
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit


@pytest.mark.parametrize(
    ("clip", "tokens", "tera", "share"),
    [
        ((31, 44, 80), 27280, 521, 0.53),
        ((13, 30, 44), 4290, 46.0, 0.15),
        ((13, 16, 24), 1248, 12.4, 0.05),
    ],
)
def test_wan_figures(clip, tokens, tera, share):
    config = wan_config.TI2V_5B
    assert flops.tokens(config, clip) == tokens
    cost = flops.wan_dit(config, tokens, timesteps=tokens)
    assert flops.total(cost) / 1e12 == pytest.approx(tera, rel=5e-3)
    assert cost["intra"] / flops.total(cost) == pytest.approx(share, abs=6e-3)
    saved = flops.total(cost) - flops.total(flops.wan_dit(config, tokens, timesteps=2))
    assert saved / tokens == pytest.approx(1.15e12 / 8580, rel=0.02)


def test_mjd_figures():
    cost = flops.mjd(wan_config.TI2V_5B, views=3, frames=13, positions=330)
    per_view = {part: x / 3e12 for part, x in cost.items()}
    # q k v o of the inter-view attention, counted under "linear" here.
    inter_linear = 30 * (8 + 8580) * flops.linear(1, 3072, 4 * 3072) / 1e12
    assert per_view["linear"] - inter_linear == pytest.approx(74.5, abs=0.3)
    assert per_view["intra"] == pytest.approx(27.1, abs=0.1)
    assert per_view["inter"] + inter_linear == pytest.approx(25.7, abs=0.1)
    assert flops.total(cost) / 1e12 == pytest.approx(389, rel=5e-3)


def test_formula_agrees_with_the_lowered_program():
    config = dataclasses.replace(
        wan_config.TINY, dim=512, ffn_dim=1024, heads=4, layers=1, text_dim=256, text_len=64
    )
    latents, t = jnp.zeros((1, 4, 16, 16, 4)), jnp.zeros((1,))

    def forward(params):
        net = module.bind(dit.DiT, config, params)
        placement = protocol.Local(kernel="xla")
        return net(latents, t, jnp.zeros((1, 64, 256)), placement=placement)

    lowered = jax.jit(forward).lower(module.shapes(dit.DiT, config))
    wanted = lowered.cost_analysis()["flops"]
    got = flops.total(flops.wan_dit(config, flops.tokens(config, (4, 16, 16))))
    # The rest of XLA's count is elementwise work.
    assert got <= wanted <= 1.05 * got


def test_training_costs():
    cost = flops.wan_block(wan_config.TINY, 10)
    assert flops.train(cost) == 3 * flops.total(cost)
    assert flops.train(cost, remat=True) == 4 * flops.total(cost)
    assert flops.add({"a": 1}, {"a": 2, "b": 3}, times=2) == {"a": 5, "b": 6}
