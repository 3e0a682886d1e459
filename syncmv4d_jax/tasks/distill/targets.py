"""What a student of few steps learns from a teacher of many: velocities averaged over its steps.

The student keeps Euler's sampler, whose steps end at s_0 = 1 > s_1 > ... > s_K = 0. Its step is
exact if what it predicts within a step, s = s_{k+1} < t <= s_k, is the mean velocity of the
teacher's path over what is left of the step (Geng et al. 2025, arXiv:2505.13447, MeanFlow):

    dx/dt = v_g(x, t) = v_0 + g (v_c - v_0)                 the teacher, guided             (1)
    u(x_t, t) = 1 / (t - s) integral_s^t v_g(x_r, r) dr     the student, one branch         (2)
    x_s = x_t - (t - s) u(x_t, t)                           Euler's step                    (3)

So guidance is folded in as in Meng et al. 2023 (arXiv:2210.03142), and f(x, t) = x - (t - s) u is
the consistency function of Song et al. 2023 (arXiv:2303.01469), one for each of the student's
steps: multistep consistency (Heek et al. 2024, arXiv:2403.06807), phased consistency (Wang et al.
2024, arXiv:2405.18407). Its loss (Song's Eq. 7) asks for f(x_t, t) = f-(x_r, r), where the
teacher's solver leads from x_t to x_r, s <= r < t, and f- is an average of the student (their Eq.
8) that no gradient enters. In velocities this is, with v- the solver's mean velocity from t to r,

    u*(x_t, t) = ((t - r) v- + (r - s) u-(x_r, r)) / (t - s),      L = |u - u*|^2           (4)

a convex combination: no weight grows where a step is nearly over. x_t is made of data and noise.

Two numbers choose the teacher's share of (4). A student's step has `points` times t that are
learned; from one to the next the teacher takes `substeps` steps of Euler:

    points = 1     r = s: the teacher runs through all of the step, nothing is bootstrapped, u- is
                   not run; the target of progressive distillation (Salimans & Ho 2022,
                   arXiv:2202.00512) without halving. Surest, and dearest: substeps teacher calls.
    substeps = 1   consistency distillation: one teacher call and one of u-.

The teacher's steps, K points substeps in all, lie on Wan's shifted times and contain the student's.

Why not distribution matching (DMD2, Yin et al. 2024, arXiv:2405.14867): it trains a second network
of the teacher's size and samples the student in every step, three networks in memory and a game
instead of a regression; and (4) has a known answer, which can be tested.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import flow
from syncmv4d_jax.configuration import at_least

Array = jax.Array
Latents = dict[str, Array]
Keep = Callable[[Latents], Latents]


@dataclasses.dataclass(frozen=True)
class Settings:
    """`config.task.distill`.

    Attributes:
      guidance: g of Eq. 1, of the teacher; 1 is one branch.
      points, substeps: see the module docstring.
    """

    guidance: float = 5.0
    points: int = 4
    substeps: int = 3

    def __post_init__(self):
        at_least(1, "task.distill", self, "points", "substeps")


class Time(NamedTuple):
    """t of Eq. 1 of `flow`, and what the network is given for it in 0..1000; both [b] float32."""

    t: Array
    timestep: Array


class Field(Protocol):
    """A network with its parameters and conditions bound."""

    def __call__(self, latents: Latents, time: Time, /) -> tuple[Latents, Array | None]:
        """latents: {name: [b ...]} -> velocities like them, and the standardised scale [b v 2]
        where one is said."""
        ...


class Grid(NamedTuple):
    """The teacher's times; host arrays.

    times, timesteps: [K points substeps + 1] float32, the last is 0. points, substeps: `Settings`.
    """

    times: np.ndarray
    timesteps: np.ndarray
    points: int
    substeps: int

    @property
    def intervals(self) -> int:
        """Times that are learned, of all steps of the student: K points."""
        return (len(self.times) - 1) // self.substeps

    def time(self, place: Array) -> Time:
        """place [b] int, of the teacher's steps -> the time there."""
        return Time(jnp.asarray(self.times)[place], jnp.asarray(self.timesteps)[place])

    def step(self, interval: Array) -> Array:
        """interval [b] int -> k [b], the student's step that it is in."""
        return interval // self.points

    def end(self, interval: Array) -> Array:
        """interval [b] int -> where the student's step ends, of the teacher's steps."""
        return (self.step(interval) + 1) * self.points * self.substeps


def grid(steps: int, settings: Settings, *, shift: float) -> Grid:
    """Returns the times of a student of so many steps.

    Args:
      shift: of both schedules.
    """
    each = settings.points * settings.substeps
    times, timesteps = flow.sigmas_of("euler", steps * each, shift, "official")
    own, own_timesteps = flow.sigmas_of("euler", steps, shift, "official")
    # The student's as its sampler has them: truncation may part values that are equal but for ulps.
    times[::each], timesteps[::each] = own, own_timesteps
    as_float32 = functools.partial(np.asarray, dtype=np.float32)
    made = as_float32(times), as_float32(np.append(timesteps, 0.0))
    return Grid(*made, settings.points, settings.substeps)


def drive(
    teacher: Field, x: Latents, begin: Array, made: Grid, *, keep: Keep
) -> tuple[Latents, Array | None]:
    """Takes the teacher's `substeps` steps of Euler from x, by Eq. 1.

    Args:
      x: {name: [b ...]}.
      begin: [b] int, where on the grid.
      keep: puts back what is given (frame 0).

    Returns:
      Latents there, and the scale that the teacher said last.
    """

    def step(x: Latents, index: Array) -> tuple[Latents, Array | None]:
        now, after = made.time(begin + index), made.time(begin + index + 1)
        velocities, scale = teacher(x, now)
        moved = {k: x[k] - wide(now.t - after.t, x[k]) * v for k, v in velocities.items()}
        return keep(moved), scale

    if made.substeps == 1:
        return step(x, jnp.int32(0))
    x, scales = jax.lax.scan(step, x, jnp.arange(made.substeps))
    return x, None if scales is None else scales[-1]


def average(
    teacher: Field, target: Field, x: Latents, interval: Array, made: Grid, *, keep: Keep
) -> tuple[Latents, Array | None]:
    """Returns u* of Eq. 4, without gradients, and the scale that the teacher said last.

    Args:
      teacher: guided.
      target: the student or its average, u- of Eq. 4.
      x: {name: [b ...]} at the beginning of the intervals.
      interval: [b] int in 0..made.intervals - 1.
      keep: see `drive`.
    """
    begin = interval * made.substeps
    t, r, s = (made.time(i).t for i in (begin, begin + made.substeps, made.end(interval)))
    reached, scale = drive(teacher, x, begin, made, keep=keep)
    found = {k: (x[k] - reached[k]) / wide(t - r, x[k]) for k in x}
    if made.points > 1:
        rest, _ = target(reached, made.time(begin + made.substeps))
        near, far = (t - r) / (t - s), (r - s) / (t - s)
        found = {k: wide(near, v) * v + wide(far, v) * rest[k] for k, v in found.items()}
    return jax.lax.stop_gradient((found, scale))


def wide(weight: Array, like: Array) -> Array:
    """weight [b], with trailing axes to broadcast against `like` [b ...]."""
    return weight.reshape(weight.shape + (1,) * (like.ndim - 1))
