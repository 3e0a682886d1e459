"""The aligner alone: its warm-up on simulated coarse motion, and refinement of given tracks.

    M_t = (1 - t) M + t eps,   M^ = corrupt(M),   L = mean |DPA(M_t, M^, t) - (eps - M)|^2 + Chamfer

All views share the truth M; each has its own noise and its own corruption (models.dpa.aligner,
corruption). Tracks that no view measures at any frame are left out of the loss. In refining M_t
starts as noise and follows Euler steps with a fixed condition.
"""

import dataclasses
import functools
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp

from syncmv4d_jax import flow, schema
from syncmv4d_jax.configuration import section
from syncmv4d_jax.geometry import cameras, corruption, tracks
from syncmv4d_jax.models import flops
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.tasks import base

Array = jax.Array
Params = dict[str, Any]
PLANNED = (3, 49, 1600)  # views, frames, points of a scene, the paper's
AXES = {
    key: schema.BATCH[key].axes
    for key in ("tracks", "visibility", "anchor_valid", "intrinsics", "extrinsics", "frame_valid")
}


@dataclasses.dataclass(frozen=True)
class Options:
    """`config.task` without its sections.

    Attributes:
      size: (height, width) of the views, pixels: their centres fix the normalisation.
      chamfer_weight: of the loss.
      time_shift: training times are shift(U(0, 1)); above 1 they are nearer to noise, where the
        single step of sampling starts.
      sample_steps, sample_shift: Euler steps and time shift of sampling; one step is the posterior
        mean (smallest error), more steps draw from the posterior.
      points: taken of each record in training; None: all (data.pipeline reads it).
    """

    size: tuple[int, int] = (480, 704)
    chamfer_weight: float = 1.0
    time_shift: float = 1.0
    sample_steps: int = 1
    sample_shift: float = 1.0
    points: int | None = None


def make(config: Any, *, placement: protocol.Placement = protocol.LOCAL) -> "DPA":
    """Builds the task from `config.task`: `Options` and the sections `dpa` and `corruption`.

    Raises:
      ValueError: an unknown key.
    """
    values = dict(config.task)
    values.pop("name", None)
    parts = {key: values.pop(key, {}) for key in ("dpa", "corruption")}
    return DPA(
        section(Options, values, "config.task"),
        section(dpa_config.AlignerConfig, parts["dpa"], "config.task.dpa"),
        section(corruption.Corruption, parts["corruption"], "config.task.corruption"),
        placement,
    )


@functools.cache
def forward_flops(config: dpa_config.AlignerConfig, views: int, frames: int, points: int) -> float:
    """Returns the FLOPs of the aligner's forward pass over one scene, counted from its jaxpr."""
    lead = (1, views, frames, points)
    shape = lambda *last: jax.ShapeDtypeStruct((*lead, *last), jnp.float32)  # noqa: E731

    def run(params, tracks, t, confidence, rays):
        model = module.bind(aligner.Aligner, config, params)
        valid = jnp.ones(lead, bool)
        return model(tracks, tracks, t, confidence=confidence, valid=valid, rays=rays)

    t, weights = jax.ShapeDtypeStruct((1,), jnp.float32), module.shapes(aligner.Aligner, config)
    return float(flops.count(run, weights, shape(3), t, shape(), shape(6)))


def align(
    config: dpa_config.AlignerConfig,
    weights: Params,
    tracks_t: Array,
    coarse: Array,
    t: Array,
    *,
    confidence: Array,
    valid: Array,
    rays: Array,
    network: bool = True,
    placement: protocol.Placement,
) -> Array:
    """Runs the aligner on scenes whose frames need not divide over devices.

    Args:
      weights: of the part `dpa`.
      tracks_t, coarse: [b v n k 3] normalised; t: [b].
      confidence: [b v n k] in 0..1; valid: [b v n k] bool; rays: [b v n k 6].
      network: False for its closed form.

    Returns:
      velocity [b v n k 3].
    """

    def pad(x: Array) -> Array:
        """With zeros behind (not valid, not measured) until the frames divide."""
        more = placement.frames(x.shape[2]) - x.shape[2]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, more)) + ((0, 0),) * (x.ndim - 3)) if more else x
        return placement.constrain(x, "b any n k c" if x.ndim == 5 else "b any n k")

    velocity = module.bind(aligner.Aligner, config, weights)(
        pad(tracks_t),
        pad(coarse),
        t,
        confidence=pad(confidence),
        valid=pad(valid),
        rays=pad(rays),
        network=network,
        placement=placement,
    )
    # Pinned: else the partitioner sums the gradient of the aligner's head wrongly (view > 1).
    return placement.constrain(velocity, "b any n k c")[:, :, : tracks_t.shape[2]]


