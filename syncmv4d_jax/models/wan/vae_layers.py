"""Layers of the Wan2.2 VAE: causal convolutions, residual and attention blocks, resampling.

Layout: clips [b n h w c], channels last. Every temporal layer looks backwards only. A clip may be
processed at once or in chunks along time: `History` carries the last frames that each temporal
layer has seen from one chunk to the next, and both ways give the same numbers. The first chunk has
4 k + 1 frames (k may be 0), the others multiples of 4. What the first frame of a clip is, for a
chunk loop or a single pass alike:

    CausalConv            zeros before the clip
    Resample down, time   frame 0 is copied, then a convolution over (0, 1, 2), (2, 3, 4), ...
    Resample up, time     frame 0 is copied and hidden: zeros before frame 1
    avg_down, time        a zero frame before frame 0
    dup_up, time          frame 0 makes one frame, not two

Reference: wan/modules/vae2_2.py of Wan2.2. Convolution kernels are stored [kt kh kw c_in c_out] or
[kh kw c_in c_out], norm scales `gamma` [c].
"""

import math

import einops
import jax
import jax.numpy as jnp
from flax import nnx

CONVS = ("auto", "native", "taps", "columns")
# On CPU, XLA's 3D convolution is slow: per-tap 2D convolutions below this width, im2col above
# (benchmarks/wan_vae_cpu.py).
CPU_COLUMNS_WIDTH = 512

Pads = tuple[tuple[int, int], tuple[int, int]]
SAME: Pads = ((1, 1), (1, 1))
VALID: Pads = ((0, 0), (0, 0))


class History:
    """Past frames of each temporal layer, in the order in which the layers run.

    Lives while one chunk is traced: `History()` starts a clip, `History(previous.kept)` goes on.
    """

    def __init__(self, past: tuple[jax.Array, ...] | None = None):
        self.first = past is None
        self.kept: tuple[jax.Array, ...] = ()
        self._past = iter(past or ())

    def take(self) -> jax.Array | None:
        """Returns the next layer's past frames, None in the first chunk of a clip."""
        return None if self.first else next(self._past)

    def keep(self, frames: jax.Array) -> None:
        """Stores the frames the layer needs when the next chunk comes."""
        self.kept += (frames,)

    def extend(self, x: jax.Array, count: int) -> jax.Array:
        """x: [b n h w c] -> [b count+n h w c] with the past in front; remembers the last frames."""
        past = self.take()
        if past is None:
            past = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
        x = jnp.concatenate([past, x], axis=1)
        self.keep(x[:, x.shape[1] - count :])
        return x


def _choose(how: str, kernel: jax.Array) -> str:
    if how not in CONVS:
        raise ValueError(f"conv: wanted one of {CONVS}, got {how!r}")
    if how != "auto":
        return how
    if jax.default_backend() != "cpu":
        return "native"
    pixelwise = kernel.shape[1:3] == (1, 1)
    return "columns" if pixelwise or kernel.shape[3] >= CPU_COLUMNS_WIDTH else "taps"


