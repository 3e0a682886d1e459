"""Low-rank adaptation of linear layers, as a transform of parameter trees and bound modules.

    y = x W + bias + (alpha / r) (x a) b,    a [d_in r], b [r d_out]                           (1)

(Hu et al. 2021, arXiv:2106.09685). Adapters are a dict tree of their own, with the paths of the
layers they adapt: ``blocks/self_attn/q/{a,b}`` beside ``blocks/self_attn/q/kernel``. A stacked
kernel [layers d_in d_out] has stacked adapters a [layers d_in r], b [layers r d_out]; they are
scanned with the blocks and (1) is evaluated in the scan's body, so that a b is never formed:

    adapters = lora.init(config, shapes, key)                       # b = 0: changes nothing
    model = lora.attach(module.bind(DiT, sizes, params), adapters, alpha=config.alpha)
    params = lora.merge(params, adapters, alpha=config.alpha)       # W + (alpha / r) a b
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax import tree

KERNEL = "/kernel"


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which kernels are adapted.

    Attributes:
      ranks: (regex over parameter paths, rank) pairs; the first that is found in a path counts.
        Empty: no adapters.
      alpha: of Eq. 1.
    """

    ranks: tuple[tuple[str, int], ...] = ()
    alpha: float = 16.0

    def __post_init__(self):
        for pattern, rank in self.ranks:
            if int(rank) != rank or rank < 1:
                raise ValueError(f"lora.ranks: wanted a rank >= 1 for {pattern!r}, got {rank}")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha: wanted a positive number, got {self.alpha}")


def ranks(config: LoRAConfig, shapes: tree.Tree) -> dict[str, int]:
    """Returns {path of an adapted layer: rank}; `shapes` is a tree of arrays or shapes.

    Raises:
      ValueError: a pattern that adapts nothing, or meets a leaf that is not a kernel of a linear
        layer ([d_in d_out] or [layers d_in d_out]), or a rank above the kernel's own.
    """
    found: dict[str, int] = {}
    used = set()
    for path, leaf in tree.flatten(shapes).items():
        chosen = next((p for p in config.ranks if re.search(p[0], path)), None)
        if chosen is None:
            continue
        pattern, rank = chosen
        used.add(pattern)
        if not path.endswith(KERNEL) or leaf.ndim not in (2, 3):
            raise ValueError(
                f"lora.ranks: {pattern!r} matches {path} {tuple(leaf.shape)}; wanted kernels "
                "[d_in d_out] or [layers d_in d_out] only"
            )
        if rank > min(leaf.shape[-2:]):
            raise ValueError(f"lora.ranks: rank {rank} is above that of {path} {leaf.shape}")
        found[path.removesuffix(KERNEL)] = rank
    if unused := [pattern for pattern, _ in config.ranks if pattern not in used]:
        some = tree.sample(tree.flatten(shapes))
        raise ValueError(f"lora.ranks: {unused} adapt nothing; paths are e.g. {some}")
    return found


def init(config: LoRAConfig, shapes: tree.Tree, key: jax.Array) -> dict[str, Any]:
    """Returns fresh adapters: a uniform in +-1/sqrt(d_in), b zero; float32.

    Args:
      config: which kernels.
      shapes: tree of the base model's arrays or shapes.
      key: one key; leaves draw from it folded with their place.

    Raises:
      ValueError: see `ranks`.
    """
    flat: dict[str, jax.Array] = {}
    leaves = tree.flatten(shapes)
    for index, (path, rank) in enumerate(sorted(ranks(config, shapes).items())):
        *stack, d_in, d_out = leaves[path + KERNEL].shape
        bound = d_in**-0.5
        draw = jax.random.fold_in(key, index)
        flat[f"{path}/a"] = jax.random.uniform(
            draw, (*stack, d_in, rank), jnp.float32, -bound, bound
        )
        flat[f"{path}/b"] = jnp.zeros((*stack, rank, d_out), jnp.float32)
    return tree.unflatten(flat)


class Adapted(nnx.Module):
    """A linear layer (or a stack of them) with its adapter: Eq. 1."""

    def __init__(self, base: nnx.Module, a: jax.Array, b: jax.Array, *, alpha: float):
        self.base = base
        self.a, self.b = nnx.Param(a), nnx.Param(b)
        self.scale = alpha / a.shape[-1]

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d_in] -> [... d_out], in the dtype of x."""
        low = x @ self.a[...].astype(x.dtype)
        return self.base(x) + self.scale * (low @ self.b[...].astype(x.dtype))


def pairs(adapters: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns {path of a layer: (a, b)}.

    Raises:
      ValueError: half an adapter, a name that is neither a nor b, or shapes that do not meet.
    """
    flat = tree.flatten(adapters)
    layers = sorted({path.rpartition("/")[0] for path in flat})
    if strange := sorted(flat.keys() ^ {f"{p}/{x}" for p in layers for x in "ab"}):
        raise ValueError(f"adapters: wanted a and b of every layer, differ in {strange}")
    found = {path: (flat[f"{path}/a"], flat[f"{path}/b"]) for path in layers}
    for path, (a, b) in found.items():
        if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
            raise ValueError(f"adapter of {path}: a {a.shape} and b {b.shape} do not meet")
    return found


def attach(model: nnx.Module, adapters: dict[str, Any], *, alpha: float) -> nnx.Module:
    """Puts `Adapted` in the place of every adapted layer of a freshly bound module.

    Args:
      model: of module.bind; changed in place.
      adapters: dict tree of `init`.
      alpha: of Eq. 1.

    Returns:
      `model`.

    Raises:
      ValueError: an adapter for a layer that the model does not have, or of other sizes.
    """
    for path, (a, b) in pairs(adapters).items():
        *parents, name = path.split("/")
        holder: Any = model
        for step in parents:
            holder = getattr(holder, step, None)
        base = getattr(holder, name, None)
        if base is None or not hasattr(base, "kernel"):
            raise ValueError(f"adapter of {path}: the model has no such linear layer")
        wanted = base.kernel.shape
        if (*a.shape[:-1], b.shape[-1]) != wanted:
            raise ValueError(
                f"adapter of {path}: wanted a and b for a kernel {wanted}, got {a.shape}, {b.shape}"
            )
        setattr(holder, name, Adapted(base, a, b, alpha=alpha))
    return model


def merge(params: dict[str, Any], adapters: dict[str, Any], *, alpha: float) -> dict[str, Any]:
    """Returns the base parameters with adapters added in: W + (alpha / r) a b, layer by layer.

    Args:
      params: dict tree of the base model; kernels keep their dtype, the sum is float32.
      adapters: dict tree of `init`.
      alpha: of Eq. 1.

    Raises:
      ValueError: an adapter for a kernel that is not there.
    """
    flat = tree.flatten(params)

    def add(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        total = kernel.astype(jnp.float32) + (alpha / a.shape[-1]) * (a @ b)
        return total.astype(kernel.dtype)

    for path, (a, b) in pairs(adapters).items():
        if path + KERNEL not in flat:
            raise ValueError(f"adapter of {path}: the parameters have no {path + KERNEL}")
        leaves = tuple(jnp.asarray(x) for x in (flat[path + KERNEL], a, b))
        one = leaves[0].ndim == 2
        flat[path + KERNEL] = add(*leaves) if one else jax.lax.map(lambda xs: add(*xs), leaves)
    return tree.unflatten(flat)
