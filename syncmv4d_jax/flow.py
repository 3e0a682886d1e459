"""Rectified flow: the path between data and noise, its time sampling, and the samplers of Wan2.2.

Sign and direction are fixed here, once, for the whole project. Diffusion time t runs over [0, 1],
t = 0 is data and t = 1 is noise, samplers go down in t:

    x_t = (1 - t) x_0 + t e,   e ~ N(0, 1)                                                  (1)
    v   = dx_t / dt = e - x_0          what the networks predict                            (2)
    x_0 = x_t - t v                    the clean estimate                                   (3)
    t'  = s t / (1 + (s - 1) t)        Wan's shift towards noise, s = 5 at 704 x 1280       (4)

NOTE(parity): SyncMV4D's Eq. 2 interpolates the other way and its Algorithm 1 keeps the sign of (2)
while stepping down; both cannot hold. Wan2.2, whose weights we load, is (1)-(3): our reading.

Samplers. With sigma = t, alpha = 1 - sigma and lambda = log(alpha / sigma), every sampler here is
linear in what it remembers, so that one step with per-step coefficients covers all of them:

    x_0^i   = x_i - sigma_i v(x_i, t_i)                                                     (5)
    y_i     = c . (x_i, y_{i-1}, x_0^i, x_0^{i-1}, x_0^{i-2})          corrector            (6)
    x_{i+1} = p . (y_i, x_0^i, x_0^{i-1})                              predictor            (7)

    Euler     y_i = x_i, x_{i+1} = q y_i + (1 - q) x_0^i, q = sigma_{i+1} / sigma_i         (8)
    DPM++ 2M  y_i = x_i, x_{i+1} = q y_i - alpha_{i+1} expm1(-h_i)
              (x_0^i + (x_0^i - x_0^{i-1}) / (2 r)), r = h_{i-1} / h_i                      (9)
    UniPC-2   (bh2, data prediction) (9) predicts; once x_0^i is known the same step is
              taken again from y_{i-1}, with a quadrature through x_0^i, x_0^{i-1}, x_0^{i-2} (10)

(Lu et al. 2022, arXiv:2211.01095; Zhao et al. 2023, arXiv:2302.04867). h is a step in lambda; the
first and the last step are of order 1.

Schedules. "official" is that of Wan2.2's own repository: shift(linspace(0.999, 0)) for UniPC and
shift(linspace(1, 0)) for DPM++ and Euler. "diffusers" is that of WanPipeline's schedulers:
shift(linspace(1, 0.001)) with the first sigma 1e-6 below one (UniPC; Euler here follows it) and
shift(linspace(0.999, 0)) for DPM++. The network sees 1000 sigma truncated to an integer in both.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

TRAIN_STEPS = 1000  # resolution of the network's timestep input
SMALLEST_TIME = 0.02  # (x_t - x_0) / t is bounded there
KINDS = ("euler", "unipc", "dpmpp_2m")
VARIANTS = ("official", "diffusers")

Array = jax.Array
AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


def _expand(t: Array, like: Array) -> Array:
    """Gives `t`, whose axes are the leading axes of `like`, trailing axes of size one."""
    t = jnp.asarray(t)
    if t.ndim > like.ndim:
        raise ValueError(f"time of shape {t.shape} has more axes than the array {like.shape}")
    return t.reshape(t.shape + (1,) * (like.ndim - t.ndim)) if t.ndim else t


def interpolate(data: Array, noise: Array, t: Array) -> Array:
    """Returns x_t of Eq. 1.

    Args:
      data: [b ...], any shape.
      noise: as `data`.
      t: scalar or leading axes of `data`, e.g. [b] or [b v f]; 0 data, 1 noise.
    """
    t = _expand(t, data)
    return (1 - t) * data + t * noise


def velocity(data: Array, noise: Array) -> Array:
    """Returns the regression target v = noise - data (Eq. 2)."""
    return noise - data


def to_data(x_t: Array, velocity: Array, t: Array) -> Array:
    """Returns the clean estimate of Eq. 3; `t` as in `interpolate` (in a sampler: `row.sigma`)."""
    return x_t - _expand(t, x_t) * velocity


def bounded_time(t: Array, like: Array) -> Array:
    """t [b], bounded below, with trailing axes to broadcast against `like`: of (x_t - x_0) / t."""
    return _expand(jnp.maximum(t, SMALLEST_TIME), like)


def shift_time(t: AnyArray, shift: float) -> AnyArray:
    """Returns the shifted time of Eq. 4; works on numpy and jax arrays, any shape."""
    return shift * t / (1 + (shift - 1) * t)


def guide(branches: Sequence[Array], scales: Sequence[float]) -> Array:
    """Returns v_g + s_{g-1} (v_{g-1} - v_g) + ... + s_1 (v_1 - v_2) of velocities v_1 ... v_g.

    Two branches are classifier-free guidance: unconditional + scale (conditional - unconditional).

    Args:
      branches: g arrays of any one shape, each with less conditions than the one before.
      scales: g - 1.
    """
    guided = branches[-1]
    for near, far, scale in zip(branches[:-1], branches[1:], scales, strict=True):
        guided = guided + scale * (near - far)
    return guided


def hold_first(latents: Array, first: Array, hidden: Array | None = None) -> Array:
    """Puts the clean first latent frame back, as is done after every sampling step.

    Args:
      latents: [... f h w c].
      first: [... 1 h w c].
      hidden: [...] bool, where there is none to put back: frame 0 stays as it is.
    """
    wanted = latents.shape[:-4] + (1,) + latents.shape[-3:]
    if first.shape != wanted:
        raise ValueError(f"first latent frame: wanted shape {wanted}, got {first.shape}")
    if hidden is not None:
        first = jnp.where(_expand(hidden, first), latents[..., :1, :, :, :], first)
    return jnp.concatenate([first.astype(latents.dtype), latents[..., 1:, :, :, :]], axis=-4)


class TimeTable(NamedTuple):
    """Wan's discrete training times: t [1000] in (0, 1] and weight [1000], mean one; float32."""

    t: Array
    weight: Array


