"""LPIPS as a loss: its gradient; its values are in tests/metrics/networks."""

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models import lpips
from syncmv4d_jax.models.nn import module

TINY = lpips.LPIPSConfig(((3, 1, 1, 4, 0, True), (3, 1, 1, 4, 2, True)))


def test_the_gradient_is_finite_where_no_feature_answers():
    """The length of a vector of zeros has no derivative of its own."""
    params = module.init(lpips.LPIPS, TINY, jax.random.key(0))
    params["conv_1"] = jax.tree.map(jnp.zeros_like, params["conv_1"])  # all dead
    params["head_0"] = jax.tree.map(jnp.abs, params["head_0"])
    a, b = jax.random.uniform(jax.random.key(1), (2, 1, 8, 8, 3), minval=-1.0)

    def far(x):
        return module.bind(lpips.LPIPS, TINY, params)(x, b)[0]

    value, gradient = jax.value_and_grad(far)(a)
    assert value > 1e-3 and np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6
    step = 1e-3 * gradient / jnp.linalg.norm(gradient)
    change = far(a + step) - far(a - step)
    np.testing.assert_allclose(change, 2e-3 * jnp.linalg.norm(gradient), rtol=0.1)
