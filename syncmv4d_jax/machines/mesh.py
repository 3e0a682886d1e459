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

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from syncmv4d_jax import tree

Tree = Any
AXES = ("data", "fsdp", "view", "sequence")
BATCH = ("data", "fsdp")
AnyMesh = Mesh | AbstractMesh
Rules = Sequence[tuple[str, Sequence[Any]]]
MINIMUM = 2**16  # elements of the smallest leaf that is cut where no rule names it


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
    grid = _arrange(devices, tuple(sizes(axes, len(devices)).values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def sizes(axes: Mapping[str, int], devices: int) -> dict[str, int]:
    """Returns the sizes of all four axes on a number of devices.

    Raises:
      ValueError: see `make_mesh`.
    """
    if unknown := sorted(set(axes) - set(AXES)):
        raise ValueError(f"mesh: unknown axes {unknown}; the axes are {AXES}")
    found = {name: int(axes.get(name, 1)) for name in AXES}
    rest = [name for name, size in found.items() if size == -1]
    if len(rest) > 1 or any(size < 1 and size != -1 for size in found.values()):
        raise ValueError(f"mesh: wanted sizes >= 1 and at most one -1, got {found}")
    fixed = math.prod(size for size in found.values() if size != -1)
    if rest and devices % fixed == 0:
        found[rest[0]] = devices // fixed
    wanted = math.prod(found.values())
    if wanted != devices:
        shown = {name: size for name, size in found.items() if size != 1}
        raise ValueError(
            f"mesh {shown or found} wants {fixed if rest else wanted} devices"
            f"{' or a multiple' if rest else ''}, there are {devices}; "
            + "; ".join(_fits(name, found, devices) for name in (shown or {"fsdp": 1}))
        )
    return found


def _fits(name: str, sizes: Mapping[str, int], devices: int) -> str:
    others = math.prod(size for key, size in sizes.items() if key != name and size != -1)
    if devices % others:
        return f"no size of {name} fits beside the others (their product is {others})"
    if -1 in (size for key, size in sizes.items() if key != name):
        return f"{name} may be one of {divisors(devices // others, devices)}"
    return f"{name}={devices // others} would fit"


def divisors(size: int, largest: int) -> list[int]:
    """Returns what divides `size`, up to `largest`: the ways it can be cut."""
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


def parse_rules(values: Sequence[Any]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Returns `config.sharding`, checked: (regex, axes of the trailing dimensions) pairs.

    Raises:
      ValueError: not such a pair, a regex that does not compile, or an unknown axis.
    """
    found = []
    for i, pair in enumerate(values):
        where = f"config.sharding[{i}]"
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(
                f"{where}: wanted (regex over parameter paths, mesh axes of the trailing "
                f"dimensions), such as ('ffn/.*kernel$', (None, 'fsdp')), got {pair!r}"
            )
        pattern, axes = pair
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}: {pattern!r} is no regex ({error})") from error
        if not isinstance(axes, list | tuple):
            raise ValueError(f"{where}: wanted a tuple of mesh axes or None, got {axes!r}")
        axes = tuple(tuple(a) if isinstance(a, list | tuple) else a for a in axes)
        flat = [a for axis in axes for a in (axis if isinstance(axis, tuple) else (axis,))]
        if wrong := [a for a in flat if a is not None and a not in AXES]:
            raise ValueError(f"{where}: unknown axes {wrong}; wanted some of {AXES}, or None")
        found.append((pattern, axes))
    return tuple(found)


def _spec(name: str, shape: tuple[int, ...], axes: Sequence[Any], mesh: AnyMesh) -> P:
    axes = tuple(tuple(a) if isinstance(a, list) else a for a in axes)
    if len(axes) > len(shape):
        raise ValueError(f"sharding: rule {axes} has more axes than {name} {shape}")
    spec = (None,) * (len(shape) - len(axes)) + axes
    for size, axis in zip(shape, spec, strict=True):
        ways = math.prod(mesh.shape[a] for a in ((axis,) if isinstance(axis, str) else axis or ()))
        if size % ways:
            raise ValueError(
                f"sharding: {name} {shape} cannot be cut {ways} ways along {axis!r}: "
                f"{size} % {ways} = {size % ways}; {divisors(size, ways)} would divide"
            )
    return P(*spec)


def default_spec(
    shape: tuple[int, ...], mesh: AnyMesh, *, stacked: bool, minimum: int = MINIMUM
) -> P:
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


def shardings(shapes: Tree, mesh: AnyMesh, rules: Rules = (), *, minimum: int = MINIMUM) -> Tree:
    """Returns a tree of NamedSharding for parameters or a whole train state.

    Args:
      shapes: tree of arrays or shapes; paths of moments end like those of their parameters, so one
        rule covers both.
      mesh: from `make_mesh`.
      rules: of `parse_rules`; a leaf that none names follows `default_spec`.
      minimum: leaves with fewer elements that no rule names stay whole.

    Raises:
      ValueError: a rule does not divide a leaf (which leaf, what would).
    """

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
    cuts = [s[0] for s in index.values() if s is not None]
    rows = sorted({(cut.start or 0, cut.stop or batch_size) for cut in cuts})
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


def uneven(what: str, size: int, axes: Sequence[str], mesh: Mesh) -> str:
    """Returns an error's words: what does not divide over which axes, and what would."""
    ways = math.prod(mesh.shape[axis] for axis in axes)
    cut = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in axes)
    return f"{what}: {size} does not divide over {cut} = {ways}; {divisors(size, ways)} would"
