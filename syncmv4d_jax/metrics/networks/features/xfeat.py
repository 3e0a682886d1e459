"""XFeat: a small matcher (Potje et al. 2024, arXiv:2404.19174), sparse points, mutual neighbours.

    gray image -> features F (an eighth), reliability R (an eighth), keypoint logits of 8 x 8 cells
    keypoints: 5 x 5 maxima of the cells' softmax K above 0.05; score K R; best 4096
    matches: descriptors F (cubic) at length 1 that are each other's nearest; confidence = cosine

It is not the paper's matcher: its counts compare with its own only. The network runs in JAX, the
selection of points on the host.

NOTE(parity): points are sampled at x w / (W - 1) - 1/2, as verlab/accelerated_features has it
(modules/interpolator.py: a grid of align_corners=True read with align_corners=False).
"""

import dataclasses
from collections.abc import Callable

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from syncmv4d_jax.metrics.networks.features import matcher
from syncmv4d_jax.models.nn import image_layers as layers

BEST, DETECTION, NEAR = 4096, 0.05, 2

# block -> (channels, kernel, stride) of its layers
BLOCKS = {
    "block1": ((4, 3, 1), (8, 3, 2), (8, 3, 1), (24, 3, 2)),
    "block2": ((24, 3, 1), (24, 3, 1)),
    "block3": ((64, 3, 2), (64, 3, 1), (64, 1, 1)),
    "block4": ((64, 3, 2), (64, 3, 1), (64, 3, 1)),
    "block5": ((128, 3, 2), (128, 3, 1), (128, 3, 1), (64, 1, 1)),
    "block_fusion": ((64, 3, 1), (64, 3, 1)),
    "heatmap_head": ((64, 1, 1), (64, 1, 1)),
    "keypoint_head": ((64, 1, 1), (64, 1, 1), (64, 1, 1)),
}
INPUTS = {"block1": 1, "block2": 24, "block3": 24}  # channels; 64 for the others
LAST = {
    "block_fusion": 64,
    "heatmap_head": 1,
    "keypoint_head": 65,
}  # a plain convolution at the end


@dataclasses.dataclass(frozen=True)
class XFeatConfig:
    """No choices: the network is what its weights are."""


