"""What a student's batch is of Wan and of MJD: clean latents, what is held, conditions, a network.

The closed loop of MJD. In sampling what is fed back was made at the last refining step, by the
student itself, and is held until the next one: along a step it is a condition, like the text. So it
is in training: a sample whose time lies in the student's step k gets the feedback of the last
refining step before k, from the same data and noises, by the student without gradients; the first
step's is zero. Teacher, student and target all see that one: the teacher's path within a step is
the one it would take with this feedback. Where the feedback is refined within a step by a teacher
of more steps, the student learns nothing of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import einops
import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.models import flops
from syncmv4d_jax.tasks import base, video, wan_ti2v
from syncmv4d_jax.tasks.distill import targets
from syncmv4d_jax.tasks.syncmv4d import cost as loop_cost
from syncmv4d_jax.tasks.syncmv4d import cycle, sampling
from syncmv4d_jax.tasks.syncmv4d import task as syncmv4d

Array = jax.Array
Params = dict[str, Any]
Latents = dict[str, Array]


class Case(NamedTuple):
    """A batch of `samples` to learn from.

    data: {name: clean latents}, weight: of their errors, held: bool, what of them is given. The
    latter two broadcast. conditions: what the network reads besides, the system's own.
    """

    samples: int
    data: Latents
    weight: Latents
    held: Latents
    conditions: dict[str, Any]

    def keep(self, latents: Latents) -> Latents:
        """Puts back what is given."""
        return {k: jnp.where(self.held[k], self.data[k], x) for k, x in latents.items()}


class System(Protocol):
    """How a task's networks are run for a student."""

    @property
    def task(self) -> Any:
        """The task that samples, with the student's steps and without guidance."""
        ...

    @property
    def taught(self) -> tuple[str, ...]:
        """Parts that the student has of its own."""
        ...

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the errors of the latents, and of the scale where one is said."""
        ...

    def case(self, frozen: Params, batch: base.Batch, rng: Array) -> Case:
        """Returns what a batch is; `frozen` has the autoencoder."""
        ...

    def remember(self, params: Params, case: Case, noise: Latents, step: Array, rng: Array) -> Case:
        """Returns the case with what sampling feeds back to the student's steps [samples]."""
        ...

    def velocity(
        self, params: Params, case: Case, latents: Latents, time: targets.Time, guidance: float
    ) -> tuple[Latents, Array | None]:
        """Runs the network; see `targets.Field`."""
        ...

    def price(self) -> tuple[int, float, dict[str, float]]:
        """Of one sample: tokens, FLOPs of a call of the network, and of `remember` by part."""
        ...


@dataclasses.dataclass(frozen=True)
class Wan:
    """Clips of Wan, each by itself."""

    task: wan_ti2v.WanTI2V

    @property
    def taught(self) -> tuple[str, ...]:
        """The transformer, or adapters of it: then it is the teacher itself."""
        return ("lora",) if self.task.lora_config.ranks else ("dit",)

    @property
    def weights(self) -> Mapping[str, float]:
        """See `System`."""
        return {"video": 1.0}

    def case(self, frozen: Params, batch: base.Batch, rng: Array) -> Case:
        """See `System`."""
        data = self.task.clean_latents(frozen, batch)
        given = self.task.given(rng, len(data))
        first = jnp.arange(data.shape[1]) == 0
        held = einops.rearrange(given[:, None] & first[None], "b f -> b f 1 1 1")
        valid = self.task.per_view(batch["latent_valid"])
        weight = (einops.rearrange(valid, "b f -> b f 1 1 1") & ~held).astype(jnp.float32)
        names = ("text", "text_lengths", "null_text", "null_text_lengths")
        conditions = {name: self.task.per_view(batch[name]) for name in names if name in batch}
        conditions["given"] = given
        return Case(len(data), {"video": data}, {"video": weight}, {"video": held}, conditions)

    def remember(self, params: Params, case: Case, noise: Latents, step: Array, rng: Array) -> Case:
        """Nothing is fed back."""
        del params, noise, step, rng
        return case

    def velocity(
        self, params: Params, case: Case, latents: Latents, time: targets.Time, guidance: float
    ) -> tuple[Latents, Array | None]:
        """See `System`."""
        texts = [(case.conditions["text"], case.conditions["text_lengths"])]
        scales: tuple[float, ...] = ()
        if guidance != 1.0:
            texts.append(video.null_text(case.conditions, f"task.distill.guidance={guidance}"))
            scales = (guidance,)
        rows = max(text.shape[1] for text, _ in texts)
        branches = len(texts)
        velocity = self.task.velocity(
            params,
            video.branch(latents["video"], branches),
            video.branch(time.timestep, branches),
            jnp.concatenate([video.rows(text, rows) for text, _ in texts]),
            lengths=jnp.concatenate([lengths for _, lengths in texts]),
            first_frame=video.branch(case.conditions["given"], branches),
        )
        return {"video": video.guide(velocity, scales)}, None

    def price(self) -> tuple[int, float, dict[str, float]]:
        """See `System`."""
        (tokens, one), views = self.task.forward(), self.task.options.views
        return views * tokens, float(views * flops.total(one)), {}


