"""Pinhole cameras: projection, its inverse, rays, crops, and the point a rig looks at.

OpenCV axes (x right, y down, z forward), metres, pixel centres at integers. With K = intrinsics and
[R|t] = extrinsics (world to camera):

    (1)  x_cam = R X + t,    (u, v, 1) ~ K x_cam,    depth = z of x_cam
    (2)  X = R^T (depth K^-1 (u, v, 1) - t)

The leading axes of a camera are a prefix of those of the points it sees: points [v n k 3] go with
intrinsics [v 3 3]; axes of size 1 broadcast. Everything takes numpy or jax arrays and stays in that
library. Products are sums of elementwise products, so that no accelerator lowers their precision.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = Any  # numpy.ndarray or jax.Array


def library(*arrays: Array):
    """Returns jax.numpy when any of the arrays is jax's, else numpy."""
    return jnp if any(isinstance(x, jax.Array) for x in arrays) else np


def _align(camera: Array, lead: int, *, core: int, name: str) -> Array:
    """Appends axes of size 1 after the camera's leading axes until there are `lead` of them."""
    missing = lead - (camera.ndim - core)
    if missing < 0:
        raise ValueError(
            f"{name} {tuple(camera.shape)} has more leading axes than its points, which have {lead}"
        )
    shape = camera.shape[: camera.ndim - core] + (1,) * missing + camera.shape[camera.ndim - core :]
    return camera.reshape(shape)


def _check(intrinsics: Array | None, extrinsics: Array | None) -> None:
    if intrinsics is not None and tuple(intrinsics.shape[-2:]) != (3, 3):
        raise ValueError(f"intrinsics: wanted [... 3 3], got {tuple(intrinsics.shape)}")
    if extrinsics is not None and tuple(extrinsics.shape[-2:]) != (3, 4):
        raise ValueError(
            f"extrinsics: wanted [... 3 4] (world to camera), got {tuple(extrinsics.shape)}"
        )


def _rotate(rotation: Array, vectors: Array) -> Array:
    """Returns rotation [... 3 3] times vectors [... 3]; equally many leading axes."""
    return (
        rotation[..., 0] * vectors[..., 0:1]
        + rotation[..., 1] * vectors[..., 1:2]
        + rotation[..., 2] * vectors[..., 2:3]
    )


def _transpose(rotation: Array) -> Array:
    return rotation.swapaxes(-1, -2)


def to_camera(points: Array, extrinsics: Array) -> Array:
    """Returns camera-frame coordinates [... 3], metres, of world points [... 3] (Eq. 1)."""
    _check(None, extrinsics)
    pose = _align(extrinsics, points.ndim - 1, core=2, name="extrinsics")
    return _rotate(pose[..., :3], points) + pose[..., 3]


def to_world(points: Array, extrinsics: Array) -> Array:
    """Returns world coordinates [... 3], metres, of camera-frame points [... 3]."""
    _check(None, extrinsics)
    pose = _align(extrinsics, points.ndim - 1, core=2, name="extrinsics")
    return _rotate(_transpose(pose[..., :3]), points - pose[..., 3])


def project(points: Array, intrinsics: Array, extrinsics: Array) -> tuple[Array, Array]:
    """Projects world points (Eq. 1).

    Args:
      points: [... 3], metres, world frame.
      intrinsics: [... 3 3], pixels; its leading axes are a prefix of the points'.
      extrinsics: [... 3 4], world to camera, metres.

    Returns:
      (pixels [... 2], depth [...] metres). Points at or behind the camera plane keep their signed
      depth; their pixels are finite and meaningless.

    Raises:
      ValueError: wrong camera shapes.
    """
    _check(intrinsics, extrinsics)
    xp = library(points, intrinsics, extrinsics)
    local = to_camera(points, extrinsics)
    k = _align(intrinsics, points.ndim - 1, core=2, name="intrinsics")
    depth = local[..., 2]
    safe = xp.where(xp.abs(depth) > 1e-6, depth, xp.ones_like(depth) * 1e-6)
    x, y = local[..., 0] / safe, local[..., 1] / safe
    u = k[..., 0, 0] * x + k[..., 0, 1] * y + k[..., 0, 2]
    v = k[..., 1, 1] * y + k[..., 1, 2]
    return xp.stack([u, v], axis=-1), depth


