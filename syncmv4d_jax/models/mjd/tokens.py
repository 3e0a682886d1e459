"""Where the tokens of a view stand: [scale and register tokens | video | motion | padding].

Sizes are static; the mask and the spreading of per-modality vectors over tokens follow from them.
"""

import functools
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax.models.nn import cpu


class Layout(NamedTuple):
    """Static sizes: views, token grid (f, h, w), extra tokens, number of dense modalities.

    pad: tokens at the end that make a view's tokens divide over devices; nothing attends to them.
    """

    views: int
    grid: tuple[int, int, int]
    extra: int
    modalities: int
    pad: int = 0

    @property
    def dense(self) -> int:
        """Tokens of one modality of one view."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def tokens(self) -> int:
        return self.extra + self.modalities * self.dense + self.pad

    def spread(
        self,
        video: jax.Array,
        motion: jax.Array | None,
        extra: jax.Array | None,
        hidden: jax.Array | None = None,
    ) -> jax.Array:
        """video: [b 2 d] (t = 0, t), motion: [b 1 d], or both [b f d]; extra: [b 1 d]
        -> [(b v) s d].

        hidden: [b v] bool, views whose frame 0 is at t too; with vectors of t alone.
        """
        if hidden is not None:
            noisy = jnp.concatenate([video[:, 1:], video[:, 1:]], 1)
            at_t, as_given = (self.spread(x, motion, extra) for x in (noisy, video))
            return jnp.where(einops.rearrange(hidden, "b v -> (b v) 1 1"), at_t, as_given)
        first = self.grid[1] * self.grid[2]
        parts: list[tuple[jax.Array, int | list[int]]] = []
        parts += [] if extra is None else [(extra, self.extra)]
        if video.shape[1] == 2:
            parts += [(video[:, :1], first), (video[:, 1:], self.dense - first)]
        else:
            parts.append((video, [first] * self.grid[0]))
        if motion is not None:
            own = self.dense if motion.shape[1] == 1 else [first] * self.grid[0]
            parts.append((motion, own))
        parts.append((video[:, 1:2], self.pad))
        vectors, lengths = zip(*parts, strict=True)
        each = [n for own in lengths for n in (own if isinstance(own, list) else [own])]
        return _spread(jnp.concatenate(vectors, 1), tuple(each), self.views)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _spread(vectors: jax.Array, lengths: tuple[int, ...], views: int) -> jax.Array:
    """Repeats vectors [b p d] `lengths` [p] times, for every view: [(b v) s d].

    Chosen, not concatenated: it fuses with what reads it, and tokens that are cut over devices stay
    where they are. Back it is a product for every view, which reads the gradient once (on one CPU a
    product for all); summed over views before, the gradient is made again for every sum.
    """
    index, end = np.arange(sum(lengths))[None, :, None], lengths[0]
    rows = vectors[:, :1]
    for i, length in enumerate(lengths[1:], 1):
        rows, end = jnp.where(index < end, rows, vectors[:, i : i + 1]), end + length
    return einops.repeat(rows, "b s d -> (b v) s d", v=views)


def _spread_forward(vectors, lengths, views):
    return _spread(vectors, lengths, views), None


def _spread_backward(lengths, views, _, gradient):
    chosen = jnp.asarray(np.repeat(np.eye(len(lengths)), lengths, axis=1), gradient.dtype)
    if cpu.alone(gradient):
        gradient = einops.rearrange(gradient, "(b v) s d -> b (v s) d", v=views)
        return (cpu.sums(jnp.tile(chosen, views)[None], gradient),)
    gradient = einops.rearrange(gradient, "(b v) s d -> b v s d", v=views)
    highest = jax.lax.Precision.HIGHEST
    return (jnp.einsum("ps,bvsd->bvpd", chosen, gradient, precision=highest).sum(1),)


_spread.defvjp(_spread_forward, _spread_backward)
