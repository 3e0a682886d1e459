"""The Wan2.2 VAE: causal video autoencoder with averaging and duplicating shortcuts.

    encode: pixels -> patches 2x2 -> conv -> per stage [residual blocks, Down, + avg_down(input)]
            -> middle -> norm, SiLU, conv -> 1x1 conv -> (mean, log variance)
            -> (mean - latents_mean) / latents_std
    decode: the inverse of the last line -> 1x1 conv -> conv -> middle
            -> per stage [residual blocks, Up, + dup_up(input)] -> norm, SiLU, conv -> pixels

Reference: Wan2_2_VAE in wan/modules/vae2_2.py. With s = patch 2^(stages - 1) pixels and
u = 2^(temporal stages) frames to a latent, a video [b n h w 3], n = u (f - 1) + 1, makes latents
[b f h/s w/s z]; the first frame alone makes the first latent. For Wan2.2 s = 16, u = 4. The mean is
used as it is, never sampled, and decoded values are not clamped.

A clip runs at once, or in chunks along time (`chunk` latents at a time) whose memory does not grow
with its length; see vae_layers.History. Parameter paths are the reference's, with `x.0.residual.2`
written as names: encoder/downsamples_I/resnet_J/{norm1,conv1,norm2,conv2,shortcut},
encoder/downsamples_I/resample/{conv,time_conv}, encoder/middle/{resnet_0,attention,resnet_1},
encoder/head/{norm,conv}, the same with decoder/upsamples_I, and conv1, conv2 at the top.
"""

import dataclasses
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.models.wan import vae_layers
from syncmv4d_jax.models.wan.vae_layers import History

