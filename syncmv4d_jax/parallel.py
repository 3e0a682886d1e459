"""Meshes and shardings by name: axes data, fsdp, view, sequence; rules over parameter paths.

    data      copies of the model, gradients averaged
    fsdp      the batch too, and parameters, moments and averages are cut along it
    view      views of a sample: intra-view attention is local, inter-view attention exchanges them
    sequence  tokens of a sample: attention exchanges tokens against heads (Ulysses) or rotates
              keys and values (ring)

A rule is (regex over the path, axes): the first match counts; axes name one mesh axis (or None, or
a tuple of them) for each trailing dimension of the leaf, so that a rule fits a layer and a stack
of layers.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import tree
from syncmv4d_jax.nn import attention, ring

Tree = Any
AXES = ("data", "fsdp", "view", "sequence")
BATCH = ("data", "fsdp")
Rules = Sequence[tuple[str, Sequence[Any]]]


def make_mesh(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with all four axes over all devices.

    Args:
      axes: {axis: size}; an axis left out has size 1; one axis may be -1, "the rest".
      devices: default all devices of all processes.

    Raises:
      ValueError: an unknown axis, a size below 1, or sizes that do not multiply to the number of
        devices (a smaller mesh would silently leave processes out).
    """
    devices = list(jax.devices() if devices is None else devices)
    if unknown := sorted(set(axes) - set(AXES)):
        raise ValueError(f"mesh: unknown axes {unknown}; the axes are {AXES}")
    sizes = {name: int(axes.get(name, 1)) for name in AXES}
    rest = [name for name, size in sizes.items() if size == -1]
    if len(rest) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh: wanted sizes >= 1 and at most one -1, got {sizes}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if rest and len(devices) % fixed == 0:
        sizes[rest[0]] = len(devices) // fixed
    wanted = math.prod(sizes.values())
    if wanted != len(devices):
        shown = {name: size for name, size in sizes.items() if size != 1}
        raise ValueError(
            f"mesh {shown or sizes} wants {fixed if rest else wanted} devices"
            f"{' or a multiple' if rest else ''}, there are {len(devices)}; "
            + "; ".join(_fits(name, sizes, len(devices)) for name in (shown or {"fsdp": 1}))
        )
    grid = _arrange(devices, tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fits(name: str, sizes: Mapping[str, int], devices: int) -> str:
    others = math.prod(size for key, size in sizes.items() if key != name and size != -1)
    if devices % others:
        return f"no size of {name} fits beside the others (their product is {others})"
    if -1 in (size for key, size in sizes.items() if key != name):
        return f"{name} may be one of {_divisors(devices // others, devices)}"
    return f"{name}={devices // others} would fit"


def _divisors(size: int, largest: int) -> list[int]:
    return [d for d in range(1, largest + 1) if size % d == 0]


def _arrange(devices: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(shape)
    from jax.experimental import mesh_utils

    if len(slices) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    # Several slices: only `data` crosses the slow network between them.
    if shape[0] % len(slices):
        raise ValueError(f"mesh: {len(slices)} slices must divide data={shape[0]}")
    inner, outer = (shape[0] // len(slices), *shape[1:]), (len(slices), 1, 1, 1)
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)


def _spec(name: str, shape: tuple[int, ...], axes: Sequence[Any], mesh: Mesh) -> P:
    axes = tuple(tuple(a) if isinstance(a, list) else a for a in axes)
    if len(axes) > len(shape):
        raise ValueError(f"sharding: rule {axes} has more axes than {name} {shape}")
    spec = (None,) * (len(shape) - len(axes)) + axes
    for size, axis in zip(shape, spec, strict=True):
        ways = math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ()))
        if size % ways:
            raise ValueError(
                f"sharding: {name} {shape} cannot be cut {ways} ways along {axis!r}: "
                f"{size} % {ways} = {size % ways}; {_divisors(size, ways)} would divide"
            )
    return P(*spec)


def default_spec(shape: tuple[int, ...], mesh: Mesh, *, stacked: bool, minimum: int = 2**16) -> P:
    """Returns the spec of a leaf that no rule names: one dimension cut over fsdp x view x sequence.

    The input dimension (last but one) comes first, then the larger ones: an output that is split or
    joined later (the six vectors of a modulation) stays whole, which the partitioner needs. Falls
    back to fewer axes, then to no cut; leaves below `minimum` elements are not cut.
    """
    if math.prod(shape) < minimum:
        return P()
    first = 1 if stacked and len(shape) > 1 else 0
    order = sorted(range(first, len(shape)), key=lambda i: (i != len(shape) - 2, -shape[i]))
    for axes in (("fsdp", "view", "sequence"), ("fsdp", "sequence"), ("fsdp",)):
        ways = math.prod(mesh.shape[a] for a in axes)
        for i in order:
            if ways > 1 and shape[i] % ways == 0:
                return P(*(axes if j == i else None for j in range(len(shape))))
    return P()


