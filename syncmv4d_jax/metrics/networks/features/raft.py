"""RAFT-large: optical flow between two images (Teed & Deng 2020, arXiv:2003.12039).

    C_l[p, q] = <f_1(p), f_2(q)> / sqrt(d), 2 x 2 means over q to level l = 0..3
    lookup(u) = C_l at (p + u) / 2^l + d, |d_x|, |d_y| <= 4, linear, zero outside
    h, delta  = GRU(h, [context, motion(lookup(u), u)]);  u <- u + delta          (20 times)
    flow      = convex combination of 3 x 3 coarse neighbours of 8 u

The lookup is written as two small matrix products with hat functions, the same numbers as linear
sampling with zeros outside, without a gather.

NOTE(parity): the offset that varies slowest in the lookup's channels moves x (core/corr.py adds
meshgrid(dy, dx) to (x, y)); the weights expect that order, so it is kept.
"""

import dataclasses

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from syncmv4d_jax.models.nn import image_layers as layers

LEVELS, RADIUS = 4, 4
SMALLEST = 128  # pixels: below, the coarsest correlation level is empty
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class RAFTConfig:
    """iterations: of the update; VBench takes 20."""

    iterations: int = 20


class Residual(nnx.Module):
    """Two 3 x 3 convolutions beside a short cut; `batch`: batch norm, else instance norm."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, batch: bool, rngs: nnx.Rngs):
        def norm():
            return layers.BatchNorm(c_out, eps=EPS, rngs=rngs) if batch else None

        pad = layers.same((3, 3))
        self.conv1 = layers.Conv(c_in, c_out, kernel=(3, 3), stride=stride, padding=pad, rngs=rngs)
        self.norm1 = norm()
        self.conv2 = layers.Conv(c_out, c_out, kernel=(3, 3), rngs=rngs)
        self.norm2 = norm()
        short = stride > 1
        self.shortcut = (
            layers.Conv(c_in, c_out, kernel=(1, 1), stride=stride, rngs=rngs) if short else None
        )
        self.norm3 = norm() if short else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w c_in] -> [b h/stride w/stride c_out]."""
        y = jax.nn.relu(_normalised(self.conv1(x), self.norm1))
        y = jax.nn.relu(_normalised(self.conv2(y), self.norm2))
        if self.shortcut is not None:
            x = _normalised(self.shortcut(x), self.norm3)
        return jax.nn.relu(x + y)


def _normalised(x: jax.Array, norm: layers.BatchNorm | None) -> jax.Array:
    return layers.instance_norm(x, eps=EPS) if norm is None else norm(x)


