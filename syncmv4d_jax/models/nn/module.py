"""The NNX fence: modules are written in Flax NNX, everything else sees plain dicts of arrays.

A model is a class ``Model(config, *, rngs)`` with a frozen, hashable config. Outside of this file
nobody handles graph definitions or NNX state:

    shapes = module.shapes(Model, config)          # dict tree of jax.ShapeDtypeStruct
    params = module.init(Model, config, key)       # dict tree of arrays
    y = module.bind(Model, config, params)(x)      # a module that holds `params`, also inside jit

Modules hold parameters only (nnx.Param). Sub-modules are attributes named by hand, never lists, so
that every path is stable; a stack of blocks is one module whose leaves carry a leading layer axis
(`nnx.vmap`) and is run by `jax.lax.scan`.
"""

import functools
from typing import Any

import jax
from flax import nnx

from syncmv4d_jax.models.nn import quantised

Params = dict[str, Any]


def _build(model: type, config: Any, key: jax.Array | None = None) -> nnx.Module:
    return model(config, rngs=nnx.Rngs(jax.random.key(0) if key is None else key))


@functools.lru_cache(maxsize=64)
def _split(model: type, config: Any) -> tuple[nnx.GraphDef, Params]:
    graphdef, state = nnx.split(nnx.eval_shape(lambda: _build(model, config)), nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def shapes(model: type, config: Any) -> Params:
    """Returns the dict tree of parameter shapes (jax.ShapeDtypeStruct); allocates nothing."""
    return jax.tree.map(lambda leaf: leaf, _split(model, config)[1])


def init(model: type, config: Any, key: jax.Array) -> Params:
    """Returns initial parameters as a dict tree; may be called under jit."""
    return nnx.to_pure_dict(nnx.state(_build(model, config, key), nnx.Param))


def bind(model: type, config: Any, params: Params) -> Any:
    """Returns a module of `model` that holds `params`, a dict tree with the paths of `shapes`; its
    kernels may be quantised (quantised.py)."""
    return nnx.merge(_split(model, config)[0], quantised.wrap(params))