def shardings(shapes: Tree, mesh: Mesh, rules: Rules = (), *, minimum: int = 2**16) -> Tree:
    """Returns a tree of NamedSharding for parameters or a whole train state.

    Args:
      shapes: tree of arrays or shapes; paths of moments end like those of their parameters, so one
        rule covers both.
      mesh: from `make_mesh`.
      rules: (regex, trailing axes); a leaf that no rule names follows `default_spec`.
      minimum: leaves with fewer elements that no rule names stay whole.

    Raises:
      ValueError: a rule names an axis the mesh lacks, or does not divide (which leaf, what would).
    """
    for pattern, axes in rules:
        flat = [a for axis in axes for a in ((axis,) if isinstance(axis, str) else axis or ())]
        if unknown := sorted(set(flat) - set(mesh.axis_names)):
            raise ValueError(f"sharding rule {pattern!r}: unknown axes {unknown}; wanted {AXES}")

    def of(name: str, leaf: Any) -> NamedSharding:
        for pattern, axes in rules:
            if leaf.ndim and re.search(pattern, name):
                return NamedSharding(mesh, _spec(name, tuple(leaf.shape), axes, mesh))
        stacked = re.search(r"(^|/)blocks/", name) is not None
        return NamedSharding(mesh, default_spec(leaf.shape, mesh, stacked=stacked, minimum=minimum))

    return tree.map_named(of, shapes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: axis 0 over data and fsdp, the rest whole."""
    return NamedSharding(mesh, P(BATCH))


def data_shard(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Returns (index, count): which part of every global batch this process must read.

    Processes that only differ in view or sequence read the same part.

    Raises:
      ValueError: the batch does not divide over data x fsdp.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % ways:
        near = sorted({max(ways, batch_size // ways * ways), (batch_size // ways + 1) * ways})
        raise ValueError(
            f"batch_size {batch_size} does not divide over data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']} = {ways}; {' or '.join(map(str, near))} would"
        )
    index = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = sorted({(s[0].start or 0, s[0].stop or batch_size) for s in index.values()})
    start, stop = rows[0][0], rows[-1][1]
    if stop - start != sum(b - a for a, b in rows) or start % (stop - start):
        raise ValueError(
            f"mesh {dict(mesh.shape)}: process {jax.process_index()} would hold the scattered "
            f"batch rows {rows}; let data x fsdp be a multiple or a divisor of the processes"
        )
    return start // (stop - start), batch_size // (stop - start)


def put_batch(local: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int) -> dict[str, jax.Array]:
    """Makes global arrays [batch_size ...] from the part that this process has read."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))
        for key, x in local.items()
    }


def put(host: Tree, placed: Tree) -> Tree:
    """Places host arrays that every process has in full, by a tree of shardings."""

    def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(lambda x, s: place(np.asarray(x), s), host, placed)


# kind of attention -> (mesh axes of the leading axis, mesh axes of the query tokens).
# intra: q [(b v) s heads d]; inter: q [(b f) (v s) heads d]; cross: q [(b v) s heads d], keys are
# text, whole everywhere; extra: a few tokens a sample; patches, tracks: the aligner's, q [(b n m) s
# heads d] and [(b k) s heads d]: only the leading axis is cut, by frames and by points.
KINDS = {
    "intra": ((*BATCH, "view"), ("sequence",)),
    "inter": (BATCH, ("view", "sequence")),
    "cross": ((*BATCH, "view"), ("sequence",)),
    "extra": (BATCH, ()),
    "patches": ((*BATCH, "view", "sequence"), ()),
    "tracks": ((*BATCH, "view", "sequence"), ()),
}
# axis of the dimension key, or a merged group -> mesh axes
CONSTRAINTS = {"b": BATCH, "v": ("view",), "s": ("sequence",), "n": ("view", "sequence")}


