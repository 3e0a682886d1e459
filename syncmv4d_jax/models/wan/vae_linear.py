"""A linear start for small autoencoders of Wan2.2's form, fitted to clips in seconds.

A convolutional autoencoder trained from random weights takes long to reach what a linear transform
of 4 x 8 x 8 blocks does at once. This sets the weights so that the network starts as one:

- residual and attention blocks add nothing (their last layer is zero) and widen by the identity;
- each Down keeps the principal components of 2 x 2 pixels, then of frame pairs;
- each Up is the least-squares inverse of the encoder's stage, measured on what really comes in,
  with the duplicating shortcut subtracted;
- before a head's norm and SiLU all channels get a large common offset, where both are nearly
  linear (SiLU has its inflection at 2.4); the head's convolution is then a least-squares fit.

The decoder's features grow by GROWTH a stage,
because the duplicating shortcuts cannot be undone in time and small inputs make them small.

In a temporal Up frame 0 is copied, so the inner features of every other frame are what the encoder
would make of that frame if it were the first.
"""

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae, vae_layers

Array = jax.Array
INFLECTION = 2.4
OFFSET = 4.0  # in units of the root mean square of the largest channel
RIDGE = 1e-7
GROWTH = 10.0  # of features from one decoder stage to the next
ROWS = 20_000  # samples of a fit


def _rows(x: Array) -> Array:
    x = einops.rearrange(x, "b n h w c -> (b n h w) c")
    return x[:: max(1, x.shape[0] // ROWS)]


def _components(x: Array, count: int) -> Array:
    """Returns [c count], the leading eigenvectors of x^T x (no mean), zero-padded columns."""
    rows = _rows(x)
    _, vectors = jnp.linalg.eigh(rows.T @ rows / rows.shape[0])
    leading = vectors[:, ::-1][:, :count]
    return jnp.pad(leading, ((0, 0), (0, count - leading.shape[1])))


def _fit(x: Array, y: Array) -> Array:
    """Returns the ridge solution w [c_in c_out] of x w = y for x, y [b n h w c]."""
    x, y = _rows(x), _rows(y)
    gram = x.T @ x / x.shape[0]
    ridge = RIDGE * jnp.trace(gram) / gram.shape[0] + 1e-8
    return jnp.linalg.solve(gram + ridge * jnp.eye(gram.shape[0]), x.T @ y / x.shape[0])


def _pad_to(x: Array, width: int) -> Array:
    return jnp.pad(x[..., :width], ((0, 0),) * (x.ndim - 1) + ((0, max(0, width - x.shape[-1])),))


def _eye(shape: tuple[int, ...]) -> Array:
    """Identity in the tap that sees the present pixel of the present frame."""
    taps = shape[:-2]
    middle = tuple(size // 2 for size in taps)
    if len(taps) == 3:
        middle = (taps[0] - 1, *middle[1:])
    return jnp.zeros(shape).at[middle].set(jnp.eye(shape[-2], shape[-1]))


def _taps(x: Array, size: int) -> Array:
    """[b n h w c] -> [b n h w size^2 c]: the pixel's neighbourhood, zeros outside."""
    b, n, h, w, _ = x.shape
    r = size // 2
    x = jnp.pad(x, ((0, 0), (0, 0), (r, r), (r, r), (0, 0)))
    pieces = [x[:, :, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    return jnp.concatenate(pieces, -1)


class _Weights:
    """Flat parameters under construction."""

    def __init__(self, config: vae.VAEConfig, params: dict):
        self.config, self.flat = config, dict(tree.flatten(params))
        for name, leaf in self.flat.items():
            if "/resnet_" in name and "/conv2/" in name or "/attention/proj/" in name:
                self.flat[name] = jnp.zeros_like(leaf)
            elif name.endswith("shortcut/kernel"):
                self.flat[name] = _eye(leaf.shape)
        for name in ("conv1/kernel", "conv2/kernel", "encoder/conv1/kernel"):
            self.flat[name] = _eye(self.flat[name].shape)
        self.flat["decoder/conv1/kernel"] = _eye(self.flat["decoder/conv1/kernel"].shape)

    @property
    def params(self) -> dict:
        return tree.unflatten(self.flat)

    @property
    def model(self) -> vae.VAE:
        return module.bind(vae.VAE, self.config, self.params)

    def set(self, name: str, value: Array) -> None:
        self.flat[name] = value.reshape(self.flat[name].shape)


def _down(weights: _Weights, index: int, x: Array) -> Array:
    """Sets stage `index` of the encoder for its input x and returns its output."""
    path, width = f"encoder/downsamples_{index}", weights.config.encoder_stages[index][1]
    wide = _pad_to(x, width)
    patches = einops.rearrange(wide, "b n (h q) (w r) c -> b n h w (q r c)", q=2, r=2)
    basis = _components(patches, width)
    kernel = einops.rearrange(basis, "(q r c) o -> q r c o", q=2, r=2)
    weights.set(f"{path}/resample/conv/kernel", jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0))))
    if weights.config.temporal_downsample[index]:
        space = patches @ basis
        pairs = jnp.concatenate([space[:, 1::2], space[:, 2::2]], -1)
        target = pairs @ _components(pairs, width)
        target -= vae_layers.avg_down(x, width, time=2, space=2)[:, 1:]
        taps = _fit(pairs, target)
        weights.set(
            f"{path}/resample/time_conv/kernel",
            jnp.concatenate([jnp.zeros((width, width)), taps]),
        )
    return getattr(weights.model.encoder, f"downsamples_{index}")(x, vae_layers.History())


def _up(weights: _Weights, index: int, x: Array, finer: Array, image: Array) -> Array:
    """Sets stage `index` of the decoder.

    x: its input; finer: the encoder's features it should return; image: features of each finer
    frame as if it were a first frame, in the coordinates of x. Returns its output.
    """
    c_in, width, kind = weights.config.decoder_stages[index]
    path, y = f"decoder/upsamples_{index}", _pad_to(x, width)
    time = 2 if kind == "time" else 1
    if kind == "time":
        pairs = jnp.concatenate([_pad_to(image[:, i::2], width) for i in (1, 2)], -1)
        past = jnp.pad(y[:, 1:], ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0)))
        inputs = jnp.concatenate([past[:, i : i + pairs.shape[1]] for i in range(3)], -1)
        taps = _fit(inputs, pairs)
        weights.set(f"{path}/resample/time_conv/kernel", taps)
        later = einops.rearrange(inputs @ taps, "b n h w (j c) -> b (n j) h w c", j=2)
        y = jnp.concatenate([y[:, :1], later], axis=1)
    doubled = jnp.repeat(jnp.repeat(y, 2, axis=2), 2, axis=3)
    shortcut = vae_layers.dup_up(x, width, time=time, space=2, first=True)
    target = _pad_to(finer, width) - shortcut
    weights.set(f"{path}/resample/conv/kernel", _fit(_taps(doubled, 3), target))
    return getattr(weights.model.decoder, f"upsamples_{index}")(x, vae_layers.History())


