"""SyncMV4D: MJD and DPA trained and sampled in the closed loop of `cycle`.

Losses (paper Eq. 3 and 5, all weights 1 by default):

    L = |dv^V|^2 + |dv^M|^2 + |ds|^2 + |dv^DPA|^2 + Chamfer(M-, M)

over valid latent frames; video frame 0 is given and not in the loss (A15). The scale is regressed
in standardised metres (A5). Parts of the parameters: `dit` (MJD; Wan's weights load by the same
paths), `dpa`, `vae` (frozen) and, with `prediction="data"`, `prior`.

The networks and the loop's functions are in `syncmv4d_loop`, sampling is in `syncmv4d_sampling`.
With `prediction="data"` the loss is on the clean latents.
"""

import functools
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow, tree
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.mjd import warm_start
from syncmv4d_jax.tasks.syncmv4d import cost as syncmv4d_cost
from syncmv4d_jax.tasks.syncmv4d import cycle, loop, sampling

Array = jax.Array
Params = dict[str, Any]


class SyncMV4D(sampling.Sampler):
    """The task; see `tasks.base.Task`."""

    name = "syncmv4d"

    @functools.cached_property
    def _each(self) -> dict[str, float]:
        return syncmv4d_cost.parts(self)

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch (syncmv4d_cost).

        What rematerialisation computes again does not count.
        """
        v, *latents, _ = self.latent_shape
        dense = flops.tokens(self.mjd_config, tuple(latents)) * (1 + self.settings.joint_motion)
        samples = batch["text"].shape[0]
        raw = "video_latents" not in batch
        once = syncmv4d_cost.training(self, self._each, raw=raw, recomputed=False)
        tokens = samples * v * (dense + self.mjd_config.extra_tokens)
        return {"tokens": tokens, "flops": samples * sum(once.values())}

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns parameters whose new parts of MJD start from given Wan weights (A12, A13).

        Args:
          given: names ("dit/...") that came from weights; they stay as they are.
        """
        flat = tree.flatten(params["dit"])
        if not any(f"dit/{name}" in given for name in flat):
            return params
        grown = tree.flatten(warm_start.warm_start(self.mjd_config, params["dit"], params["dit"]))
        own = {n: x if f"dit/{n}" in given else grown[n] for n, x in flat.items()}
        return {**params, "dit": tree.unflatten(own)}

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and its terms for a batch of schema.BATCH (latents or raw video)."""
        keys = jax.random.split(rng, 3)
        targets = self._targets(frozen, batch)
        t = flow.sample_uniform(keys[0], targets.scale.shape[:1], shift=self.options.time_shift)
        context = self._drop_text(self.context(batch), keys[1])
        stopped = jax.tree.map(jax.lax.stop_gradient, trainable)
        out = cycle.train_step(
            self.functions({**frozen, **trainable}, targets.video[:, :, :1]),
            self.functions({**frozen, **stopped}, targets.video[:, :, :1]),
            targets,
            t,
            context,
            keys[2],
            settings=self.settings,
        )
        terms = self._latent_terms(out, targets, t, context, batch)
        if self.settings.dpa:
            terms |= self._track_terms(out, targets, t, context)
        weights = {
            "video": self.options.video_weight,
            "motion": self.options.motion_weight,
            "scale": self.options.scale_weight,
            "dpa": self.options.dpa_weight,
            "chamfer": self.options.chamfer_weight,
        }
        total = sum(weights[name] * value for name, value in terms.items())
        return total, {f"loss_{name}": value for name, value in terms.items()}

    def _targets(self, frozen: Params, batch: dict[str, Array]) -> cycle.Targets:
        def latents(name):
            if f"{name}_latents" in batch:
                return batch[f"{name}_latents"].astype(jnp.float32)
            return jax.lax.stop_gradient(self.encode_pixels(frozen, batch[name]))

        joint = self.settings.joint_motion
        tracks = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=self.options.views)
        return cycle.Targets(
            latents("video"), latents("motion") if joint else None, tracks, batch["scale"]
        )

    def _latent_terms(self, out, targets, t, context, batch) -> dict[str, Array]:
        weight = batch["latent_valid"].astype(jnp.float32)[:, None, :, None, None, None]
        weight = weight * self._foreground(context, batch)
        not_first = (jnp.arange(weight.shape[2]) > 0).astype(jnp.float32)
        not_first = einops.rearrange(not_first, "f -> 1 1 f 1 1 1")

        def term(velocity, noise, data, weight):
            error = velocity - flow.velocity(data, noise)
            if self.options.prediction == "data":
                error = error * loop.bounded_time(t, error)
            weight = jnp.broadcast_to(weight, error.shape)
            return jnp.sum(weight * jnp.square(error)) / jnp.maximum(jnp.sum(weight), 1.0)

        terms = {
            "video": term(out.denoised.video, out.video_noise, targets.video, weight * not_first)
        }
        if self.settings.joint_motion:
            terms["motion"] = term(out.denoised.motion, out.motion_noise, targets.motion, weight)
            mean, std = self.scale_statistics()
            terms["scale"] = jnp.mean(jnp.square((out.denoised.scale - targets.scale) / std))
            del mean
        return terms

    def _track_terms(self, out, targets, t, context) -> dict[str, Array]:
        tracks = self.scenes(self.normalise(targets.tracks, context))
        _, terms = aligner.loss(
            self.scenes(out.track_velocity),
            target=self.scenes(out.track_target),
            tracks_t=self.scenes(out.tracks_t),
            tracks=tracks[:, 0],
            t=jnp.repeat(t, tracks.shape[0] // t.shape[0]),
            valid=self.scenes(self.valid_points(context, out.tracks_t)),
            placement=self.placement,
        )
        return {"dpa": terms["velocity"], "chamfer": terms["chamfer"]}

    def _foreground(self, context, batch) -> Array:
        """Loss weights [b v f hl wl 1]: 1, and more where tracked points pass (foreground_gain)."""
        v, f, h, w, _ = self.latent_shape
        b = batch["tracks"].shape[0]
        if not self.options.foreground_gain:
            return jnp.ones((b, 1, 1, 1, 1, 1), jnp.float32)
        points = einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=v)
        pixels, _ = cameras.project(points, context["intrinsics"], context["extrinsics"])
        step, stride = self.vae_config.stride
        cell = jnp.floor((pixels + 0.5) / stride).astype(jnp.int32)
        x, y = cell[..., 0], cell[..., 1]
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        frame = (np.arange(self.options.frames) + step - 1) // step
        frame = einops.rearrange(jnp.asarray(frame), "n -> 1 1 n 1")
        index = jnp.where(inside, (frame * h + y) * w + x, f * h * w)

        def mark(index):
            return jnp.zeros((f * h * w + 1,)).at[index.ravel()].set(1.0)[:-1]

        marked = jax.vmap(jax.vmap(mark))(index)
        marked = einops.rearrange(marked, "b v (f h w) -> b v f h w 1", f=f, h=h)
        return 1.0 + self.options.foreground_gain * marked

    def _drop_text(self, context: dict[str, Array], rng: Array) -> dict[str, Array]:
        null = context["null_text"]
        if not self.options.text_drop or null is None:
            return context
        drop = jax.random.uniform(rng, context["text_lengths"].shape) < self.options.text_drop
        length = context["text"].shape[1]
        null = jnp.pad(null, ((0, 0), (0, max(0, length - null.shape[1])), (0, 0)))[:, :length]
        text = jnp.where(drop[:, None, None], null, context["text"])
        lengths = jnp.where(drop, context["null_text_lengths"], context["text_lengths"])
        return {**context, "text": text, "text_lengths": lengths}
