"""What frame 0 looks like, in patches: DINO ViT-B/16's features of the whole picture at 224 x 224.

Schema's `appearance`, which a motion module reads (models/perception.py). The picture is resized
linearly without keeping its sides' ratio, so that the 14 x 14 patches cover it as the transformer's
own grid does.
"""

from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.metrics.networks import weights
from syncmv4d_jax.metrics.networks.features import vit
from syncmv4d_jax.models.nn import image_layers as pixels

SIDE, GRID = 224, 14
Encoder = Callable[[np.ndarray], np.ndarray]


def prepared(images: jax.Array) -> jax.Array:
    """Images [b h w 3], 0..255 -> what DINO reads, [b 224 224 3]."""
    mean, std = (np.array(v, np.float32).reshape(1, 1, 1, 3) for v in vit.IMAGENET)
    return (pixels.resize(images, (SIDE, SIDE)) / 255 - mean) / std


def encoder(folder: str) -> tuple[Encoder, str]:
    """Loads DINO from a folder of published weights (docs/metrics.md).

    Returns:
      (image [h w 3] uint8 -> features [14 14 768] float16; a mark of the weights).

    Raises:
      FileNotFoundError: no such folder, or no DINO in it; says where to get it.
      ValueError: weights that do not fit.
    """
    loaded = weights.load("dino", weights.existing(folder))

    @jax.jit
    def run(params, image):
        return loaded.bind(params).tokens(prepared(image[None]))[0, 1:]

    def encode(image: np.ndarray) -> np.ndarray:
        found = np.asarray(run(loaded.params, jnp.asarray(image)))
        return einops.rearrange(found, "(h w) d -> h w d", h=GRID).astype(np.float16)

    return encode, ",".join(mark[:16] for mark in loaded.files.values())