@dataclasses.dataclass(frozen=True)
class DPA(base.Grown):
    """The task; see `tasks.base.Task`."""

    name = "dpa"
    trainable = "^dpa/"
    frozen_parts = ()

    options: Options
    config: dpa_config.AlignerConfig
    spoil: corruption.Corruption = corruption.SIM
    placement: protocol.Placement = protocol.LOCAL

    def init(self, rng: Array) -> Params:
        """Returns {"dpa": parameters}."""
        return {"dpa": module.init(aligner.Aligner, self.config, rng)}

    def cost(self, batch: dict[str, Array]) -> dict[str, float]:
        """Returns tokens (points of all views and frames) and FLOPs of one batch."""
        b, *scene = batch["visibility"].shape
        flops_of = 3.0 * b * forward_flops(self.config, *scene)
        return {"tokens": b * math.prod(scene), "flops": flops_of}

    def programs(self) -> dict[str, base.Program]:
        """Returns the training step, for scenes of PLANNED sizes where records would say them."""
        program = base.Program(self, ("dpa",), None, self._batch, self._work)
        return {"train_step": program}

    def _batch(self, samples: int) -> tuple[base.Shapes]:
        views, frames, points = self._planned()
        names = (
            "tracks", "visibility", "anchor_valid", "intrinsics", "extrinsics", "scale",
            "frame_valid",
        )  # fmt: skip
        return (base.shapes(names, b=samples, v=views, n=frames, k=points),)

    def _planned(self) -> tuple[int, int, int]:
        return (*PLANNED[:2], self.options.points or PLANNED[2])

    def _work(self) -> base.Work:
        scene, remat = self._planned(), self.config.remat
        return base.Work(
            {"dpa": (3 + remat) * forward_flops(self.config, *scene)},
            views=scene[0],
            heads=self.config.heads,
            tokens=math.prod(scene),
            width=self.config.width,
            layers=self.config.depth,
            remat=remat,
        )

    def embedded(self) -> base.Scenes:
        """Returns what data a run that names none is to make."""
        made = base.Scenes(size=self.options.size)
        points = self.options.points
        return made if points is None else made._replace(points=points)

    def loss(
        self, trainable: Params, frozen: Params, batch: dict[str, Array], rng: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss and its terms for a batch of schema.BATCH.

        Raises:
          ValueError: sizes that do not agree.
        """
        base.check(f"task {self.name}, loss", batch, AXES)
        times, noises, levels, spoils = jax.random.split(rng, 4)
        scene = self._scene(batch)
        t = flow.sample_uniform(times, scene["tracks"].shape[:1], shift=self.options.time_shift)
        # A level of its own: one step from t = 1 must have met every level.
        level = jax.random.uniform(levels, t.shape)
        coarse, confidence = self._corrupt(scene, level, spoils)
        clean = tracks.normalise(scene["tracks"], scene["centre"])
        noise = jax.random.normal(noises, clean.shape)
        tracks_t = flow.interpolate(clean, noise, t)
        velocity = self._velocity({**frozen, **trainable}, tracks_t, coarse, confidence, t, scene)
        return aligner.loss(
            velocity,
            target=flow.velocity(clean, noise),
            tracks_t=tracks_t,
            tracks=clean[:, 0],
            t=t,
            valid=scene["valid"] & aligner.known(confidence),
            chamfer_weight=self.options.chamfer_weight,
            placement=self.placement,
        )

    def refine(self, params: Params, inputs: dict[str, Array], rng: Array) -> dict[str, Array]:
        """Refines coarse tracks.

        Args:
          params: {"dpa": ...}.
          inputs: a batch of schema.BATCH; where it has `coarse` [b v n k 3] (metres, world frame)
            and `confidence` [b v n k], these are refined and `tracks` is not looked at, else
            `tracks` is corrupted first (level 1/2).
          rng: key.

        Returns:
          {"tracks" [b n k 3], "tracks_per_view" and "coarse" [b v n k 3], metres, world frame;
          "confidence" [b v n k]}.
        """
        start, spoils = jax.random.split(rng)
        scene = self._scene(inputs)
        if "coarse" in inputs:
            coarse, confidence = inputs["coarse"], inputs["confidence"]
        else:
            half = jnp.full(scene["tracks"].shape[:1], 0.5)
            coarse, confidence = self._corrupt(scene, half, spoils)

        def step(tracks_t, row):
            t = jnp.broadcast_to(row.sigma, tracks_t.shape[:1])
            velocity = self._velocity(params, tracks_t, coarse, confidence, t, scene)
            return flow.euler(tracks_t, velocity, row), None

        plan = flow.schedule("euler", self.options.sample_steps, shift=self.options.sample_shift)
        noise = jax.random.normal(start, coarse.shape)
        refined, _ = jax.lax.scan(step, noise, plan)
        refined = tracks.denormalise(refined, scene["centre"])
        weight = (confidence + 1e-3)[..., None]
        return {
            "tracks": jnp.sum(refined * weight, axis=1) / jnp.sum(weight, axis=1),
            "tracks_per_view": refined,
            "coarse": coarse,
            "confidence": confidence,
        }

    def _scene(self, batch):
        views = batch["extrinsics"].shape[1]
        extrinsics = cameras.poses(batch["extrinsics"])
        seen = batch["visibility"] & batch["anchor_valid"][:, :, None]
        frames = einops.rearrange(batch["frame_valid"], "b n -> b 1 n 1")
        depth = jnp.mean(batch["scale"][:, 0], axis=-1) if views == 1 else None
        return {
            "tracks": einops.repeat(batch["tracks"], "b n k c -> b v n k c", v=views),
            "extrinsics": extrinsics,
            "seen": seen & frames,
            "valid": jnp.broadcast_to(frames, seen.shape),
            "centre": cameras.scene_centre(
                batch["intrinsics"], cameras.at_first(extrinsics, 2), self.options.size, depth=depth
            ),
        }

    def _corrupt(self, scene, level, rng):
        return corruption.corrupt(
            scene["tracks"], scene["extrinsics"], scene["seen"], level, rng, corruption=self.spoil
        )

    def _velocity(self, params, tracks_t, coarse, confidence, t, scene):
        coarse = tracks.normalise(coarse, scene["centre"])
        rays = tracks.point_rays(coarse, scene["extrinsics"], scene["centre"])
        return align(
            self.config,
            params["dpa"],
            tracks_t,
            coarse,
            t,
            confidence=confidence,
            valid=scene["valid"],
            rays=rays,
            placement=self.placement,
        )