def _frames_conv(x: jax.Array, kernel: jax.Array, stride: tuple[int, int], pads: Pads) -> jax.Array:
    b = x.shape[0]
    y = jax.lax.conv_general_dilated(
        einops.rearrange(x, "b n h w c -> (b n) h w c"),
        kernel,
        stride,
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return einops.rearrange(y, "(b n) h w c -> b n h w c", b=b)


def small_form() -> str:
    """`how` of `convolve` for training on latent cells: one matrix product where XLA's gradient of
    a small convolution is slow (70 x the forward)."""
    return "columns" if jax.default_backend() == "cpu" else "native"


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: tuple[int, int, int] = (1, 1, 1),
    pads: Pads = VALID,
    how: str = "auto",
) -> jax.Array:
    """Convolution without padding in time.

    Args:
      x: [b n h w c_in], any float dtype.
      kernel: [kt kh kw c_in c_out].
      stride: of time, height and width.
      pads: zeros (before, after) in height and in width.
      how: "native", XLA's 3D convolution; "taps", a 2D convolution per temporal tap, summed;
        "columns", one matrix product over gathered taps (im2col); "auto", by the host's backend,
        width and taps.

    Returns:
      [b n' h' w' c_out] in the dtype of x.

    Raises:
      ValueError: unknown `how`.
    """
    kernel = kernel.astype(x.dtype)
    size = kernel.shape[:3]
    how = _choose(how, kernel)
    if size == (1, 1, 1) and stride == (1, 1, 1):
        return x @ kernel[0, 0, 0]
    frames = (x.shape[1] - size[0]) // stride[0] + 1
    steps = [slice(t, t + stride[0] * (frames - 1) + 1, stride[0]) for t in range(size[0])]
    if how == "taps" or size[0] == 1 and how == "native":
        taps = zip(steps, kernel, strict=True)
        parts = (_frames_conv(x[:, step], tap, stride[1:], pads) for step, tap in taps)
        return jnp.asarray(sum(parts))
    if how == "native":
        dimensions = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, stride, ((0, 0), *pads), dimension_numbers=dimensions
        )
    x = jnp.pad(x, ((0, 0), (0, 0), *pads, (0, 0)))
    high, wide = ((x.shape[2 + i] - size[1 + i]) // stride[1 + i] + 1 for i in range(2))
    columns = []
    for step in steps:
        for i in range(size[1]):
            row = slice(i, i + stride[1] * (high - 1) + 1, stride[1])
            for j in range(size[2]):
                column = slice(j, j + stride[2] * (wide - 1) + 1, stride[2])
                columns.append(x[:, step, row, column])
    return jnp.concatenate(columns, -1) @ einops.rearrange(kernel, "t i j c o -> (t i j c) o")


def _bias(bias: nnx.Param, x: jax.Array) -> jax.Array:
    return bias[...].astype(x.dtype)[None, None, None, None]


def _kernel_init(rngs: nnx.Rngs, shape: tuple[int, ...]) -> nnx.Param:
    bound = math.sqrt(1 / math.prod(shape[:-1]))
    return nnx.Param(jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound))


