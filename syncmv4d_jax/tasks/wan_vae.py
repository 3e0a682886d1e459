"""Training a small autoencoder of Wan2.2's form on videos and pseudo videos.

    L = mean(w |e|) + gradient_weight mean(w |grad e|) + kl_weight KL(N(mean, var) | N(0, 1))
        + perceptual_weight LPIPS(decode(z), x),
    e = decode(z) - x,    z ~ N(mean, var),    grad: differences to the right and down

with pixel weights w = 1 + foreground_gain (pixel of the pseudo video painted)
+ moving_gain (pixel changes between frames), scaled to mean 1. Video and motion are two clips of
the same codec; views are clips too. LPIPS (tasks/perceptual.py) is of the videos alone: the other
clips are no pictures. Wan's own training recipe is not public and not
needed here; for full-size runs the released weights are used as they are.

Latents are not normalised while training (`latents_mean`, `latents_std` of the configuration are
empty); `statistics` measures them afterwards.
"""

import dataclasses
import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import configuration, schema
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import base, perceptual, video

Params = dict[str, Any]
MODALITIES = ("video", "motion")
VIEWS, PLANNED = 3, (49, 480, 704)  # of a plan: what records would say without a crop


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without the network.

    Attributes:
      clips: clips of each modality taken from a batch (random views), 0 = all.
      crop: (frames, height, width) of the random crop of a clip; () = all.
      foreground_gain: extra weight of pixels that the pseudo video paints.
      moving_gain: extra weight of pixels that change by more than `moving_threshold` (0..2).
      moving_threshold: see above, in units of the -1..1 range.
      focus: share of the crops that are drawn about a pixel that the pseudo video paints.
      gradient_weight: of the error's differences between neighbours: blurred edges cost more.
      kl_weight: of the divergence per latent value; 0 also switches the sampling of z off.
      perceptual_weight: of LPIPS.
    """

    clips: int = 0
    crop: tuple[int, ...] = ()
    foreground_gain: float = 0.0
    moving_gain: float = 0.0
    moving_threshold: float = 0.1
    focus: float = 0.0
    gradient_weight: float = 0.0
    kl_weight: float = 1e-6
    perceptual_weight: float = 0.0

    def __post_init__(self):
        if len(self.crop) not in (0, 3):
            raise ValueError(f"task.crop: wanted (frames, height, width) or (), got {self.crop}")
        if self.clips < 0:
            raise ValueError(f"task.clips: wanted a count or 0 for all, got {self.clips}")
        if not 0 <= self.focus <= 1:
            raise ValueError(f"task.focus: wanted a share, 0 to 1, got {self.focus}")
        perceptual.check("task.perceptual_weight", self.perceptual_weight, self.crop[1:])


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "WanVAE":
    """Builds the task from `config.task` (section vae and `Options`)."""
    values = dict(config.task)
    values.pop("name", None)
    network = configuration.section(vae.VAEConfig, values.pop("vae", {}), "config.task.vae")
    return WanVAE(network, configuration.section(Options, values, "config.task"), placement)


@functools.cache
def forward_flops(config: vae.VAEConfig, crop: tuple[int, int, int]) -> float:
    """Returns the FLOPs of encoding and decoding a clip of (frames, height, width)."""

    def run(params, pixels):
        model = module.bind(vae.VAE, video.ahead(config), params)
        return model.decode(model.encode(pixels))

    clip = jax.ShapeDtypeStruct((1, *crop, 3), jnp.float32)
    return float(flops.count(run, module.shapes(vae.VAE, config), clip))


@dataclasses.dataclass(frozen=True)
class WanVAE(base.Grown):
    """The task; see `tasks.base.Task`.

    Parameters: {"vae": ...}, trained, and with `perceptual_weight` {"lpips": ...}, frozen.
    """

    name = "wan_vae"
    trainable = r"^vae/"

    config: vae.VAEConfig
    options: Options
    placement: protocol.Placement = protocol.LOCAL

    def __post_init__(self):
        if self.options.crop:
            vae.check_video(self.config, (1, *self.options.crop, 3))

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """See `tasks.base.Task`."""
        return (perceptual.PART,) * bool(self.options.perceptual_weight)

    judges = frozen_parts

    def init(self, rng: jax.Array) -> Params:
        """Returns initial parameters of all parts."""
        judges = {part: perceptual.init(rng) for part in self.judges}
        return {"vae": module.init(vae.VAE, self.config, rng), **judges}

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Reconstruction loss of a batch.

        Args:
          trainable: {"vae": ...}.
          frozen: {"lpips": ...} where that is in the loss.
          batch: video and motion [b v n h w 3] uint8; other keys are not looked at.
          rng: key.

        Returns:
          The loss [] float32; scalars loss/video, loss/motion (weighted L1), psnr/video,
          psnr/motion (dB over 0..255), energy/video, energy/motion (of the differences, as a share
          of the truth's), kl, with its weight lpips/video.

        Raises:
          ValueError: a modality is missing, or sizes that the autoencoder refuses.
        """
        axes = {name: schema.BATCH[name].axes for name in MODALITIES}
        base.check(f"task {self.name}, loss", batch, axes)
        keys = dict(zip(("pick", "sample"), jax.random.split(rng), strict=True))
        clips, weights = self._clips(batch, keys["pick"])
        model = module.bind(vae.VAE, self.config, trainable["vae"])
        mean, logvar = (x.astype(jnp.float32) for x in model.moments(clips))
        logvar = jnp.clip(logvar, -30.0, 20.0)
        latents = mean
        if self.options.kl_weight:
            noise = jax.random.normal(keys["sample"], mean.shape)
            latents = mean + jnp.exp(0.5 * logvar) * noise
        decoded = model.decode(vae.normalise(self.config, latents)).astype(jnp.float32)
        error = decoded - clips
        each = _mean(jnp.abs(error) * weights)
        pairs = zip(_steps(error), _steps_of(weights), strict=True)
        blur = sum(_mean(jnp.abs(x) * w) for x, w in pairs)
        squares = ([_mean(jnp.square(x)) for x in _steps(y)] for y in (decoded, clips))
        energy = [jnp.asarray(sum(x)) for x in squares]
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
        psnr = 10 * jnp.log10(4.0 / jnp.maximum(_mean(jnp.square(error)), 1e-10))
        scalars = {"kl": kl}
        for i, name in enumerate(MODALITIES):
            scalars |= {f"loss/{name}": each[i], f"psnr/{name}": psnr[i]}
            scalars[f"energy/{name}"] = energy[0][i] / jnp.maximum(energy[1][i], 1e-10)
        loss = jnp.mean(each) + self.options.gradient_weight * jnp.mean(blur)
        if self.options.perceptual_weight:
            videos = (x[: len(x) // len(MODALITIES)] for x in (decoded, clips))
            far = jnp.mean(perceptual.distance(frozen[perceptual.PART], *videos))
            loss, scalars["lpips/video"] = loss + self.options.perceptual_weight * far, far
        return loss + self.options.kl_weight * kl, scalars

    def cost(self, batch: dict[str, jax.Array]) -> dict[str, float]:
        """Returns latent cells, as tokens, and FLOPs of one batch; LPIPS' are not counted."""
        b, v, n, h, w, _ = batch["video"].shape
        clips, crop = self.options.clips or b * v, self.options.crop or (n, h, w)
        time, space = self.config.stride
        cells = ((crop[0] - 1) // time + 1) * (crop[1] // space) * (crop[2] // space)
        both = len(MODALITIES) * min(clips, b * v)
        once = forward_flops(self.config, tuple(crop))
        return {"tokens": both * cells, "flops": 3.0 * both * once}

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step, on batches as large as the crop, or as the paper's."""
        own = dataclasses.replace(self, config=video.ahead(self.config))
        return {"train_step": base.Program(own, ("vae", *own.judges), None, own._batch, own._work)}

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        n, h, w = self.options.crop or PLANNED
        return (base.shapes(MODALITIES, b=samples, v=VIEWS, n=n, h=h, w=w),)

    def _work(self) -> base.Work:
        n, h, w = crop = tuple(self.options.crop or PLANNED)
        clips = len(MODALITIES) * min(self.options.clips or VIEWS, VIEWS)
        largest = 4 * n * h * w * max(self.config.dim, self.config.dec_dim)
        return base.Work(
            {"vae": 3 * clips * forward_flops(self.config, crop)},
            clip=clips * largest / self.config.patch**2,
        )

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        return base.Scenes()

    def _clips(self, batch: dict[str, jax.Array], rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns clips [2c n h w 3] in -1..1, videos first, and pixel weights [2c n h w 1]."""
        if missing := [name for name in MODALITIES if name not in batch]:
            raise ValueError(f"wan_vae: wanted batch keys {MODALITIES}, missing {missing}")
        pairs = jnp.stack([batch[name] for name in MODALITIES])
        pairs = einops.rearrange(pairs, "m b v n h w c -> (b v) n h w m c")
        pick, corner = jax.random.split(rng)
        if self.options.clips:
            order = jax.random.permutation(pick, pairs.shape[0])
            pairs = pairs[order[: self.options.clips]]
        if self.options.crop:
            pairs = _crop(pairs, self.options.crop, corner, focus=self.options.focus)
        clips = einops.rearrange(pairs, "b n h w m c -> (m b) n h w c")
        clips = clips.astype(jnp.float32) / 127.5 - 1.0
        return clips, self._weights(pairs, clips)

    def _weights(self, pairs: jax.Array, clips: jax.Array) -> jax.Array:
        """pairs: [b n h w 2 3] uint8, clips: [2b n h w 3] -> [2b n h w 1] of mean 1."""
        painted = jnp.max(pairs[..., 1, :], axis=-1, keepdims=True) > 0
        painted = jnp.concatenate([painted] * len(MODALITIES))
        change = jnp.max(jnp.abs(jnp.diff(clips, axis=1)), axis=-1, keepdims=True)
        moving = change > self.options.moving_threshold
        moving = jnp.concatenate([jnp.zeros_like(moving[:, :1]), moving], axis=1)
        weights = 1.0 + self.options.foreground_gain * painted + self.options.moving_gain * moving
        return weights / jnp.mean(weights)


def _mean(x: jax.Array) -> jax.Array:
    """Means [m] of the modalities of [(m b) ...]."""
    return jnp.mean(x.reshape(len(MODALITIES), -1), axis=1)


def _steps(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Differences of [b n h w c] to the right neighbour, and to the one below."""
    return jnp.diff(x, axis=3), jnp.diff(x, axis=2)


def _steps_of(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The weights [b n h w 1] of those differences: the larger of the two pixels'."""
    right = jnp.maximum(weights[:, :, :, 1:], weights[:, :, :, :-1])
    return right, jnp.maximum(weights[:, :, 1:], weights[:, :, :-1])


def _crop(pairs: jax.Array, size: tuple[int, ...], rng: jax.Array, *, focus: float) -> jax.Array:
    """Cuts a random box of (frames, height, width) from each clip of [b n h w m c]; a share `focus`
    of them has a painted pixel of some frame in its middle, as far as the clip's edges allow."""
    spare = [have - want for have, want in zip(pairs.shape[1:4], size, strict=True)]
    if min(spare) < 0:
        raise ValueError(f"task.crop: wanted {size} from clips of {pairs.shape[1:4]}")
    keys = dict(zip(("corner", "pixel", "which"), jax.random.split(rng, 3), strict=True))
    room = jnp.asarray([spare], jnp.int32)
    corners = jax.random.randint(keys["corner"], (pairs.shape[0], 3), 0, room + 1)
    painted = jnp.max(pairs[:, :, :, :, 1], axis=(1, 4)) > 0  # [b h w]
    width = painted.shape[2]
    odds = jnp.where(painted.reshape(len(painted), -1), 0.0, -1e9)
    pixel = jax.random.categorical(keys["pixel"], odds)
    middle = jnp.stack([pixel // width - size[1] // 2, pixel % width - size[2] // 2], axis=1)
    chosen = jax.random.uniform(keys["which"], (pairs.shape[0], 1)) < focus
    place = jnp.where(chosen, jnp.clip(middle, 0, room[:, 1:]), corners[:, 1:])
    corners = jnp.concatenate([corners[:, :1], place.astype(jnp.int32)], axis=1)

    def cut(clip, corner):
        start = (corner[0], corner[1], corner[2], 0, 0)
        return jax.lax.dynamic_slice(clip, start, (*size, *clip.shape[3:]))

    return jax.vmap(cut)(pairs, corners)


def statistics(
    config: vae.VAEConfig, params: Params, clips: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures the latents' mean and standard deviation per channel.

    Args:
      config: of the autoencoder; its own latents_mean and latents_std do not matter.
      params: parameters of the autoencoder.
      clips: iterable of video or motion arrays [b n h w 3] uint8, equal in shape.

    Returns:
      mean and standard deviation, z values each, for VAEConfig.latents_mean and latents_std.

    Raises:
      ValueError: no clips.
    """
    raw = jax.jit(lambda p, x: module.bind(vae.VAE, config, p).moments(x)[0])
    count, total, square = 0, np.zeros(config.z_dim), np.zeros(config.z_dim)
    for clip in clips:
        mean = np.asarray(raw(params, jnp.asarray(clip, jnp.float32) / 127.5 - 1.0), np.float64)
        values = mean.reshape(-1, config.z_dim)
        count += len(values)
        total, square = total + values.sum(0), square + np.square(values).sum(0)
    if not count:
        raise ValueError("statistics: wanted at least one clip, got none")
    centre = total / count
    spread = np.sqrt(np.maximum(square / count - centre**2, 1e-12))
    return tuple(float(x) for x in centre), tuple(float(x) for x in spread)
