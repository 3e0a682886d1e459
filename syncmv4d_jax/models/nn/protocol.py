"""Where a model's arrays live and how they attend, said by one frozen call argument.

`Placement` is what models ask of it; `LOCAL` is one device's. machines/placement.py has a mesh's.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import einops
import jax
import jax.typing

from syncmv4d_jax.models.nn import attention

Tree = Any  # a pytree of arrays
Layer = TypeVar("Layer")  # weights of a layer, any pytree


class Placement(Protocol):
    """What models ask of a placement."""

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins the sharding of x, whose axes are named in the dimension key, e.g. "b s d"."""
        ...

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
        """As `attention.attend`; `kind` (machines.placement.KINDS) tells what meets what."""
        ...

    def each(
        self, function: Callable[..., Tree], shared: Tree, arrays: Tree, *, at_once: int = 1
    ) -> Tree:
        """Maps a function over views.

        Args:
          function: (shared, arrays of one view) -> arrays of one view, any pytrees.
          shared: what all views read, e.g. parameters.
          arrays: pytree of [b v ...].
          at_once: views to vectorise over.

        Returns:
          pytree of [b v ...].
        """
        ...

    def gather(self, layer: Layer, dtype: jax.typing.DTypeLike) -> Layer:
        """Prepares a layer's weights (any pytree) for use at `dtype`."""
        ...

    def replicate(self, layer: Layer) -> Layer:
        """Makes a small layer's weights (any pytree) whole on every device, and their gradients."""
        ...

    def heads(self, x: jax.Array) -> jax.Array:
        """Brings all tokens of a sample's views together, some heads a device: x [(b v) s h d]."""
        ...

    def tokens(self, count: int) -> int:
        """Returns how many tokens to pad a view's `count` to, so that they divide over devices."""
        ...

    def frames(self, count: int) -> int:
        """Returns how many frames to pad `count` to, so that they divide over devices."""
        ...


@dataclasses.dataclass(frozen=True)
class Local(Placement):
    """One device: nothing is cut, views are mapped one after the other.

    platform: that "auto" chooses a kernel for, where programs are made for another machine.
    """

    kernel: str = "auto"
    platform: str | None = None

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
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
        del kind
        return attention.attend(
            q, k, v, mask=mask, lengths=lengths, kernel=self.kernel, platform=self.platform
        )

    def each(
        self, function: Callable[..., Tree], shared: Tree, arrays: Tree, *, at_once: int = 1
    ) -> Tree:
        return map_views(function, shared, arrays, at_once=at_once)

    def gather(self, layer: Layer, dtype: jax.typing.DTypeLike) -> Layer:
        del dtype
        return layer

    def replicate(self, layer: Layer) -> Layer:
        return layer

    def heads(self, x: jax.Array) -> jax.Array:
        return x

    def tokens(self, count: int) -> int:
        return count

    def frames(self, count: int) -> int:
        return count


def map_views(
    function: Callable[..., Tree], shared: Tree, arrays: Tree, *, at_once: int = 1
) -> Tree:
    """`Placement.each` on one device."""
    b, v = jax.tree.leaves(arrays)[0].shape[:2]
    fold = jax.tree.map(lambda x: einops.rearrange(x, "b v ... -> (b v) ..."), arrays)
    one = functools.partial(function, shared)
    out = jax.lax.map(one, fold, batch_size=at_once if at_once > 1 else None)
    return jax.tree.map(lambda x: einops.rearrange(x, "(b v) ... -> b v ...", b=b, v=v), out)


LOCAL = Local()
