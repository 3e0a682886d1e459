"""Where a model's arrays live, said by one frozen argument; single-device here."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import einops
import jax

from syncmv4d_jax.models.nn import attention


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model's arrays live and how they attend; this one is the single-device default.

    machines/mesh.py has a sharded one of the same interface. Models take it as a call argument.
    """

    kernel: str = "auto"

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins the sharding of x, whose axes are named in the dimension key, e.g. "b s d"."""
        del axes
        return x

    def attend(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        kind: str = "intra",
    ) -> jax.Array:
        """As `attend`; `kind` (sharded.KINDS) tells a sharded placement what meets what."""
        del kind
        return attention.attend(q, k, v, mask=mask, lengths=lengths, kernel=self.kernel)

    def each(
        self, function: Callable[..., Any], shared: Any, arrays: Any, *, at_once: int = 1
    ) -> Any:
        """Maps a function over views, one after the other; a sharded placement spreads them.

        Args:
          function: (shared, arrays of one view) -> arrays of one view, any pytrees.
          shared: what all views read, e.g. parameters.
          arrays: pytree of [b v ...].
          at_once: views to vectorise over.

        Returns:
          pytree of [b v ...].
        """
        return map_views(function, shared, arrays, at_once=at_once)

    def gather(self, layer: Any, dtype: Any) -> Any:
        """Prepares a layer's weights (any pytree) for use at `dtype`; here they are as they are."""
        del dtype
        return layer

    def replicate(self, layer: Any) -> Any:
        """Makes a small layer's weights (any pytree) whole on every device, and their gradients."""
        return layer

    def heads(self, x: jax.Array) -> jax.Array:
        """Brings all tokens of a sample's views together, some heads a device: x [(b v) s h d]."""
        return x

    def tokens(self, count: int) -> int:
        """Returns how many tokens to pad a view's `count` to, so that they divide over devices."""
        return count

    def frames(self, count: int) -> int:
        """Returns how many frames to pad `count` to, so that they divide over devices."""
        return count


def map_views(function: Callable[..., Any], shared: Any, arrays: Any, *, at_once: int = 1) -> Any:
    """`Placement.each` on one device."""
    b, v = jax.tree.leaves(arrays)[0].shape[:2]
    fold = jax.tree.map(lambda x: einops.rearrange(x, "b v ... -> (b v) ..."), arrays)
    one = functools.partial(function, shared)
    out = jax.lax.map(one, fold, batch_size=at_once if at_once > 1 else None)
    return jax.tree.map(lambda x: einops.rearrange(x, "(b v) ... -> b v ...", b=b, v=v), out)


LOCAL = Placement()
