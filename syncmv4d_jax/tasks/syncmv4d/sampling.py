"""Sampling of SyncMV4D: the schedule's runs, each compiled once (DESIGN: jit boundaries).

    text -> keys of all blocks;  noise -> { scan over plain steps | one refining step }
    -> latents, tracks, scale

Steps outside `guidance_interval` are runs of their own, whose program has one branch.

Anchors are given (a record's frame-0 pixels) or set on the way from the motion generated so far
(A23), when sigma first falls to `cycle.anchor_time`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.geometry import anchors
from syncmv4d_jax.tasks.syncmv4d import cycle, cycle_sampling, loop

Array = jax.Array
Params = dict[str, Any]


class Sampler(loop.Loop):
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
          without one read off the final motion (not from `das_tracking`, which has no depth);
          with `reuse_threshold` reused_steps [b].
        """
        o = self.options
        schedule = flow.schedule(o.sampler, o.sample_steps, shift=o.sample_shift)
        sigmas = np.append(np.asarray(schedule.sigma), 0.0)
        given = inputs.get("anchors") is not None
        plan = cycle_sampling.plan_steps(sigmas, self.settings, anchors_given=given)
        runs = cycle_sampling.plan_guidance(sigmas, plan, o.guidance_interval)
        warps = cycle_sampling.plan_warps(sigmas, [run[:3] for run in runs], self.settings)
        refining = [begin for begin, _, refine, _ in runs if refine]
        keys, first = jax.random.split(rng), inputs["first"]
        context, b = self._with_text(params, self.context(inputs)), first.shape[0]
        state = cycle_sampling.sample_start(
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
        for (begin, end, refine, guided), fresh in zip(runs, warps, strict=True):
            state = self._remember(state, b * (1 + (guided and self._guides(context))))
            if refine and state.tracks_t is None:
                context, tracks = self._step("anchor", self._set_anchors, guided)(
                    params, state, schedule.row(begin), first, context
                )
                state = self._start_tracks(state, tracks, noise, sigmas[begin], context)
            if refine:
                name, function, rows = "refine", self._refine_run, schedule.row(begin)
                following = next((sigmas[i] for i in refining if i > begin), 0.0)
                numbers = jnp.float32(following), jnp.asarray(fresh)
            else:
                name, function, rows = "plain", self._plain_run, schedule.rows(begin, end)
                numbers = (jnp.arange(begin, end) < schedule.steps - 1,)  # which may be reused
            step = self._step(name, function, guided)
            state = step(params, state, rows, *numbers, first, context)
            if progress is not None:
                jax.block_until_ready(state.video)
                progress(end, schedule.steps)
        return self._result(params, state, context)

    def _result(self, params, state, context):
        result = {"video": state.video}
        if self.settings.joint_motion:
            result |= {"motion": state.motion, "scale": state.scale}
        if state.memory is not None:
            result["reused_steps"] = jnp.full(state.video.shape[:1], state.memory.reused)
        if self.settings.dpa:
            return result | _tracks(context, state.refined)
        if self.settings.joint_motion and self.options.motion_repr == "point_tracks":
            result |= self._jit("read", self._read_tracks)(params, state, context)
        return result

    def _jit(self, name: str, function: Any) -> Any:
        return self._runs.setdefault(name, jax.jit(function))

    def _step(self, name: str, function: Any, guided: bool) -> Any:
        """`_jit` of a function whose first argument is the guidance of its network calls."""
        guidance = self.options.guidance if guided else 1.0
        return self._jit(name if guided else f"{name}_alone", functools.partial(function, guidance))

    def _guides(self, context) -> bool:
        return self.options.guidance != 1.0 and context["null_text"] is not None

    def _with_text(self, params, context):
        """The context with the keys of its text, which all steps read."""
        prepare = functools.partial(self.text_keys, guided=self._guides(context))
        return {**context, "text_keys": self._jit("text", prepare)(params, context)}

    def _remember(self, state, rows):
        """The state with a memory for `rows` samples; of both branches the first is the text's."""
        if not self.options.reuse_threshold:
            return state
        memory, rows = state.memory, rows * self.options.views
        if memory is None or len(memory.seen) < rows:
            empty = self._jit(f"memory_{rows}", functools.partial(self.empty_memory, rows))()
            done = 0 if memory is None else memory.reused
            return state._replace(memory=empty._replace(reused=jnp.int32(done)))
        cut = {"seen": memory.seen[:rows], "moved": memory.moved[:rows]}
        return state._replace(memory=memory._replace(**cut))

    def _plain_run(self, guidance, params, state, rows, again, first, context):
        functions, settings = self.functions(params, first, guidance=guidance), self.settings
        return cycle_sampling.sample_plain(
            functions, state, rows, first, context, settings=settings, again=again
        )

    def _refine_run(self, guidance, params, state, row, following, fresh, first, context):
        functions = self.functions(params, first, guidance=guidance)
        return cycle_sampling.sample_refine(
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
        return cycle_sampling.start_tracks(state, tracks, noise, sigma, warp=warp)

    def _set_anchors(self, guidance, params, state, row, first, context):
        """Anchors from frame 0 of the clean motion estimate, and first tracks, normalised (A23)."""
        functions = self.functions(params, first, guidance=guidance)
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
            anchors.frame0_anchors, count=self.options.points, settings=self.match
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
        "anchor_confidence": context["anchor_valid"].astype(jnp.float32),
    }
