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
          metres, confidence [b v n k], anchors [b v k 2], anchor_valid [b v k]: from the aligner,
          without one read off the final motion (not from `das_tracking`, which has no depth).
        """
        o = self.options
        schedule = flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)
        sigmas = np.append(np.asarray(schedule.sigma), 0.0)
        given = inputs.get("anchors") is not None
        runs = cycle.plan_steps(sigmas, self.settings, anchors_given=given)
        warps = cycle.plan_warps(sigmas, runs, self.settings)
        refining = [begin for begin, _, refine in runs if refine]
        keys, first, context = jax.random.split(rng), inputs["first"], self.context(inputs)
        b = first.shape[0]
        state = cycle.sample_start(
            keys[0],
            schedule,
            first,
            settings=self.settings,
            latent_shape=(b, *self.latent_shape),
            scale=jnp.broadcast_to(self.scale_statistics()[0], (b, o.views, 2)),
        )
        noise = None
        if self.settings.dpa:
            noise = jax.random.normal(keys[1], (b, o.views, o.frames, o.points, 3))
        if self.settings.dpa and given:
            state = self._start_tracks(state, None, noise, sigmas[0], context)
        for (begin, end, refine), fresh in zip(runs, warps, strict=True):
            if refine and state.tracks_t is None:
                context, tracks = self._jit("anchor", self._set_anchors)(
                    params, state, schedule.row(begin), first, context
                )
                state = self._start_tracks(state, tracks, noise, sigmas[begin], context)
            if refine:
                following = next((sigmas[i] for i in refining if i > begin), 0.0)
                numbers = jnp.float32(following), jnp.asarray(fresh)
                state = self._jit("refine", self._refine_run)(
                    params, state, schedule.row(begin), *numbers, first, context
                )
            else:
                state = self._jit("plain", self._plain_run)(
                    params, state, schedule.rows(begin, end), first, context
                )
            if progress is not None:
                jax.block_until_ready(state.video)
                progress(end, schedule.steps)
        return self._result(params, state, context)

    def _result(self, params, state, context):
        result = {"video": state.video}
        if self.settings.joint_motion:
            result |= {"motion": state.motion, "scale": state.scale}
        if self.settings.dpa:
            return result | _tracks(context, state.refined)
        if self.settings.joint_motion and self.options.motion_repr == "point_tracks":
            result |= self._jit("read", self._read_tracks)(params, state, context)
        return result

    def _jit(self, name: str, function: Any) -> Any:
        return self._runs.setdefault(name, jax.jit(function))

    def _plain_run(self, params, state, rows, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_plain(functions, state, rows, first, context, settings=self.settings)

    def _refine_run(self, params, state, row, following, fresh, first, context):
        functions = self.functions(params, first, guidance=self.options.guidance)
        return cycle.sample_refine(
            functions, state, row, following, fresh, first, context, settings=self.settings
        )

    def _start_tracks(self, state, tracks, noise, sigma, context):
        warp = None
        if self.settings.cycle:
            b, v = context["anchors"].shape[:2]
            frame0 = jax.ShapeDtypeStruct((b, v, *self.map_size, 3), jnp.float32)
            scale = jax.ShapeDtypeStruct((b, v, 2), jnp.float32)
            shapes = jax.eval_shape(self._warp, frame0, scale, context)
            warp = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return cycle.start_tracks(state, tracks, noise, sigma, warp=warp)

    def _set_anchors(self, params, state, row, first, context):
        """Anchors from frame 0 of the clean motion estimate, and first tracks, normalised (A23)."""
        functions = self.functions(params, first, guidance=self.options.guidance)
        t = jnp.full((first.shape[0],), row.sigma, jnp.float32)
        out = functions.mjd(state.video, state.motion, state.feedback, t, context)
        clean = flow.to_data(state.motion, out.motion, t)
        context = self._find_anchors(params, clean, out.scale, context)
        coarse, _ = functions.decode(clean, out.scale, context)
        return context, self.normalise(coarse.tracks, context)

    def _find_anchors(self, params, clean, scale, context):
        """The context with anchors from frame 0 of clean motion latents [b v f h w c]."""
        frame0 = jnp.clip((self.decode_pixels(params, clean)[:, :, 0] + 1) / 2, 0, 1)
        return {**context, **self._anchors_of(frame0, scale, context)}

    def _anchors_of(self, frame0, scale, context):
        """anchors [b v k 2] and anchor_valid of pseudo frames 0 [b v h w 3] in [0, 1]."""
        find = functools.partial(
            motion.frame0_anchors, count=self.options.points, settings=self.match
        )
        found = jax.vmap(find)(frame0, scale, context["intrinsics"], context["extrinsics"])
        return {"anchors": found.pixels, "anchor_valid": found.valid}

    def _read_tracks(self, params, state, context):
        """Tracks without an aligner: the final motion, matched and unprojected (Table 3, row 3)."""
        if context["anchors"] is None:
            context = self._find_anchors(params, state.motion, state.scale, context)
        coarse, _ = self._decode(params, state.motion, state.scale, context)
        return _tracks(context, coarse)


def _tracks(context: dict[str, Any], coarse: cycle.Coarse) -> dict[str, Array]:
    return {
        "tracks_per_view": coarse.tracks,
        "confidence": coarse.confidence,
        "anchors": context["anchors"],
        "anchor_valid": context["anchor_valid"],
    }
