"""Matrix-product and convolution FLOPs of any function, from its jaxpr (a multiply-add is 2 FLOPs).

XLA's cost analysis counts the body of a loop once; here a scan's body counts as often as it runs.
Only shapes are looked at, nothing is compiled, so the true size costs a second. Of a `cond` the
dearest branch counts, a `while` counts one round unless `rounds` says how many. Elementwise work is
not counted unless asked for: then an arithmetic operation or a comparison is 1 an element of its
result, a reduction 1 an element of its input, a sort log2(n) an element; gathers stay free.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

NAMES = (
    "add sub mul div max min exp log sqrt rsqrt pow integer_pow tanh logistic erf sin cos floor "
    "round abs neg sign select_n clamp eq ne lt le gt ge and or not"
)
ARITHMETIC = frozenset(NAMES.split())


def count(
    function: Callable[..., Any], *args: Any, rounds: int = 1, elementwise: bool = False
) -> int:
    """Returns the FLOPs of `function(*args)`; args are arrays or shapes (jax.ShapeDtypeStruct)."""
    return of_jaxpr(jax.make_jaxpr(function)(*args), rounds=rounds, elementwise=elementwise)


def of_jaxpr(jaxpr: Any, *, rounds: int = 1, elementwise: bool = False) -> int:
    """Returns the FLOPs of a traced program (a closed jaxpr, as `jit(f).trace(...).jaxpr`)."""
    return _jaxpr(jaxpr.jaxpr, rounds, elementwise)


def _jaxpr(jaxpr: Any, rounds: int, elementwise: bool) -> int:
    return sum(_equation(eqn, rounds, elementwise) for eqn in jaxpr.eqns)


def _equation(eqn: Any, rounds: int, elementwise: bool) -> int:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return _dot(eqn)
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name == "cond":
        return max(_jaxpr(branch.jaxpr, rounds, elementwise) for branch in params["branches"])
    if inner := _inner(params):
        times = {"scan": params.get("length", 1), "while": rounds}.get(name, 1)
        return times * sum(_jaxpr(one, rounds, elementwise) for one in inner)
    return _light(eqn) if elementwise else 0


def _light(eqn: Any) -> int:
    name, shape = eqn.primitive.name, eqn.invars[0].aval.shape if eqn.invars else ()
    if name in ARITHMETIC:
        return math.prod(eqn.outvars[0].aval.shape)
    if name == "sort":
        length = max(2, shape[eqn.params["dimension"]])
        return math.ceil(math.prod(shape) * math.log2(length))
    return math.prod(shape) if name.startswith(("reduce_", "cum", "arg", "top_k")) else 0


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
