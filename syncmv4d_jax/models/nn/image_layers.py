"""Layers that networks of features of images share: channels last, float32, not trained here.

Sizes of padding are torch's: an explicit (before, after) for each axis, since the networks'
published weights were trained with them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import layers

KERNEL_INIT = nnx.initializers.he_normal()


def same(kernel: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Padding that keeps the size at stride 1, for odd kernels."""
    return tuple((k // 2, k // 2) for k in kernel)


class Conv(nnx.Module):
    """Convolution over len(kernel) axes: [b ... c_in] -> [b ... c_out]."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel: Sequence[int],
        stride: int = 1,
        padding: Any = None,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        shape = (*kernel, c_in, c_out)
        self.kernel = nnx.Param(KERNEL_INIT(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((c_out,), jnp.float32)) if use_bias else None
        self.stride = stride
        self.padding = same(kernel) if padding is None else padding

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b ... c_in] float32; "SAME" padding is TensorFlow's."""
        letters = "DHW"[-(x.ndim - 2) :]
        form = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        y = jax.lax.conv_general_dilated(
            x, self.kernel[...], (self.stride,) * len(letters), self.padding, dimension_numbers=form
        )
        return y if self.bias is None else y + layers.along_last(self.bias[...], y)


class BatchNorm(nnx.Module):
    """Batch norm with its stored statistics: (x - mean) / sqrt(var + eps) * scale + bias."""

    def __init__(self, c: int, *, eps: float, affine: bool = True, rngs: nnx.Rngs):
        del rngs  # nothing random
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((c,), jnp.float32)) if affine else None
        self.bias = nnx.Param(jnp.zeros((c,), jnp.float32)) if affine else None
        self.mean = nnx.Param(jnp.zeros((c,), jnp.float32))
        self.var = nnx.Param(jnp.ones((c,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... c]."""
        factor = jax.lax.rsqrt(self.var[...] + self.eps)
        factor = factor if self.scale is None else self.scale[...] * factor
        shift = -self.mean[...] * factor
        shift = shift if self.bias is None else self.bias[...] + shift
        return x * layers.along_last(factor, x) + layers.along_last(shift, x)


def instance_norm(x: jax.Array, *, eps: float = 1e-5) -> jax.Array:
    """Normalises each channel of each image over its pixels. x: [b h w c]."""
    x = x - jnp.mean(x, axis=(1, 2), keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=(1, 2), keepdims=True) + eps)


def _pool(x: jax.Array, start: float, function: Any, size: Sequence[int], stride, padding):
    strides = (stride,) * len(size) if isinstance(stride, int) else tuple(stride)
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    return jax.lax.reduce_window(x, start, function, (1, *size, 1), (1, *strides, 1), padding)


def max_pool(x: jax.Array, size: Sequence[int], *, stride: Any, padding: Any = "VALID"):
    """Maximum over windows of [b ... c]; what is padded never wins."""
    return _pool(x, -jnp.inf, jax.lax.max, size, stride, padding)


def mean_pool(x: jax.Array, size: Sequence[int], *, stride: Any, padding: Any = "VALID"):
    """Mean over the true pixels of each window of [b ... c]: padding does not count."""
    total = _pool(x, 0.0, jax.lax.add, size, stride, padding)
    inner = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    return total / _pool(inner, 0.0, jax.lax.add, size, stride, padding)


def linear_weights(size: int, out: int, *, half_pixel: bool = True) -> np.ndarray:
    """The matrix [out size] that resizes one axis linearly, without antialiasing.

    Args:
      half_pixel: pixel i covers [i, i + 1), as torch's align_corners=False; else TensorFlow 1's
        rule, where the centre of output pixel i lies at i size / out.
    """
    at = np.arange(out, dtype=np.float64) * size / out
    if half_pixel:
        at = np.clip(at + 0.5 * size / out - 0.5, 0, None)
    low = np.minimum(np.floor(at).astype(int), size - 1)
    weights = np.zeros((out, size))
    share = at - low
    np.add.at(weights, (np.arange(out), low), 1 - share)
    np.add.at(weights, (np.arange(out), np.minimum(low + 1, size - 1)), share)
    return weights.astype(np.float32)


def cubic(d: np.ndarray, *, a: float = -0.75) -> np.ndarray:
    """Keys' cubic kernel at distances d in 0..2; torch takes a = -3/4."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, far)


def cubic_weights(size: int, out: int, *, scale: float) -> np.ndarray:
    """The matrix [out size] that resizes one axis by `cubic`, edges repeated.

    Output pixel i samples the input at (i + 0.5) / scale - 0.5.
    """
    at = (np.arange(out, dtype=np.float64) + 0.5) / scale - 0.5
    low = np.floor(at).astype(int)
    weights = np.zeros((out, size))
    for tap in range(-1, 3):
        place = np.clip(low + tap, 0, size - 1)
        np.add.at(weights, (np.arange(out), place), cubic(np.abs(at - low - tap)))
    return weights.astype(np.float32)


def resize(x: jax.Array, size: tuple[int, int], *, half_pixel: bool = True) -> jax.Array:
    """Resizes [b h w c] linearly without antialiasing to `size` (h, w), float32."""
    x = x.astype(jnp.float32)
    rows = linear_weights(x.shape[1], size[0], half_pixel=half_pixel)
    columns = linear_weights(x.shape[2], size[1], half_pixel=half_pixel)
    x = jnp.einsum("bhwc,ih->biwc", x, rows, precision="highest")
    return jnp.einsum("biwc,jw->bijc", x, columns, precision="highest")