def bearings(pixels: Array, intrinsics: Array) -> Array:
    """Returns K^-1 (u, v, 1) [... 3], camera frame, z = 1, of pixels [... 2]."""
    _check(intrinsics, None)
    xp = library(pixels, intrinsics)
    k = _align(intrinsics, pixels.ndim - 1, core=2, name="intrinsics")
    y = (pixels[..., 1] - k[..., 1, 2]) / k[..., 1, 1]
    x = (pixels[..., 0] - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
    return xp.stack([x, y, xp.ones_like(x)], axis=-1)


def unproject(pixels: Array, depth: Array, intrinsics: Array, extrinsics: Array) -> Array:
    """Returns the world points [... 3], metres, at pixels [... 2] and camera depth [...] (Eq. 2).

    Raises:
      ValueError: wrong camera shapes.
    """
    return to_world(bearings(pixels, intrinsics) * depth[..., None], extrinsics)


def camera_centre(extrinsics: Array) -> Array:
    """Returns the optical centre -R^T t [... 3], metres, world frame, of extrinsics [... 3 4]."""
    _check(None, extrinsics)
    return _rotate(_transpose(extrinsics[..., :3]), -extrinsics[..., 3])


def directions(pixels: Array, intrinsics: Array, extrinsics: Array) -> Array:
    """Returns unit viewing directions [... 3], world frame, through pixels [... 2]."""
    xp = library(pixels, intrinsics, extrinsics)
    pose = _align(extrinsics, pixels.ndim - 1, core=2, name="extrinsics")
    ray = _rotate(_transpose(pose[..., :3]), bearings(pixels, intrinsics))
    return ray / xp.sqrt(xp.sum(ray * ray, axis=-1, keepdims=True))


def crop_resize_intrinsics(intrinsics: Array, box: Sequence[float], size: tuple[int, int]) -> Array:
    """Intrinsics of an image cut to `box` and resized to `size`.

    With pixel centres at integers, column x of the image becomes (x - x0 + 0.5) s - 0.5.

    Args:
      intrinsics: [... 3 3], pixels of the whole image.
      box: (x0, y0, x1, y1), first kept column and row, first column and row beyond; pixels.
      size: (height, width) after the resize.

    Raises:
      ValueError: wrong shapes or an empty box.
    """
    _check(intrinsics, None)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    if not (x1 > x0 and y1 > y0):
        raise ValueError(f"crop box (x0, y0, x1, y1): wanted x1 > x0 and y1 > y0, got {tuple(box)}")
    sx, sy = size[1] / (x1 - x0), size[0] / (y1 - y0)
    change = np.array([[sx, 0, (0.5 - x0) * sx - 0.5], [0, sy, (0.5 - y0) * sy - 0.5], [0, 0, 1]])
    xp = library(intrinsics)
    change = xp.asarray(change, dtype=intrinsics.dtype)
    product = [sum(change[i, j] * intrinsics[..., j, :] for j in range(3)) for i in range(3)]
    return xp.stack(product, axis=-2)


def scene_centre(
    intrinsics: Array, extrinsics: Array, size: tuple[int, int], *, depth: Array | None = None
) -> Array:
    """The point nearest, in least squares, to the rays through the views' image centres (A16).

    Args:
      intrinsics: [... v 3 3], pixels.
      extrinsics: [... v 3 4], world to camera, metres.
      size: (height, width) of the views.
      depth: [...], metres: used for v = 1 only, where the point on the one ray at this camera
        depth is meant.

    Returns:
      [... 3], metres, world frame. Parallel rays give a finite point near the cameras' mean.

    Raises:
      ValueError: one view and no depth, or wrong shapes.
    """
    _check(intrinsics, extrinsics)
    xp = library(intrinsics, extrinsics, depth)
    middle = xp.asarray([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=intrinsics.dtype)
    middle = xp.broadcast_to(middle, (*intrinsics.shape[:-2], 2))
    if intrinsics.shape[-3] == 1:
        if depth is None:
            raise ValueError(
                "scene_centre: one view's ray meets nothing; pass depth [...] in metres"
            )
        depth = xp.broadcast_to(xp.asarray(depth)[..., None], intrinsics.shape[:-2])
        return unproject(middle, depth, intrinsics, extrinsics)[..., 0, :]
    ray, centre = directions(middle, intrinsics, extrinsics), camera_centre(extrinsics)
    anchor = xp.mean(centre, axis=-2, keepdims=True)
    eye = xp.broadcast_to(xp.eye(3, dtype=ray.dtype), (*ray.shape, 3))
    across = eye - ray[..., :, None] * ray[..., None, :]  # projector onto the plane across the ray
    left = xp.sum(across, axis=-3) + 1e-6 * eye[..., 0, :, :]
    right = xp.sum(_rotate(across, centre - anchor), axis=-2)
    return xp.linalg.solve(left, right[..., None])[..., 0] + anchor[..., 0, :]


def poses(extrinsics: Array) -> Array:
    """Returns a batch's extrinsics [... n? 3 4] as they are computed with.

    A batch says by the size of its axis of time whether its cameras move (schema.BATCH). Those that
    stand still lose the axis, [... 3 4], and cost what they did without it; those that move keep
    it, [... n 3 4], and by the prefix rule go with points [... n k 3] of their frames.

    Raises:
      ValueError: no axis of time.
    """
    _check(None, extrinsics)
    if extrinsics.ndim < 3:
        raise ValueError(f"extrinsics: wanted [... n 3 4], got {tuple(extrinsics.shape)}")
    return extrinsics[..., 0, :, :] if extrinsics.shape[-3] == 1 else extrinsics


def at_first(extrinsics: Array, lead: int) -> Array:
    """Returns the poses [... 3 4] of frame 0 from those of `poses`, whose `lead` axes are no time.

    Raises:
      ValueError: neither [... 3 4] nor [... n 3 4] with so many leading axes.
    """
    _check(None, extrinsics)
    if extrinsics.ndim - 2 not in (lead, lead + 1):
        raise ValueError(
            f"extrinsics: wanted {lead} axes, or one more for time, before [3 4], got "
            f"{tuple(extrinsics.shape)}"
        )
    return extrinsics if extrinsics.ndim - 2 == lead else extrinsics[..., 0, :, :]


def look_at(eye: Array, target: Array, up: Array) -> Array:
    """Extrinsics [... 3 4] of a camera at `eye` [... 3] that looks at `target` [... 3], metres.

    Args:
      up: [... 3], any vector that is not along the viewing direction; it points to the image's top.
    """
    xp = library(eye, target, up)

    def unit(x):
        return x / xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))

    forward = unit(target - eye)
    right = unit(xp.cross(forward, up))
    rotation = xp.stack([right, xp.cross(forward, right), forward], axis=-2)
    return xp.concatenate([rotation, -_rotate(rotation, eye)[..., None]], axis=-1)
