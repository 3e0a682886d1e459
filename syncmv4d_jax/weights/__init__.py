"""Weights on disk: converted parts in and out, frozen encoders.

config, params = weights.load("dit", path)      weights.save("dit", path, config, params)
features = weights.TextEncoder(path)(["a hand pours tea"])
"""

from syncmv4d_jax.weights.encoders import TextEncoder
from syncmv4d_jax.weights.store import load, save

__all__ = ["TextEncoder", "load", "save"]
