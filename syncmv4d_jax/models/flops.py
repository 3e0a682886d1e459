"""Closed formulas for the matrix-product FLOPs of the transformers (a multiply-add is 2 FLOPs).

XLA's own count is of no use for a utilisation figure: it counts the body of a layer scan once and
a Pallas call as nothing. Functions return {part: FLOPs} of one forward pass over one sample, with
parts "linear", "intra", "inter", "cross" (the attention cores) and "embed"; `total` adds them up.
Norms, softmax and other elementwise work are left out. A backward pass is twice the forward, full
rematerialisation adds one more forward: `train`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from syncmv4d_jax.models.mjd import config as mjd_config
from syncmv4d_jax.models.wan import config as wan_config

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


def of_jaxpr(jaxpr: core.ClosedJaxpr, *, rounds: int = 1, elementwise: bool = False) -> int:
    """Returns the FLOPs of a traced program (a closed jaxpr, as `jit(f).trace(...).jaxpr`)."""
    return _jaxpr(jaxpr.jaxpr, rounds, elementwise)


def _jaxpr(jaxpr: core.Jaxpr, rounds: int, elementwise: bool) -> int:
    return sum(_equation(eqn, rounds, elementwise) for eqn in jaxpr.eqns)


def _equation(eqn: core.JaxprEqn, rounds: int, elementwise: bool) -> int:
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


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _light(eqn: core.JaxprEqn) -> int:
    name, shape = eqn.primitive.name, _shape(eqn.invars[0]) if eqn.invars else ()
    if name in ARITHMETIC:
        return math.prod(_shape(eqn.outvars[0]))
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


def _dot(eqn: core.JaxprEqn) -> int:
    (contract, _), _ = eqn.params["dimension_numbers"]
    left = _shape(eqn.invars[0])
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(left[i] for i in contract)


def _convolution(eqn: core.JaxprEqn) -> int:
    kernel = _shape(eqn.invars[1])
    out_channels = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // out_channels


Cost = dict[str, int]


def total(cost: Cost) -> int:
    """Returns the FLOPs of all parts together."""
    return sum(cost.values())


def linear(rows: int, d_in: int, d_out: int) -> int:
    """Returns the FLOPs of a [rows d_in] x [d_in d_out] product."""
    return 2 * rows * d_in * d_out


def attention(s: int, s_k: int, d: int) -> int:
    """Returns the FLOPs of q k^T and p v over all heads; d is the width of all heads together."""
    return 4 * s * s_k * d


def add(first: Cost, second: Cost, *, times: int = 1) -> Cost:
    """Returns first + times * second, part by part."""
    parts = [*first, *(p for p in second if p not in first)]
    return {p: first.get(p, 0) + times * second.get(p, 0) for p in parts}


def wan_block(config: wan_config.DiTConfig, tokens: int) -> Cost:
    """Returns the cost of one Wan block over `tokens` tokens and config.text_len text rows."""
    d = config.dim
    per_token = linear(1, d, 6 * d) + 2 * linear(1, d, config.ffn_dim)  # q k v o, cross q o, ffn
    return {
        "linear": tokens * per_token + linear(config.text_len, d, 2 * d),
        "intra": attention(tokens, tokens, d),
        "cross": attention(tokens, config.text_len, d),
    }


def wan_embed(config: wan_config.DiTConfig, tokens: int, *, timesteps: int = 1) -> Cost:
    """Returns the cost of patch, time and text embeddings and the head.

    Args:
      timesteps: how many times the time MLPs run: the number of distinct t of a sample, 1 or 2
        here; `tokens` gives what the reference computes.
    """
    d = config.dim
    patches = config.patch_size * (config.in_channels + config.out_channels)
    time = linear(1, config.freq_dim, d) + linear(1, d, d) + linear(1, d, 6 * d)
    text = linear(config.text_len, config.text_dim, d) + linear(config.text_len, d, d)
    return {"embed": linear(tokens, patches, d) + timesteps * time + text}


def wan_dit(config: wan_config.DiTConfig, tokens: int, *, timesteps: int = 1) -> Cost:
    """Returns the cost of the whole Wan transformer for one sample; see `wan_embed`."""
    blocks = wan_block(config, tokens)
    return add(wan_embed(config, tokens, timesteps=timesteps), blocks, times=config.layers)


def tokens(config: wan_config.DiTConfig, latents: Sequence[int]) -> int:
    """Returns the number of tokens of latents (f, h, w)."""
    f, h, w = (n // p for n, p in zip(latents, config.patch, strict=True))
    return f * h * w


def mjd_block(
    config: wan_config.DiTConfig,
    *,
    views: int,
    frames: int,
    positions: int,
    modalities: int = 2,
    extra: int = 8,
    text_copies: int = 1,
) -> Cost:
    """Returns the cost of one multi-view joint block: Wan's plus inter-view attention.

    Intra-view attention spans (extra + modalities f h w) tokens of a view, inter-view attention
    (modalities v h w) tokens of a latent frame and one group of the (v extra) others.

    Args:
      views, frames, positions: v, f and h w in tokens.
      modalities: streams that attend to each other (video, motion).
      extra: scale and register tokens of a view.
      text_copies: how many times the text keys and values are computed (1, or v).
    """
    d = config.dim
    view = extra + modalities * frames * positions
    inter = views * modalities * positions
    per_token = linear(1, d, 10 * d) + 2 * linear(1, d, config.ffn_dim)
    return {
        "linear": views * view * per_token + text_copies * linear(config.text_len, d, 2 * d),
        "intra": views * attention(view, view, d),
        "inter": frames * attention(inter, inter, d) + attention(views * extra, views * extra, d),
        "cross": views * attention(view, config.text_len, d),
    }


def mjd(
    config: mjd_config.MJDConfig, *, views: int, frames: int, positions: int, **block: int
) -> Cost:
    """Returns the cost of the whole multi-view joint transformer for one sample of v views.

    Args:
      **block: modalities, extra, text_copies of `mjd_block`.
    """
    modalities = block.get("modalities", 2)
    embed = wan_embed(config, views * modalities * frames * positions, timesteps=modalities)
    one = mjd_block(config, views=views, frames=frames, positions=positions, **block)
    return add(embed, one, times=config.layers)


def train(cost: Cost, *, remat: bool = False) -> int:
    """Returns the FLOPs of forward and backward; with `remat` what the hardware computes."""
    return (4 if remat else 3) * total(cost)