@functools.lru_cache
def _time_table(shift: float) -> tuple[np.ndarray, np.ndarray]:
    t = np.asarray(shift_time(np.linspace(1, 0, TRAIN_STEPS + 1)[:-1], shift))
    bell = np.exp(-2 * (t - 0.5) ** 2)
    bell = bell - bell.min()
    return t.astype(np.float32), (bell / bell.mean()).astype(np.float32)


def time_table(shift: float = 5.0) -> TimeTable:
    """Returns the shifted 1000-entry table and the loss weight of each of its times.

    The weight is exp(-2 (t - 1/2)^2), lowered to a minimum of zero and scaled to a mean of one over
    the table. It is fixed, not normalised over a batch, so that it is finite at batch one.
    """
    t, weight = _time_table(float(shift))
    return TimeTable(jnp.asarray(t), jnp.asarray(weight))


def sample_uniform(rng: Array, shape: tuple[int, ...], *, shift: float = 1.0) -> Array:
    """Draws t of Eq. 1 uniformly in [0, 1), then shifts it (Eq. 4); float32."""
    return shift_time(jax.random.uniform(rng, shape, jnp.float32), shift)


def sample_table(rng: Array, shape: tuple[int, ...], *, shift: float = 5.0) -> tuple[Array, Array]:
    """Draws t and its loss weight uniformly from `time_table(shift)`; both `shape`, float32."""
    table = time_table(shift)
    index = jax.random.randint(rng, shape, 0, TRAIN_STEPS)
    return table.t[index], table.weight[index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """Per-step numbers of a sampler: every leaf has a leading axis of `steps`.

    A schedule is a scan input: `jax.lax.scan(body, carry, schedule)` hands the body one row, a
    Schedule with scalar leaves; `rows(a, b)` is the run of steps from a to b.

    Attributes:
      timestep: [steps] float32, what the network is given, in 0..1000.
      sigma, sigma_next: [steps] float32, t of Eq. 1 before and after the step; the last is 0.
      correct: [steps 5] float32, c of Eq. 6.
      predict: [steps 3] float32, p of Eq. 7.
      kind: one of KINDS.
    """

    timestep: Array
    sigma: Array
    sigma_next: Array
    correct: Array
    predict: Array
    kind: str = dataclasses.field(metadata={"static": True})

    @property
    def steps(self) -> int:
        return self.sigma.shape[0]

    @property
    def t(self) -> Array:
        """The network's time on the scale of Eq. 1 (timestep / 1000)."""
        return self.timestep / TRAIN_STEPS

    def rows(self, first: int, last: int) -> "Schedule":
        """Returns the steps first, ..., last - 1."""
        return jax.tree.map(lambda leaf: leaf[first:last], self)

    def row(self, index: int) -> "Schedule":
        """Returns one step, its leaves without the axis of steps."""
        return jax.tree.map(lambda leaf: leaf[index], self)


class State(NamedTuple):
    """What a sampler remembers; None where its kind does not need it.

    corrected: y_{i-1} of Eq. 6. data_1, data_2: the clean estimates one and two steps ago.
    """

    corrected: Array | None
    data_1: Array | None
    data_2: Array | None


def sigmas_of(kind: str, steps: int, shift: float, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns float64 (sigmas [steps + 1] from noise down to exactly 0, timesteps [steps])."""
    highest, lowest = (1 - 1 / TRAIN_STEPS, 0.0) if kind == "unipc" else (1.0, 0.0)
    if variant == "diffusers":
        dpm = kind == "dpmpp_2m"
        highest, lowest = (1 - 1 / TRAIN_STEPS, 0.0) if dpm else (1.0, 1 / TRAIN_STEPS)
    sigmas = np.asarray(shift_time(np.linspace(highest, lowest, steps + 1)[:-1], shift))
    if variant == "diffusers" and sigmas[0] == 1:
        sigmas[0] -= 1e-6
    # NOTE(parity): truncated, not rounded, in both (fm_solvers_unipc.py, set_timesteps).
    return np.append(sigmas, 0.0), np.trunc(sigmas * TRAIN_STEPS)


def _exponential_step(sigmas: np.ndarray, start: int) -> tuple[float, float, float]:
    """Returns (sigma ratio, alpha_next expm1(-h), h) of the step from `start` to the next sigma."""
    now, after = sigmas[start], sigmas[start + 1]
    if after == 0 or now == 1:  # h is infinite
        return after / now, after - 1, np.inf
    h = np.log((1 - after) / after) - np.log((1 - now) / now)
    return after / now, (1 - after) * np.expm1(-h), h


def _ratio(sigmas: np.ndarray, start: int) -> float:
    """Returns -h_{start-1} / h_start (minus the r of Eq. 9), the distance one step back."""
    return -_exponential_step(sigmas, start - 1)[2] / _exponential_step(sigmas, start)[2]


def _predictor(sigmas: np.ndarray, index: int, second: bool) -> list[float]:
    """p of Eq. 7 by Eq. 9; Eq. 8 when first order (identical: alpha_next expm1(-h) = ratio - 1)."""
    ratio, phi, _ = _exponential_step(sigmas, index)
    slope = 0.5 / _ratio(sigmas, index) if second else 0.0
    return [ratio, -phi * (1 - slope), -phi * slope]


def _corrector(sigmas: np.ndarray, index: int, second: bool) -> list[float]:
    """c of Eq. 6 by Eq. 10, the step that led to `index` taken again."""
    ratio, phi, h = _exponential_step(sigmas, index - 1)
    r, older, newest = 1.0, 0.0, 0.5
    if second:
        r = _ratio(sigmas, index - 1)
        first_moment = np.expm1(-h) / -h - 1
        second_moment = first_moment / -h - 0.5
        moments = np.array([first_moment, 2 * second_moment]) / np.expm1(-h)
        older, newest = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), moments)
    # x_0 combination: m1 + older (m2 - m1) / r + newest (m0 - m1)
    return [0.0, ratio, -phi * newest, -phi * (1 - older / r - newest), -phi * older / r]


def schedule(kind: str, steps: int, *, shift: float = 5.0, variant: str = "official") -> Schedule:
    """Builds the coefficients of a sampler, in float64 on the host.

    Args:
      kind: "euler", "unipc" (order 2, bh2, data prediction, corrector) or "dpmpp_2m" (midpoint).
      steps: number of network evaluations (twice that with guidance).
      shift: s of Eq. 4.
      variant: "official" or "diffusers" (see the module docstring).

    Raises:
      ValueError: unknown kind or variant, no steps, or a shift that is not positive.
    """
    if kind not in KINDS or variant not in VARIANTS:
        raise ValueError(
            f"wanted a kind of {KINDS} and a variant of {VARIANTS}, got {kind!r}, {variant!r}"
        )
    if steps < 1 or not shift > 0:
        raise ValueError(f"wanted steps >= 1 and shift > 0, got steps={steps}, shift={shift}")
    sigmas, timesteps = sigmas_of(kind, steps, shift, variant)

    def second(index: int) -> bool:  # order of the predictor that leaves sigma_index
        return kind != "euler" and 0 < index < steps - 1

    correct, predict = [], []
    for index in range(steps):
        predict.append(_predictor(sigmas, index, second(index)))
        if kind == "unipc" and index > 0:
            correct.append(_corrector(sigmas, index, second(index - 1)))
        else:
            correct.append([1.0, 0.0, 0.0, 0.0, 0.0])
    as_float32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Schedule(
        timestep=as_float32(timesteps),
        sigma=as_float32(sigmas[:-1]),
        sigma_next=as_float32(sigmas[1:]),
        correct=as_float32(correct),
        predict=as_float32(predict),
        kind=kind,
    )


def start(schedule: Schedule, x: Array) -> State:
    """Returns the empty memory of a sampler for samples like `x` (float32, any shape)."""
    zero = jnp.zeros_like(x)
    if schedule.kind == "unipc":
        return State(zero, zero, zero)
    return State(None, zero if schedule.kind == "dpmpp_2m" else None, None)


def step(x: Array, velocity: Array, state: State, row: Schedule) -> tuple[Array, State]:
    """One step of Eqs. 5-7.

    Args:
      x: any shape, float32: the sample at `row.sigma`.
      velocity: as `x`: the (guided) output of the network at x and `row.timestep`.
      state: from `start` or the last step.
      row: one row of the schedule (scalar leaves).

    Returns:
      The sample at `row.sigma_next`, and the new memory. Frame 0 is put back by `hold_first`.
    """
    velocity = velocity.astype(x.dtype)
    data = to_data(x, velocity, row.sigma)
    if row.kind == "euler":
        return euler(x, velocity, row), state
    corrected = x
    if row.kind == "unipc":
        before = (x, state.corrected, data, state.data_1, state.data_2)
        corrected = _weighted(row.correct, *before)
    following = _weighted(row.predict, corrected, data, state.data_1)
    if row.kind == "unipc":
        return following, State(corrected, data, state.data_1)
    return following, State(None, data, None)


def _weighted(weights: Array, *terms: Array | None) -> Array:
    """sum_i weights_i terms_i of the terms that are there."""
    known = (weights[i] * term for i, term in enumerate(terms) if term is not None)
    return jnp.asarray(sum(known))


def euler(x: Array, velocity: Array, row: Schedule) -> Array:
    """A memoryless Euler step on the same sigmas, whatever the kind of the schedule (Eq. 8)."""
    return x + (row.sigma_next - row.sigma) * velocity.astype(x.dtype)