# Statistics of the released model's latents (vae2_2.py:904-1012).
# fmt: off
WAN_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
WAN_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Sizes and numerics.

    Attributes:
      z_dim: latent channels.
      dim, dec_dim: widths of the encoder's and the decoder's finest stage.
      dim_mult: width factors of the stages, finest first; all but the last halve height and width.
      num_res_blocks: residual blocks in an encoder stage; the decoder has one more.
      temporal_downsample: whether stage i of the encoder halves time as well.
      patch: pixels of a patch side.
      latents_mean, latents_std: [z_dim] statistics that latents are normalised with; () for 0, 1.
      dtype: of activations.
      conv: how convolutions run, see vae_layers.convolve.

    Raises:
      ValueError: sizes that do not fit together.
    """

    z_dim: int = 48
    dim: int = 160
    dec_dim: int = 256
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch: int = 2
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()
    dtype: str = "float32"
    conv: str = "auto"

    def __post_init__(self):
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"VAEConfig: wanted temporal_downsample for {len(self.dim_mult) - 1} stages "
                f"(dim_mult less one), got {self.temporal_downsample}"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) not in (0, self.z_dim):
                raise ValueError(
                    f"VAEConfig: wanted {self.z_dim} values of {name} or none, "
                    f"got {len(getattr(self, name))}"
                )
        if self.conv not in vae_layers.CONVS:
            raise ValueError(f"VAEConfig: wanted conv of {vae_layers.CONVS}, got {self.conv!r}")
        both = ((self.encoder_stages, 1), (self.decoder_stages, -1))
        for (c_in, c_out, kind), way in ((s, way) for stages, way in both for s in stages):
            pixels = {"none": 1, "space": 4, "time": 8}[kind]
            fine, coarse = (c_in, c_out)[::way]
            if kind != "none" and fine * pixels % coarse:
                raise ValueError(
                    f"VAEConfig: widths {c_in} -> {c_out} do not fit a shortcut over {pixels} "
                    "pixels"
                )

    @property
    def encoder_stages(self) -> tuple[tuple[int, int, str], ...]:
        """(width in, width out, "space" | "time" | "none") of each encoder stage."""
        widths = [self.dim * m for m in (1, *self.dim_mult)]
        kinds = ["time" if t else "space" for t in self.temporal_downsample] + ["none"]
        return tuple(zip(widths[:-1], widths[1:], kinds, strict=True))

    @property
    def decoder_stages(self) -> tuple[tuple[int, int, str], ...]:
        """(width in, width out, kind) of each decoder stage, coarsest first."""
        widths = [self.dec_dim * m for m in (*self.dim_mult, self.dim_mult[-1])][::-1]
        kinds = ["time" if t else "space" for t in self.temporal_downsample[::-1]] + ["none"]
        return tuple(zip(widths[:-1], widths[1:], kinds, strict=True))

    @property
    def stride(self) -> tuple[int, int]:
        """(frames, pixels) to a latent."""
        return 2 ** sum(self.temporal_downsample), self.patch * 2 ** (len(self.dim_mult) - 1)


TI2V_5B = VAEConfig(latents_mean=WAN_MEAN, latents_std=WAN_STD)
# 4 x 8 x 8 at 2.5 M parameters: the embedded scenes (configs/wan_vae.py).
DEMO = VAEConfig(
    dim=32, dec_dim=28, dim_mult=(1, 2, 2), num_res_blocks=1, temporal_downsample=(True, True)
)
TINY = dataclasses.replace(DEMO, z_dim=4, dim=8, dec_dim=8)


def released(config: VAEConfig) -> VAEConfig:
    """Gives an autoencoder of the release's sizes the release's latent statistics, if it has none.

    The official code keeps them beside the checkpoint, not in it.
    """
    bare = dataclasses.replace(
        TI2V_5B, latents_mean=(), latents_std=(), dtype=config.dtype, conv=config.conv
    )
    if config != bare:
        return config
    return dataclasses.replace(config, latents_mean=WAN_MEAN, latents_std=WAN_STD)


class Stage(nnx.Module):
    """Residual blocks, then Down or Up, plus the averaging or duplicating shortcut."""

    def __init__(
        self, sizes: tuple[int, int, str], *, blocks: int, down: bool, how: str, rngs: nnx.Rngs
    ):
        c_in, self.width, self.kind = sizes
        self.blocks, self.down = blocks, down
        for i in range(blocks):
            block = vae_layers.ResidualBlock(
                self.width if i else c_in, self.width, how=how, rngs=rngs
            )
            setattr(self, f"resnet_{i}", block)
        if self.kind != "none":
            resample = vae_layers.Down if down else vae_layers.Up
            self.resample = resample(self.width, temporal=self.kind == "time", how=how, rngs=rngs)

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c_in] -> [b n' h' w' c_out]."""
        y = x
        for i in range(self.blocks):
            y = getattr(self, f"resnet_{i}")(y, history)
        if self.kind != "none":
            y = self.resample(y, history)
        return y + self._shortcut(x, history.first)

    def _shortcut(self, x: jax.Array, first: bool) -> jax.Array | float:
        time, space = {"none": (1, 1), "space": (1, 2), "time": (2, 2)}[self.kind]
        if self.kind == "none" and (not self.down or x.shape[-1] % self.width):
            return 0.0  # the decoder's last stage; or an encoder's that widens, unlike Wan's
        if self.down:
            return vae_layers.avg_down(x, self.width, time=time, space=space)
        return vae_layers.dup_up(x, self.width, time=time, space=space, first=first)


class Middle(nnx.Module):
    """Residual block, attention over each frame, residual block."""

    def __init__(self, c: int, *, how: str, rngs: nnx.Rngs):
        self.resnet_0 = vae_layers.ResidualBlock(c, c, how=how, rngs=rngs)
        self.attention = vae_layers.AttentionBlock(c, rngs=rngs)
        self.resnet_1 = vae_layers.ResidualBlock(c, c, how=how, rngs=rngs)

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c] -> [b n h w c]."""
        return self.resnet_1(self.attention(self.resnet_0(x, history)), history)


class Head(nnx.Module):
    """conv(SiLU(norm(x)))."""

    def __init__(self, c_in: int, c_out: int, *, how: str, rngs: nnx.Rngs):
        self.norm = vae_layers.RMSNorm(c_in, rngs=rngs)
        self.conv = vae_layers.CausalConv(c_in, c_out, 3, how=how, rngs=rngs)

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h w c_in] -> [b n h w c_out]."""
        return self.conv(jax.nn.silu(self.norm(x)), history)


