"""LPIPS as a term of a loss (models/lpips.py), with the published weights of AlexNet.

    d = mean over frames of LPIPS(pixels, wanted)

A square error is least for the mean of what may be there, which is soft; this term is not. The
network is the frozen part PART, which only training reads: `config.weights.lpips` names a folder of
the published files (docs/metrics.md).
"""

from typing import Any

import einops
import jax

from syncmv4d_jax.models import lpips
from syncmv4d_jax.models.nn import module

PART, CONFIG = "lpips", lpips.ALEX
Params = dict[str, Any]


def init(rng: jax.Array) -> Params:
    """Random values of the network; they are meant to be loaded."""
    return module.init(lpips.LPIPS, CONFIG, rng)


def check(where: str, weight: float, size: tuple[int, ...]) -> None:
    """Checks a term of this weight for pictures of (height, width).

    Raises:
      ValueError: a weight below 0, or pictures that are too small for the network.
    """
    if weight < 0:
        raise ValueError(f"{where}: wanted at least 0, got {weight}")
    if weight and size and min(size) < CONFIG.smallest:
        raise ValueError(
            f"{where}: wanted pictures of at least {CONFIG.smallest} pixels a side, got {size}"
        )


@jax.named_scope("perceptual")
def distance(params: Params, pixels: jax.Array, wanted: jax.Array) -> jax.Array:
    """[b] the distance of clips [b n h w 3], float32 in -1..1, a mean over their frames."""
    network = module.bind(lpips.LPIPS, CONFIG, params)
    frames = (einops.rearrange(x, "b n h w c -> (b n) h w c") for x in (pixels, wanted))
    return network(*frames).reshape(pixels.shape[:2]).mean(1)