@dataclasses.dataclass(frozen=True)
class Placement:
    """The sharded twin of `nn.attention.Placement`: same methods, same numbers.

    Attention runs its kernel inside shard_map. Where tokens are cut, intra and inter attention
    exchange: "ulysses" turns token shards into head shards by all-to-all (no device ever holds the
    full q, k or v), "ring" keeps queries and passes keys and values around with an online softmax,
    for more shards than heads. Inter-view attention exchanges over view and sequence together:
    the all-to-all trades views against heads (24 heads divide by 3 views; 13 latent frames do not
    divide by anything). Tokens that do not divide are padded and masked.

    Attributes:
      mesh: from `make_mesh`.
      kernel: see nn/attention.py.
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
                raise ValueError(_uneven(f"axis {group} of {axes!r}", size, wanted, self.mesh))
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
        """As `nn.attention.Placement.attend`; see KINDS for what is cut along what.

        Raises:
          ValueError: an unknown kind, a leading axis or (Ulysses) heads that do not divide.
        """
        if kind not in KINDS:
            raise ValueError(f"attend: wanted a kind of {tuple(KINDS)}, got {kind!r}")
        (b, s, heads, _), (batch, tokens) = q.shape, KINDS[kind]
        if kind in ("patches", "tracks") and b % self.ways(batch):
            batch = BATCH  # every device of the sample does all of them
        if b % self.ways(batch):
            raise ValueError(_uneven(f"the leading axis of {kind} attention", b, batch, self.mesh))
        exchange = self.ways(tokens) > 1 and kind != "cross"
        by_heads = exchange and kind == "inter" and self.sequence == "ulysses"
        if exchange and self.sequence == "ulysses" and heads % self.ways(tokens):
            raise ValueError(
                _uneven(f"Ulysses: heads of {kind} attention", heads, tokens, self.mesh)
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
        self, function: Callable[..., Any], shared: Tree, arrays: Tree, *, at_once: int = 1
    ) -> Tree:
        """As `nn.attention.Placement.each`: every device runs its own views, `shared` is whole.

        Views are cut over view x sequence; where they do not divide, the last one is repeated and
        what it gives is dropped.

        Raises:
          ValueError: the batch does not divide over data x fsdp.
        """
        (b, v), clips = jax.tree.leaves(arrays)[0].shape[:2], ("view", "sequence")
        if b % self.ways(BATCH):
            raise ValueError(_uneven("the batch of mapped views", b, BATCH, self.mesh))
        # Whole on the devices of a sample before and after: views in uneven parts move badly.
        together = lambda x: jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))  # noqa: E731
        arrays = jax.tree.map(together, arrays)
        if pad := -v % self.ways(clips):
            index = np.minimum(np.arange(v + pad), v - 1)
            arrays = jax.tree.map(lambda x: x[:, index], arrays)
        out = jax.shard_map(
            functools.partial(attention.map_views, function, at_once=at_once),
            mesh=self.mesh,
            in_specs=(P(), P(BATCH, clips)),
            out_specs=P(BATCH, clips),
            check_vma=False,
        )(shared, arrays)
        return jax.tree.map(lambda x: together(x)[:, :v], out) if pad else out

    def gather(self, layer: Tree, dtype: Any, *, minimum: int = 2**16) -> Tree:
        """Makes a layer's matrices whole on every device, at the activations' dtype.

        Left alone, the partitioner moves float32 weights, passes them around in pieces, or sums
        whole gradients on every device. Here they are cast, then gathered; their gradients are
        summed into the shards that the weights came from. Leaves below `minimum` are left alone.
        """
        whole = NamedSharding(self.mesh, P())

        def one(x: jax.Array) -> jax.Array:
            if x.size < minimum or x.ndim < 2:
                return x
            cut = default_spec(x.shape, self.mesh, stacked=False, minimum=minimum)
            return _gather(x.astype(dtype), whole, NamedSharding(self.mesh, cut))

        return jax.tree.map(one, layer)

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
        """As `nn.attention.Placement.heads`; a ring has no heads to spare and leaves x alone."""
        if self.sequence != "ulysses" or x.shape[2] % self.ways(("view", "sequence")):
            return x
        spec = P(BATCH, None, ("view", "sequence"))
        # Tokens first: else the partitioner gathers what x is projected from.
        x = self.constrain(x, "(b v) s h d")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def tokens(self, count: int) -> int:
        """As `nn.attention.Placement.tokens`: the next multiple of sequence."""
        return count + -count % self.ways(("sequence",))

    def frames(self, count: int) -> int:
        """As `nn.attention.Placement.frames`: the next multiple of view x sequence."""
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
        kernel = self.kernel
        if kernel == "auto":  # the mesh's, which is not the host's when compiling ahead of time
            kernel = attention.choose(self.mesh.devices.flat[0].platform, q, k, mask)
        return attention.attend(q, k, v, mask=mask, lengths=lengths, kernel=kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, whole: NamedSharding, cut: NamedSharding) -> jax.Array:
    # Cut first: else the partitioner may gather before the cast.
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(x, cut), whole)


_gather.defvjp(
    lambda x, whole, cut: (_gather(x, whole, cut), None),
    lambda whole, cut, _, g: (jax.lax.with_sharding_constraint(g, cut),),
)


def _uneven(what: str, size: int, axes: Sequence[str], mesh: Mesh) -> str:
    ways = math.prod(mesh.shape[axis] for axis in axes)
    cut = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
    return f"{what}: {size} does not divide over {cut} = {ways}; {_divisors(size, ways)} would"


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
