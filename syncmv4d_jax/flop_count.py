"""Matrix-product and convolution FLOPs of any function, from its jaxpr (a multiply-add is 2 FLOPs).

XLA's cost analysis counts the body of a loop once; here a scan's body counts as often as it runs.
Only shapes are looked at, nothing is compiled, so the true size costs a second. Elementwise work,
sorts and gathers are not counted. Of a `cond` the dearest branch counts, a `while` counts one round
unless `rounds` says how many.
"""

import math
from collections.abc import Callable
from typing import Any

import jax


def count(function: Callable[..., Any], *args: Any, rounds: int = 1) -> int:
    """Returns the FLOPs of `function(*args)`; args are arrays or shapes (jax.ShapeDtypeStruct)."""
    return _jaxpr(jax.make_jaxpr(function)(*args).jaxpr, rounds)


def _jaxpr(jaxpr: Any, rounds: int) -> int:
    return sum(_equation(eqn, rounds) for eqn in jaxpr.eqns)


def _equation(eqn: Any, rounds: int) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _dot(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name == "cond":
        return max(_jaxpr(branch.jaxpr, rounds) for branch in params["branches"])
    times = {"scan": params.get("length", 1), "while": rounds}.get(name, 1)
    return times * sum(_jaxpr(inner, rounds) for inner in _inner(params))


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs an equation calls; of a custom rule the function itself, not its derivatives."""
    found = []
    for value in params.values():
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            found.append(value)
    return found


def _dot(eqn: Any) -> int:
    (contract, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contract)


def _convolution(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_channels
