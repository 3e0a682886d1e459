"""What the branch is given: clouds and tracking videos of a batch as latents, dropped in training.

    Z = [Z_points, Z_tracking]      no points: the encoder's answer to an empty cloud
                                    no tracking: the latents of a black video

Real clips know neither normals nor which point is which; in training these details of simulated
clouds are dropped now and then, so that one model takes both.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import schema
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.models import point_condition
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.tasks import base

Array = jax.Array
CLOUD = ("points", "point_valid", "point_features", "point_ids", "metric")
RIG = ("intrinsics", "extrinsics")
AXES = {key: schema.BATCH[key].axes for key in (*CLOUD, *RIG, "tracking_latents")}
WIDE = 5.0  # metres: hands and what they hold are smaller
LEAST = 0.01  # share of frame 0's points that each view must see


class Drop(NamedTuple):
    """Which samples are without points, tracking, details of points, each [b] bool."""

    points: Array
    tracking: Array
    details: Array

    @classmethod
    def draw(cls, rng: Array, count: int, shares: tuple[float, float, float]) -> "Drop":
        """Draws each by itself."""
        keys = jax.random.split(rng, len(shares))
        drawn = (
            jax.random.uniform(key, (count,)) < share
            for key, share in zip(keys, shares, strict=True)
        )
        return cls(*drawn)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Makes Z [b v f hl wl 2c]. size, frames: of the videos; controls: what is used."""

    config: point_condition.PointConfig
    size: tuple[int, int]
    frames: int
    controls: tuple[str, ...]
    placement: protocol.Placement

    def points(self, params: Any, batch: Mapping[str, Array], drop: Drop | None = None) -> Array:
        """Z of the clouds of a batch; of empty ones where it has none, or they are not used.

        Args:
          params: with the part `points`.
          batch: CLOUD and RIG of schema.BATCH.
        """
        model = module.bind(point_condition.PointCondition, self.config, params["points"])
        if "points" not in self.controls or batch.get("points") is None:
            b, v = batch["intrinsics"].shape[:2]
            grid = (self.size[0] // self.config.stride, self.size[1] // self.config.stride)
            return model.nothing(b, v, self.frames, grid)
        valid, told = batch["point_valid"], batch["point_features"]
        if drop is not None:
            valid = valid & ~drop.points[:, None, None]
            keep = jnp.concatenate([jnp.zeros(9), jnp.ones(4)])  # the label stays
            told = jnp.where(drop.details[:, None, None, None], told * keep[None, None, None], told)
        return model(
            batch["points"],
            valid,
            told,
            ids=batch["point_ids"],
            metric=batch["metric"],
            intrinsics=batch["intrinsics"],
            extrinsics=batch["extrinsics"],
            size=self.size,
            placement=self.placement,
        )

    def tracking(self, latents: Array | None, black: Array, drop: Drop | None = None) -> Array:
        """Z of tracking videos.

        Args:
          latents: [b v f hl wl c], None where there are none.
          black: [b v f hl wl c], of a black video.
        """
        if "tracking" not in self.controls or latents is None:
            return black
        latents = latents.astype(jnp.float32)
        if drop is None:
            return latents
        return jnp.where(drop.tracking[:, None, None, None, None, None], black, latents)


def check(inputs: Mapping[str, Array], size: tuple[int, int], where: str) -> None:
    """Refuses clouds that cannot be meant, where values are known.

    Raises:
      ValueError: values that are not finite, points of another frame of reference or unit, or
        frames without a point.
    """
    if inputs.get("points") is None or isinstance(inputs["points"], jax.core.Tracer):
        return
    points, valid = np.asarray(inputs["points"]), np.asarray(inputs["point_valid"])
    wrong = ~np.isfinite(points).all(-1) & valid
    if wrong.any():
        frame = int(np.argwhere(wrong)[0, 1])
        raise ValueError(
            f"{where}: {int(wrong.sum())} of the points are not finite (NaN), the first in frame "
            f"{frame}; mark points that are not there in point_valid"
        )
    if not valid.any():
        raise ValueError(f"{where}: point_valid names no point; leave the points out instead")
    for i, (cloud, there) in enumerate(zip(points[:, 0], valid[:, 0], strict=True)):
        first = cloud[there]
        if not len(first):
            raise ValueError(f"{where}: frame 0 of sample {i} has no points")
        wide = float(np.ptp(first, axis=0).max())
        if np.asarray(inputs["metric"])[i] and wide > WIDE:
            raise ValueError(
                f"{where}: the points of frame 0 are {wide:.4g} m wide, hands and objects are "
                f"below {WIDE:g} m: are they in millimetres? wanted metres (or metric=False)"
            )
        _in_view(first, inputs, i, size, where)


def _in_view(first, inputs, i, size, where) -> None:
    """`check` of one sample's points of frame 0, in all views."""
    limit = np.array(size[::-1]) - 0.5
    rig = np.asarray(inputs["intrinsics"])[i], np.asarray(inputs["extrinsics"])[i, :, 0]
    for view, (intrinsics, extrinsics) in enumerate(zip(*rig, strict=True)):
        pixels, depth = cameras.project(first, intrinsics, extrinsics)
        seen = ((pixels >= -0.5) & (pixels < limit)).all(-1) & (depth > 0)
        if seen.mean() < LEAST:
            raise ValueError(
                f"{where}: of {len(first)} points in frame 0 of sample {i} view {view} sees "
                f"{int(seen.sum())}; their depths are {depth.min():.3g} to {depth.max():.3g} m. "
                "Are they in the world frame of the cameras (metres, z up), and extrinsics world "
                "to camera?"
            )


def axes(where: str, inputs: Mapping[str, Array], **sizes: int) -> None:
    """Checks shapes of what is there; sizes of axes as in `base.check`.

    Raises:
      ValueError: a shape that does not fit, or points without what belongs to them.
    """
    missing = [key for key in (*CLOUD, *RIG) if inputs.get(key) is None]
    if inputs.get("points") is not None and missing:
        raise ValueError(f"{where}: points need {missing} too (schema.BATCH)")
    base.check(where, inputs, AXES, **sizes)
