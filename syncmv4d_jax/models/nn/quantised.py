"""Weight-only quantisation: kernels of 8 bits with a scale for each output, for inference.

    kernel [.. d_in d_out] ~ values scale,    scale[.. 1 d_out] = max_in |kernel| / LARGEST   (1)
    x kernel ~ (x values) scale                                                              (2)

symmetric, one scale a column (and layer). Values are rounded to nearest, int8 to -127..127, float8
(e4m3, without infinities) to 448. Both are exact in bfloat16, so (2) rounds like a product of
bfloat16 weights; nothing of full size is formed where a compiler fuses the conversion.

In a tree of parameters a quantised kernel is a dict of two leaves, `kernel/values` and
`kernel/scale`; `module.bind` hands layers a `Kernel`. Only the kernels of stacked blocks, which are
nearly all of a transformer, are taken (QUANTISED); embeddings, norms, modulation and heads stay.

NOTE: not by qwix (0.1.8, beside jax 0.10.2 and flax 0.12.8). Its `quantize_model` left all kernels
of our transformer in float32: it stands in for jax.lax.dot_general, jnp.dot and jnp.einsum, where
layers here multiply by `@`; and what it quantises it writes into the module that runs, which within
a scan over stacked blocks is a layer's slice. Its arrays are of the form (1), in float8 value for
value; its int8 scales are of 127.5.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import tree

LARGEST = {"int8": 127.0, "float8": 448.0}
DTYPES = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}
QUANTISED = r"^((dit|control)/)?blocks/.*kernel$"
VALUES, SCALE = "values", "scale"
LEAVES = rf"kernel/({VALUES}|{SCALE})$"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kernel:
    """A quantised kernel: values [.. d_in d_out] of 8 bits, scale [.. 1 d_out] float32."""

    values: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the kernel."""
        return self.values.shape

    def __getitem__(self, index: Any) -> "Kernel":
        """All of it: `kernel[...]`, as of a parameter."""
        return Kernel(self.values[index], self.scale[index])


def quantise(kernel: jax.Array, kind: str) -> dict[str, jax.Array]:
    """Returns {"values", "scale"} of a kernel [.. d_in d_out], by Eq. 1.

    Args:
      kind: "int8" or "float8".

    Raises:
      ValueError: another kind.
    """
    if kind not in LARGEST:
        raise ValueError(f"quantise: wanted one of {sorted(LARGEST)}, got {kind!r}")
    kernel = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kernel), axis=-2, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / LARGEST[kind]
    values = kernel / scale
    if kind == "int8":
        values = jnp.round(values)
    return {VALUES: values.astype(DTYPES[kind]), SCALE: scale}


def kind(dtype: Any) -> str:
    """Returns which of DTYPES values have.

    Raises:
      ValueError: none of them.
    """
    named = {jnp.dtype(x): name for name, x in DTYPES.items()}
    if jnp.dtype(dtype) not in named:
        raise ValueError(
            f"quantised values: wanted one of {sorted(map(str, named))}, got {jnp.dtype(dtype)}"
        )
    return named[jnp.dtype(dtype)]


def chosen(name: str) -> bool:
    """Whether the leaf of this path, with or without its part, is quantised."""
    return re.search(QUANTISED, name) is not None


def params(given: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns a tree of parameters with the kernels of its blocks quantised; shapes under
    `jax.eval_shape`."""
    flat = tree.flatten(given)
    replace(flat, kind)
    return tree.unflatten(flat)


def replace(flat: dict[str, Any], kind: str) -> None:
    """Quantises the kernels of blocks among {path: array} in place, one by one: if nothing else
    holds them, one at a time is there twice."""
    for name in [name for name in flat if chosen(name)]:
        made = quantise(flat.pop(name), kind)
        flat |= {f"{name}/{key}": x for key, x in made.items()}


def wrap(given: dict[str, Any]) -> Any:
    """Returns the tree with a `Kernel` for every pair of values and scale."""
    if given.keys() == {VALUES, SCALE}:
        return Kernel(given[VALUES], given[SCALE])
    return {key: wrap(x) if isinstance(x, dict) else x for key, x in given.items()}


def widened(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree with a float32 kernel for every pair of values and scale."""

    def wide(x: Any) -> Any:
        if isinstance(x, Kernel):
            return x.values.astype(jnp.float32) * x.scale
        return x

    return dict(jax.tree.map(wide, wrap(given), is_leaf=lambda x: isinstance(x, Kernel)))
