"""Tracks as a text USD file (.usda): point clouds with time samples, and cameras.

World frame, metres, z up; time codes are frames. A camera's lens is given by its apertures, whose
offset is the principal point. USD looks along -z with y up, ours along z with y down.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syncmv4d_jax import disk
from syncmv4d_jax.results import clouds as point_clouds

APERTURE = 36.0  # width of the film; only its ratio to the focal length counts
HEAD = """#usda 1.0
(
    upAxis = "Z"
    metersPerUnit = 1
    timeCodesPerSecond = {fps:g}
    framesPerSecond = {fps:g}
    startTimeCode = 0
    endTimeCode = {last}
    defaultPrim = "world"
)

def Xform "world"
{{
"""
POINTS = """    def Points "{name}"
    {{
        point3f[] points.timeSamples = {{
{samples}
        }}
        float[] widths = [{width:g}] (
            interpolation = "constant"
        )
        color3f[] primvars:displayColor = {colours} (
            interpolation = "vertex"
        )
    }}
"""
CAMERA = """    def Camera "{name}"
    {{
        float2 clippingRange = (0.01, 100)
        float focalLength = {focal:.6g}
        float horizontalAperture = {width:.6g}
        float horizontalApertureOffset = {right:.6g}
        float verticalAperture = {height:.6g}
        float verticalApertureOffset = {up:.6g}
        matrix4d xformOp:transform{matrix}
        uniform token[] xformOpOrder = ["xformOp:transform"]
    }}
"""


def write(
    path: str | Path,
    clouds: Mapping[str, np.ndarray],
    colours: np.ndarray,
    *,
    fps: float,
    cameras: Mapping[str, Any] | None = None,
    radius: float = 0.003,
) -> None:
    """Writes point clouds over time; arguments as `gltf.write`.

    Raises:
      ValueError: no cloud has a finite point, or colours do not fit.
    """
    path, parts, last = Path(path), [], 0
    for name, points, paint in point_clouds.drawable(path, clouds, colours):
        last = max(last, len(points) - 1)
        samples = ",\n".join(f"            {n}: {_tuples(x)}" for n, x in enumerate(points))
        parts.append(
            POINTS.format(name=name, samples=samples, width=2 * radius, colours=_tuples(paint))
        )
    if cameras is not None:
        names = point_clouds.views(len(cameras["intrinsics"]), cameras.get("names", ()))
        rig = zip(names, cameras["intrinsics"], cameras["extrinsics"], strict=True)
        for name, k, pose in rig:
            parts.append(CAMERA.format(name=name, **_lens(k, pose, cameras["size"])))
    text = HEAD.format(fps=fps, last=last) + "".join(parts) + "}\n"
    with disk.whole(path) as partial:
        partial.write_text(text)


def _tuples(rows: np.ndarray) -> str:
    return "[" + ", ".join("(" + ", ".join(f"{x:.6g}" for x in row) + ")" for row in rows) + "]"


def _lens(intrinsics: np.ndarray, pose: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    """Focal length, apertures and their offsets, and where the camera is, at every frame if it
    moves (pose [n 3 4])."""
    height, width = size
    k = np.asarray(intrinsics, np.float64)
    step = APERTURE / width  # a pixel on the film
    tall = step * height * k[0, 0] / k[1, 1]
    if np.ndim(pose) == 2:
        place = f" = {_matrix(pose)}"
    else:  # it moves
        rows = ",\n".join(f"            {n}: {_matrix(x)}" for n, x in enumerate(pose))
        place = f".timeSamples = {{\n{rows}\n        }}"
    return {
        "focal": k[0, 0] * step,
        "width": APERTURE,
        "height": tall,
        "right": (width / 2 - 0.5 - k[0, 2]) * step,
        "up": (k[1, 2] + 0.5 - height / 2) * tall / height,
        "matrix": place,
    }


def _matrix(pose: np.ndarray) -> str:
    """Camera to world, rows of row vectors, of a pose [3 4]."""
    pose, matrix = np.asarray(pose, np.float64), np.eye(4)
    matrix[:3, :3] = pose[:, :3].T @ np.diag([1.0, -1.0, -1.0])
    matrix[:3, 3] = -pose[:, :3].T @ pose[:, 3]
    rows = ", ".join("(" + ", ".join(f"{x:.9g}" for x in row) + ")" for row in matrix.T)
    return f"( {rows} )"
