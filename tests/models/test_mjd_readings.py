"""MJD against its formulas written out, every weight random: order, groups, rope, modulation."""

import functools

import jax
import jax.numpy as jnp
import mjd_reference
import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.mjd import mjd
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import config as wan_config

TINY = mjd_config.MJDConfig(
    **{name: getattr(wan_config.TINY, name) for name in wan_config.TINY.__dataclass_fields__}
)
VIEW_INDEX = jnp.array([[0, 1, 2], [2, 5, 1]])
HIDDEN = jnp.array([[False, True, False], [False, False, False]])


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    latents = [jax.random.normal(k, (2, 3, 2, 4, 4, 4)) for k in keys[:3]]
    return *latents, jnp.array([900.0, 250.0]), jax.random.normal(keys[3], (2, 5, TINY.text_dim))


@functools.cache
def parameters():
    """Random everywhere and large, so that nothing is nearly linear or nearly nothing."""
    rng, flat = np.random.default_rng(1), tree.flatten(module.shapes(mjd.MJD, TINY))
    draw = {n: 0.3 * rng.standard_normal(x.shape, np.float32) for n, x in flat.items()}
    return tree.unflatten({n: x + n.endswith("norm/scale") for n, x in draw.items()})


def run(video, motion, feedback, t, text, placement=protocol.LOCAL, hidden=None):
    def model(params):
        network = module.bind(mjd.MJD, TINY, params)
        given = mjd.Inputs(video, motion, t, feedback, VIEW_INDEX, hidden=hidden)
        return network(given, mjd.Text(text), placement=placement)

    return jax.jit(model)(parameters())


@functools.cache
def both():
    """Outputs of the network and of the formulas, ({name: array}, {name: array})."""
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters())
    video, motion, feedback, t, text = (np.asarray(x, np.float64) for x in inputs())
    wanted = [
        mjd_reference.network(
            exact, TINY, video[b], motion[b], feedback[b], t[b], text[b], np.asarray(VIEW_INDEX[b])
        )
        for b in range(2)
    ]
    wanted = {
        n: np.stack(x) for n, x in zip(mjd.Output._fields, zip(*wanted, strict=True), strict=True)
    }
    return run(*inputs())._asdict(), wanted


@pytest.mark.parametrize("name", mjd.Output._fields)
def test_network_equals_its_formulas_written_out(name):
    """12 to 16, A6 to A8, A12 to A14, and t = 0 of the reference frame alone (9)."""
    got, wanted = both()
    size = np.abs(wanted[name]).max()
    np.testing.assert_allclose(got[name], wanted[name], rtol=0, atol=2e-5 * size)


def test_frame_0_of_a_view_without_a_reference_is_at_t():
    """Of that view and sample alone, in all blocks and at the head."""
    got, plain = run(*inputs(), hidden=HIDDEN)._asdict(), both()[0]
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), parameters())
    video, motion, feedback, t, text = (np.asarray(x, np.float64)[0] for x in inputs())
    index = np.asarray(VIEW_INDEX[0])
    wanted = mjd_reference.network(
        exact, TINY, video, motion, feedback, t, text, index, hidden=(1,)
    )
    for name, x in zip(mjd.Output._fields, wanted, strict=True):
        size = np.abs(x).max()
        np.testing.assert_allclose(got[name][0], x, rtol=0, atol=2e-5 * size)
        np.testing.assert_allclose(got[name][1], plain[name][1], rtol=0, atol=2e-5 * size)
        assert np.abs(got[name][0] - plain[name][0]).max() > 1e-2 * size


class Padded(protocol.Local):
    """One device that wants a view's tokens padded, as a mesh does where they do not divide."""

    def tokens(self, count):
        return count + 3


def test_padded_tokens_change_nothing():
    padded, plain = run(*inputs(), placement=Padded()), both()[0]
    for name, x in padded._asdict().items():
        np.testing.assert_allclose(x, plain[name], atol=2e-5 * np.abs(plain[name]).max())
