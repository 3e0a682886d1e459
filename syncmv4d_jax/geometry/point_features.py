"""Point clouds over time in a frame of their own, and what is told of each point.

    X' = R0 (X - c) / u        R0: axes of view 0's camera in frame 0
    c  = median of the points of frame 0, axis by axis
    u  = 0.25 m where lengths are metres; else r / 1.2, r the 90th percentile of |X - c| in frame 0

67 features a point: sines and cosines of pi 2^i X', i < 8 (48); X' (3); normal (3); colour (3); the
way from the frame before, in 0.08 u (3); has a normal, a colour, a velocity (3); left hand, right
hand, first object, other object (4). What is missing is zero, and its flag says so.
"""

from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
FEATURES = 67
OCTAVES = 8
UNIT = 0.25  # metres
REACH = 1.2  # where u follows from the cloud: nine points of ten are within so many units
STEP = 0.08  # units that a velocity of 1 is
LABELS = 4


class Frame(NamedTuple):
    """centre: [b 3]; axes: [b 3 3], world to frame; unit: [b], in the world's unit."""

    centre: Array
    axes: Array
    unit: Array

    def normalise(self, points: Array) -> Array:
        """points: [b n p 3], world -> X', the same shape."""
        away = points - self.centre[:, None, None]
        return self.turn(away) / self.unit[:, None, None, None]

    def turn(self, vectors: Array) -> Array:
        """vectors: [b n p 3], world -> the frame's axes."""
        return jnp.einsum("bij,bnpj->bnpi", self.axes, vectors, precision="highest")


def frame(points: Array, valid: Array, extrinsics: Array, metric: Array) -> Frame:
    """The frame of clouds.

    Args:
      points: [b n p 3]. valid: [b n p] bool. extrinsics: [b 3 4] of view 0 in frame 0.
      metric: [b] bool, the unit is the metre.
    """
    first, there = points[:, 0], valid[:, 0]
    some = jnp.any(there, axis=1)
    known = jnp.where((there | ~some[:, None])[..., None], first, jnp.nan)
    centre = jnp.nanmedian(known, axis=1)
    away = jnp.sqrt(jnp.sum(jnp.square(known - centre[:, None]), axis=-1))
    radius = jnp.maximum(jnp.nanpercentile(away, 90, axis=1) / REACH, 1e-6)
    return Frame(centre, extrinsics[:, :, :3], jnp.where(metric, UNIT, radius))


def features(
    points: Array, valid: Array, told: Array, ids: Array, own: Frame
) -> tuple[Array, Array]:
    """What is known of each point.

    Args:
      points: [b n p 3]. valid: [b n p] bool.
      told: [b n p 13] of schema.BATCH: normal, colour, flags of normal, colour and velocity, label.
      ids: [b] bool, point i is one surface point in all frames.
      own: frame of the clouds.

    Returns:
      (X' [b n p 3], features [b n p 67]), float32, zero where there is no point.
    """
    here = valid[..., None]
    place = jnp.where(here, own.normalise(points), 0.0)
    normal, colour, flags, label = jnp.split(told, (3, 6, 9), axis=-1)
    before = jnp.concatenate([valid[:, :1] & False, valid[:, :-1]], axis=1)
    moves = (before & valid & ids[:, None, None])[..., None]
    step = place - jnp.concatenate([place[:, :1], place[:, :-1]], axis=1)
    moves = moves & (flags[..., 2:] > 0)
    parts = [
        fourier(place),
        place,
        own.turn(normal) * flags[..., :1],
        colour * flags[..., 1:2],
        jnp.where(moves, step / STEP, 0.0),
        flags[..., :2],
        moves.astype(jnp.float32),
        label,
    ]
    return place, jnp.where(here, jnp.concatenate(parts, axis=-1), 0.0)


def fourier(x: Array) -> Array:
    """x: [... 3] -> sines, then cosines, of pi 2^i x: [... 48]."""
    turns = jnp.asarray(np.pi * 2.0 ** np.arange(OCTAVES), jnp.float32)
    phase = x[..., None] * turns[(None,) * x.ndim]
    waves = jnp.stack([jnp.sin(phase), jnp.cos(phase)], axis=-3)
    return einops.rearrange(waves, "... s c i -> ... (s c i)")
