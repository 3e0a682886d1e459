"""A sampler of few steps and no guidance, taught by one of many guided steps; see `targets`.

Parts of the parameters are those of the task that is taught, so that what is exported goes where
its weights go (`config.weights.dit`), and `teacher`: frozen copies of the parts that are trained,
as they were given. Adapters (`task.lora.ranks`) need no copy, the frozen transformer is the
teacher. Parts that are not taught (aligner, autoencoder, codec) are frozen.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp

from syncmv4d_jax import flow
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.tasks import base, video
from syncmv4d_jax.tasks.distill import systems, targets

Array = jax.Array
Params = dict[str, Any]
TEACHER = "teacher"
SAMPLER = "euler"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill:
    """The task; see `tasks.base.Task`.

    system: the task that is taught and how it is run; its options say how the student samples.
    """

    name = "distill"

    system: systems.System
    settings: targets.Settings

    def __post_init__(self):
        own = self.sampling
        if own.sampler != SAMPLER or own.guidance != 1.0:
            raise ValueError(
                f"task distill: a student samples with task.sampler={SAMPLER!r} and "
                f"task.guidance=1 (its teacher's guidance is task.distill.guidance), got "
                f"{own.sampler!r} and {own.guidance}"
            )

    @property
    def inner(self) -> Any:
        """The task that is taught."""
        return self.system.task

    @property
    def placement(self) -> protocol.Placement:
        """See `tasks.base.Task`."""
        return self.inner.placement

    @property
    def trainable(self) -> str:
        """Regex over parameter paths."""
        return rf"^({'|'.join(self.system.taught)})/"

    @functools.cached_property
    def frozen_parts(self) -> tuple[str, ...]:
        """Everything that must be given: all that the task has but new adapters."""
        parts = jax.eval_shape(self.inner.init, jax.random.key(0))
        needed = [p for p in parts if re.search(self.inner.trainable, f"{p}/") and p != "lora"]
        return tuple(dict.fromkeys((*self.inner.frozen_parts, *needed)))

    @property
    def teachers(self) -> tuple[str, ...]:
        """See `tasks.base.Taught`."""
        return () if "lora" in self.system.taught else (TEACHER,)

    @functools.cached_property
    def grid(self) -> targets.Grid:
        """The teacher's times, among them the student's."""
        own = self.sampling
        return targets.grid(own.steps, self.settings, shift=own.shift)

    def init(self, rng: Array) -> Params:
        """Returns initial parameters of all parts; the teacher's are the student's."""
        return self._taught(self.inner.init(rng))

    def grow(self, params: Params, given: frozenset[str]) -> Params:
        """Returns parameters whose teacher is what the student starts from."""
        own = {part: x for part, x in params.items() if part != TEACHER}
        grown = self.inner.grow(own, given)
        return self._taught(grown, params.get(TEACHER))

    def _taught(self, params: Params, like: Params | None = None) -> Params:
        """Adds the teacher, of the dtypes of `like`; copies, as the student's are donated."""
        if not self.teachers:
            return params
        copied = {part: params[part] for part in self.system.taught}
        copied = jax.tree.map(lambda x, y: jnp.copy(x).astype(y.dtype), copied, like or copied)
        return {**params, TEACHER: copied}

    # Training.

    def loss(
        self, trainable: Params, frozen: Params, batch: base.Batch, rng: Array
    ) -> tuple[Array, base.Scalars]:
        """Returns the loss of Eq. 4 of `targets` and its terms.

        Of the batch are read what the task that is taught reads; `frozen["average"]` is the
        student's average, without it the target is the student itself.

        Raises:
          ValueError: as that task; no null text for the teacher's guidance.
        """
        names = ("case", "time", "noise", "memory")
        keys = dict(zip(names, jax.random.split(rng, len(names)), strict=True))
        student, system, made = {**frozen, **trainable}, self.system, self.grid
        case = system.case(frozen, batch, keys["case"])
        interval = jax.random.randint(keys["time"], (case.samples,), 0, made.intervals)
        time = made.time(interval * made.substeps)
        noise = {
            name: jax.random.normal(jax.random.fold_in(keys["noise"], i), x.shape)
            for i, (name, x) in enumerate(sorted(case.data.items()))
        }
        noisy = {k: flow.interpolate(x, noise[k], time.t) for k, x in case.data.items()}
        noisy = case.keep(noisy)
        stopped = jax.lax.stop_gradient(student)
        case = system.remember(stopped, case, noise, made.step(interval), keys["memory"])

        def field(params: Params, guidance: float) -> targets.Field:
            return lambda x, time: system.velocity(params, case, x, time, guidance)

        wanted, said = targets.average(
            field(self.teacher(frozen), self.settings.guidance),
            field({**stopped, **frozen.get("average", {})}, 1.0),
            noisy,
            interval,
            made,
            keep=case.keep,
        )
        found, scale = field(student, 1.0)(noisy, time)
        terms = self._terms(found, wanted, case, time.t)
        if scale is not None and said is not None:
            terms["scale"] = jnp.mean(jnp.square(scale - said))
        total = sum(system.weights[name] * value for name, value in terms.items())
        scalars = {f"loss_{name}": value for name, value in terms.items()}
        return jnp.asarray(total), scalars | {"time": jnp.mean(time.t)}

    def teacher(self, frozen: Params) -> Params:
        """Returns the parameters of the teacher's network and of what is shared."""
        return {**frozen, **frozen.get(TEACHER, {})}

    def _terms(self, found, wanted, case, t) -> dict[str, Array]:
        """Mean squares of velocities, or of the clean latents where the network gives those."""
        data, terms = self.sampling.prediction == "data", {}
        for name, velocity in found.items():
            error = velocity - wanted[name]
            error = error * flow.bounded_time(t, error) if data else error
            terms[name] = video.mean_square(error, case.weight[name])
        return terms

    # Sampling: the student's, by the task that is taught.

    @property
    def clip(self) -> base.Clip:
        """See `tasks.base.Sampled`."""
        return self.inner.clip

    @property
    def cameras(self) -> bool:
        """See `tasks.base.Sampled`."""
        return self.inner.cameras

    @property
    def compares(self) -> bool:
        """See `tasks.base.Compared`."""
        return base.compared(self.inner)

    @property
    def sampling(self) -> base.Sampling:
        """How the student samples."""
        return self.inner.sampling

    def encode(self, params: Params, pixels: Array) -> Array:
        """See `tasks.base.Sampled`."""
        return self.inner.encode(params, pixels)

    def decode(self, params: Params, sample: base.Sample) -> base.Sample:
        """See `tasks.base.Sampled`."""
        return self.inner.decode(params, sample)

    def sample(
        self,
        params: Params,
        inputs: base.Batch,
        rng: Array,
        *,
        progress: base.Progress | None = None,
    ) -> base.Sample:
        """Samples with the student; see the task that is taught."""
        own = {part: x for part, x in params.items() if part not in self.teachers}
        return self.inner.sample(own, inputs, rng, progress=progress)

    # Cost and plans.

    def cost(self, batch: base.Batch) -> dict[str, float]:
        """Returns tokens and FLOPs of a training step over a global batch."""
        tokens, samples = self._price[0], batch["text"].shape[0]
        once = sum(self._flops(remat=False).values())
        return {"tokens": samples * tokens, "flops": samples * once}

    @functools.cached_property
    def _price(self) -> tuple[int, float, dict[str, float]]:
        return self.system.price()

    def _flops(self, *, remat: bool) -> dict[str, float]:
        """FLOPs of a training step over one sample, by part; remat: count what runs again."""
        _, call, closed = self._price
        guided = self.settings.guidance != 1.0
        made = {"student": (3 + remat) * call}
        made["teacher"] = self.settings.substeps * (1 + guided) * call
        made["target"] = (self.settings.points > 1) * call
        return made | closed

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step, and a step of the student's sampling."""
        own = self.inner.programs()
        plain = [program for program in own.values() if program.step is None][-1]
        system: Any = self.system
        taught = dataclasses.replace(self, system=dataclasses.replace(system, task=plain.task))

        def work() -> base.Work:
            known = plain.work()
            return known._replace(flops=self._flops(remat=known.remat))

        parts = (*plain.parts, *self.teachers)
        training = dataclasses.replace(plain, task=taught, parts=parts, work=work)
        return {"train_step": training, "sample_step": own["sample_step"]}

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        return self.inner.embedded()
