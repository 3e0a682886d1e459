"""Where every pixel of frame 0 goes, in units that its depth sets (arXiv 2512.05044, section 3.2).

A pixel p = (x, y) of frame 0 with camera depth Z0 is the point P_0 = Z0 K^-1 (x, y, 1) of camera
0's frame, and later P_n. With a_x = f_x / W, a_y = f_y / H of the crop's own K:

    (1)  F_n = (a_x dX / Z0, a_y dY / Z0, dZ / Z0),  (dX, dY, dZ) = P_n - P_0
    (2)  P_n = P_0 + (F_x Z0 / a_x, F_y Z0 / a_y, F_z Z0)

so F is a displacement in the image at constant depth, in widths and heights, and a relative
change of depth. F_0 is zero. A scene that is larger, or a crop that is resized, has the same F.
Camera 0 is the frame: of a camera that moves, its own motion is not in F.

    (3)  y = tanh(g F / 2),  F = (2 / g) atanh(y),  g = 2 / (99th percentile of |F| where it moves)

brings F to a video's range. g = 1 is the paper's; a decoder's error then costs g times as much.
"""

from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.geometry import cameras

Array = Any  # numpy.ndarray or jax.Array
FORMS = ("depth", "extent")
LIMIT = 0.999  # of |y|: beyond it atanh is steeper than a decoder is exact
MOVING = 0.02  # of F: pixels that go farther than 2 % of an image's side are said to move


class Camera(NamedTuple):
    """Of frame 0: depth [... h w] metres, 0 unknown; intrinsics [... 3 3] px; extrinsics
    [... 3 4] world to camera."""

    depth: Array
    intrinsics: Array
    extrinsics: Array


def _pixels(xp: Any, depth: Array) -> Array:
    """(x, y) of every pixel, [... h w 2] float32."""
    height, width = depth.shape[-2:]
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    grid = xp.asarray(np.stack([x, y], -1).astype(np.float32))
    return xp.broadcast_to(grid, (*depth.shape, 2))


def start(camera: Camera) -> Array:
    """P_0 of every pixel in camera 0's frame, [... h w 3] metres."""
    xp = cameras.library(*camera)
    return cameras.bearings(_pixels(xp, camera.depth), camera.intrinsics) * camera.depth[..., None]


def units(camera: Camera, *, form: str = "depth") -> Array:
    """What a displacement is divided by, [... h w 3] metres, 0 where the depth is unknown.

    Args:
      form: "depth" is Eq. 1; "extent" one length a clip, the largest side of frame 0's points
        (the paper's row without normalisation).

    Raises:
      ValueError: another form.
    """
    xp = cameras.library(*camera)
    known = camera.depth > 0
    if form == "depth":
        height, width = camera.depth.shape[-2:]
        a_x = camera.intrinsics[..., 0, 0] / width
        a_y = camera.intrinsics[..., 1, 1] / height
        z = camera.depth * known
        return xp.stack([z / a_x[..., None, None], z / a_y[..., None, None], z], axis=-1)
    if form != "extent":
        raise ValueError(f"flow map: wanted a form of {FORMS}, got {form!r}")
    points, there = start(camera), known[..., None]
    high = xp.max(xp.where(there, points, -xp.inf), axis=(-3, -2))
    low = xp.min(xp.where(there, points, xp.inf), axis=(-3, -2))
    side = xp.max(high - low, axis=-1)[..., None, None, None]
    return xp.where(there & xp.isfinite(side), side, 0.0) * xp.ones_like(points)


def forward(tracks: Array, camera: Camera, *, form: str = "depth") -> Array:
    """F of tracks (Eq. 1).

    Args:
      tracks: [... n h w 3] metres, world frame: of every pixel of frame 0.
      camera: of frame 0.

    Returns:
      [... n h w 3]; zero in frame 0 and where the depth is unknown.
    """
    xp = cameras.library(tracks, *camera)
    local = cameras.to_camera(tracks, camera.extrinsics)
    moved = local - start(camera)[..., None, :, :, :]
    unit = units(camera, form=form)[..., None, :, :, :]
    flow = xp.where(unit > 0, moved / xp.where(unit > 0, unit, 1.0), 0.0)
    later = xp.arange(tracks.shape[-4]) > 0  # frame 0 is zero but for rounding
    return flow * later.reshape((1,) * (flow.ndim - 4) + (-1, 1, 1, 1))


def inverse(flow: Array, camera: Camera, *, form: str = "depth") -> Array:
    """Tracks [... n h w 3] metres, world frame, of a flow [... n h w 3] (Eq. 2)."""
    unit = units(camera, form=form)[..., None, :, :, :]
    local = start(camera)[..., None, :, :, :] + flow * unit
    return cameras.to_world(local, camera.extrinsics)


def compand(flow: Array, gain: float) -> Array:
    """F -> y in (-1, 1) (Eq. 3)."""
    return cameras.library(flow).tanh(flow * (gain / 2))


def expand(values: Array, gain: float) -> Array:
    """y -> F (Eq. 3); |y| counts up to LIMIT."""
    xp = cameras.library(values)
    return xp.arctanh(xp.clip(values, -LIMIT, LIMIT)) * (2 / gain)


def gain(flow: Array, valid: Array) -> float:
    """g of Eq. 3, of flows [b n h w 3] where `valid` [b h w]; 1 where nothing moves."""
    size = np.abs(np.asarray(flow, np.float32))
    moving = (size.max((1, 4)) > MOVING) & np.asarray(valid)
    chosen = np.moveaxis(size, 1, 3)[moving]
    return float(2 / max(np.quantile(chosen, 0.99), 1e-3)) if moving.any() else 1.0


def depth_picture(depth: Array) -> Array:
    """log Z of depth [... h w] metres as a picture [... h w 3] in [-1, 1]; unknown is far."""
    xp = cameras.library(depth)
    known = depth > 0
    log = xp.log(xp.where(known, depth, 1.0))
    low = xp.min(xp.where(known, log, xp.inf), axis=(-2, -1), keepdims=True)
    high = xp.max(xp.where(known, log, -xp.inf), axis=(-2, -1), keepdims=True)
    share = (log - low) / xp.maximum(high - low, 1e-6)
    value = xp.where(known, 2 * share - 1, 1.0)
    return xp.repeat(value[..., None], 3, axis=-1)
