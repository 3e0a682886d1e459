"""Two views for a studio of `serving.WANTS`."""

import io
import json

import numpy as np
from PIL import Image

RIG = {
    name: {"K": [50, 0, 23.5, 0, 50, 15.5, 0, 0, 1], "R": [1, 0, 0, 0, 1, 0, 0, 0, 1],
           "T": [x, 0, 0], "imgSize": [48, 32]}
    for name, x in (("left", 0.1), ("right", -0.1))
}  # fmt: skip
FIELDS = {"prompt": "a cup", "cameras": json.dumps(RIG)}


def png(seed=0, size=(48, 32)):
    """A picture of noise; size is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PAIR = [("right.png", png(1)), ("left.png", png(0))]