def _head(weights: _Weights, path: str, before: str, x: Array, target: Array, size: int) -> None:
    """Sets a head, `size` x `size` pixels wide, and the offset in the bias of layer `before`."""
    offset = OFFSET * jnp.sqrt(jnp.max(jnp.mean(jnp.square(_rows(x)), 0)))
    weights.set(f"{before}/bias", jnp.full(weights.flat[f"{before}/bias"].shape, offset))
    weights.set(f"{path}/norm/gamma", jnp.full((x.shape[-1],), INFLECTION))
    side = weights.model.encoder if path == "encoder/head" else weights.model.decoder
    norm = side.head.norm
    y = _taps(jax.nn.silu(norm(x + offset)), size)
    kernel = weights.flat[f"{path}/conv/kernel"]
    target = _pad_to(target, kernel.shape[-1])
    centre, middle = jnp.mean(_rows(y), 0), jnp.mean(_rows(target), 0)
    inner = (None,) * 4
    taps = _fit(y - centre[inner], target - middle[inner])
    weights.set(f"{path}/conv/bias", middle - centre @ taps)
    taps = einops.rearrange(taps, "(i j c) o -> i j c o", i=size, j=size)
    r = (3 - size) // 2
    taps = jnp.pad(taps, ((r, r), (r, r), (0, 0), (0, 0)))
    weights.set(f"{path}/conv/kernel", jnp.zeros(kernel.shape).at[-1].set(taps))


def fit(config: vae.VAEConfig, params: dict, clips: Array) -> dict:
    """Returns parameters that start as a linear codec of `clips`.

    Args:
      config: of the autoencoder; latents_mean and latents_std do not matter.
      params: initial parameters, from which the layers inside residual blocks are taken.
      clips: [b n h w 3] in -1..1, with at least one latent frame after the first.

    Raises:
      ValueError: sizes that the autoencoder refuses, or a single frame.
    """
    vae.check_video(config, clips.shape)
    if clips.shape[1] < 1 + config.stride[0]:
        raise ValueError(f"vae_linear: wanted {1 + config.stride[0]} frames, got {clips.shape[1]}")
    weights = _Weights(config, params)
    p, stages = config.patch, len(config.dim_mult)
    x = einops.rearrange(clips, "b n (h q) (w r) c -> b n h w (c r q)", q=p, r=p)
    pixels = x
    levels = [weights.model.encoder.conv1(x, vae_layers.History())]
    images = []
    for i in range(stages - 1):
        levels.append(_down(weights, i, levels[-1]))
        frames = einops.rearrange(levels[-2], "b n h w c -> (b n) 1 h w c")
        stage = getattr(weights.model.encoder, f"downsamples_{i}")
        image = stage(frames, vae_layers.History())
        images.append(einops.rearrange(image, "(b n) 1 h w c -> b n h w c", b=clips.shape[0]))
    last = getattr(weights.model.encoder, f"downsamples_{stages - 1}")
    hidden = last(levels[-1], vae_layers.History())
    basis = _components(hidden, config.z_dim)
    scale = jnp.sqrt(jnp.mean(jnp.square(_rows(hidden @ basis)), 0) + 1e-8)
    target = hidden @ (basis / scale[None])
    _head(weights, "encoder/head", "encoder/middle/resnet_1/conv2", hidden, target, 1)

    widen = weights.flat["decoder/conv1/kernel"]
    # The duplicating shortcuts cannot be undone in time; small inputs make them small.
    ratio = GROWTH ** -(stages - 1)
    weights.set("decoder/conv1/kernel", ratio * widen * scale[None, None, None, :, None])
    mean, _ = weights.model.moments(clips)
    y = weights.model.decoder.conv1(mean, vae_layers.History())
    # Images in the coordinates of the coarsest hidden features, as the last stage and basis make.
    image = ratio * (last(images[-1], vae_layers.History()) @ basis)
    for i in range(stages - 1):
        level = stages - 2 - i
        finer = pixels if level == 0 else levels[level]
        ratio *= GROWTH
        y = _up(weights, i, y, ratio * finer, image)
        image = ratio * images[level - 1]
    y = getattr(weights.model.decoder, f"upsamples_{stages - 1}")(y, vae_layers.History())
    before = f"decoder/upsamples_{stages - 1}/resnet_{config.num_res_blocks}/conv2"
    _head(weights, "decoder/head", before, y, pixels, 3)
    return weights.params
