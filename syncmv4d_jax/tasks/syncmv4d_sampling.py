"""Sampling of SyncMV4D: the schedule's runs, each compiled once (DESIGN: jit boundaries).

    noise -> { scan over plain steps | one refining step } -> latents, tracks, scale

Anchors are given (a record's frame-0 pixels) or set on the way from the motion generated so far
(A23), when sigma first falls to `cycle.anchor_time`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import cycle, flow, motion
from syncmv4d_jax.tasks import syncmv4d_loop

Array = jax.Array
Params = dict[str, Any]


class Sampler(syncmv4d_loop.Loop):
    """`Loop` with `sample`."""

    def sample(
        self,
        params: Params,
        inputs: dict[str, Array],
        rng: Array,
        *,
        progress: Any = None,
    ) -> dict[str, Array]:
        """Samples videos and tracks.

        Args:
          params: all parts.
          inputs: as a batch, of which are read: `first` [b v 1 h w c] reference latents, text (and
            null_text for guidance), cameras, view_index, frame_valid; anchors and anchor_valid when
            known (a record's own frame-0 pixels), else they are set on the way (A23).
          rng: key.
          progress: called with (steps done, steps) after each run of steps.

        Returns:
          video, motion: latents [b v f h w c]; scale [b v 2] metres; tracks_per_view [b v n k 3]
          metres, confidence [b v n k], anchors [b v k 2], anchor_valid [b v k] with an aligner.
        """
        schedule = flow.schedule(
            self.options.sampler, self.options.sample_steps, shift=self.options.sample_shift
        )
        given = inputs.get("anchors") is not None
        sigmas = np.append(np.asarray(schedule.sigma), 0.0)
        runs = cycle.plan_steps(sigmas, self.settings, anchors_given=given)
        refining = [first for first, _, refine in runs if refine]
        keys, first = jax.random.split(rng), inputs["first"]
        b = first.shape[0]
        context = self.context(inputs)
        state = cycle.sample_start(
            keys[0],
            schedule,
            first,
            settings=self.settings,
            latent_shape=(b, *self.latent_shape),
            scale=jnp.broadcast_to(self.scale_statistics()[0], (b, self.options.views, 2)),
        )
        noise = None
        if self.settings.dpa:
            o = self.options
            noise = jax.random.normal(keys[1], (b, o.views, o.frames, o.points, 3))
            if given:
                state = cycle.start_tracks(state, None, noise, sigmas[0])
        for begin, end, refine in runs:
            if refine and state.tracks_t is None:
                context, tracks = self._jit("anchor", self._set_anchors)(
                    params, state, schedule.row(begin), first, context
                )
                state = cycle.start_tracks(state, tracks, noise, sigmas[begin])
            if refine:
                later = [i for i in refining if i > begin]
                following = jnp.float32(sigmas[later[0]] if later else 0.0)
                state = self._jit("refine", self._refine_run)(
                    params, state, schedule.row(begin), following, first, context
                )
            else:
                state = self._jit("plain", self._plain_run)(
                    params, state, schedule.rows(begin, end), first, context
                )
            if progress is not None:
                jax.block_until_ready(state.video)
                progress(end, schedule.steps)
        return self._sampled(state, context)

    def _jit(self, name: str, function: Any) -> Any:
        return self._runs.setdefault(name, jax.jit(function))

    def _plain_run(self, params, state, rows, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_plain(functions, state, rows, first, context, settings=self.settings)

    def _refine_run(self, params, state, row, following, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_refine(
            functions, state, row, following, first, context, settings=self.settings
        )

    def _set_anchors(self, params, state, row, first, context):
        """Anchors from frame 0 of the clean motion estimate, and first tracks, normalised (A23)."""
        functions = self.functions(params, first, guidance=self.options.guidance)
        t = jnp.full((first.shape[0],), row.sigma, jnp.float32)
        out = functions.mjd(state.video, state.motion, state.feedback, t, context)
        clean = flow.to_data(state.motion, out.motion, t)
        pseudo = jnp.clip((self.decode_pixels(params, clean)[:, :, 0] + 1) / 2, 0, 1)
        find = functools.partial(
            motion.frame0_anchors, count=self.options.points, settings=self.match
        )
        anchors = jax.vmap(find)(pseudo, out.scale, context["intrinsics"], context["extrinsics"])
        context = {**context, "anchors": anchors.pixels, "anchor_valid": anchors.valid}
        coarse, _ = functions.decode(clean, out.scale, context)
        return context, self.normalise(coarse.tracks, context)

    def _sampled(self, state: cycle.SampleState, context) -> dict[str, Array]:
        result = {"video": state.video}
        if self.settings.joint_motion:
            result |= {"motion": state.motion, "scale": state.scale}
        if self.settings.dpa:
            result |= {
                "tracks_per_view": state.refined.tracks,
                "confidence": state.refined.confidence,
                "anchors": context["anchors"],
                "anchor_valid": context["anchor_valid"],
            }
        return result