@dataclasses.dataclass(frozen=True)
class MJD:
    """Samples of MJD: video and motion of several views, in the closed loop."""

    task: syncmv4d.SyncMV4D

    @property
    def taught(self) -> tuple[str, ...]:
        """MJD, or adapters of it; the aligner stays as it is."""
        if self.task.lora_config.ranks:
            return ("lora",)
        return ("dit", "prior") if self.task.options.prediction == "data" else ("dit",)

    @property
    def weights(self) -> Mapping[str, float]:
        """See `System`."""
        o = self.task.options
        return {"video": o.video_weight, "motion": o.motion_weight, "scale": o.scale_weight}

    def case(self, frozen: Params, batch: base.Batch, rng: Array) -> Case:
        """See `System`."""
        del rng
        clean, context = self.task.targets(frozen, batch), self.task.loop.context(batch)
        data = {"video": clean.latents}
        if clean.motion_latents is not None:
            data["motion"] = clean.motion_latents
        first = einops.rearrange(jnp.arange(clean.latents.shape[2]) == 0, "f -> 1 1 f 1 1 1")
        held = {name: first & (name == "video") for name in data}
        weights = self.task.latent_weights(context, batch)
        conditions = {"context": context, "clean": clean, "feedback": None}
        return Case(len(clean.latents), data, {k: weights[k] for k in data}, held, conditions)

    def remember(self, params: Params, case: Case, noise: Latents, step: Array, rng: Array) -> Case:
        """The feedback of the last refining step before each sample's; zeros before there is one.

        As in training (`cycle.feed_back`): tracks are noised from the true ones.
        """
        task, clean = self.task, case.conditions["clean"]
        if not task.settings.joint_motion:
            return case
        feedback = jnp.zeros_like(case.data["motion"])
        if task.settings.cycle:
            past, there = (jnp.asarray(x)[step] for x in self.refined())
            functions = task.loop.functions(params, clean.latents[:, :, :1])
            context, keys = case.conditions["context"], jax.random.split(rng)
            noisy = case.keep(
                {k: flow.interpolate(x, noise[k], past) for k, x in case.data.items()}
            )
            tracks = functions.normalise(clean.tracks, context)
            tracks = flow.interpolate(tracks, jax.random.normal(keys[0], tracks.shape), past)
            found = cycle.feed_back(
                functions, clean, noisy["video"], noisy["motion"], tracks, past, context, keys[1],
                cond=task.settings.cond,
            )  # fmt: skip
            feedback = jnp.where(targets.wide(there, found), found, 0.0)
        feedback = jax.lax.stop_gradient(feedback)
        return case._replace(conditions={**case.conditions, "feedback": feedback})

    def refined(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each of the student's steps: sigma of the last refining step before it [steps]
        float32, and whether there is one."""
        made = sampling.plan(self.task.loop)
        sigmas, there, last = [], [], None
        refining = {run.first for run in made.runs if run.refine}
        for index in range(made.schedule.steps):
            sigmas.append(1.0 if last is None else made.sigmas[last])
            there.append(last is not None)
            last = index if index in refining else last
        return np.asarray(sigmas, np.float32), np.asarray(there)

    def velocity(
        self, params: Params, case: Case, latents: Latents, time: targets.Time, guidance: float
    ) -> tuple[Latents, Array | None]:
        """See `System`; MJD reads t itself, as its sampler gives it."""
        context, clean = case.conditions["context"], case.conditions["clean"]
        if guidance != 1.0:
            video.null_text(context, f"task.distill.guidance={guidance}")
        functions = self.task.loop.functions(params, clean.latents[:, :, :1], guidance=guidance)
        given = latents["video"], latents.get("motion"), case.conditions["feedback"]
        out = functions.mjd(*given, time.t, context)
        velocities = {"video": out.velocity}
        if out.motion_velocity is not None:
            velocities["motion"] = out.motion_velocity
        if out.scale is None:
            return velocities, None
        mean, std = self.task.loop.scale_statistics()
        return velocities, (out.scale - mean) / std

    def price(self) -> tuple[int, float, dict[str, float]]:
        """See `System`."""
        task, settings, each = self.task, self.task.settings, loop_cost.parts(self.task.loop)
        v, *latents, _ = task.latent_shape
        dense = flops.tokens(task.mjd_config, tuple(latents)) * (1 + settings.joint_motion)
        closed = {}
        if settings.cycle:
            closed = {name: each[name] for name in ("decode", "encode")}
            closed["dpa"] = each["dpa"] * settings.network
            closed["estimate"] = each["mjd"] * (settings.cond != "noisy")
        return v * (task.mjd_config.extra_tokens + dense), each["mjd"], closed
