"""What the devices of a mesh do together: attention, mapped views, weights gathered for a layer.

`Placement` is what models get as a call argument (models/nn/protocol.py has one device's).
Activations are named by the dimension key, CONSTRAINTS tells which mesh axes cut what; KINDS tells
it of each kind of attention. Where parameters and batches lie is mesh.py's.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from syncmv4d_jax.machines import mesh, ring
from syncmv4d_jax.machines.mesh import MINIMUM
from syncmv4d_jax.models.nn import attention, protocol
from syncmv4d_jax.models.nn.protocol import Layer, Tree

# kind of attention -> (mesh axes of the leading axis, mesh axes of the query tokens).
# intra: q [(b v) s heads d]; inter: q [(b f) (v s) heads d]; cross: q [(b v) s heads d], keys are
# text, whole everywhere; extra: a few tokens a sample; patches, tracks: the aligner's, q [(b n m) s
# heads d] and [(b k) s heads d]: only the leading axis is cut, by frames and by points.
KINDS = {
    "intra": ((*mesh.BATCH, "view"), ("sequence",)),
    "inter": (mesh.BATCH, ("view", "sequence")),
    "cross": ((*mesh.BATCH, "view"), ("sequence",)),
    "extra": (mesh.BATCH, ()),
    "patches": ((*mesh.BATCH, "view", "sequence"), ()),
    "tracks": ((*mesh.BATCH, "view", "sequence"), ()),
}
# axis of the dimension key, or a merged group -> mesh axes
CONSTRAINTS = {"b": mesh.BATCH, "v": ("view",), "s": ("sequence",), "n": ("view", "sequence")}


@dataclasses.dataclass(frozen=True)
class Placement(protocol.Placement):
    """A mesh's placement: what models ask of one (models/nn/protocol.py), one device's numbers.

    Attention runs its kernel inside shard_map. Where tokens are cut, intra and inter attention
    exchange: "ulysses" turns token shards into head shards by all-to-all (no device ever holds the
    full q, k or v), "ring" keeps queries and passes keys and values around with an online softmax,
    for more shards than heads. Inter-view attention exchanges over view and sequence together:
    the all-to-all trades views against heads (24 heads divide by 3 views; 13 latent frames do not
    divide by anything). Tokens that do not divide are padded and masked.

    Attributes:
      mesh: from `mesh.make_mesh`.
      kernel: see models/nn/attention.py.
      sequence: "ulysses" or "ring".
    """

    mesh: Mesh
    kernel: str = "auto"
    sequence: str = "ulysses"

    def __post_init__(self) -> None:
        if self.sequence not in ("ulysses", "ring"):
            raise ValueError(f"sequence: wanted 'ulysses' or 'ring', got {self.sequence!r}")

    def ways(self, axes: Sequence[str]) -> int:
        """Returns the product of the sizes of some mesh axes."""
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins the sharding of x, whose axes are named like "(b v) s d".

        Tokens ("s") that do not divide stay unpinned, attention pads them; so do frames ("n").

        Raises:
          ValueError: another axis does not divide (which, what would).
        """
        spec = []
        for size, group in zip(x.shape, re.findall(r"\([^)]*\)|\w+", axes), strict=True):
            names = group.strip("()").split()
            wanted = [a for name in names for a in CONSTRAINTS.get(name, ())]
            if size % self.ways(wanted) and names not in (["s"], ["n"]):
                raise ValueError(mesh.uneven(f"axis {group} of {axes!r}", size, wanted, self.mesh))
            spec.append(tuple(wanted) if wanted and size % self.ways(wanted) == 0 else None)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(*spec)))

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
        """As `protocol.Placement.attend`; see KINDS for what is cut along what.

        Raises:
          ValueError: an unknown kind, a leading axis or (Ulysses) heads that do not divide.
        """
        if kind not in KINDS:
            raise ValueError(f"attend: wanted a kind of {tuple(KINDS)}, got {kind!r}")
        (b, s, heads, _), (batch, tokens) = q.shape, KINDS[kind]
        if kind in ("patches", "tracks") and b % self.ways(batch):
            batch = mesh.BATCH  # every device of the sample does all of them
        if b % self.ways(batch):
            raise ValueError(
                mesh.uneven(f"the leading axis of {kind} attention", b, batch, self.mesh)
            )
        exchange = self.ways(tokens) > 1 and kind != "cross"
        by_heads = exchange and kind == "inter" and self.sequence == "ulysses"
        if exchange and self.sequence == "ulysses" and heads % self.ways(tokens):
            raise ValueError(
                mesh.uneven(f"Ulysses: heads of {kind} attention", heads, tokens, self.mesh)
                + "; or use sequence='ring'"
            )
        if by_heads:
            return self._by_heads(q, k, v, mask, lengths, batch, tokens)
        q, k, v, mask, lengths = _pad(q, k, v, mask, lengths, self.ways(tokens), exchange)
        of_mask = None
        if mask is not None:
            of_mask = P(
                batch if mask.shape[0] == b > 1 else None,
                tokens if exchange and self.sequence == "ulysses" and mask.shape[1] > 1 else None,
                tokens if not self._swaps(exchange) and mask.shape[2] > 1 else None,
            )
        whole = P(batch, tokens) if exchange else P(batch)
        y = jax.shard_map(
            functools.partial(self._local, tokens if exchange else ()),
            mesh=self.mesh,
            in_specs=(P(batch, tokens), whole, whole, of_mask, P(batch)),
            out_specs=P(batch, tokens),
            check_vma=False,
        )(q, k, v, mask, lengths)
        return y[:, :s]

    def each(
        self, function: Callable[..., Tree], shared: Tree, arrays: Tree, *, at_once: int = 1
    ) -> Tree:
        """As `protocol.Placement.each`: every device runs its own views, `shared` is whole.

        Views are cut over view x sequence; where they do not divide, the last one is repeated and
        what it gives is dropped.

        Raises:
          ValueError: the batch does not divide over data x fsdp.
        """
        (b, v), clips = jax.tree.leaves(arrays)[0].shape[:2], ("view", "sequence")
        if b % self.ways(mesh.BATCH):
            raise ValueError(mesh.uneven("the batch of mapped views", b, mesh.BATCH, self.mesh))
        # Whole on the devices of a sample before and after: views in uneven parts move badly.
        together = lambda x: jax.lax.with_sharding_constraint(x, mesh.batch_sharding(self.mesh))  # noqa: E731
        arrays = jax.tree.map(together, arrays)
        if pad := -v % self.ways(clips):
            index = np.minimum(np.arange(v + pad), v - 1)
            arrays = jax.tree.map(lambda x: x[:, index], arrays)
        out = jax.shard_map(
            functools.partial(protocol.map_views, function, at_once=at_once),
            mesh=self.mesh,
            in_specs=(P(), P(mesh.BATCH, clips)),
            out_specs=P(mesh.BATCH, clips),
            check_vma=False,
        )(shared, arrays)
        return jax.tree.map(lambda x: together(x)[:, :v], out) if pad else out

    def gather(self, layer: Layer, dtype: DTypeLike, *, minimum: int = MINIMUM) -> Layer:
        """Makes a layer's matrices whole on every device, at the activations' dtype.

        Left alone, the partitioner moves float32 weights, passes them around in pieces, or sums
        whole gradients on every device. Here they are cast, then gathered; their gradients are
        summed into the shards that the weights came from. Leaves below `minimum` are left alone.
        """
        whole = NamedSharding(self.mesh, P())

        def one(x: jax.Array) -> jax.Array:
            if x.size < minimum or x.ndim < 2:
                return x
            cut = mesh.default_spec(x.shape, self.mesh, stacked=False, minimum=minimum)
            low = x if x.dtype.itemsize == 1 else x.astype(dtype)  # 8 bits are moved as such
            return _gather(low, whole, NamedSharding(self.mesh, cut))

        return jax.tree.map(one, layer)

    def replicate(self, layer: Layer) -> Layer:
        """Makes the weights of a small layer outside of the blocks whole, and their gradients.

        Left alone, the partitioner may gather the tokens of the whole batch to get its shard of a
        gradient, where a sum of the layer's size does.
        """
        place = NamedSharding(self.mesh, P())
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place), layer)

    def _by_heads(self, q, k, v, mask, lengths, batch, axes):
        """Inter-view attention whose heads are cut already, see `heads`: nothing moves."""
        cut = P(batch, None, axes)
        of_mask = None if mask is None else P(batch if mask.shape[0] == q.shape[0] > 1 else None)
        return jax.shard_map(
            self._run,
            mesh=self.mesh,
            in_specs=(cut, cut, cut, of_mask, P(batch)),
            out_specs=cut,
            check_vma=False,
        )(q, k, v, mask, lengths)

    def heads(self, x: jax.Array) -> jax.Array:
        """As `protocol.Placement.heads`; a ring has no heads to spare and leaves x alone."""
        if self.sequence != "ulysses" or x.shape[2] % self.ways(("view", "sequence")):
            return x
        spec = P(mesh.BATCH, None, ("view", "sequence"))
        # Tokens first: else the partitioner gathers what x is projected from.
        x = self.constrain(x, "(b v) s h d")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def tokens(self, count: int) -> int:
        """As `protocol.Placement.tokens`: the next multiple of sequence."""
        return count + -count % self.ways(("sequence",))

    def frames(self, count: int) -> int:
        """As `protocol.Placement.frames`: the next multiple of view x sequence."""
        return count + -count % self.ways(("view", "sequence"))

    def _swaps(self, exchange: bool) -> bool:
        return exchange and self.sequence == "ulysses"

    def _local(self, axes, q, k, v, mask, lengths):
        if self.sequence == "ring" and axes:
            return ring.attend(q, k, v, mask, lengths, axes=axes, ways=self.ways(axes))
        if not axes:
            return self._run(q, k, v, mask, lengths)
        swap = functools.partial(jax.lax.all_to_all, axis_name=axes, tiled=True)
        q, k, v = (swap(x, split_axis=2, concat_axis=1) for x in (q, k, v))
        return swap(self._run(q, k, v, mask, lengths), split_axis=1, concat_axis=2)

    def _run(self, q, k, v, mask, lengths):
        # The mesh's platform is not the host's when compiling ahead of time.
        platform = self.mesh.devices.flat[0].platform
        return attention.attend(
            q, k, v, mask=mask, lengths=lengths, kernel=self.kernel, platform=platform
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: NamedSharding, cut: NamedSharding) -> jax.Array:
    # Cut first: else the partitioner may gather before the cast.
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, cut), whole)


_gather.defvjp(
    lambda x, whole, cut: (_gather(x, whole, cut), None),
    lambda whole, cut, _, g: (jax.lax.with_sharding_constraint(g, cut),),
)


def _pad(q, k, v, mask, lengths, ways, keys_too):
    """Pads tokens to a multiple of `ways`; padded keys are masked, padded queries cut off later."""
    pad_q, pad_k = -q.shape[1] % ways, (-k.shape[1] % ways if keys_too else 0)
    if pad_k and mask is None and lengths is None:
        lengths = jnp.full((k.shape[0],), k.shape[1], jnp.int32)
    if mask is not None and (pad_q or pad_k):
        if mask.shape[3] == 1:
            mask = jnp.broadcast_to(mask, (*mask.shape[:3], k.shape[1]))
        rows = pad_q if mask.shape[2] > 1 else 0
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, rows), (0, 0)), constant_values=True)
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, pad_k)), constant_values=False)
    tail = lambda x, pad: jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) if pad else x  # noqa: E731
    return tail(q, pad_q), tail(k, pad_k), tail(v, pad_k), mask, lengths
