"""Closed formulas for the matrix-product FLOPs of the transformers (a multiply-add is 2 FLOPs).

XLA's own count is of no use for a utilisation figure: it counts the body of a layer scan once and
a Pallas call as nothing. Functions return {part: FLOPs} of one forward pass over one sample, with
parts "linear", "intra", "inter", "cross" (the attention cores) and "embed"; `total` adds them up.
Norms, softmax and other elementwise work are left out. A backward pass is twice the forward, full
rematerialisation adds one more forward: `train`.

`config` is a dit.DiTConfig or anything with its size attributes.
"""

from typing import Any

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


def wan_block(config: Any, tokens: int) -> Cost:
    """Returns the cost of one Wan block over `tokens` tokens and config.text_len text rows."""
    d = config.dim
    per_token = linear(1, d, 6 * d) + 2 * linear(1, d, config.ffn_dim)  # q k v o, cross q o, ffn
    return {
        "linear": tokens * per_token + linear(config.text_len, d, 2 * d),
        "intra": attention(tokens, tokens, d),
        "cross": attention(tokens, config.text_len, d),
    }


def wan_embed(config: Any, tokens: int, *, timesteps: int = 1) -> Cost:
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


def wan_dit(config: Any, tokens: int, *, timesteps: int = 1) -> Cost:
    """Returns the cost of the whole Wan transformer for one sample; see `wan_embed`."""
    blocks = wan_block(config, tokens)
    return add(wan_embed(config, tokens, timesteps=timesteps), blocks, times=config.layers)


def tokens(config: Any, latents: tuple[int, int, int]) -> int:
    """Returns the number of tokens of latents (f, h, w)."""
    f, h, w = (n // p for n, p in zip(latents, config.patch, strict=True))
    return f * h * w


def mjd_block(
    config: Any,
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


def mjd(config: Any, *, views: int, frames: int, positions: int, **block: int) -> Cost:
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