class Encoder(nnx.Module):
    """Images to 256 features at an eighth of the size."""

    def __init__(self, *, batch: bool, rngs: nnx.Rngs):
        self.conv1 = layers.Conv(
            3, 64, kernel=(7, 7), stride=2, padding=layers.same((7, 7)), rngs=rngs
        )
        self.norm1 = layers.BatchNorm(64, eps=EPS, rngs=rngs) if batch else None
        self.layer1_0 = Residual(64, 64, stride=1, batch=batch, rngs=rngs)
        self.layer1_1 = Residual(64, 64, stride=1, batch=batch, rngs=rngs)
        self.layer2_0 = Residual(64, 96, stride=2, batch=batch, rngs=rngs)
        self.layer2_1 = Residual(96, 96, stride=1, batch=batch, rngs=rngs)
        self.layer3_0 = Residual(96, 128, stride=2, batch=batch, rngs=rngs)
        self.layer3_1 = Residual(128, 128, stride=1, batch=batch, rngs=rngs)
        self.conv2 = layers.Conv(128, 256, kernel=(1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w 3] in -1..1 -> [b h/8 w/8 256]."""
        x = jax.nn.relu(_normalised(self.conv1(x), self.norm1))
        x = self.layer1_1(self.layer1_0(x))
        x = self.layer2_1(self.layer2_0(x))
        return self.conv2(self.layer3_1(self.layer3_0(x)))


class MotionEncoder(nnx.Module):
    """Correlations and flow to 128 features, the flow the last two."""

    def __init__(self, *, rngs: nnx.Rngs):
        found = LEVELS * (2 * RADIUS + 1) ** 2
        self.convc1 = layers.Conv(found, 256, kernel=(1, 1), rngs=rngs)
        self.convc2 = layers.Conv(256, 192, kernel=(3, 3), rngs=rngs)
        self.convf1 = layers.Conv(2, 128, kernel=(7, 7), rngs=rngs)
        self.convf2 = layers.Conv(128, 64, kernel=(3, 3), rngs=rngs)
        self.conv = layers.Conv(256, 126, kernel=(3, 3), rngs=rngs)

    def __call__(self, flow: jax.Array, correlation: jax.Array) -> jax.Array:
        """flow: [b h w 2], correlation: [b h w 324] -> [b h w 128]."""
        c = jax.nn.relu(self.convc2(jax.nn.relu(self.convc1(correlation))))
        f = jax.nn.relu(self.convf2(jax.nn.relu(self.convf1(flow))))
        x = jax.nn.relu(self.conv(jnp.concatenate([c, f], axis=-1)))
        return jnp.concatenate([x, flow], axis=-1)


class GRU(nnx.Module):
    """Convolutional gated unit, once along rows (1 x 5) and once along columns (5 x 1)."""

    def __init__(self, *, rngs: nnx.Rngs):
        for number, kernel in (("1", (1, 5)), ("2", (5, 1))):
            for gate in "zrq":
                conv = layers.Conv(384, 128, kernel=kernel, rngs=rngs)
                setattr(self, f"conv{gate}{number}", conv)

    def __call__(self, h: jax.Array, x: jax.Array) -> jax.Array:
        """h: [b h w 128], x: [b h w 256] -> [b h w 128]."""
        for number in "12":
            update, reset, new = (getattr(self, f"conv{gate}{number}") for gate in "zrq")
            both = jnp.concatenate([h, x], axis=-1)
            z, r = jax.nn.sigmoid(update(both)), jax.nn.sigmoid(reset(both))
            q = jnp.tanh(new(jnp.concatenate([r * h, x], axis=-1)))
            h = (1 - z) * h + z * q
        return h


class Head(nnx.Module):
    """Two convolutions: 128 features to `c_out`, the last of kernel `last`."""

    def __init__(self, c_out: int, *, last: int, rngs: nnx.Rngs):
        self.conv1 = layers.Conv(128, 256, kernel=(3, 3), rngs=rngs)
        self.conv2 = layers.Conv(256, c_out, kernel=(last, last), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w 128] -> [b h w c_out]."""
        return self.conv2(jax.nn.relu(self.conv1(x)))


class RAFT(nnx.Module):
    """Optical flow from the first image to the second."""

    def __init__(self, config: RAFTConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.fnet = Encoder(batch=False, rngs=rngs)
        self.cnet = Encoder(batch=True, rngs=rngs)
        self.encoder = MotionEncoder(rngs=rngs)
        self.gru = GRU(rngs=rngs)
        self.flow_head = Head(2, last=3, rngs=rngs)
        self.mask = Head(9 * 64, last=1, rngs=rngs)

    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Flow in pixels.

        Args:
          first, second: [b h w 3], 0..255, h and w multiples of 8 and at least 128 (`padded`).

        Returns:
          [b h w 2] float32, (x, y).

        Raises:
          ValueError: another size.
        """
        if first.shape != second.shape or any(n % 8 or n < SMALLEST for n in first.shape[1:3]):
            raise ValueError(
                f"RAFT: wanted two [b h w 3] with h, w multiples of 8 and at least {SMALLEST}, "
                f"got {first.shape} and {second.shape}"
            )
        first, second = (2 * (x.astype(jnp.float32) / 255) - 1 for x in (first, second))
        pyramid = correlations(self.fnet(first), self.fnet(second))
        h, context = jnp.split(self.cnet(first), 2, axis=-1)
        h, context = jnp.tanh(h), jax.nn.relu(context)
        flow = jnp.zeros((*h.shape[:3], 2), jnp.float32)

        def step(carry, _):
            h, flow = carry
            motion = self.encoder(flow, lookup(pyramid, flow))
            h = self.gru(h, jnp.concatenate([context, motion], axis=-1))
            return (h, flow + self.flow_head(h)), None

        (h, flow), _ = jax.lax.scan(step, (h, flow), length=self.config.iterations)
        return upsample(flow, 0.25 * self.mask(h))


def padded(frames: jax.Array) -> jax.Array:
    """Repeats the edges of [b h w c] to multiples of 8, both sides alike (InputPadder, sintel)."""
    (top, bottom), (left, right) = (
        (n // 2, n - n // 2) for n in (-m % 8 for m in frames.shape[1:3])
    )
    return jnp.pad(frames, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="edge")


def correlations(first: jax.Array, second: jax.Array) -> list[jax.Array]:
    """Scaled products of features [b h w d] of two images: [b h w i j], i, j halved by level."""
    level = jnp.einsum("bhwd,bijd->bhwij", first, second) / jnp.sqrt(float(first.shape[-1]))
    found = [level]
    for _ in range(LEVELS - 1):
        i, j = (n // 2 * 2 for n in level.shape[3:])
        level = einops.reduce(
            level[..., :i, :j], "b h w (i y) (j x) -> b h w i j", "mean", y=2, x=2
        )
        found.append(level)
    return found


def lookup(pyramid: list[jax.Array], flow: jax.Array) -> jax.Array:
    """Correlations around where flow [b h w 2] leads: [b h w 324], by level, x offset, y offset."""
    h, w = flow.shape[1:3]
    grid = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), axis=-1).astype(jnp.float32)
    at = grid[None] + flow
    offsets = jnp.arange(-RADIUS, RADIUS + 1, dtype=jnp.float32)
    found = []
    for number, level in enumerate(pyramid):
        hats = [_hats(at[..., axis] / 2**number, offsets, level.shape[4 - axis]) for axis in (0, 1)]
        part = jnp.einsum("bhwij,bhwyi,bhwxj->bhwxy", level, hats[1], hats[0])
        found.append(einops.rearrange(part, "b h w x y -> b h w (x y)"))
    return jnp.concatenate(found, axis=-1)


def _hats(at: jax.Array, offsets: jax.Array, size: int) -> jax.Array:
    """Weights [b h w offset size] of linear sampling at `at` [b h w] + offset."""
    wanted = at[..., None] + offsets[None, None, None]
    places = jnp.arange(size, dtype=jnp.float32)
    return jnp.maximum(0.0, 1.0 - jnp.abs(wanted[..., None] - places[None, None, None, None]))


def upsample(flow: jax.Array, mask: jax.Array) -> jax.Array:
    """Flow [b h w 2] at an eighth to full size, by the softmax of mask [b h w 9*64]."""
    h, w = flow.shape[1:3]
    mask = einops.rearrange(mask, "b h w (k i j) -> b h w k i j", k=9, i=8)
    mask = jax.nn.softmax(mask, axis=3)
    wide = jnp.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = jnp.stack([wide[:, y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=3)
    return einops.rearrange(
        jnp.einsum("bhwkij,bhwkc->bhwijc", mask, around), "b h w i j c -> b (h i) (w j) c"
    )