class Layer(nnx.Module):
    """Convolution, batch norm without affine, ReLU."""

    def __init__(self, c_in: int, c_out: int, *, size: int, stride: int, rngs: nnx.Rngs):
        self.conv = layers.Conv(
            c_in, c_out, kernel=(size, size), stride=stride, use_bias=False, rngs=rngs
        )
        self.bn = layers.BatchNorm(c_out, eps=1e-5, affine=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [b h w c_in] -> [b h w c_out]."""
        return jax.nn.relu(self.bn(self.conv(x)))


class XFeat(nnx.Module):
    """Dense features, keypoint probabilities and reliabilities."""

    def __init__(self, config: XFeatConfig, *, rngs: nnx.Rngs):
        del config
        self.skip1 = layers.Conv(1, 24, kernel=(1, 1), rngs=rngs)
        for name, steps in BLOCKS.items():
            c = INPUTS.get(name, 64)
            for i, (width, size, stride) in enumerate(steps):
                setattr(self, f"{name}_{i}", Layer(c, width, size=size, stride=stride, rngs=rngs))
                c = width
            if name in LAST:
                last = layers.Conv(c, LAST[name], kernel=(1, 1), rngs=rngs)
                setattr(self, f"{name}_last", last)

    def _run(self, name: str, x: jax.Array) -> jax.Array:
        for i in range(len(BLOCKS[name])):
            x = getattr(self, f"{name}_{i}")(x)
        return getattr(self, f"{name}_last")(x) if name in LAST else x

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Features of images.

        Args:
          images: [b h w 3], h and w multiples of 32.

        Returns:
          features [b h/8 w/8 64] of length 1; keypoint probabilities [b h w]; reliabilities
          [b h/8 w/8].
        """
        x = layers.instance_norm(jnp.mean(images.astype(jnp.float32), axis=-1, keepdims=True))
        small = einops.reduce(x, "b (h i) (w j) c -> b h w c", "mean", i=4, j=4)
        x3 = self._run("block3", self._run("block2", self._run("block1", x) + self.skip1(small)))
        x4 = self._run("block4", x3)
        x5 = self._run("block5", x4)
        size = (x3.shape[1], x3.shape[2])
        features = self._run("block_fusion", x3 + layers.resize(x4, size) + layers.resize(x5, size))
        reliability = jax.nn.sigmoid(self._run("heatmap_head", features))[..., 0]
        cells = einops.rearrange(x, "b (h i) (w j) 1 -> b h w (i j)", i=8, j=8)
        cells = jax.nn.softmax(self._run("keypoint_head", cells), axis=-1)[..., :64]
        points = einops.rearrange(cells, "b h w (i j) -> b (h i) (w j)", i=8)
        length = jnp.linalg.norm(features, axis=-1, keepdims=True)
        return features / jnp.maximum(length, 1e-12), points, reliability


def prepared(images: jax.Array) -> jax.Array:
    """Resizes [b h w 3] linearly down to multiples of 32, as `XFeat` takes them."""
    height, width = (n // 32 * 32 for n in images.shape[1:3])
    return layers.resize(images, (height, width))


def sampled(image: np.ndarray, at: np.ndarray, size: tuple[int, int], order: int) -> np.ndarray:
    """Reads image [h w c] at pixels `at` [k 2] (x, y) of a picture of `size` (h, w): [k c].

    order: 0 nearest, 1 linear, 3 cubic; zeros outside of the image.
    """
    h, w = image.shape[:2]
    taps = []
    for axis, (own, of) in enumerate(((w, size[1]), (h, size[0]))):
        x = at[:, axis] / (of - 1) * own - 0.5
        if order == 0:
            taps.append((np.round(x).astype(int)[:, None], np.ones((len(x), 1))))
            continue
        steps = np.arange(0, 2) if order == 1 else np.arange(-1, 3)
        low = np.floor(x).astype(int)
        d = np.abs((x - low)[:, None] - steps)
        weights = 1 - d if order == 1 else layers.cubic(d)
        taps.append((low[:, None] + steps, weights))
    (x, wx), (y, wy) = taps
    inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None, :]
    values = image[np.clip(y, 0, h - 1)[:, :, None], np.clip(x, 0, w - 1)[:, None, :]]
    return np.einsum("kyxc,ky,kx,kyx->kc", values, wy, wx, inside)


def keypoints(
    features: np.ndarray, points: np.ndarray, reliability: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best keypoints of one image: places [k 2] (x, y) and descriptors [k 64] of length 1."""
    wide = np.pad(points, NEAR, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(wide, (2 * NEAR + 1,) * 2)
    rows, columns = np.nonzero((points == around.max((-1, -2))) & (points > DETECTION))
    at = np.stack([columns, rows], -1).astype(np.float64)
    scores = sampled(points[..., None], at, points.shape, 0)[:, 0]
    scores = scores * sampled(reliability[..., None], at, points.shape, 1)[:, 0]
    best = np.argsort(-scores, kind="stable")[:BEST]
    best = best[scores[best] > 0]
    described = sampled(features, at[best], points.shape, 3)
    length = np.linalg.norm(described, axis=-1, keepdims=True)
    return at[best], described / np.maximum(length, 1e-12)


class Sparse:
    """The matcher. `network`: images [b h w 3] uint8 -> outputs of XFeat of `prepared` images."""

    name = "XFeat, sparse, 4096 points, mutual neighbours, confidence = cosine"
    threshold = 0.82  # the authors' own for matches (min_cossim)

    def __init__(self, network: Callable[[np.ndarray], tuple], files: dict[str, str]):
        self.files = files
        self._network = network

    def __call__(self, first: np.ndarray, second: np.ndarray) -> matcher.Matches:
        """first, second: [h w 3] uint8 of one size, at least 32 pixels a side.

        Raises:
          ValueError: a smaller image, or two sizes.
        """
        if first.shape != second.shape or min(first.shape[:2]) < 32:
            raise ValueError(
                f"XFeat: wanted two images [h w 3] of one size, at least 32 pixels a side, got "
                f"{first.shape} and {second.shape}"
            )
        features, points, reliability = self._network(np.stack([first, second]))
        (a, da), (b, db) = (
            keypoints(np.asarray(features[i]), np.asarray(points[i]), np.asarray(reliability[i]))
            for i in (0, 1)
        )
        scale = np.array(first.shape[1::-1]) / np.array(points.shape[2:0:-1])
        if not (len(a) and len(b)):
            return matcher.Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
        cosine = da @ db.T
        there, back = cosine.argmax(1), cosine.argmax(0)
        own = np.nonzero(back[there] == np.arange(len(a)))[0]
        return matcher.Matches(a[own] * scale, b[there[own]] * scale, cosine[own, there[own]])
