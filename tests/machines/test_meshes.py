"""The aligner sharded over frames and tracks == unsharded, on eight fake devices.

Bounds: loss 1e-6, each gradient leaf 1e-5 of its own largest value. In float32 norms over nearly
constant features amplify the order of summation (5e-5 to 2e-4 of a leaf on these inputs), so the
program runs in float64, where rounding is far below the bound: a difference is then an error.
Attention is our "chunked" kernel there: that of jax.nn, which "auto" takes for few tokens, has
float32 logits in float64 too.
"""

import dataclasses
import functools

import jax
import meshed
import pytest

from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module, protocol


def aligner_step(views, name=None):
    """Loss and gradients on the mesh called `name`; None: one device."""
    config = dataclasses.replace(dpa_config.TINY, heads=4, depth=1, patch=32, dtype="float64")
    params = meshed.shaken(
        module.init(aligner.Aligner, config, jax.random.key(0)), jax.random.key(1)
    )
    batch, placement = meshed.scene(views), protocol.Local(kernel="chunked")
    if name:
        placement, params, batch = meshed.placed(name, params, batch, kernel="chunked")
    run = jax.value_and_grad(functools.partial(meshed.aligner_loss, config=config))
    step = jax.jit(run, static_argnums=2, compiler_options=meshed.QUICK)
    return jax.device_get(step(params, batch, placement))


whole_aligner = functools.cache(aligner_step)


@pytest.mark.slow
@pytest.mark.parametrize("name", meshed.MESHES)
def test_aligner(name, double):
    views = meshed.views_of(name)
    meshed.check(whole_aligner(views), aligner_step(views, name), loss=1e-6, leaf=1e-5)