class Encoder(nnx.Module):
    """Patches to moments before the last 1x1 convolution."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        stages, how = config.encoder_stages, config.conv
        self.stages = len(stages)
        self.conv1 = vae_layers.CausalConv(3 * config.patch**2, stages[0][0], 3, how=how, rngs=rngs)
        for i, sizes in enumerate(stages):
            stage = Stage(sizes, blocks=config.num_res_blocks, down=True, how=how, rngs=rngs)
            setattr(self, f"downsamples_{i}", stage)
        self.middle = Middle(stages[-1][1], how=how, rngs=rngs)
        self.head = Head(stages[-1][1], 2 * config.z_dim, how=how, rngs=rngs)

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b n h/p w/p 3 p^2] -> [b f h/s w/s 2z]."""
        x = self.conv1(x, history)
        for i in range(self.stages):
            x = getattr(self, f"downsamples_{i}")(x, history)
        return self.head(self.middle(x, history), history)


class Decoder(nnx.Module):
    """Latents to patches."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        stages, how = config.decoder_stages, config.conv
        self.stages = len(stages)
        self.conv1 = vae_layers.CausalConv(config.z_dim, stages[0][0], 3, how=how, rngs=rngs)
        self.middle = Middle(stages[0][0], how=how, rngs=rngs)
        for i, sizes in enumerate(stages):
            stage = Stage(sizes, blocks=config.num_res_blocks + 1, down=False, how=how, rngs=rngs)
            setattr(self, f"upsamples_{i}", stage)
        self.head = Head(stages[-1][1], 3 * config.patch**2, how=how, rngs=rngs)

    def __call__(self, x: jax.Array, history: History) -> jax.Array:
        """x: [b f h/s w/s z] -> [b n h/p w/p 3 p^2]."""
        x = self.middle(self.conv1(x, history), history)
        for i in range(self.stages):
            x = getattr(self, f"upsamples_{i}")(x, history)
        return self.head(x, history)


def _stream(
    function: Callable[[jax.Array, History], jax.Array], x: jax.Array, *, first: int, step: int
) -> jax.Array:
    """Runs a causal function over x [b n ...] in chunks of `first`, then `step`, ... frames."""
    history = History()
    out = [function(x[:, :first], history)]
    past, count = history.kept, (x.shape[1] - first) // step
    if count:

        def advance(past, i):
            history = History(past)
            chunk = jax.lax.dynamic_slice_in_dim(x, first + i * step, step, axis=1)
            y = function(chunk, history)
            return history.kept, y

        past, ys = jax.lax.scan(advance, past, jnp.arange(count))
        out.append(einops.rearrange(ys, "m b n h w c -> b (m n) h w c"))
    if x.shape[1] > first + count * step:
        out.append(function(x[:, first + count * step :], History(past)))
    return jnp.concatenate(out, axis=1)


class VAE(nnx.Module):
    """Encoder, decoder and the normalisation of latents."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        z = config.z_dim
        self.encoder = Encoder(config, rngs=rngs)
        self.conv1 = vae_layers.CausalConv(2 * z, 2 * z, 1, rngs=rngs)
        self.conv2 = vae_layers.CausalConv(z, z, 1, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def moments(self, video: jax.Array, *, chunk: int = 0) -> tuple[jax.Array, jax.Array]:
        """Returns the posterior of the latents, not normalised.

        Args:
          video: [b n h w 3] in -1..1, n = 4 (f - 1) + 1 for Wan2.2's time stride of 4.
          chunk: latents at a time; 0 is all at once. Same numbers, less memory.

        Returns:
          mean and log variance, each [b f h/s w/s z].

        Raises:
          ValueError: wrong rank or channels, n, h or w that do not fit the strides, chunk < 0.
        """
        check_video(self.config, video.shape)
        check_chunk(chunk)
        time, _ = self.config.stride
        if chunk:
            x = _stream(self._encode, video, first=1, step=chunk * time)
        else:
            x = self._encode(video, History())
        mean, logvar = jnp.split(self.conv1(x, History()), 2, axis=-1)
        return mean, logvar

    def encode(self, video: jax.Array, *, chunk: int = 0) -> jax.Array:
        """video: [b n h w 3] in -1..1 -> normalised mean latents [b f h/s w/s z]; see `moments`."""
        mean, _ = self.moments(video, chunk=chunk)
        return normalise(self.config, mean)

    def decode(self, latents: jax.Array, *, chunk: int = 0) -> jax.Array:
        """Decodes normalised latents.

        Args:
          latents: [b f h/s w/s z].
          chunk: latents at a time; 0 is all at once. Same numbers, less memory.

        Returns:
          video: [b n h w 3], about -1..1, not clamped; n = 4 (f - 1) + 1 for Wan2.2.

        Raises:
          ValueError: wrong rank or channels, or chunk < 0.
        """
        if latents.ndim != 5 or latents.shape[-1] != self.config.z_dim:
            raise ValueError(
                f"decode: wanted latents [b f h w {self.config.z_dim}], got {latents.shape}"
            )
        check_chunk(chunk)
        x = denormalise(self.config, latents).astype(self.config.dtype)
        x = self.conv2(x, History())
        if chunk:
            return _stream(self._decode, x, first=1, step=chunk)
        return self._decode(x, History())

    def _encode(self, video: jax.Array, history: History) -> jax.Array:
        p = self.config.patch
        # NOTE(parity): the offset along the width is outer (vae2_2.py patchify).
        x = einops.rearrange(video, "b n (h q) (w r) c -> b n h w (c r q)", q=p, r=p)
        return self.encoder(x.astype(self.config.dtype), history)

    def _decode(self, x: jax.Array, history: History) -> jax.Array:
        p = self.config.patch
        x = self.decoder(x, history)
        return einops.rearrange(x, "b n h w (c r q) -> b n (h q) (w r) c", q=p, r=p)


def _statistics(config: VAEConfig) -> tuple[np.ndarray, np.ndarray]:
    mean = config.latents_mean or (0.0,) * config.z_dim
    std = config.latents_std or (1.0,) * config.z_dim
    shape = (1, 1, 1, 1, config.z_dim)
    return np.asarray(mean, np.float32).reshape(shape), np.asarray(std, np.float32).reshape(shape)


def normalise(config: VAEConfig, mean: jax.Array) -> jax.Array:
    """(mean - latents_mean) / latents_std in float32. mean: [b f h w z]."""
    centre, spread = _statistics(config)
    return (mean.astype(jnp.float32) - centre) / spread


def denormalise(config: VAEConfig, latents: jax.Array) -> jax.Array:
    """Inverse of `normalise`. latents: [b f h w z]."""
    centre, spread = _statistics(config)
    return latents.astype(jnp.float32) * spread + centre


def check_chunk(chunk: int) -> None:
    """Raises ValueError for a negative number of latents."""
    if chunk < 0:
        raise ValueError(f"chunk: wanted a number of latents >= 0, got {chunk}")


def check_video(config: VAEConfig, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns (f, h, w) of the latents of a video of shape [b n h w 3].

    Raises:
      ValueError: wrong rank or channels, or n, h, w that do not fit the strides.
    """
    time, space = config.stride
    if len(shape) != 5 or shape[-1] != 3:
        raise ValueError(f"encode: wanted video [b n h w 3], got {tuple(shape)}")
    _, n, h, w, _ = shape
    if n < 1 or (n - 1) % time:
        raise ValueError(f"encode: wanted {time} k + 1 frames, got {n} in video {tuple(shape)}")
    if h % space or w % space or not h or not w:
        raise ValueError(
            f"encode: wanted height and width divisible by {space}, got {h}x{w} in video "
            f"{tuple(shape)} (with a transformer's patch of p latents, divisible by {space} p)"
        )
    return (n - 1) // time + 1, h // space, w // space