class CausalConv(nnx.Module):
    """3D convolution whose output frame i sees the input frames up to i; "same" in space."""

    def __init__(self, c_in: int, c_out: int, size: int, *, how: str = "auto", rngs: nnx.Rngs):
        self.how = how
        self.kernel = _kernel_init(rngs, (size, size, size, c_in, c_out))
        self.bias = nnx.Param(jnp.zeros((c_out,), jnp.float32))

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c_in] -> [b n h w c_out]."""
        past = self.kernel.shape[0] - 1
        pads = ((past // 2, past // 2),) * 2
        x = history.extend(x, past) if past else x
        return convolve(x, self.kernel[...], pads=pads, how=self.how) + _bias(self.bias, x)


class FrameConv(nnx.Module):
    """2D convolution of every frame."""

    def __init__(self, c_in: int, c_out: int, size: int, *, how: str = "auto", rngs: nnx.Rngs):
        self.how = how
        self.kernel = _kernel_init(rngs, (size, size, c_in, c_out))
        self.bias = nnx.Param(jnp.zeros((c_out,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b n h w c_in] -> [b n h w c_out]."""
        pads = ((self.kernel.shape[0] // 2,) * 2,) * 2
        y = convolve(x, self.kernel[...][None], pads=pads, how=self.how)
        return y + _bias(self.bias, x)

    def down(self, x: jax.Array) -> jax.Array:
        """Stride 2 with one zero row below and one zero column at the right; h, w are halved."""
        kernel = self.kernel[...][None]
        y = convolve(x, kernel, stride=(1, 2, 2), pads=((0, 1), (0, 1)), how=self.how)
        return y + _bias(self.bias, x)

    def up(self, x: jax.Array) -> jax.Array:
        """The 3x3 convolution of the twofold nearest upsampling of x; h, w are doubled.

        Each of the four output phases is a 2x2 convolution of the small x with summed taps: 16
        products for 36.
        """
        by_row = _fold(self.kernel[...], axis=0)
        phases = [
            convolve(
                x,
                _fold(rows, axis=1)[j][None],
                pads=((1 - i, i), (1 - j, j)),
                how=self.how,
            )
            for i, rows in enumerate(by_row)
            for j in range(2)
        ]
        native = _choose(self.how, self.kernel[...]) == "native"
        return (_by_padding if native else _by_stacking)(phases) + _bias(self.bias, x)


def _by_stacking(phases: list[jax.Array]) -> jax.Array:
    """Interleaves four [b n h w c], by row and column, to [b n 2h 2w c]."""
    return einops.rearrange(jnp.stack(phases), "(i j) b n h w c -> b n (h i) (w j) c", i=2, j=2)


def _by_padding(phases: list[jax.Array]) -> jax.Array:
    """The same, channels always last: a TPU pads an inner axis of 2 to 128."""
    keep, even, odd = (0, 0, 0), (0, 1, 1), (1, 0, 1)
    zero = jnp.zeros((), phases[0].dtype)
    rows = [
        jax.lax.pad(a, zero, (keep, keep, keep, even, keep))
        + jax.lax.pad(b, zero, (keep, keep, keep, odd, keep))
        for a, b in (phases[:2], phases[2:])
    ]
    return einops.rearrange(jnp.stack(rows, 3), "b n h i w c -> b n (h i) w c")


def _fold(kernel: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array]:
    """Splits 3 taps on doubled pixels into the 2 taps that even and odd pixels see."""
    first, middle, last = jnp.split(kernel, 3, axis)
    even = jnp.concatenate([first, middle + last], axis)
    odd = jnp.concatenate([first + middle, last], axis)
    return even, odd


class RMSNorm(nnx.Module):
    """x / |x| sqrt(c) gamma over channels; float32 inside, the dtype of x outside."""

    def __init__(self, c: int, *, rngs: nnx.Rngs):
        del rngs  # nothing random
        self.gamma = nnx.Param(jnp.ones((c,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [... c] -> [... c]."""
        y = x.astype(jnp.float32)
        square = jnp.sum(jnp.square(y), axis=-1, keepdims=True)
        scale = math.sqrt(x.shape[-1]) * self.gamma[...]
        # The reference divides by max(|x|, 1e-12).
        y = y * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        return (y * scale[(None,) * (x.ndim - 1)]).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm(x)))))), with a 1x1 shortcut where the width changes."""

    def __init__(self, c_in: int, c_out: int, *, how: str, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(c_in, rngs=rngs)
        self.conv1 = CausalConv(c_in, c_out, 3, how=how, rngs=rngs)
        self.norm2 = RMSNorm(c_out, rngs=rngs)
        self.conv2 = CausalConv(c_out, c_out, 3, how=how, rngs=rngs)
        self.shortcut = CausalConv(c_in, c_out, 1, rngs=rngs) if c_in != c_out else None

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c_in] -> [b n h w c_out]."""
        y = self.conv1(jax.nn.silu(self.norm1(x)), history)
        y = self.conv2(jax.nn.silu(self.norm2(y)), history)
        return y + (x if self.shortcut is None else self.shortcut(x, history))


class AttentionBlock(nnx.Module):
    """x + proj(attention(norm(x))): one head over the pixels of each frame."""

    def __init__(self, c: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(c, rngs=rngs)
        self.to_qkv = FrameConv(c, 3 * c, 1, rngs=rngs)
        self.proj = FrameConv(c, c, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b n h w c] -> [b n h w c]."""
        tokens = einops.rearrange(self.to_qkv(self.norm(x)), "b n h w c -> b n (h w) c")
        q, k, v = jnp.split(tokens, 3, axis=-1)
        scores = jnp.einsum("bnic,bnjc->bnij", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores / math.sqrt(x.shape[-1]), axis=-1).astype(x.dtype)
        y = jnp.einsum("bnij,bnjc->bnic", weights, v)
        return x + self.proj(einops.rearrange(y, "b n (h w) c -> b n h w c", h=x.shape[2]))


class Down(nnx.Module):
    """Halves height and width, and time too where `temporal`."""

    def __init__(self, c: int, *, temporal: bool, how: str, rngs: nnx.Rngs):
        self.how = how
        self.conv = FrameConv(c, c, 3, how=how, rngs=rngs)
        self.time_conv = TimeConv(c, c, how=how, rngs=rngs) if temporal else None

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c] -> [b n' h/2 w/2 c]; n' = (n + 1) / 2 in the first chunk, then n / 2."""
        x = self.conv.down(x)
        if self.time_conv is None:
            return x
        past = history.take()
        history.keep(x[:, -1:])
        if past is not None:
            return self.time_conv(jnp.concatenate([past, x], axis=1), stride=2)
        if x.shape[1] == 1:
            return x
        return jnp.concatenate([x[:, :1], self.time_conv(x, stride=2)], axis=1)


class Up(nnx.Module):
    """Doubles height and width, and time too where `temporal`."""

    def __init__(self, c: int, *, temporal: bool, how: str, rngs: nnx.Rngs):
        self.conv = FrameConv(c, c, 3, how=how, rngs=rngs)
        self.time_conv = TimeConv(c, 2 * c, how=how, rngs=rngs) if temporal else None

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c] -> [b n' 2h 2w c]; n' = 2 n - 1 in the first chunk, then 2 n."""
        if self.time_conv is None:
            return self.conv.up(x)
        start = 1 if history.first else 0
        y = history.extend(x[:, start:], 2)
        if x.shape[1] > start:
            y = einops.rearrange(self.time_conv(y), "b n h w (j c) -> b (n j) h w c", j=2)
            x = jnp.concatenate([x[:, :start], y], axis=1)
        return self.conv.up(x)


class TimeConv(nnx.Module):
    """Three frames in, one out, at each pixel."""

    def __init__(self, c_in: int, c_out: int, *, how: str = "auto", rngs: nnx.Rngs):
        self.how = how
        self.kernel = _kernel_init(rngs, (3, 1, 1, c_in, c_out))
        self.bias = nnx.Param(jnp.zeros((c_out,), jnp.float32))

    def __call__(self, x: jax.Array, *, stride: int = 1) -> jax.Array:
        """x: [b n h w c_in] -> [b (n-3)/stride+1 h w c_out]."""
        y = convolve(x, self.kernel[...], stride=(stride, 1, 1), how=self.how)
        return y + _bias(self.bias, x)


def avg_down(x: jax.Array, c_out: int, *, time: int, space: int) -> jax.Array:
    """Space (and time) to channels, then the mean over groups of consecutive channels.

    Args:
      x: [b n h w c].
      c_out: channels of the result; c time space^2 is a multiple of it.
      time, space: factors. A zero frame is put in front where n is not a multiple of `time`.

    Returns:
      [b ceil(n/time) h/space w/space c_out].
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)))
    x = einops.rearrange(x, "b (n u) (h q) (w r) c -> b n h w (c u q r)", u=time, q=space, r=space)
    return einops.reduce(x, "b n h w (c g) -> b n h w c", "mean", c=c_out)


def dup_up(x: jax.Array, c_out: int, *, time: int, space: int, first: bool) -> jax.Array:
    """Repeats channels, then channels to space (and time).

    Args:
      x: [b n h w c].
      c_out: channels of the result; c_out time space^2 is a multiple of c.
      time, space: factors.
      first: whether x starts a clip: the first frame then makes one frame.

    Returns:
      [b n time h space w space c_out], less time - 1 frames where `first`.
    """
    x = jnp.repeat(x, c_out * time * space**2 // x.shape[-1], axis=-1)
    x = einops.rearrange(x, "b n h w (c u q r) -> b (n u) (h q) (w r) c", u=time, q=space, r=space)
    return x[:, time - 1 :] if first else x
