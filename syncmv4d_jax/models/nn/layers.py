"""Linear and normalisation layers with float32 parameters and the activation's own compute dtype.

Every layer reads the dtype of its input: a bfloat16 activation meets bfloat16 copies of the
weights, a float32 one (the float32 islands of a network) the weights themselves. Norm statistics
are always float32.
"""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.nn import cpu, quantised

KERNEL_INIT = nnx.initializers.xavier_uniform()
ZEROS_INIT = nnx.initializers.zeros_init()
along_last = cpu.along_last


class Linear(nnx.Module):
    """y = x kernel + bias over the last axis."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer = KERNEL_INIT,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (d_in, d_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d_out,), jnp.float32)) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d_in] of any float dtype -> [... d_out] of the same dtype."""
        kernel = self.kernel[...]
        if isinstance(kernel, quantised.Kernel):
            y = product(x, kernel.values.astype(x.dtype)).astype(jnp.float32)
            y = (y * along_last(kernel.scale[0], y)).astype(x.dtype)
        else:
            y = product(x, kernel.astype(x.dtype))
        if self.bias is None:
            return y
        return _shift(y, self.bias[...].astype(x.dtype))


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [... d_in] @ kernel [d_in d_out] -> [... d_out].

    On a single CPU as a product of two matrices: the gradient of a kernel summed over two axes,
    batch and tokens, leaves XLA's fast products there. It transposes a copy of the cotangent, and
    computes what that is made of (an activation's derivative) value by value once more. In bfloat16
    with a backward rule of its own (`cpu.product`). Elsewhere the axes stay apart, which devices
    may cut.
    """
    if x.ndim < 3 or not (cpu.alone(x) and cpu.alone(kernel)):
        return x @ kernel
    multiply = cpu.product if x.dtype == jnp.bfloat16 else jnp.matmul
    y = multiply(einops.rearrange(x, "... d -> (...) d"), kernel)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def layer_norm(x: jax.Array, *, eps: float) -> jax.Array:
    """Layer norm without affine over the last axis. x: [... d], any float -> [... d] float32."""
    x = x.astype(jnp.float32)
    if cpu.alone(x):
        return cpu.normalise(x, eps, True)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array, *, eps: float) -> jax.Array:
    """LN(x) (1 + scale) + shift. x: [b s d]; shift, scale: [b 1|s d] -> [b s d], float32."""
    return layer_norm(x, eps=eps) * (1 + scale) + shift


class LayerNorm(nnx.Module):
    """Affine layer norm; statistics and affine in float32, result in the dtype of the input."""

    def __init__(self, d: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        del rngs  # nothing random
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((d,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d] -> [... d]."""
        y = layer_norm(x, eps=self.eps)
        return _shift(_scale(y, self.scale[...]), self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis.

    NOTE(parity): Wan (wan/modules/model.py, WanRMSNorm) normalises in float32, casts to the input
    dtype and only then multiplies with the weight; so does this.
    """

    def __init__(self, d: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        del rngs  # nothing random
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((d,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... d] -> [... d] of the same dtype."""
        y = x.astype(jnp.float32)
        if cpu.alone(y):
            y = cpu.normalise(y, self.eps, False)
        else:
            y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return _scale(y.astype(x.dtype), self.scale[...].astype(x.dtype))


def _scale(x, vector):
    return cpu.scale(x, vector) if cpu.alone(x) else x * along_last(vector, x)


def _shift(x, vector):
    return cpu.shift(x, vector) if cpu.alone(x) else x + along_last(vector, x)


def gelu(x: jax.Array) -> jax.Array:
    """GELU in its tanh form."""
    return cpu.gelu(x) if cpu.alone(x) else jax.nn.gelu(x, approximate=True)


def sincos(t: jax.Array, *, width: int, period: float = 10000.0) -> jax.Array:
    """Sinusoidal features of a diffusion time, cosines first.

    feature_i = cos(t period^(-i / (width / 2))), then the sines. The phase is summed from exact
    float32 parts, as the reference computes it in float64.

    Args:
      t: [...] any real dtype, 0..1000.
      width: even number of features.

    Returns:
      [... width] float32.

    Raises:
      ValueError: odd width.
    """
    if width % 2:
        raise ValueError(f"sincos: wanted an even width, got {width}")
    half = width // 2
    turns = np.power(period, -np.arange(half, dtype=np.float64) / half) / (2 * np.pi)
    # high has 11 bits, so its product with the whole part of t (10 bits) is exact in float32.
    high = turns.astype(np.float16).astype(np.float64)
    t = t.astype(jnp.float32)[..., None]
    whole = jnp.floor(t)
    rows = (jnp.asarray(a, jnp.float32) for a in (turns - high, high, turns))
    fine, coarse, whole_turns = (along_last(row, t) for row in rows)
    phase = whole * coarse
    phase = (phase - jnp.round(phase)) + whole * fine + (t - whole) * whole_turns
    angle = phase * (2 * np.pi)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
