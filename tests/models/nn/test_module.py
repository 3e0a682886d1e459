"""The NNX fence: shapes, init and bind agree, under jit and in a scan."""

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import dit


def test_shapes_init_and_bind_agree():
    shapes = module.shapes(dit.DiT, wan_config.TINY)
    params = module.init(dit.DiT, wan_config.TINY, jax.random.key(0))
    tree.check_same(shapes, params, wanted_from="shapes", got_from="init")
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    jitted = jax.jit(lambda key: module.init(dit.DiT, wan_config.TINY, key))(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, jitted)


def test_layers_of_a_stack_start_different():
    params = module.init(dit.DiT, wan_config.TINY, jax.random.key(0))
    kernel = params["blocks"]["ffn"]["linear_0"]["kernel"]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 1e-3


def test_shapes_are_not_shared_between_callers():
    module.shapes(dit.DiT, wan_config.TINY).pop("blocks")
    assert "blocks" in module.shapes(dit.DiT, wan_config.TINY)
